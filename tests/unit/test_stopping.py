"""The stop of a node: what its requests mean while the store does not answer."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from disbatch_host.errors import ExitCode
from disbatch_host.node.pace import Pace
from disbatch_host.store.contract import Store
from helpers.parts import Bench, on_bench


def test_the_third_request_waits_for_no_store_that_is_away(tmp_path: Path) -> None:
    """It waited for the places of this node to be released, which was tried as long as the driver looks for a server,
    three times: ten seconds."""

    async def test(bench: Bench) -> None:
        parts, asked, answers = bench.parts, threading.Event(), threading.Event()
        bench.push(bench.queue("Long", "exec sleep 60"))
        await parts.claiming.turn()
        await bench.until(lambda: parts.runs.programs == 1, "it does not run")

        def ask(store: Store) -> None:
            asked.set()
            answers.wait(30)

        silent = asyncio.ensure_future(parts.store_thread.call(ask))
        await bench.until(asked.is_set, "the store is not asked")
        parts.store_thread.turns.is_away = True  # as it is once there was no answer
        try:
            for _ in range(3):
                parts.stopping.request()
            async with asyncio.timeout(10):
                await parts.stopping.finish_runs()
            assert len(parts.runs) == 1 and parts.stopping.exit_code is ExitCode.STORE
        finally:
            answers.set()
            await silent

    on_bench(tmp_path, test, Pace(refresh_seconds=0.05))
