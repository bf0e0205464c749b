"""What the benches say of CPU: whose it was, and what follows from it for more cores."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from disbatch_host.process import connection
from disbatch_host.process.flags import Input
from disbatch_host.process.frames import Ack, Acknowledged, Events, StdinEof
from helpers import supervisors
from helpers.processes import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "bench"
BUSY = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done"  # a tenth of a second or so
TICK = 0.02  # twice what the kernel rounds to

Load = Callable[[str], ModuleType]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Load:
    """A module by name. The benches are scripts beside each other, not a package."""
    monkeypatch.syspath_prepend(BENCH)
    for script in BENCH.glob("*.py"):
        monkeypatch.delitem(sys.modules, script.stem, raising=False)  # restores what was there, when the test has ended
    return importlib.import_module


def test_each_bench_can_be_started() -> None:
    """As a script, which finds only what is beside it. A bench that cannot be imported is one bench less."""
    names = "from run import BENCHES; import tree, importlib; tree.make_importable(); "
    load = "[importlib.import_module(name).run for name in BENCHES]; import compare, profile"
    command = [sys.executable, "-c", names + load]
    environment = {**os.environ, "PYTHONPATH": str(BENCH)}
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def cost_of(cost: ModuleType, **microseconds: float) -> Any:
    """Of a task that is cheap for all but its programs, if nothing else is said."""
    given = {
        "time": 550, "node": 120, "user": 70, "system": 50, "busiest": 100, "supervisor": 70, "programs": 720,
        "busiest_of_supervisor": 20, "mongod": 0, **microseconds,
    }  # fmt: skip
    return cost.Cost(starters=4, **{name: value / 1e6 for name, value in given.items()})


@pytest.mark.parametrize(
    ("microseconds", "first_full", "rate"),
    [
        ({}, "the node's busiest thread", 10_000),
        ({"user": 125}, "the interpreter's lock", 8_000),  # threads of Python that share it, each below that
        ({"busiest_of_supervisor": 200}, "the supervisor's busiest thread", 5_000),
        ({"start": 500}, "its 4 starting threads", 8_000),
        ({"programs": 3010}, "all cores", 5_000),
    ],
)
def test_on_many_cores_the_first_thread_that_is_full_decides(
    bench: Load, microseconds: dict[str, float], first_full: str, rate: float
) -> None:
    cost = bench("cost")
    start = microseconds.pop("start", 240) / 1e6
    found = cost.ceilings(cost_of(cost, **microseconds), start, cores=16)
    assert min(found, key=found.__getitem__) == first_full
    assert found[first_full] == pytest.approx(rate)
    assert len(found) == 5


def test_the_busiest_thread_is_that_which_used_most_meanwhile(bench: Load) -> None:
    usage = bench("usage")
    assert usage.busiest({1: 5.0, 2: 1.0, 3: 9.0}, {1: 5.5, 2: 2.0, 4: 0.7}) == pytest.approx(1.0)
    assert usage.busiest({}, {}) == 0.0


@supervisors.usable()
def test_a_supervisor_is_found_as_a_child_and_in_its_home(bench: Load, tmp_path: Path) -> None:
    usage, node, state = bench("usage"), os.getpid(), tmp_path / "state"
    assert usage.supervisor_of(node, state) is None
    with supervisors.paired() as talk:
        assert usage.supervisor_of(node, state) == talk.link.pid
    wait_until(lambda: usage.supervisor_of(node, state) is None, 10, "it does not end")
    (state / "node-1").mkdir(parents=True, mode=0o700)
    home = supervisors.Home(state / "node-1")
    try:
        assert usage.supervisor_of(node, state) == home.pid
        assert usage.supervisor_of(node) is None
    finally:
        home.close()
    assert (state / "node-1" / "supervisor.json").exists()  # it stays, and says nothing any more
    wait_until(lambda: usage.supervisor_of(node, state) is None, 10, "it does not end")


@supervisors.usable()
def test_the_cpu_of_programs_is_neither_the_supervisors_nor_the_nodes(bench: Load) -> None:
    """Those that run count as well as those that have ended."""
    usage = bench("usage")
    with supervisors.paired() as talk:
        supervisor = talk.link.pid
        talk.say(supervisors.shell(1, f"{BUSY}; echo >&3; read -r line; {BUSY}"))
        before = usage.used(os.getpid(), supervisor)
        talk.say(supervisors.start(1, 1, flags=Input.OPEN))
        running = talk.hear(Events).cpu / 1e6
        meanwhile = usage.used(os.getpid(), supervisor)
        assert running > 2 * TICK
        assert meanwhile.programs - before.programs == pytest.approx(running, abs=TICK)
        talk.say(StdinEof(1), Ack(1, 0, 0, 1, Acknowledged.OFFSETS))
        ended = talk.end(1).cpu / 1e6
        talk.in_step()
        after = usage.used(os.getpid(), supervisor)
        assert ended > running + 2 * TICK
        assert after.programs - before.programs == pytest.approx(ended, abs=2 * TICK)
        assert after.supervisor - before.supervisor < ended / 2
        assert sum(after.threads_of_supervisor.values()) == pytest.approx(after.supervisor, abs=TICK)
        assert len(after.threads_of_supervisor) == 5  # its main one, and four that start


def test_without_a_supervisor_the_programs_are_the_nodes_children(bench: Load) -> None:
    usage = bench("usage")
    before = usage.used(os.getpid(), None)
    subprocess.run(["sh", "-c", BUSY], check=True)
    after = usage.used(os.getpid(), None)
    assert after.programs - before.programs > TICK
    assert (after.supervisor, after.threads_of_supervisor) == (0.0, {})


def test_a_start_takes_time_at_either_supervisor(bench: Load) -> None:
    starts, place = bench("starts"), bench("place")
    with place.Place(quick=True, wants_mongodb=False) as here:
        assert 0 < starts.of_spawn(here, 3) < 5
        assert 0 < starts.without_supervisor(here, 3) < 5
        if connection.why_not_usable() is None:
            assert 0 < starts.of_supervisor(here, 3) < 5


def test_every_bench_can_be_run_and_is_described(bench: Load) -> None:
    readme = (BENCH / "README.md").read_text()
    described = re.findall(r"^\| `bench/run.py (\w+)` \|", readme, re.MULTILINE)
    assert sorted(described) == sorted(bench("run").BENCHES)
    for name in described:
        assert callable(bench(name).run)
