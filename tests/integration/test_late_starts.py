"""What keeps a claimed task from being started: it is another node's by now, is to be cancelled, or has expired."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunChange, RunKey, Want
from disbatch_host.documents.records import Task
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.plugin.program import ProgramSite
from disbatch_host.run import starting
from disbatch_host.run.attempt import Run
from disbatch_host.run.context import RunContext
from disbatch_host.run.report import RunReport, RunResult
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_protocol.status import Status
from helpers.hosts import host_under_test
from helpers.nodes import Cluster

pytestmark = pytest.mark.usefixtures("each_supervisor")
LONG_PAST = datetime(2020, 1, 1, tzinfo=UTC)
LONG_AGO = 100.0  # seconds; against `trust_seconds`


async def carry_out(cluster: Cluster, meanwhile: Callable[[Task], None], *, begun: bool) -> RunReport:
    """One run as a node makes it, with its claim long ago; `meanwhile` happens between the claim and the start."""
    clock = SystemClock()
    processes = host_under_test()
    site = ProgramSite(
        node_id="n1", local_clock=clock, host_environment=dict(os.environ), temporary_directory=cluster.directory
    )
    recorder = StoreThread(cluster.store)
    recorder.start()
    context = RunContext(
        machine_name="here",
        recorder=recorder,
        clock=clock,
        site=site,
        processes=processes,
        workers=WorkerPool(site, processes),
        trust_seconds=15,
    )
    plugin = load_plugins([cluster.plugins]).plugins["Touch"]
    run: Any = None

    def begin(task: Task) -> RunChange:
        nonlocal run
        run = starting.run_fields(task, plugin, context, now=clock.now(), secrets=())
        return transitions.start_change(task, RunKey(task.id, "n1", task.token), run, now=clock.now())

    try:
        claim = recorder.call(lambda store: store.claim("n1", [Want("Touch", 1)], "t1", begin if begun else None))
        (task,) = await claim
        await recorder.call(lambda store: meanwhile(replace(task, status=0 if begun else -1)))
        late = Run(task, plugin, context, running=run, asked_at=clock.since_boot() - LONG_AGO)
        return await late.perform()
    finally:
        await recorder.stop()
        processes.close()


def give_to_another(cluster: Cluster, task: Task) -> None:
    """What a node does first that takes this one for dead."""
    claim = {"token": "settling", "at": cluster.store.now()}
    change = RunChange(key=RunKey(task.id, "n1", "t1"), statuses=(Status(task.status),), set={"claim": claim})
    assert cluster.store.commit([change]) == set()


@pytest.mark.parametrize("begun", [True, False], ids=["running", "claimed"])
def test_a_program_is_not_started_where_its_task_was_given_to_another_node(cluster: Cluster, begun: bool) -> None:
    """A node that was stopped (SIGSTOP) after its claim was durable used to start the program when it went on, beside
    the second run of the node that had taken over."""
    started = cluster.directory / "started"
    cluster.plugin("Touch", f"echo started >> {started}")
    cluster.push(cluster.queue("Touch"), {})
    report = asyncio.run(carry_out(cluster, lambda task: give_to_another(cluster, task), begun=begun))
    assert report.result is RunResult.REFUSED and not started.exists()


@pytest.mark.parametrize("begun", [True, False], ids=["running", "claimed"])
def test_a_program_is_started_late_where_its_task_is_still_this_nodes(cluster: Cluster, begun: bool) -> None:
    started: Path = cluster.directory / "started"
    cluster.plugin("Touch", f"echo started >> {started}")
    (task_id,) = cluster.push(cluster.queue("Touch"), {})
    report = asyncio.run(carry_out(cluster, lambda task: None, begun=begun))
    assert report.result is RunResult.ENDED and started.read_text() == "started\n"
    assert cluster.task(task_id).status == Status.CONCLUDED


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"cancel": {"at": LONG_PAST, "by": "kim@desk", "why": "wrong"}}, "cancelled"),
        ({"expires": LONG_PAST}, "expired"),
    ],
    ids=["cancel", "expires"],
)
def test_what_is_to_be_cancelled_or_has_expired_is_not_started_although_it_was_claimed(
    cluster: Cluster, fields: dict[str, Any], code: str
) -> None:
    """A cancel that came while a run ended with another attempt used to let that begin, until the node next looked."""
    started = cluster.directory / "started"
    cluster.plugin("Touch", f"echo started >> {started}")
    (task_id,) = cluster.push(cluster.queue("Touch"), {}, **fields)
    report = asyncio.run(carry_out(cluster, lambda task: None, begun=False))
    task = cluster.task(task_id)
    assert report.result is RunResult.WITHDRAWN and not started.exists()
    assert (task.status, task.node, task.document["error"]["code"]) == (Status.CANCELLED, None, code)
    assert "cancel" not in task.document and "claim" not in task.document
    if code == "cancelled":
        assert task.run["cancelled"]["by"] == "kim@desk" and "kim@desk: wrong" in task.document["error"]["message"]
