"""Plugins on disk: finding them and following their changes.

Responsible for: walking the plugin directories, reading each `plugin.json` through `disbatch_protocol.manifest`, and
gathering all that can be known of one without running it. Must not know: tasks, stores, how a program is started.

Rules (plugin contract, "Finding plugins"):
1. Nothing is learned by running the program.
2. A broken plugin is left out, with all its faults reported at once; the others are not affected.
3. Two plugins with the same name: neither is used, and the fault names both files.
4. A `Plugin` never changes. When one of its files does, the next scan makes a new object, so "is this still the same
   plugin" is a question of identity, and a running task keeps the one it started with.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from disbatch_host.errors import UsageError
from disbatch_host.plugin import environment, faults
from disbatch_protocol.faults import Fault, Severity
from disbatch_protocol.manifest import Manifest, parse_manifest
from disbatch_protocol.parameters import ParameterSchema

log = logging.getLogger(__name__)

MANIFEST_NAME = "plugin.json"
MANIFEST_MAX = 4 * 2**20  # bytes; no manifest written by hand is larger, and a node reads them all


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Plugin:
    """A plugin that can run here. Compared by identity (rule 4)."""

    manifest: Manifest
    manifest_path: Path
    directory: Path  # real path, no links in it
    program: Path  # the file that is executed: command[0], found
    schema: ParameterSchema = field(repr=False)
    warnings: tuple[Fault, ...] = ()

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def argv(self) -> list[str]:
        """The command as it is executed."""
        return [str(self.program), *self.manifest.command[1:]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenPlugin:
    """A `plugin.json` that cannot be used, with every reason."""

    manifest_path: Path
    faults: tuple[Fault, ...]
    name: str | None = None  # if the manifest says as much

    @property
    def known_as(self) -> str:
        """Its name or, until its manifest gives one, the name of its directory."""
        return self.name or self.manifest_path.parent.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The result of a scan."""

    plugins: Mapping[str, Plugin] = field(default_factory=dict)
    broken: tuple[BrokenPlugin, ...] = ()


def load_plugins(directories: Sequence[Path]) -> Catalog:
    """Scan once. Raises UsageError for a directory that does not exist."""
    for directory in directories:
        require_directory(directory)
    return PluginScanner(directories).scan()


def require_directory(directory: Path) -> None:
    """Raises UsageError, in one line, if plugins cannot be looked for there."""
    if not directory.exists():
        raise UsageError(f"plugin directory {directory} is not there; make it or name another with --plugins DIR")
    if not directory.is_dir():
        raise UsageError(f"expected a directory of plugins, found a file: {directory}; name its directory instead")
    if not os.access(directory, os.R_OK | os.X_OK):
        raise UsageError(f"plugin directory {directory} cannot be read by {faults.own_name()}; check its permissions")


class PluginScanner:
    """Follows plugin directories. `scan()` is cheap enough to be called every few seconds: it looks at names and
    times, and reads only what has changed since the last call."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.look_in(directories)
        self._seen: dict[Path, tuple[_Stamp, Plugin | BrokenPlugin]] = {}
        self._catalog = Catalog()

    def look_in(self, directories: Sequence[Path]) -> None:
        """Look in these from the next scan on. A known plugin that has not changed stays the same object."""
        self._directories = [Path(directory) for directory in directories]

    def scan(self) -> Catalog:
        """The plugins that are there now. The same Catalog object as before if nothing has changed."""
        seen: dict[Path, tuple[_Stamp, Plugin | BrokenPlugin]] = {}
        for manifest_path in find_manifests(self._directories):
            known = self._seen.get(manifest_path)
            if known is not None and isinstance(known[1], Plugin) and known[0] == _stamp_of(known[1]):
                seen[manifest_path] = known
                continue
            found = examine(manifest_path)
            if known is not None and found == known[1]:
                found = known[1]  # still broken in the same way
            stamp: _Stamp = _stamp_of(found) if isinstance(found, Plugin) else ()
            seen[manifest_path] = (stamp, found)
        changed = len(seen) != len(self._seen) or any(
            path not in self._seen or self._seen[path][1] is not found for path, (_, found) in seen.items()
        )
        self._seen = seen
        if changed:
            self._catalog = _catalog_of([found for _, found in seen.values()])
        return self._catalog


def find_manifests(directories: Sequence[Path]) -> Iterator[Path]:
    """Every `plugin.json` below the directories, at any depth, in the order of their names; below one, no other is
    looked for. Directories that cannot be read are skipped; links to directories are followed once."""
    visited: set[tuple[int, int]] = set()
    for directory in directories:
        yield from _find_below(directory, visited)


def _find_below(directory: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = directory.stat()
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        log.debug("plugin directory %s cannot be read: %s", directory, error.strerror)
        return
    if any(entry.name == MANIFEST_NAME and not entry.is_dir() for entry in entries):
        yield directory / MANIFEST_NAME
        return
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _find_below(Path(entry.path), visited)


def examine(manifest_path: Path) -> Plugin | BrokenPlugin:
    """Everything that can be found out about one plugin without running it."""
    directory = Path(os.path.realpath(manifest_path.parent))
    found = [
        *faults.file_faults(manifest_path, directory, "", "the manifest"),
        *faults.writable_faults(directory, "", "its directory"),
    ]
    try:
        data = _read_manifest(manifest_path)
    except OSError as error:
        hint = (
            f"let {faults.own_name()} read it: chmod +r {manifest_path}" if isinstance(error, PermissionError) else ""
        )
        fault = Fault(pointer="", message=f"cannot be read: {error.strerror}", hint=hint)
        return _broken(manifest_path, [*found, fault])
    if data is None:
        return _broken(manifest_path, found or [faults.no_file_fault("the manifest", manifest_path, "")])
    if len(data) > MANIFEST_MAX:
        fault = Fault(
            pointer="",
            message=f"expected a manifest of at most {MANIFEST_MAX} bytes, found a larger file",
            hint="keep anything that is not for the host, such as data, in another file beside it",
        )
        return _broken(manifest_path, [*found, fault])
    parsed = parse_manifest(data, directory_name=manifest_path.parent.resolve().name)
    found.extend(parsed.faults)
    manifest = parsed.manifest
    if manifest is None:
        return _broken(manifest_path, found)
    host = environment.host_environment()
    path = manifest.env.get("PATH") or environment.search_path(host)
    program = faults.locate_program(manifest.command[0], directory, path)
    found.extend(faults.program_faults(manifest.command[0], program, directory, path))
    found.extend(faults.requirement_faults(manifest, path))
    found.extend(faults.account_faults(manifest))
    found.extend(faults.limit_faults(manifest))
    if program is None or any(fault.severity is Severity.ERROR for fault in found):
        return _broken(manifest_path, found, manifest.name)
    return Plugin(
        manifest=manifest,
        manifest_path=manifest_path.absolute(),
        directory=directory,
        program=program,
        schema=ParameterSchema(manifest.parameters),
        warnings=tuple(found),
    )


def _read_manifest(path: Path) -> bytes | None:
    """Its content, up to a little more than is allowed; None if it is not a regular file. Never waits: a FIFO without a
    writer would hold up everything, for every plugin."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MANIFEST_MAX + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _broken(manifest_path: Path, faults: Sequence[Fault], name: str | None = None) -> BrokenPlugin:
    return BrokenPlugin(manifest_path=manifest_path.absolute(), faults=tuple(faults), name=name)


def _catalog_of(found: Sequence[Plugin | BrokenPlugin]) -> Catalog:
    by_name: dict[str, list[Plugin]] = {}
    broken = [one for one in found if isinstance(one, BrokenPlugin)]
    for one in found:
        if isinstance(one, Plugin):
            by_name.setdefault(one.name, []).append(one)
    for name, group in by_name.items():
        for one in group if len(group) > 1 else ():
            others = ", ".join(str(other.manifest_path) for other in group if other is not one)
            message = f"another plugin has the name {name!r} as well: {others}"
            fault = Fault(pointer="/name", message=message, hint="neither runs; give one of them another name")
            broken.append(_broken(one.manifest_path, [fault], name))
    return Catalog(
        plugins={name: group[0] for name, group in by_name.items() if len(group) == 1},
        broken=tuple(sorted(broken, key=lambda one: one.manifest_path)),
    )


# A plugin's files as they were when they were read: everything that decides whether it can run.
_Stamp = tuple[tuple[int, int, int, int, int], ...]


def _stamp_of(plugin: Plugin) -> _Stamp:
    parts = []
    for path in (plugin.manifest_path, plugin.program, plugin.directory):
        try:
            status = path.stat()
        except OSError:
            parts.append((0, 0, 0, 0, 0))
            continue
        # A directory's times change with each file that a run leaves in it: only its owner and mode decide anything.
        moving = (0, 0) if path == plugin.directory else (status.st_mtime_ns, status.st_size)
        parts.append((status.st_ino, status.st_mode, status.st_uid, *moving))
    return tuple(parts)
