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
