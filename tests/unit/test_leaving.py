"""The leave of a node: what goes back first, what goes on, and when it is not possible."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.errors import ExitCode
from disbatch_host.node import leaving
from disbatch_host.node.leaving import Leave
from disbatch_host.node.pace import Pace
from disbatch_host.settings.values import OnStop
from disbatch_protocol.status import Status
from helpers.parts import Bench, on_bench

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
QUICK = Pace(refresh_seconds=0.05, leave_look_seconds=0.005)
SLOW_TO_BE_READY = "#!/bin/sh\nsleep 60\n"  # a worker process that never says so


async def running(bench: Bench, count: int = 2) -> list[Any]:
    """Tasks that run for long."""
    ids = bench.push(bench.queue("Long", "exec sleep 60"), count)
    await bench.parts.claiming.turn()
    await bench.until(lambda: bench.parts.runs.programs == count, "they do not run")
    return ids


def test_a_node_that_leaves_stops_nothing_and_waits_for_nothing(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        ids = await running(bench)
        parts.stopping.leave(Leave(by="ann@here", why="upgrade"))
        async with asyncio.timeout(10):
            await parts.stopping.finish_runs()
        assert parts.stopping.leaves_runs and parts.runs.programs == 2 and parts.claiming.is_stopped
        assert parts.stopping.exit_code is ExitCode.DONE
        assert bench.statuses(ids) == [Status.RUNNING, Status.RUNNING]

    on_bench(tmp_path, test, QUICK)


def test_a_node_that_waits_for_the_ends_of_its_runs_can_still_be_told_to_leave_them(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        await running(bench)
        parts.stopping.grace_seconds = 60.0
        parts.stopping.request()
        finishing = asyncio.ensure_future(parts.stopping.finish_runs())
        await asyncio.wait([finishing], timeout=0.2)
        assert not finishing.done()
        parts.stopping.leave(Leave(by="SIGUSR2"))
        async with asyncio.timeout(10):
            await finishing
        assert parts.stopping.leaves_runs and parts.runs.programs == 2

    on_bench(tmp_path, test, QUICK)


def test_a_task_that_has_not_begun_goes_back_before_the_node_leaves(tmp_path: Path) -> None:
    """It waits for a worker process, which may take as long as that needs to be ready."""

    async def test(bench: Bench) -> None:
        parts = bench.parts
        (runs_on,) = await running(bench, 1)
        manifest = {"mode": "worker", "worker": {"start_timeout": "60s"}}
        (waits,) = bench.push(bench.queue("Slow", SLOW_TO_BE_READY, manifest=manifest))
        parts.claiming.on_change()
        parts.claiming.read_queues_again(lambda: None)
        await parts.claiming.turn()
        await bench.until(lambda: len(parts.runs) == 2, "it is not claimed")
        assert bench.statuses([waits]) == [Status.CLAIMED]
        parts.stopping.leave(Leave(by="SIGUSR2"))
        async with asyncio.timeout(10):
            await parts.stopping.finish_runs()
        assert len(parts.runs) == 1 and bench.statuses([runs_on, waits]) == [Status.RUNNING, Status.CREATED]
        parts.workers.kill()

    on_bench(tmp_path, test, QUICK)


def test_a_node_whose_runs_have_all_ended_has_nothing_to_leave(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.parts.stopping.leave(Leave(by="SIGUSR2"))
        await bench.parts.stopping.finish_runs()
        assert not bench.parts.stopping.leaves_runs

    on_bench(tmp_path, test, QUICK)


def test_a_node_whose_runs_would_end_with_it_does_not_leave_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        await running(bench)
        parts.stopping.why_not_leave = lambda: "they would end"
        parts.stopping.leave(Leave(by="SIGUSR2"))
        assert not parts.claiming.is_stopped and parts.stopping.leave_asked is None
        assert "SIGUSR2 wants this node to leave its runs, which is not possible: they would end" in caplog.text

    on_bench(tmp_path, test, QUICK)


def test_a_supervisor_that_is_lost_meanwhile_makes_a_leave_a_stop(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        await running(bench)
        parts.stopping.leave(Leave(by="SIGUSR2"))
        parts.stopping.why_not_leave = lambda: "they would end"
        finishing = asyncio.ensure_future(parts.stopping.finish_runs())
        await asyncio.wait([finishing], timeout=0.3)
        assert not finishing.done() and parts.stopping.leave_asked is None
        parts.stopping.request()
        parts.stopping.request()
        async with asyncio.timeout(10):
            await finishing
        assert not parts.runs

    on_bench(tmp_path, test, QUICK)


@pytest.mark.parametrize(
    ("on_stop", "why_not", "leaves"),
    [(OnStop.KEEP, None, True), (OnStop.DRAIN, None, False), (OnStop.KEEP, "they would end", False)],
)
def test_sigterm_leaves_the_runs_where_that_is_wanted_and_possible(
    tmp_path: Path, on_stop: OnStop, why_not: str | None, leaves: bool
) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        await running(bench)
        parts.stopping.on_stop = on_stop
        parts.stopping.why_not_leave = lambda: why_not
        parts.stopping.terminate()
        finishing = asyncio.ensure_future(parts.stopping.finish_runs())
        await asyncio.wait([finishing], timeout=10.0 if leaves else 0.3)
        assert finishing.done() is leaves and parts.stopping.leaves_runs is leaves
        assert parts.claiming.is_stopped and parts.runs.programs == 2
        finishing.cancel()

    on_bench(tmp_path, test, QUICK)


def test_a_second_sigterm_stops_no_run_of_a_node_that_leaves(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        parts = bench.parts
        ids = await running(bench)
        parts.stopping.on_stop = OnStop.KEEP
        for _ in range(4):
            parts.stopping.terminate()
        async with asyncio.timeout(10):
            await parts.stopping.finish_runs()
        parts.stopping.terminate()
        assert parts.stopping.leaves_runs and bench.statuses(ids) == [Status.RUNNING, Status.RUNNING]

    on_bench(tmp_path, test, QUICK)


def test_what_a_node_that_leaves_says() -> None:
    assert Leave(by="SIGTERM").document(NOW, 90.0) == {"until": NOW + timedelta(seconds=90), "by": "SIGTERM"}
    assert Leave(by="ann@here", why="upgrade").document(NOW, 0.0)["why"] == "upgrade"


@pytest.mark.parametrize(
    ("program", "is_down"),
    [
        ("echo running", False),
        ("echo degraded; exit 1", False),
        ("echo stopping; exit 1", True),
        ("echo offline; exit 1", False),  # another container's
        ("sleep 60", True),  # it has other things to do
        (None, False),
    ],
)
def test_a_system_that_goes_down_is_recognized(tmp_path: Path, program: str | None, is_down: bool) -> None:
    """By a systemctl that answers as the real one does: the machine of the tests cannot be shut down."""
    systemd = tmp_path / "systemd"
    systemd.mkdir()
    if program is not None:
        (tmp_path / "systemctl").write_text(f'#!/bin/sh\n[ "$1" = is-system-running ] || exit 9\n{program}\n')
        (tmp_path / "systemctl").chmod(stat.S_IRWXU)
    found = leaving.is_system_going_down(systemd, path=str(tmp_path), answer_seconds=0.5)
    assert found is is_down
    assert not leaving.is_system_going_down(tmp_path / "missing", path=str(tmp_path))
