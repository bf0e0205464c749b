"""The whole examination: this machine and its store, side by side.

Responsible for: what is looked at, in which order it is told, and that it ends in time. Must not know: how anything is
looked at, how it is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from disbatch_host import suggested
from disbatch_host.decide import readings
from disbatch_host.doctor import cluster, machine, supervisors
from disbatch_host.doctor.cluster import Seen
from disbatch_host.doctor.findings import Finding, Report, count_of, error, ok, some, warning
from disbatch_host.errors import UsageError, in_words
from disbatch_host.plugin.catalog import PluginScanner, require_directory
from disbatch_host.process.machine import Machine
from disbatch_host.settings.values import Settings
from disbatch_host.store.open import sqlite_file


def examine(settings: Settings, more: Sequence[Finding] = ()) -> Report:
    """Look at everything, within some ten seconds. `more`: what the caller has found out itself."""
    deadline = time.monotonic() + cluster.PATIENCE_SECONDS
    seen = cluster.look_at(settings)
    here = [
        *_contained("plugins", lambda: _plugins(settings)),
        *_contained("supervisor", lambda: [supervisors.program_finding(settings.node)]),
        *_contained("running", lambda: supervisors.living_findings(settings.node)),
        *_contained("state", lambda: [machine.state_finding(settings.node)]),
        *_contained("disk", lambda: machine.room_findings(settings, _store_file(settings))),
        *_contained("limits", lambda: [machine.limit_finding(settings.node)]),
        *_contained("cgroup", lambda: [machine.group_finding()]),
    ]
    cluster.wait_for(seen, deadline)
    findings = [
        *_contained("store", lambda: cluster.store_findings(seen)),
        *_contained("queues", lambda: _known(cluster.queue_finding(seen))),
        *_contained("nodes", lambda: cluster.node_findings(seen)),
        *here,
        *_contained("metrics", lambda: _known(machine.metrics_finding(settings, has_node_here=_has_node_here(seen)))),
        *more,
    ]
    return Report(findings=findings, is_store_there=cluster.is_there(seen))


def _contained(name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What was found; where looking fails, that is the finding, and the rest is shown all the same."""
    found: list[Finding] = []
    try:
        found.extend(look())
    except Exception as trouble:  # the other lines are worth having
        found.append(error(name, f"cannot be looked at: {in_words(trouble)}", "the line says why"))
    return found


def _known(finding: Finding | None) -> Iterator[Finding]:
    if finding is not None:
        yield finding


def _store_file(settings: Settings) -> Path | None:
    try:
        return sqlite_file(settings.store_url) if settings.store_url.startswith("sqlite:") else None
    except UsageError:  # the line about the store says so
        return None


def _has_node_here(seen: Seen) -> bool:
    this = Machine.this()
    return any(readings.is_alive(one) and this.is_same(one.document.get("host")) for one in seen.nodes or ())


def _plugins(settings: Settings) -> Iterator[Finding]:
    directories = []
    for directory in settings.plugins:
        try:
            require_directory(directory)
            directories.append(directory)
        except UsageError as trouble:
            text, _, hint = str(trouble).partition("; ")
            if settings.are_plugins_given:
                yield error("plugins", text, hint)
            else:
                yield warning("plugins", text, f"a node here has none: {hint}")
    if not directories:
        return
    scanner = PluginScanner(directories)
    try:
        catalog = scanner.scan()
    finally:
        scanner.close()
    where = some([str(one) for one in directories])
    facts = {"directories": [str(one) for one in directories], "usable": sorted(catalog.plugins)}
    warnings = sum(len(one.warnings) for one in catalog.plugins.values())
    text = f"{count_of(len(catalog.plugins), 'plugin')} in {where}"
    if catalog.broken:
        broken = [f"{one.known_as}: {one.faults[0]}" for one in catalog.broken]
        left_out = f"{text}, {len(catalog.broken)} left out: {some(broken, '; ')}"
        yield error("plugins", left_out, f"{suggested.hint('check')} has all faults", broken=len(broken), **facts)
    elif warnings:
        text = f"{text}, {count_of(warnings, 'warning')}"
        yield warning("plugins", text, f"{suggested.hint('check')} has them", broken=0, **facts)
    elif not catalog.plugins:
        yield warning(
            "plugins", f"none in {where}", f"{suggested.hint('new NAME --lang sh')} writes one", broken=0, **facts
        )
    else:
        yield ok("plugins", text, broken=0, **facts)
