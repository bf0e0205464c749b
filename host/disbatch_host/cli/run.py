"""Without a subcommand: a node, with its log on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from disbatch_host.cli.settings import resolve
from disbatch_host.clock import SystemClock
from disbatch_host.errors import UsageError
from disbatch_host.node import NodeSettings, run_node
from disbatch_host.store.open import open_store

_LOG_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s"


def run(options: Mapping[str, Any], node_options: Mapping[str, Any]) -> int:
    """Run a node until it is told to stop; its exit code."""
    if options.get("json"):
        raise UsageError("--json is for commands that read, not for running a node")
    settings = resolve({**options, **{name: value for name, value in node_options.items() if value is not None}})
    set_up_logging(settings.log_level)
    return run_node(
        NodeSettings(
            node_id=settings.node_id,
            plugin_directories=settings.plugins,
            max=settings.max,
            max_total=settings.max_total,
            force=bool(node_options["force"]),
            stop_grace_seconds=settings.stop_grace_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            dead_after_seconds=settings.dead_after_seconds,
            until_idle=bool(node_options["until_idle"]),
        ),
        open_store(settings.store_url, SystemClock()),
    )


def set_up_logging(level: str) -> None:
    """One readable line a record, on stderr. The drivers' own logs stay out: what matters of them is said by us."""
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format=_LOG_FORMAT, datefmt="%Y-%m-%d %H:%M:%S", force=True
    )
    for name in ("pymongo", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
