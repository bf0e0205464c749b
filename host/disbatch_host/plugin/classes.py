"""The classes that a node can run: its plugins as they are now, and which of them are set aside.

Responsible for: reading the plugins again, logging their changes, and setting a class aside if its plugin cannot be
started. Must not know: queues, tasks, the store.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from disbatch_host import logs
from disbatch_host.plugin.catalog import BrokenPlugin, Catalog, Plugin, PluginScanner
from disbatch_host.plugin.checking import CHECK_SECONDS

log = logging.getLogger(__name__)

START_FAILURES_MAX = 5  # in a row, until the class is set aside on this node (plugin contract)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A class that this node is not running for now."""

    plugin: Plugin
    reason: str
    since: datetime


class Classes:
    """The classes of a node. Empty until the first `scan`; a class has the name of its plugin."""

    def __init__(self, directories: Sequence[Path], *, check_seconds: float = CHECK_SECONDS) -> None:
        """`check_seconds`: see `checking.Checks`."""
        self._scanner = PluginScanner(directories, check_seconds=check_seconds)
        self._catalog = Catalog()
        self._set_aside: dict[str, SetAside] = {}
        self._failures: Counter[str] = Counter()  # in a row

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        return self._catalog.plugins

    @property
    def broken(self) -> Sequence[BrokenPlugin]:
        return self._catalog.broken

    @property
    def set_aside(self) -> Mapping[str, SetAside]:
        return self._set_aside

    @property
    def usable(self) -> frozenset[str]:
        return frozenset(self._catalog.plugins) - frozenset(self._set_aside)

    def look_in(self, directories: Sequence[Path]) -> None:
        """Look in other directories, from the next `scan` on."""
        self._scanner.look_in(directories)

    def read(self) -> Catalog:
        """Read the directories, in any thread, by one at a time; nothing of the node changes before `take`."""
        return self._scanner.scan()

    def take(self, catalog: Catalog) -> bool:
        """Go on with what was read; return whether anything has changed. A class that was set aside is tried again once
        its plugin has changed."""
        before, self._catalog = self._catalog, catalog
        if catalog is before:
            return False
        self._log_changes(before)
        for name, aside in list(self._set_aside.items()):
            if self._catalog.plugins.get(name) is not aside.plugin:
                log.info("plugin %s has changed and will be tried again", name, extra=logs.ids(class_name=name))
                del self._set_aside[name]
                self._failures.pop(name, None)
        return True

    def _log_changes(self, before: Catalog) -> None:
        for name, plugin in self._catalog.plugins.items():
            if before.plugins.get(name) is not plugin:
                log.info(
                    "plugin %s %s: %s", name, plugin.manifest.version or "(no version)", plugin.manifest_path,
                    extra=logs.ids(class_name=name),
                )  # fmt: skip
                for fault in plugin.warnings:
                    log.warning("plugin %s: %s %s", name, plugin.manifest_path, fault, extra=logs.ids(class_name=name))
        for name in before.plugins.keys() - self._catalog.plugins.keys():
            log.warning("plugin %s is gone or broken; its queues wait", name, extra=logs.ids(class_name=name))
        known = set(before.broken)
        for broken in self._catalog.broken:
            if broken not in known:
                for fault in broken.faults:
                    log.error(
                        "plugin left out: %s %s", broken.manifest_path, fault, extra=logs.ids(class_name=broken.name)
                    )

    def close(self) -> None:
        """End the processes of slow checks; a `read` that is under way ends soon."""
        self._scanner.close()

    def forget_failures(self, name: str) -> None:
        """A run of it ended normally."""
        self._failures.pop(name, None)

    def count_failure(self, plugin: Plugin, reason: str, *, now: datetime) -> None:
        """It could not be started, or a worker process of it was lost at once; after too many in a row, the class is
        set aside."""
        name = plugin.name
        self._failures[name] += 1
        if self._failures[name] >= START_FAILURES_MAX and name not in self._set_aside:
            self._set_aside[name] = SetAside(plugin=plugin, reason=reason, since=now)
            log.error(
                "plugin %s is set aside on this node after %d failures in a row: %s; tried again when its files change",
                name,
                self._failures[name],
                reason,
                extra=logs.ids(class_name=name),
            )
