"""The plugins on disk: what is known of each, and what has changed.

Responsible for: examining each `plugin.json` that `finding` finds, and gathering the result of a scan. Must not know:
tasks, stores, how a program is started, which faults a plugin can have (`examining`).

Rules (plugin contract, "Finding plugins"):
1. Nothing is learned by running the program.
2. A broken plugin is left out, with all its faults reported at once; the others are not affected. An unexpected error
   while a plugin is examined is a fault of that plugin.
3. Two plugins with the same name: neither is used, and the fault names both files.
4. A `Plugin` never changes. When one of its files does, the next scan makes a new object, so "is this still the same
   plugin" is a question of identity, and a running task keeps the one it started with.
5. A plugin, broken or not, is examined again only when something that it was judged by has changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from disbatch_host.errors import UsageError
from disbatch_host.plugin import environment, examining, faults
from disbatch_host.plugin.checking import CHECK_SECONDS, CheckedSchema, Checks
from disbatch_host.plugin.examining import Examination
from disbatch_host.plugin.finding import ManifestFinder
from disbatch_host.plugin.texts import printable, shown
from disbatch_protocol.faults import Fault
from disbatch_protocol.manifest import Manifest

_OTHERS_NAMED_MAX = 3  # plugins of the same name that a fault lists


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Plugin:
    """A plugin that can run here. Compared by identity (rule 4)."""

    manifest: Manifest
    manifest_path: Path
    directory: Path  # real path, no links in it
    program: Path  # the file that is executed: command[0], found
    schema: CheckedSchema = field(repr=False)
    warnings: tuple[Fault, ...] = ()
    source: bytes = field(default=b"", repr=False)  # the manifest as it was read

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

    manifest_path: Path  # as it is shown: bytes of its name that are not UTF-8 are written as \\xNN
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
    shown = printable(str(directory))
    # Not by methods of Path, which raise where a directory on the way may not be entered.
    if not os.path.exists(directory):  # noqa: PTH110
        raise UsageError(f"plugin directory {shown} is not there; make it or name another with --plugins DIR")
    if not os.path.isdir(directory):  # noqa: PTH112
        raise UsageError(f"expected a directory of plugins, found a file: {shown}; name its directory instead")
    if not os.access(directory, os.R_OK | os.X_OK):
        raise UsageError(f"plugin directory {shown} cannot be read by {faults.own_name()}; check its permissions")


class PluginScanner:
    """Follows plugin directories. `scan()` is cheap enough to be called every few seconds: it looks at names and
    times, and reads only what has changed since the last call. It may be called in any thread, by one at a time."""

    def __init__(self, directories: Sequence[Path], *, check_seconds: float = CHECK_SECONDS) -> None:
        """`check_seconds`: see `Checks`."""
        self.checks = Checks(seconds=check_seconds)
        self._finder = ManifestFinder()
        self._directories = [Path(directory) for directory in directories]
        self._seen: dict[Path, _Known] = {}
        self._machine: tuple[object, ...] = ()
        self._catalog = Catalog()
        self._is_closed = False

    def look_in(self, directories: Sequence[Path]) -> None:
        """Look in these from the next scan on, and examine broken plugins again. A known plugin that has not changed
        stays the same object."""
        self._directories = [Path(directory) for directory in directories]
        self._machine = ()

    def scan(self) -> Catalog:
        """The plugins that are there now. The same Catalog object as before if nothing has changed."""
        before, self._machine = self._machine, examining.stamp_of_machine(environment.host_environment())
        is_same_machine = before == self._machine
        seen: dict[Path, _Known] = {}
        for manifest_path in self._finder.find(self._directories):
            if self._is_closed:
                return self._catalog
            known = self._seen.get(manifest_path)
            if known is not None and known.examination.is_current(is_same_machine=is_same_machine):
                seen[manifest_path] = known
                continue
            examination = examining.examination(manifest_path, self.checks)
            found = _found_by(examination, self.checks)
            if known is not None and found == known.found:
                found = known.found  # still broken in the same way
            seen[manifest_path] = _Known(found, examination)
        changed = len(seen) != len(self._seen) or any(
            path not in self._seen or self._seen[path].found is not one.found for path, one in seen.items()
        )
        self._seen = seen
        if changed:
            self._catalog = _catalog_of([one.found for one in seen.values()])
        return self._catalog

    def close(self) -> None:
        """End what its checks have started. A scan that is under way in another thread ends soon."""
        self._is_closed = True
        self.checks.close()


@dataclass(frozen=True, slots=True)
class _Known:
    """A plugin as the last scan left it."""

    found: Plugin | BrokenPlugin
    examination: Examination


def _found_by(examination: Examination, checks: Checks) -> Plugin | BrokenPlugin:
    judged = examination.judgment
    if judged.manifest is None or judged.program is None or not judged.is_usable:
        return _broken(examination.manifest_path, judged.faults, judged.name)
    return Plugin(
        manifest=judged.manifest,
        manifest_path=examination.manifest_path.absolute(),
        directory=judged.directory,
        program=judged.program,
        schema=checks.schema(judged.manifest.parameters, judged.manifest.command_line),
        warnings=shown(judged.faults),
        source=judged.source,
    )


def _broken(manifest_path: Path, faults: Sequence[Fault], name: str | None = None) -> BrokenPlugin:
    return BrokenPlugin(manifest_path=Path(printable(str(manifest_path.absolute()))), faults=shown(faults), name=name)


def _catalog_of(found: Sequence[Plugin | BrokenPlugin]) -> Catalog:
    by_name: dict[str, list[Plugin]] = {}
    left_out = [one for one in found if isinstance(one, BrokenPlugin)]
    for one in found:
        if isinstance(one, Plugin):
            by_name.setdefault(one.name, []).append(one)
    for name, group in by_name.items():
        for one in group if len(group) > 1 else ():
            others = [str(other.manifest_path) for other in group[: _OTHERS_NAMED_MAX + 1] if other is not one]
            others = others[:_OTHERS_NAMED_MAX]
            more = len(group) - 1 - len(others)
            names = ", ".join(others) + (f" and {more} more" if more else "")
            message = f"another plugin has the name {name!r} as well: {names}"
            fault = Fault(
                pointer="/name", message=message, hint="neither runs; give one another name, or move it elsewhere"
            )
            left_out.append(_broken(one.manifest_path, [fault], name))
    return Catalog(
        plugins={name: group[0] for name, group in by_name.items() if len(group) == 1},
        broken=tuple(sorted(left_out, key=lambda one: one.manifest_path)),
    )
