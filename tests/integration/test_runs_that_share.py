"""What runs share with others, or leave to them: worker processes, the process host, what a plugin's programs have in
common."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.documents import records
from disbatch_host.documents.changes import OutputChunk, Place, RunChange
from disbatch_host.documents.records import Document, Task
from disbatch_host.errors import StoreRefusedError
from disbatch_host.plugin import program
from disbatch_host.plugin.accounts import Accounts
from disbatch_host.plugin.catalog import Plugin, load_plugins
from disbatch_host.plugin.program import ProgramSite
from disbatch_host.process.interface import StartError
from disbatch_host.run.attempt import Run
from disbatch_host.run.context import RunContext
from disbatch_host.run.execution import Assignment
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_protocol.outcome import Outcome, Reason
from helpers.hosts import host_under_test
from helpers.nodes import write_plugin

pytestmark = pytest.mark.usefixtures("each_supervisor")
# Prints as many characters as its task says, and is done after as many seconds.
WORKER = r"""#!/usr/bin/env python3
import json, os, sys, time
events = os.fdopen(3, "w", buffering=1)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        events.write('{"type": "ready", "protocol": 1}\n')
    elif message["type"] == "task":
        parameters = message["task"]["parameters"]
        print("x" * parameters["size"], flush=True)
        time.sleep(parameters["seconds"])
        events.write('{"type": "done", "exit": 0}\n')
"""


@dataclass
class Ledger:
    """A recorder in memory. Pieces of output wait for `pieces_are_written`; ends are refused where it is told so."""

    refuses_ends: bool = False
    pieces_are_written: asyncio.Event = field(default_factory=asyncio.Event)
    ends: dict[Any, Document] = field(default_factory=dict)

    def record(
        self, change: RunChange | None, chunks: Sequence[OutputChunk] = (), *, frees: Place | None = None
    ) -> asyncio.Future[bool]:
        return asyncio.ensure_future(self._answer(change, chunks))

    async def _answer(self, change: RunChange | None, chunks: Sequence[OutputChunk]) -> bool:
        if chunks:
            await self.pieces_are_written.wait()
        if change is not None and "outcome" in change.set.get("run", {}):
            if self.refuses_ends:
                raise StoreRefusedError("too large")
            self.ends[change.key.task_id] = dict(change.set)
        return True

    async def wait_for_budget(self) -> None:
        """There always is."""


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "plugins"
    directory.mkdir()
    yield directory


def plugin_of(directory: Path, name: str) -> Plugin:
    return load_plugins([directory]).plugins[name]


def context_of(tmp_path: Path, ledger: Ledger) -> RunContext:
    clock, processes = SystemClock(), host_under_test()
    site = ProgramSite(node_id="n1", local_clock=clock, host_environment=dict(os.environ), temporary_directory=tmp_path)
    return RunContext(
        machine_name="here",
        recorder=ledger,
        clock=clock,
        site=site,
        processes=processes,
        workers=WorkerPool(site, processes),
        trust_seconds=60,
    )


def claimed(task_id: str, **parameters: Any) -> Task:
    now = SystemClock().now()
    document = records.new_task("q", parameters, now=now)
    return Task.from_document(
        {**document, "_id": task_id, "status": -1, "node": "n1", "claim": {"token": "t", "at": now}}
    )


async def until(is_so: Any) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


def test_a_cancelled_run_that_is_still_recorded_does_not_stop_the_next_task_of_its_process(
    plugins: Path, tmp_path: Path
) -> None:
    """The process had gone to another task while the output of the first was written; the cancel stopped that one."""
    write_plugin(plugins, "W", WORKER, mode="worker")

    async def perform() -> None:
        ledger = Ledger()
        context, plugin = context_of(tmp_path, ledger), plugin_of(plugins, "W")
        first = Run(claimed("first", size=3 * 2**20, seconds=0), plugin, context)
        first_report = asyncio.create_task(first.perform())
        await until(lambda: _idle(context))
        second = Run(claimed("second", size=1, seconds=0.5), plugin, context)
        second_report = asyncio.create_task(second.perform())
        await until(lambda: pid_of(second) is not None)
        assert pid_of(first) == pid_of(second)
        first.cancel({"by": "kim"})
        assert (await second_report).reason is Reason.DONE
        ledger.pieces_are_written.set()
        conclusion = (await first_report).conclusion
        assert conclusion is not None and conclusion.outcome is Outcome.SUCCESS
        assert ledger.ends["second"]["run"]["outcome"] == "success"
        await context.workers.stop()
        context.processes.close()

    asyncio.run(perform())


def pid_of(run: Run) -> Any:
    (ids,) = run.log_ids.values()
    return ids.get("pid")


def _idle(context: RunContext) -> bool:
    return any(worker.is_idle for worker in context.workers._workers)


def test_a_process_that_is_ending_is_given_no_task(plugins: Path, tmp_path: Path) -> None:
    """A plugin that changed while a claim was on its way ended the processes that the claim had reserved, and tasks
    that were handed to them failed without having been seen."""
    write_plugin(plugins, "W", WORKER, mode="worker")

    class Nobody:
        def receive(self, *_: Any) -> None: ...
        def miss(self, *_: Any) -> None: ...
        def hear(self, *_: Any) -> None: ...

    async def perform() -> None:
        context, plugin = context_of(tmp_path, Ledger()), plugin_of(plugins, "W")
        workers = context.workers
        workers.release(await workers.acquire(plugin))
        (reserved,) = workers.reserve(plugin)
        workers.keep_only([])  # the plugin has changed
        assert reserved.can_take_task
        workers.unreserve([reserved])
        assignment = Assignment(task_id="t", queue="q", attempt=1, note=b"")
        assert reserved.hand_over(json.dumps({}).encode(), assignment, Nobody()) is None
        await workers.stop()
        context.processes.close()

    asyncio.run(perform())


def test_a_run_whose_end_is_refused_for_good_leaves_nothing_at_the_process_host(plugins: Path, tmp_path: Path) -> None:
    write_plugin(plugins, "P", "echo out")

    async def perform() -> None:
        context = context_of(tmp_path, Ledger(refuses_ends=True))
        with pytest.raises(StoreRefusedError):
            await Run(claimed("t"), plugin_of(plugins, "P"), context).perform()
        assert not context.processes.runs()
        context.processes.close()

    asyncio.run(perform())


def test_what_is_written_just_before_descriptor_3_is_closed_counts_as_a_sign_of_life(
    plugins: Path, tmp_path: Path
) -> None:
    """It was read together with the end of descriptor 3, and the idle clock went on."""
    write_plugin(plugins, "P", "sleep 1.3; exec 3>&-; printf x; sleep 1.3", idle_timeout="2s")

    async def perform() -> None:
        context = context_of(tmp_path, Ledger())
        report = asyncio.create_task(Run(claimed("t"), plugin_of(plugins, "P"), context).perform())
        while not report.done():  # a busy event loop: both are there to be read at once
            time.sleep(0.05)
            await asyncio.sleep(0)
        assert (await report).reason is Reason.EXITED
        context.processes.close()

    asyncio.run(perform())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
def test_an_account_that_was_not_known_at_first_is_used_whole_when_it_is(plugins: Path, tmp_path: Path) -> None:
    """While the directory of users was away, programs were made ready with the host's own HOME and USER, and kept
    them."""
    write_plugin(plugins, "P", "env", run_as="nobody")
    known: set[str] = set()

    class Directory(Accounts):
        def entry(self, user: str) -> pwd.struct_passwd:
            if user not in known:
                raise KeyError(f"getpwnam(): name not found: {user!r}")
            return super().entry(user)

    plugin = plugin_of(plugins, "P")
    site = ProgramSite(
        node_id="n1",
        local_clock=SystemClock(),
        host_environment={"HOME": "/root", "USER": "root", "PATH": "/bin"},
        temporary_directory=tmp_path,
        accounts=Directory(),
    )
    with pytest.raises(StartError, match="as the user that it names"):
        program.prepare(plugin, site, name="x", variables={})
    known.add("nobody")
    prepared = program.prepare(plugin, site, name="x", variables={})
    variables = prepared.program.environment.variables
    assert (variables["HOME"], variables["USER"]) == (pwd.getpwnam("nobody").pw_dir, "nobody")
