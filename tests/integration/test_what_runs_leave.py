"""A run is gone when it has ended: what it was made of is freed at once, not by the garbage collector."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.trial.local_host import LocalHost
from helpers.nodes import write_plugin

RUNS = 20
WORKER = r"""#!/usr/bin/env python3
import json, os, sys
events = os.fdopen(3, "w", buffering=1)
for line in sys.stdin:
    if json.loads(line)["type"] == "hello":
        events.write('{"type": "ready", "protocol": 1}\n')
    else:
        print("hello", flush=True)
        events.write('{"type": "done", "exit": 0}\n')
"""


@pytest.mark.parametrize(
    ("program", "manifest"), [("echo hello", {}), (WORKER, {"mode": "worker"})], ids=["oneshot", "worker"]
)
def test_a_run_that_has_ended_leaves_no_cycles(tmp_path: Path, program: str, manifest: dict[str, Any]) -> None:
    """A run and what wrote its news held each other: a task in worker mode cost a sixth more CPU time, all of it the
    garbage collector's."""
    write_plugin(tmp_path, "P", program, **manifest)
    plugin = load_plugins([tmp_path]).plugins["P"]

    async def garbage() -> int:
        host = LocalHost()
        try:
            await host.run(plugin, {})
            gc.collect()
            gc.disable()
            for _ in range(RUNS):
                result = await host.run(plugin, {})
                assert result.document["stdout"] == "hello\n" and not [
                    run for run in host.processes.runs() if run.has_ended
                ]
            return gc.collect()
        finally:
            gc.enable()
            await host.close()

    assert asyncio.run(garbage()) < RUNS  # fewer than one object per run: what asyncio leaves now and then


def test_a_host_that_has_ended_leaves_no_classes(tmp_path: Path) -> None:
    """Each access to the C library made a class, and each environment of another length: some ten objects each, which
    only the garbage collector frees."""
    write_plugin(tmp_path, "P", "echo hello")
    plugin = load_plugins([tmp_path]).plugins["P"]

    async def run_once() -> None:
        host = LocalHost()
        try:
            await host.run(plugin, {})
        finally:
            await host.close()

    def classes_left() -> list[Any]:
        asyncio.run(run_once())
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            asyncio.run(run_once())
            gc.collect()
            return [one for one in gc.garbage if isinstance(one, type)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()

    assert classes_left() == []
