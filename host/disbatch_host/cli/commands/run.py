"""Without a subcommand: a node, with its log on stderr."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from disbatch_host import logs
from disbatch_host.cli import common
from disbatch_host.clock import SystemClock
from disbatch_host.errors import UsageError
from disbatch_host.node.node import NodeSettings, run_node
from disbatch_host.plugin.catalog import require_directory
from disbatch_host.settings import Settings, resolve
from disbatch_host.store.contract import Access
from disbatch_host.store.open import open_store

if TYPE_CHECKING:
    from disbatch_host.metrics.counters import Metrics

log = logging.getLogger(__name__)


def run(options: Mapping[str, Any], node_options: Mapping[str, Any]) -> int:
    """Run a node until it is told to stop; its exit code. SIGHUP makes it settle its settings anew: the options and
    variables are what they were, the configuration file may have changed."""
    if options.get("json"):
        raise UsageError("--json is for commands that read, not for running a node")
    given = {**options, **{name: value for name, value in node_options.items() if value is not None}}
    settings = resolve(given)
    logs.set_up(settings.log_level, settings.log_format, node_id=settings.node_id)
    if settings.store_exposure is not None:  # commands that are over in a moment do not say it each time
        log.warning("%s", settings.store_exposure)

    def reread() -> NodeSettings:
        changed = resolve(given)
        for directory in changed.plugins:
            require_directory(directory)
        logs.change(changed.log_level, changed.log_format, node_id=settings.node_id)
        for name in ("store_url", "node_id", "metrics"):
            if getattr(changed, name) != getattr(settings, name):
                what = name.removesuffix("_url")
                log.warning('"%s" has changed, which takes effect when the node is started again', what)
        return _of_node(changed, node_options)

    for directory in settings.plugins:
        require_directory(directory)
    store = open_store(settings.store_url, SystemClock())
    with _served_metrics(settings) as metrics:  # first: a port that cannot be had is said before anything has begun
        with common.saying_that_it_takes_long(store):
            store.open()
        return run_node(_of_node(settings, node_options), store, reread=reread, metrics=metrics)


@contextlib.contextmanager
def _served_metrics(settings: Settings) -> Iterator[Metrics | None]:
    if settings.metrics is None:
        yield None
        return
    # Only here: what serves them takes a tenth of a second to import.
    from disbatch_host.metrics.census import CensusTaker  # noqa: PLC0415
    from disbatch_host.metrics.counters import Metrics  # noqa: PLC0415
    from disbatch_host.metrics.server import MetricsServer  # noqa: PLC0415

    kind = settings.store_url.partition(":")[0].partition("+")[0]
    metrics = Metrics(settings.node_id, store_kind=kind)
    census = CensusTaker(lambda: open_store(settings.store_url, SystemClock(), Access.EXISTING))
    server = MetricsServer(*settings.metrics, metrics=metrics, census=census)
    log.info("metrics are served at %s", server.url)
    server.start()
    try:
        yield metrics
    finally:
        server.stop()


def _of_node(settings: Settings, node_options: Mapping[str, Any]) -> NodeSettings:
    return NodeSettings(
        node_id=settings.node_id,
        plugin_directories=settings.plugins,
        max=settings.max,
        max_total=settings.max_total,
        force=bool(node_options["force"]),
        stop_grace_seconds=settings.stop_grace_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        dead_after_seconds=settings.dead_after_seconds,
        until_idle=settings.until_idle,
    )
