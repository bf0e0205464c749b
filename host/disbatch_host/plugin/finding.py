"""Every `plugin.json` below the plugin directories.

Responsible for: walking the directories, whatever is in them, at a cost that is small where nothing has changed. Must
not know: what a manifest says.

Rules:
1. What cannot be read (no permission, links in a circle, a directory that was removed meanwhile) is skipped; nothing
   raises. Trees of any depth are walked without recursion.
2. A directory whose times are as they were is not listed again, unless it changed so recently that its times may not
   show the next change, or has links in it, whose targets change without it. All are listed again once a minute: not
   every file system keeps the times.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

MANIFEST_NAME = "plugin.json"
_TRUST_SECONDS = 60.0  # rule 2
_RACY_NANOSECONDS = 2 * 10**9  # coarser than the times of any file system that is in use


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a directory held."""

    status: tuple[int, ...]
    has_manifest: bool
    directories: tuple[str, ...]  # paths, in the order of their names


class ManifestFinder:
    """Follows directories from one walk to the next."""

    def __init__(self) -> None:
        self._listings: dict[str, _Listing] = {}
        self._trusted_until = 0.0

    def find(self, directories: Sequence[Path]) -> Iterator[Path]:
        """Every `plugin.json` below the directories, at any depth, in the order of their names; below one, no other is
        looked for. Links to directories are followed once."""
        known = self._listings if time.monotonic() < self._trusted_until else {}
        if not known:
            self._trusted_until = time.monotonic() + _TRUST_SECONDS
        self._listings = listings = {}
        visited: set[tuple[int, int]] = set()
        rest = [str(directory) for directory in reversed(directories)]
        while rest:
            path = rest.pop()
            try:
                status = os.stat(path)  # noqa: PTH116
                if (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
                listing = known.get(path)
                if listing is None or listing.status != _times_of(status):
                    listing = _listing_of(path, status)
            except OSError as error:
                log.debug("plugin directory %s cannot be read: %s", ascii(path), error.strerror)
                continue
            if listing.status:
                listings[path] = listing
            if listing.has_manifest:
                yield Path(path, MANIFEST_NAME)
            else:
                rest.extend(reversed(listing.directories))


def _listing_of(path: str, status: os.stat_result) -> _Listing:
    has_manifest, has_links, names = False, False, []
    with os.scandir(path) as entries:
        for entry in entries:
            has_links = has_links or entry.is_symlink()
            is_directory = _is_directory(entry)
            if entry.name == MANIFEST_NAME and not is_directory:
                has_manifest = True
            elif is_directory and not entry.name.startswith("."):
                names.append(entry.name)
    is_racy = abs(time.time_ns() - status.st_mtime_ns) < _RACY_NANOSECONDS
    return _Listing(
        status=() if has_links or is_racy else _times_of(status),
        has_manifest=has_manifest,
        directories=() if has_manifest else tuple(os.path.join(path, name) for name in sorted(names)),  # noqa: PTH118
    )


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether it is, or a link leads to, a directory; a link that leads in a circle, or where this user may not go, is
    not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _times_of(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, stat.S_IMODE(status.st_mode))
