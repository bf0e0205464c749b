"""Claims whose answer is known only at the second try, with real worker processes, on both stores."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from functools import partial

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.decide.placement import Load
from disbatch_host.documents.changes import RunChange, RunKey, Want
from disbatch_host.errors import StoreUnreachableError
from disbatch_host.node.claim_ledger import ClaimLedger, ClaimRequest, ClaimResult
from disbatch_host.node.pace import Pace
from disbatch_host.node.starter import Starter
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.plugin.program import ProgramSite
from disbatch_host.run.context import RunContext
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_protocol.status import Status
from helpers.hosts import host_under_test
from helpers.nodes import Cluster
from integration.test_workers import worker_plugin


def test_what_was_begun_by_a_claim_that_was_undone_does_not_count(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that failed was tried again in two parts. The second claim found no process free, since the first one
    had taken it, and left the task Claimed; the node took it for Running all the same, started the program, and gave
    the task back a moment later: it ran twice."""
    queue = worker_plugin(cluster)
    ended, waiting = cluster.push(queue, {}, {})
    (first,) = cluster.store.claim("n1", [Want(queue, 1)], "first")
    assert first.id == ended
    together = cluster.store.together
    failures = ["once"]

    @contextlib.contextmanager
    def failing() -> Iterator[None]:
        with together():
            yield
            if failures:
                failures.clear()
                raise StoreUnreachableError("away for a moment")

    monkeypatch.setattr(cluster.store, "together", failing)

    async def carry_out() -> ClaimResult:
        clock = SystemClock()
        processes = host_under_test()
        site = ProgramSite(
            node_id="n1", local_clock=clock, host_environment=dict(os.environ), temporary_directory=cluster.directory
        )
        workers, thread = WorkerPool(site, processes), StoreThread(cluster.store)
        context = RunContext(
            machine_name="here",
            recorder=thread,
            clock=clock,
            site=site,
            processes=processes,
            workers=workers,
            trust_seconds=15,
        )
        plugins = load_plugins([cluster.plugins]).plugins
        try:
            workers.release(await workers.acquire(plugins["W"]))
            ledger, starter = ClaimLedger("n1", Pace()), Starter(plugins, workers, context)
            full = Load(max_per_queue=1, max_total=None, running={queue: 1})
            ledger.round(ClaimRequest(classes=frozenset("W"), load=full, refresh=True), cluster.store)
            load = Load(max_per_queue=1, max_total=None)
            request = ClaimRequest(classes=frozenset("W"), load=load, new_starts=starter.new_starts)
            change = RunChange(key=RunKey(ended, "n1", "first"), statuses=(Status.CLAIMED,), set={"status": 0})
            answer = thread.record(change)
            call = thread.call_after_records(partial(ledger.round, request))
            thread.start()
            result = await call
            assert await answer
            starter.release()
            assert workers.size == 1 and (await workers.acquire(plugins["W"])).number == 1
            return result
        finally:
            workers.kill()
            await workers.stop()
            await thread.stop()
            processes.close()

    result = asyncio.run(carry_out())
    assert not failures
    # On MongoDB the first claim was carried out, and the node does not know: it is an orphaned claim.
    assert [task.id for task in result.tasks] in ([waiting], [])
    for task in result.tasks:
        assert result.started[task.id].run["token"] == task.token == result.tokens[0]
        assert cluster.task(waiting).status == Status.RUNNING
