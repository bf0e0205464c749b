"""The command without a subcommand: a node, with its log on stderr."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from disbatch_host import logs
from disbatch_host.cli import common, exposure
from disbatch_host.clock import SystemClock
from disbatch_host.errors import UsageError
from disbatch_host.node import default_id
from disbatch_host.node.node import run_node
from disbatch_host.node.pace import Pace
from disbatch_host.plugin.catalog import require_directory
from disbatch_host.settings.forms import lacks_unit
from disbatch_host.settings.table import BY_NAME, DURATIONS
from disbatch_host.settings.values import NodeSettings, Settings, Source, resolve
from disbatch_host.store.contract import Store
from disbatch_host.store.contract.answers import Access
from disbatch_host.store.open import open_store
from disbatch_protocol.quantities import format_duration, parse_duration

if TYPE_CHECKING:
    from disbatch_host.metrics.counters import Metrics

log = logging.getLogger(__name__)


def run(options: Mapping[str, Any], node_options: Mapping[str, Any], *, pace: Pace = Pace()) -> int:
    """Run a node until it is told to stop; returns its exit code. SIGHUP makes it resolve its settings again: options
    and variables are unchanged, the configuration file may have changed."""
    if options.get("json"):
        raise UsageError("--json is for commands that read, not for running a node")
    given = {**options, **{name: value for name, value in node_options.items() if value is not None}}
    settings = resolve(given)
    logs.set_up(settings.log_level, settings.log_format, node_id=settings.node.node_id)
    _log_bare_numbers(node_options)
    exposed = _exposure(settings)
    if exposed is not None:  # short-lived commands do not repeat it each time
        log.warning("%s", exposed)

    def reread() -> NodeSettings:
        changed = resolve(given)
        for directory in changed.plugins:
            require_directory(directory)
        logs.change(changed.log_level, changed.log_format, node_id=settings.node.node_id)
        for what, before, now in (
            ("store", settings.store_url, changed.store_url),
            ("node_id", settings.node.node_id, changed.node.node_id),
            ("state_dir", settings.node.state_directory, changed.node.state_directory),
            ("keep_for", settings.node.keep_for_seconds, changed.node.keep_for_seconds),
            ("metrics", settings.metrics, changed.metrics),
        ):
            if before != now:
                log.warning('"%s" has changed; the change takes effect when the node is restarted', what)
        return changed.node

    for directory in settings.plugins:
        require_directory(directory)
    store = open_store(settings.store_url, SystemClock())
    with _served_metrics(settings, pace) as metrics:  # first: an unavailable port is reported before anything starts
        with common.saying_that_it_takes_long(store):
            store.open()
        node = _with_id(settings.node, store)
        if node.node_id != settings.node.node_id:
            logs.change(settings.log_level, settings.log_format, node_id=node.node_id)
            if metrics is not None:
                metrics.rename(node.node_id)
        return run_node(node, store, reread=reread, metrics=metrics, pace=pace)


def _with_id(settings: NodeSettings, store: Store) -> NodeSettings:
    """With an id that no node of another program has, unless it was given."""
    if settings.is_id_given:
        return settings
    return replace(settings, node_id=default_id.choose(store, settings.node_id, settings.state_directory))


@contextlib.contextmanager
def _served_metrics(settings: Settings, pace: Pace) -> Iterator[Metrics | None]:
    if settings.metrics is None:
        yield None
        return
    # Imported here: the metrics server takes a tenth of a second to import.
    from disbatch_host.metrics.census import CensusTaker  # noqa: PLC0415
    from disbatch_host.metrics.counters import Metrics  # noqa: PLC0415
    from disbatch_host.metrics.server import MetricsServer  # noqa: PLC0415

    kind = settings.store_url.partition(":")[0].partition("+")[0]
    metrics = Metrics(settings.node.node_id, store_kind=kind)
    census = CensusTaker(
        lambda: open_store(settings.store_url, SystemClock(), Access.EXISTING), interval_seconds=pace.census_seconds
    )
    server = MetricsServer(
        *settings.metrics, metrics=metrics, census=census, silent_client_seconds=pace.silent_client_seconds
    )
    log.info("metrics are served at %s", server.url)
    server.start()
    try:
        yield metrics
    finally:
        server.stop()


def _log_bare_numbers(node_options: Mapping[str, Any]) -> None:
    """What durations without a unit were taken for."""
    for name in DURATIONS:
        given = node_options.get(name)
        if given is not None and lacks_unit(given):
            log.info("%s %s: %s", BY_NAME[name].option, given, format_duration(parse_duration(given)))


def _exposure(settings: Settings) -> str | None:
    """How others can see the store's password, in a sentence."""
    if settings.store_source is Source.OPTION:
        return exposure.in_arguments(settings.store_url)
    if settings.store_source is Source.FILE:
        return exposure.in_file(settings.store_url, settings.config_path)
    return None
