"""Without a subcommand: a node, with its log on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from disbatch_host.cli import common
from disbatch_host.cli.settings import Settings, resolve
from disbatch_host.clock import SystemClock
from disbatch_host.errors import UsageError
from disbatch_host.node import NodeSettings, run_node
from disbatch_host.plugins import require_directory
from disbatch_host.store.open import open_store

log = logging.getLogger(__name__)

_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def run(options: Mapping[str, Any], node_options: Mapping[str, Any]) -> int:
    """Run a node until it is told to stop; its exit code. SIGHUP makes it settle its settings anew: the options and
    variables are what they were, the configuration file may have changed."""
    if options.get("json"):
        raise UsageError("--json is for commands that read, not for running a node")
    given = {**options, **{name: value for name, value in node_options.items() if value is not None}}
    settings = resolve(given)
    set_up_logging(settings.log_level)
    if settings.store_exposure is not None:  # commands that are over in a moment do not say it each time
        log.warning("%s", settings.store_exposure)

    def reread() -> NodeSettings:
        changed = resolve(given)
        for directory in changed.plugins:
            require_directory(directory)
        logging.getLogger().setLevel(changed.log_level.upper())
        for name in ("store_url", "node_id"):
            if getattr(changed, name) != getattr(settings, name):
                what = name.removesuffix("_url")
                log.warning('"%s" has changed, which takes effect when the node is started again', what)
        return _of_node(changed, node_options)

    for directory in settings.plugins:
        require_directory(directory)
    store = open_store(settings.store_url, SystemClock())
    with common.saying_that_it_takes_long(store):
        store.open()
    return run_node(_of_node(settings, node_options), store, reread=reread)


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


def set_up_logging(level: str) -> None:
    """One readable line a record, on stderr. The drivers' own logs stay out: what matters of them is said by us."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(_LOG_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False  # a log that cannot be written must not stop the node, nor write more
    for name in ("pymongo", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Formatter(logging.Formatter):
    """Local time with its offset, as the commands print it."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone()
        return moment.isoformat(sep=" ", timespec="milliseconds")
