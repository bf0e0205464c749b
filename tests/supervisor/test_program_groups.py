"""Control groups of the runs, where disbatch-supervisor is in one that was delegated.

Most of it runs wherever root can write cgroup v2. The rest needs its memory controller, which a hybrid machine lacks.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from disbatch_host.process import facts
from disbatch_host.process.family import Processes
from disbatch_host.process.flags import Has, How, Input
from disbatch_host.process.frames import Bye, End, KillRun, Log, NodeBye, Plugin, Said, Started, StdinEof, Window
from disbatch_host.process.framing import unpacked_processes
from disbatch_host.process.groups import group_state
from disbatch_host.process.remains import LostRun, kill_remains
from helpers import groups, supervisors
from helpers.processes import wait_until
from helpers.supervisors import Home, Talk, paired, plugin, shell, start

pytestmark = supervisors.usable()
NOBODY = 65534
MIB = 2**20
MEMORY_LIMIT = How.MEMORY_BY_GROUP | How.MEMORY_LIMIT
WHERE = "sed -n s/^0:://p /proc/self/cgroup"
# Leaves its session, its environment, its parent (whose sibling it is: not an orphan) and, where root may, its mark:
# only its group is left.
ESCAPE = """
import ctypes, os, platform, resource, signal, sys
clone = {{"x86_64": 56, "aarch64": 220}}[platform.machine()]
CLONE_PARENT = 0x8000
if ctypes.CDLL(None).syscall(clone, CLONE_PARENT | int(signal.SIGCHLD), 0, 0, 0, 0) == 0:
    os.setsid()
    for one in (0, 1, 2, 3):
        os.close(one)
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError:
        pass  # a root who may not raise it
    os.setresuid({uid}, {uid}, {uid})
    os.execve("/bin/sh", ["sh", "-c", "echo $$ >{file}; exec sleep 60"], {{}})
while not (os.path.exists("{file}") and open("{file}").read().endswith("\\n")):
    pass
{then}
"""
# In another process after every few microseconds.
HOPS = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    os.write(1, b"hops")
    while True:
        if os.fork():
            os._exit(0)
signal.pause()
"""
TAKES = """
import sys
def take(size):
    taken = bytearray(size)
    for at in range(0, size, 4096):
        taken[at] = 1
    return taken
first = take({first})
print("taken", flush=True)
sys.stdin.read()
second = take({second})
print("all", flush=True)
"""


@pytest.fixture
def group() -> Iterator[Path]:
    with groups.made() as one:
        yield one


@pytest.fixture
def talk(group: Path, tmp_path: Path) -> Iterator[Talk]:
    with paired(groups.supervisor_in(group, tmp_path)) as one:
        one.in_step()
        yield one


def logged(talk: Talk) -> list[str]:
    talk.in_step()
    return [one.words.decode() for one in talk.kept if isinstance(one, Log)]


def own_of(talk: Talk, group: Path) -> Path:
    return group / f"disbatch-runs-{talk.supervisor_id.hex()}"


def pid_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), what=f"{path} is written")
    return int(path.read_text())


def in_words(end: End) -> tuple[int, list[str], list[str]]:
    return (
        end.status,
        [one.name for one in unpacked_processes(end.ended)],
        [one.name for one in unpacked_processes(end.left_over)],
    )


def test_each_place_has_a_group_in_which_one_run_after_another_is_born(talk: Talk, group: Path) -> None:
    assert len(logged(talk)) == 1 and f"runs have control groups in {group}" in logged(talk)[0]
    talk.say(shell(1, WHERE), shell(2, f"{WHERE}; read x"), start(1, 1), start(2, 2, flags=Input.OPEN | Input.TELL))
    first, seen = talk.end(1).stdout, str(own_of(talk, group))
    assert str(groups.mount()) + first.decode() == f"{seen}/1\n"
    talk.hear(Started)
    talk.say(start(3, 1), StdinEof(2))
    assert {talk.end(2).stdout, talk.end(3).stdout} == {first, first.replace(b"/1\n", b"/2\n")}
    assert groups.names_below(group) == ["1", "2", own_of(talk, group).name]
    talk.link.close()
    wait_until(lambda: not groups.below(group), what="its groups are removed")


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_what_nothing_else_tells_of_is_found_by_its_group(talk: Talk, tmp_path: Path, uid: int) -> None:
    tmp_path.chmod(0o777)
    escape = ESCAPE.format(file=tmp_path / "pid", uid=uid, then="")
    for above in tmp_path.parents:
        if above != Path("/tmp") and above.is_relative_to("/tmp"):
            above.chmod(above.stat().st_mode | 0o111)
    talk.say(plugin(1, sys.executable, "-c", escape), start(1, 1))
    end = talk.end(1)
    assert in_words(end) == (0, ["sleep"], [])
    pid = pid_in(tmp_path / "pid")
    talk.say(shell(2, "true"), start(2, 2))  # its next look
    talk.end(2)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="its zombie is reaped")


def test_what_has_left_the_group_is_found_by_its_marks(talk: Talk, group: Path, tmp_path: Path) -> None:
    """As sudo and cron do, by a module of PAM."""
    leaves = f"echo $$ >{group}/cgroup.procs; echo $$ >{tmp_path}/pid; exec sleep 60 >/dev/null 2>&1 3>&-"
    talk.say(shell(1, f"setsid sh -c '{leaves}' & while ! [ -s {tmp_path}/pid ]; do :; done"), start(1, 1))
    assert in_words(talk.end(1)) == (0, ["sleep"], [])
    assert facts.process_started(pid_in(tmp_path / "pid")) is None


def test_what_outruns_every_signal_is_killed_in_one_go(talk: Talk, group: Path) -> None:
    talk.say(plugin(1, sys.executable, "-c", HOPS), start(1, 1), Window(1, 1, 0, 100))
    talk.hear(Said)
    asked = time.monotonic()
    talk.say(KillRun(1, 3))
    assert in_words(talk.end(1)) == (signal.SIGKILL, [], [])
    assert time.monotonic() - asked < 3
    assert "populated 0" in (own_of(talk, group) / "1/cgroup.events").read_text()


def test_a_group_in_which_something_goes_on_is_no_other_runs(talk: Talk, group: Path, tmp_path: Path) -> None:
    leaves = f"setsid sh -c 'echo $$ >{tmp_path}/pid; exec sleep 60 >/dev/null 2>&1 3>&-' &"
    leaves += f" while ! [ -s {tmp_path}/pid ]; do :; done"
    talk.say(shell(1, leaves, flags=Has.LEAVE_RUNNING), shell(2, WHERE, flags=Has.LEAVE_RUNNING), start(1, 1))
    assert talk.end(1).left_running == 1
    pid = pid_in(tmp_path / "pid")
    talk.say(start(2, 2))
    assert talk.end(2).stdout.endswith(b"/left-2\n") and facts.process_started(pid) is not None
    assert pid not in Processes().in_groups_of(talk.supervisor_id.hex())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "populated 0" in (own_of(talk, group) / "left-1/cgroup.events").read_text())
    talk.say(shell(3, "read x", flags=Has.LEAVE_RUNNING), start(3, 3, flags=Input.OPEN | Input.TELL))
    talk.hear(Started)
    talk.say(start(4, 2), StdinEof(3))  # beside another, in the one that is free again
    assert talk.end(4).stdout.endswith(b"/left-1\n")
    talk.end(3)


def test_groups_of_a_dead_supervisor_are_removed_and_those_of_others_are_not(group: Path, tmp_path: Path) -> None:
    program = groups.supervisor_in(group, tmp_path)
    theirs = group / "theirs"
    theirs.mkdir()
    escape = ESCAPE.format(file=tmp_path / "pid", uid=0, then="signal.pause()")
    with paired(program) as living, paired(program) as dead:
        living.say(shell(1, "true"), start(1, 1))
        living.end(1)
        dead.say(plugin(1, sys.executable, "-c", escape), start(1, 1, flags=Input.TELL))
        first = dead.hear(Started)
        pid = pid_in(tmp_path / "pid")
        name = own_of(dead, group)
        (supervisor,) = (one for one in _pids_in(group) if _is_above(one, first.pid))
        os.kill(supervisor, signal.SIGKILL)
        with paired(program) as other:  # while something of the dead one is left
            other.in_step()
            assert name.is_dir() and own_of(living, group).is_dir() and own_of(other, group).is_dir()
        lost = LostRun(b"DISBATCH_RUN=" + dead.supervisor_id.hex().encode() + b"-1", first.pid, first.pid_started)
        assert asyncio.run(kill_remains({1: lost}, dead.supervisor_id)) == {}
        assert facts.process_started(pid) is None
        with paired(program) as other:
            other.in_step()
            assert not name.exists() and (own_of(living, group) / "1").is_dir() and theirs.is_dir()
        living.say(start(2, 1))
        assert living.end(2).status == 0


def _pids_in(group: Path) -> list[int]:
    return [int(one) for one in (group / "cgroup.procs").read_text().split()]


def _is_above(pid: int, child: int) -> bool:
    return f"\nPPid:\t{pid}\n" in Path(f"/proc/{child}/status").read_text()


def test_a_group_with_a_process_of_somebody_else_is_left_alone(group: Path, tmp_path: Path) -> None:
    stranger = os.fork()
    if stranger == 0:
        if os.fork() == 0:  # an orphan: nobody's child that has to do with the node
            os.setsid()
            groups.enter(group)
            os.execv("/bin/sleep", ["sleep", "60"])
        os._exit(0)
    os.waitpid(stranger, 0)
    wait_until(lambda: _pids_in(group), what="the stranger is there")
    with paired(groups.supervisor_in(group, tmp_path)) as talk:
        assert (
            f"process {_pids_in(group)[0]} (sleep) is in the control group {group}, and none of the node's"
            in (logged(talk)[0])
        )
        talk.say(shell(1, WHERE), start(1, 1))
        assert talk.end(1).stdout.decode().strip() == f"/{group.name}" and not groups.below(group)


def test_a_group_that_nobody_has_given_away_is_not_used(tmp_path: Path) -> None:
    with groups.made(is_delegated=False) as group:
        with paired(groups.supervisor_in(group, tmp_path)) as talk:
            talk.say(shell(1, WHERE), start(1, 1))
            assert talk.end(1).stdout.decode().strip() == f"/{group.name}" and not groups.below(group)
            assert logged(talk) == []
        state = group_state(groups.supervisor_in(group, tmp_path))
        assert state[:3] == (
            f"runs have no control groups: the control group {group} was not delegated; limits.memory is address space",
            False, False,
        )  # fmt: skip


def test_what_runs_would_have_is_told_without_changing_anything(group: Path, tmp_path: Path) -> None:
    state = group_state(groups.supervisor_in(group, tmp_path))
    assert state.is_used and f"runs have control groups in {group}" in state.words and not groups.below(group)
    assert "cannot be used here" in group_state(tmp_path / "nothing").words


def test_where_the_kernel_makes_no_process_in_a_group_it_goes_there_by_itself(group: Path, tmp_path: Path) -> None:
    """Linux before 5.7, and containers that do not let clone3 through."""
    before = tmp_path / "without-clone3"
    before.write_text(f"""#!{sys.executable}
import ctypes, os, struct, sys
def step(code, to, other, value): return struct.pack("HBBI", code, to, other, value)
program = (step(0x20, 0, 0, 0) + step(0x15, 0, 1, 435) + step(0x06, 0, 0, 0x50000 | 38) + step(0x06, 0, 0, 0x7FFF0000))
steps = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure): _fields_ = [("count", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
assert libc.prctl(22, 2, ctypes.addressof(Filter(4, ctypes.addressof(steps))), 0, 0) == 0  # seccomp
os.execv("{supervisors.program()}", sys.argv)
""")
    before.chmod(0o755)
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\necho $$ >{group}/cgroup.procs\nexec {before} "$@"\n')
    wrapper.chmod(0o755)
    with paired(wrapper) as talk:
        talk.say(shell(1, WHERE), start(1, 1))
        assert talk.end(1).stdout.decode() == f"/{group.name}/{own_of(talk, group).name}/1\n"


def test_a_group_that_somebody_removes_costs_no_run(talk: Talk, group: Path) -> None:
    talk.say(shell(1, WHERE), start(1, 1))
    talk.end(1)
    (own_of(talk, group) / "1").rmdir()
    talk.say(start(2, 1))
    assert talk.end(2).status == 0 and "could not be put into its control group" in logged(talk)[-1]
    talk.say(start(3, 1))
    assert talk.end(3).stdout.endswith(b"/2\n")


def limited(number: int, *argv: str, memory: int) -> Plugin:
    return plugin(number, *argv, limits=struct.pack("<IQQ", resource.RLIMIT_AS, memory, memory))


@pytest.fixture
def memory_group() -> Iterator[Path]:
    with groups.made(with_memory=True) as one:
        yield one


def test_the_limit_of_memory_is_what_all_processes_use_together(memory_group: Path, tmp_path: Path) -> None:
    """Each of three is below it, and the address space of one above it."""
    takes = TAKES.format(first=40 * MIB, second=0)
    takes = takes.replace("sys.stdin.read()", "import time; time.sleep(60)")
    three = f"for i in 1 2 3; do {sys.executable} -c '{takes}' & done; wait; echo all"
    shown = f'd={groups.mount()}$({WHERE}); cat $d/memory.max; ulimit -v; [ "$d" ] && exec true'
    with paired(groups.supervisor_in(memory_group, tmp_path)) as talk:
        talk.say(
            limited(1, sys.executable, "-c", "import mmap; mmap.mmap(-1, 2**30); print('reserved')", memory=100 * MIB),
            limited(2, "/bin/sh", "-c", three, memory=100 * MIB),
            limited(3, "/bin/sh", "-c", shown, memory=80 * MIB),
            shell(4, shown),
            start(1, 1),
        )  # fmt: skip
        end = talk.end(1)
        assert (end.stdout, end.flags & MEMORY_LIMIT) == (b"reserved\n", How.MEMORY_BY_GROUP)
        talk.say(start(2, 2))
        end = talk.end(2, 60)
        assert (end.status, end.flags & MEMORY_LIMIT) == (signal.SIGKILL, MEMORY_LIMIT) and b"all" not in end.stdout
        for run, words, flags in ((3, b"83886080\nunlimited\n", How.MEMORY_BY_GROUP), (4, b"max\nunlimited\n", 0)):
            talk.say(start(run, run))
            end = talk.end(run)  # of the same group as before
            assert (end.stdout, end.flags & MEMORY_LIMIT) == (words, flags)


def test_what_an_earlier_run_left_in_memory_is_not_counted(memory_group: Path, tmp_path: Path) -> None:
    left = Path("/dev/shm") / tmp_path.name
    takes = TAKES.format(first=50 * MIB, second=0)
    with paired(groups.supervisor_in(memory_group, tmp_path)) as talk:
        talk.say(
            limited(1, "/bin/sh", "-c", f"dd if=/dev/zero of={left} bs=1M count=50 2>/dev/null", memory=80 * MIB),
            limited(2, sys.executable, "-c", takes, memory=80 * MIB),
            start(1, 1),
        )  # fmt: skip
        try:
            assert talk.end(1).status == 0
            talk.say(start(2, 2, flags=Input.NULL))
            assert talk.end(2).stdout == b"taken\nall\n"
        finally:
            left.unlink(missing_ok=True)


def test_a_service_manager_can_start_a_node_again_beside_runs_with_a_limit(
    memory_group: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is limited below it, no process can be put into a group: the next start of a unit would fail."""
    monkeypatch.setenv("DISBATCH_TESTED_SUPERVISOR", str(groups.supervisor_in(memory_group, tmp_path)))
    home = Home(tmp_path / "home")
    try:
        node = home.node(session=1)
        takes = TAKES.format(first=30 * MIB, second=120 * MIB)
        node.say(
            limited(1, sys.executable, "-c", takes, memory=100 * MIB),
            start(1, 1, flags=Input.OPEN),
            Window(1, 1, 0, 100),
        )  # fmt: skip
        node.hear(Said)
        place = own_of(node, memory_group) / "1"
        assert (place / "memory.max").read_text() == f"{100 * MIB}\n" and not _pids_in(memory_group)
        node.say(NodeBye(Bye.KEEP))
        node.link.close()
        wait_until(lambda: not (place / "memory.max").exists(), what="the group takes processes")
        after = os.fork()
        if after == 0:
            groups.enter(memory_group)
            signal.pause()
        wait_until(lambda: after in _pids_in(memory_group), what="the node is there")
        os.kill(after, signal.SIGKILL)
        os.waitpid(after, 0)
        node = home.node(session=2)
        node.in_step()
        assert (place / "memory.max").read_text() == f"{100 * MIB}\n"
        node.say(StdinEof(1))
        end = node.end(1, 60)
        assert (end.status, end.flags & MEMORY_LIMIT) == (signal.SIGKILL, MEMORY_LIMIT)
    finally:
        home.close()
