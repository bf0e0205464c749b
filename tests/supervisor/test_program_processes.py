"""How disbatch-supervisor starts programs, finds all that belongs to a run, and ends it."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from disbatch_host.process.flags import Has, How, Input
from disbatch_host.process.frames import (
    Ack,
    Acknowledged,
    End,
    Events,
    Gone,
    KillRun,
    Log,
    NotStarted,
    Started,
    StdinEof,
    Step,
    Stop,
    StopRun,
    Task,
)
from disbatch_host.process.framing import packed, unpacked
from helpers import supervisors
from helpers.processes import wait_until
from helpers.supervisors import MICROSECONDS, Talk, mark_of, paired, plugin, shell, start

pytestmark = supervisors.usable()
NOBODY = 65534
Over = End | NotStarted
OWN = os.getpid() << 16  # numbers of runs that no other test uses, where several run at once
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
# A process in a session of its own with neither environment nor descriptors of the run: only its mark is left.
ESCAPE = "setsid env -i /bin/sh -c 'exec >/dev/null 2>&1 3>&- </dev/null; echo $$ >{file}; {what}' &"


@pytest.fixture
def talk() -> Iterator[Talk]:
    with paired() as one:
        yield one


def pid_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), what=f"{path} is written")
    return int(path.read_text())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def named(blob: bytes) -> list[tuple[int, int, str]]:
    return [(*struct.unpack_from("<II", one), one[8:].decode()) for one in unpacked(blob)]


def test_a_process_carries_a_mark_that_it_cannot_remove(talk: Talk) -> None:
    talk.say(shell(1, "env -i setsid -w /bin/sh -c 'grep realtime.timeout /proc/self/limits'"), start(41, 1))
    assert talk.end(41).stdout.split()[3:5] == [str(mark_of(talk.supervisor_id, 41)).encode()] * 2


def test_a_supervisor_in_a_run_of_another_marks_below_it(talk: Talk) -> None:
    """Else the outer one would take the inner one's runs for its own."""
    inner = """
import sys
from pathlib import Path
from helpers.supervisors import paired, shell, start
with paired() as talk:
    talk.say(shell(1, "grep realtime.timeout /proc/self/limits"), start(5, 1))
    print(talk.supervisor_id.hex(), talk.end(5).stdout.decode().split()[3])
"""
    path = ":".join(one for one in sys.path if one)
    more = packed([f"PYTHONPATH={path}".encode()])
    talk.say(plugin(1, sys.executable, "-c", inner), start(9, 1, environment=more))
    end = talk.end(9, 60)
    identity, mark = end.stdout.decode().split()
    assert int(mark) == mark_of(bytes.fromhex(identity), 5, level=61), end.stderr


def test_the_orphan_of_an_escaped_shell_is_ended_and_named(talk: Talk, tmp_path: Path) -> None:
    script = ESCAPE.format(file=tmp_path / "pid", what="exec sleep 60") + f" while ! [ -s {tmp_path}/pid ]; do :; done"
    talk.say(shell(1, script), start(1, 1))
    end = talk.hear(End)
    pid = pid_in(tmp_path / "pid")
    assert named(end.ended) == [(pid, os.geteuid(), "sleep")]
    assert (end.status, end.stopped, end.left_over, end.killed_after) == (0, 0, packed([]), -1)
    assert not is_running(pid)


def test_an_orphan_that_ignores_sigterm_is_killed_after_the_grace(talk: Talk, tmp_path: Path) -> None:
    what = 'trap "" TERM; while :; do sleep 1; done'
    script = f"(setsid sh -c 'echo $$ >{tmp_path}/pid; {what}' >/dev/null 2>&1 3>&- &)"
    script += f"; while ! [ -s {tmp_path}/pid ]; do :; done"
    talk.say(shell(1, script, grace=MICROSECONDS // 2), start(1, 1))
    end = talk.hear(End)
    assert not is_running(pid_in(tmp_path / "pid"))
    assert end.age >= MICROSECONDS // 2
    assert end.stopped == 0


def test_the_runs_of_one_supervisor_do_not_end_each_others_orphans(talk: Talk, tmp_path: Path) -> None:
    long = ESCAPE.format(file=tmp_path / "long", what="exec sleep 60") + "sleep 60"
    talk.say(shell(1, long), start(1, 1, flags=Input.TELL))
    pid = pid_in(tmp_path / "long")
    short = (
        ESCAPE.format(file=tmp_path / "short", what="exec sleep 60") + f" while ! [ -s {tmp_path}/short ]; do :; done"
    )
    talk.say(shell(2, short), start(2, 2))
    assert [name for _, _, name in named(talk.end(2).ended)] == ["sleep"]
    assert is_running(pid)
    talk.say(KillRun(1, Stop.CANCELLED))
    talk.end(1)
    assert not is_running(pid)


def test_a_stop_reaches_every_process_once(talk: Talk, tmp_path: Path) -> None:
    """To many programs a second signal means "at once"."""
    count = f'trap "echo TERM >>{tmp_path}/log" TERM; echo $$ >>{tmp_path}/pids; while :; do sleep 0.1; done'
    (tmp_path / "count.sh").write_text(count)
    script = f"sh {tmp_path}/count.sh & setsid sh {tmp_path}/count.sh & exec sh {tmp_path}/count.sh"
    talk.say(shell(1, script, grace=MICROSECONDS), start(1, 1, flags=Input.TELL))
    talk.hear(Started)
    wait_until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().count("\n") == 3)
    talk.say(StopRun(1, Stop.CANCELLED), StopRun(1, Stop.SHUTDOWN))
    end = talk.end(1)
    assert (tmp_path / "log").read_text() == "TERM\n" * 3
    assert (end.stopped, end.status) == (Stop.CANCELLED, signal.SIGKILL)
    assert end.killed_after >= MICROSECONDS
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        assert not is_running(pid)


def test_a_stopped_process_is_continued_so_that_it_hears_the_signal(talk: Talk) -> None:
    talk.say(shell(1, 'trap "echo heard; exit 5" TERM; kill -STOP $$; sleep 60', grace=10 * MICROSECONDS))
    talk.say(start(1, 1, flags=Input.TELL))
    pid = talk.hear(Started).pid
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    talk.say(StopRun(1, Stop.CANCELLED))
    end = talk.end(1)
    assert (end.stdout, end.status, end.killed_after) == (b"heard\n", 5 << 8, -1)


def test_the_grace_holds_for_what_outlives_the_first_process(talk: Talk, tmp_path: Path) -> None:
    slow = f"trap 'sleep 0.6; echo cleaned >{tmp_path}/log; exit' TERM; echo $$ >{tmp_path}/pid"
    slow += "; while :; do sleep 0.05; done"
    (tmp_path / "slow.sh").write_text(slow)
    script = f"setsid sh {tmp_path}/slow.sh >/dev/null 2>&1 3>&- & exec sleep 60"
    talk.say(shell(1, script, grace=10 * MICROSECONDS), start(1, 1))
    pid_in(tmp_path / "pid")
    talk.say(StopRun(1, Stop.CANCELLED))
    end = talk.end(1)
    assert (tmp_path / "log").read_text() == "cleaned\n"
    assert (end.status, end.ended) == (signal.SIGTERM, packed([]))


def test_a_fork_storm_is_killed_whole(talk: Talk, tmp_path: Path) -> None:
    storm = """
import os, time
os.setsid()
for _ in range(6): os.fork()
while True:
    if os.fork() == 0:
        time.sleep(0.01)
        os._exit(0)
    os.wait()
"""
    (tmp_path / "storm.py").write_text(storm)
    talk.say(shell(1, f"python3 {tmp_path}/storm.py & exec sleep 60"), start(OWN, 1, flags=Input.TELL))
    talk.hear(Started)
    mark = mark_of(talk.supervisor_id, OWN)
    wait_until(lambda: marked(mark) > 30, 20)
    talk.say(KillRun(OWN, Stop.CANCELLED))
    end = talk.end(OWN)
    assert (end.status, end.killed_after, end.left_over) == (signal.SIGKILL, 0, packed([]))
    assert marked(mark) == 0


def marked(mark: int) -> int:
    """How many living processes carry the mark of a run."""
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_running(int(entry.name)):
            try:
                found += str(mark) in (entry / "limits").read_text()
            except OSError:
                continue
    return found


def test_with_leave_running_what_left_the_session_goes_on_at_a_normal_end(talk: Talk, tmp_path: Path) -> None:
    script = ESCAPE.format(file=tmp_path / "pid", what="exec sleep 60") + f" while ! [ -s {tmp_path}/pid ]; do :; done"
    talk.say(shell(1, script, flags=Has.LEAVE_RUNNING), start(1, 1))
    end = talk.end(1)
    pid = pid_in(tmp_path / "pid")
    assert end.ended == end.left_over == packed([])
    talk.say(shell(2, ":"), start(2, 2))
    talk.end(2)
    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)


def test_with_leave_running_a_stop_ends_everything(talk: Talk, tmp_path: Path) -> None:
    script = ESCAPE.format(file=tmp_path / "pid", what="exec sleep 60") + "exec sleep 60"
    talk.say(shell(1, script, flags=Has.LEAVE_RUNNING), start(1, 1))
    pid = pid_in(tmp_path / "pid")
    talk.say(StopRun(1, Stop.CANCELLED))
    talk.end(1)
    assert not is_running(pid)


def test_an_orphan_that_carries_no_mark_is_named_and_killed_once_no_run_is_active(tmp_path: Path) -> None:
    """It may be any run's, so it is nobody's as long as there is one."""
    wrapper = tmp_path / "without-marks"  # below such a limit there is no room for them
    wrapper.write_text(f'#!/bin/sh\nexec prlimit --rttime={2**40}:{2**40} {supervisors.program()} "$@"\n')
    wrapper.chmod(0o755)
    escapes = ESCAPE.format(file=tmp_path / "pid", what="exec sleep 60")
    with paired(wrapper) as talk:
        talk.say(shell(1, f"({escapes}); while ! [ -s {tmp_path}/pid ]; do :; done"), shell(2, "read x"))
        talk.say(start(1, 2, flags=Input.OPEN | Input.TELL))
        talk.hear(Started)
        talk.say(start(2, 1))
        end = talk.end(2)
        pid = pid_in(tmp_path / "pid")
        assert end.ended == end.left_over == packed([]) and is_running(pid)
        talk.say(StdinEof(1))
        talk.end(1)
        words = talk.hear(Log).words.decode()
        assert words == f"process {pid} (sleep) belongs to no run that there is: it is killed"
        wait_until(lambda: not is_running(pid))


def test_cpu_time_counts_the_orphans_that_were_reaped(talk: Talk) -> None:
    burn = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    talk.say(shell(1, f'(setsid python3 -c "{burn}" &) ; :', drain=30 * MICROSECONDS), start(1, 1))
    assert talk.end(1).cpu >= 250_000


def test_a_background_process_may_hold_the_output_for_the_drain(talk: Talk) -> None:
    talk.say(shell(1, "(sleep 0.3; echo late) & echo early", drain=10 * MICROSECONDS), start(1, 1))
    end = talk.end(1)
    assert (end.stdout, end.flags & How.HELD_OPEN, end.ended) == (b"early\nlate\n", 0, packed([]))
    talk.say(shell(2, "sleep 60 & echo early", drain=MICROSECONDS // 5), start(2, 2))
    end = talk.end(2)
    assert (end.stdout, end.flags & How.HELD_OPEN) == (b"early\n", How.HELD_OPEN)
    assert [name for _, _, name in named(end.ended)] == ["sleep"]


@needs_root
def test_pipes_and_ids_are_those_of_the_account(talk: Talk) -> None:
    script = "id -u; id -g; id -G; stat -Lc %u /dev/fd/0 /dev/fd/1 /dev/fd/2 /dev/fd/3; echo event >/dev/fd/3"
    account = {"flags": Has.ACCOUNT, "uid": NOBODY, "gid": NOBODY, "groups": struct.pack("<II", 7, 8)}
    talk.say(shell(1, script, **account), start(1, 1, b"x"))
    end = talk.end(1)
    assert end.stdout.decode().splitlines() == [*[str(NOBODY)] * 2, f"{NOBODY} 7 8", *[str(NOBODY)] * 4]
    told = [one.data for one in talk.kept if isinstance(one, Events)]  # where it took long enough to be watched
    assert b"".join(told) + end.events == b"event\n"


@needs_root
def test_another_users_orphan_is_found_by_its_mark_and_ended(talk: Talk, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    script = ESCAPE.format(file=tmp_path / "pid", what="exec sleep 60") + f" while ! [ -s {tmp_path}/pid ]; do :; done"
    talk.say(shell(1, script, flags=Has.ACCOUNT, uid=NOBODY, gid=NOBODY), start(1, 1))
    assert [uid for _, uid, _ in named(talk.end(1).ended)] == [NOBODY]


def test_a_limit_above_the_hard_one_is_the_hard_one(talk: Talk) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    limits = struct.pack("<IQQ", resource.RLIMIT_NPROC, 2**64 - 2, 2**64 - 2)
    limits += struct.pack("<IQQ", resource.RLIMIT_CORE, 4096, 8192)
    talk.say(shell(1, "grep -E 'processes|core' /proc/self/limits", limits=limits), start(1, 1))
    words = talk.end(1).stdout.decode().split()
    text = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    assert words[4:6] == ["4096", "8192"] or words[4:6] == ["4096", "8192"]
    assert text in words


def test_no_signal_is_ignored_or_blocked_in_a_program(talk: Talk) -> None:
    talk.say(shell(1, "grep -E '^Sig(Blk|Ign)' /proc/self/status"), start(1, 1))
    assert talk.end(1).stdout.split() == [b"SigBlk:", b"0" * 16, b"SigIgn:", b"0" * 16]


def test_a_program_is_killed_for_want_of_memory_as_soon_as_the_process_that_has_it_started(talk: Talk) -> None:
    talk.say(shell(1, "cat /proc/self/oom_score_adj"), start(1, 1))
    assert talk.end(1).stdout.decode() == Path("/proc/self/oom_score_adj").read_text()


def test_programs_of_a_protected_supervisor_are_killed_for_want_of_memory_before_it(tmp_path: Path) -> None:
    wrapper = tmp_path / "protected"
    wrapper.write_text(f'#!/bin/sh\necho -400 >/proc/self/oom_score_adj || exit 9\nexec {supervisors.program()} "$@"\n')
    wrapper.chmod(0o755)
    if subprocess.run([wrapper, "--version"], capture_output=True, check=False).returncode == 9:
        pytest.skip("no process may be protected here")
    with paired(wrapper) as talk:
        talk.say(shell(1, "cat /proc/self/oom_score_adj"), start(1, 1))
        assert talk.end(1).stdout == b"-300\n"


@pytest.mark.parametrize(
    ("fields", "error", "step"),
    [
        ({"argv": packed([b"/nothing/here"])}, "ENOENT", Step.EXEC),
        ({"argv": packed([b"/etc/passwd"])}, "EACCES", Step.EXEC),
        ({"argv": packed([])}, "EINVAL", Step.EXEC),
        ({"argv": packed([b"/bin/true", b"a\0b"])}, "EINVAL", Step.EXEC),
        ({"directory": b"/nothing/here"}, "ENOENT", Step.DIRECTORY),
        ({"limits": struct.pack("<IQQ", 999, 1, 1)}, "EINVAL", Step.LIMITS),
    ],
)
def test_what_fails_before_exec_is_told_with_its_step(
    talk: Talk, fields: dict[str, bytes], error: str, step: Step
) -> None:
    import errno

    talk.say(plugin(1, "/bin/true")._replace(**fields), start(1, 1))
    told = talk.hear(NotStarted)
    assert (errno.errorcode[told.errno], told.step, told.stopped) == (error, step, 0)


def test_a_start_that_is_too_old_is_not_made(talk: Talk) -> None:
    import time

    now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * MICROSECONDS)
    talk.say(shell(1, "echo ran"), start(1, 1, asked_at=now - MICROSECONDS, trusted=MICROSECONDS // 2))
    told = talk.hear(NotStarted)
    assert (told.run, told.step) == (1, Step.TOO_OLD)
    talk.say(start(2, 1, asked_at=now, trusted=60 * MICROSECONDS))
    assert talk.end(2).stdout == b"ran\n"


def test_a_task_that_is_too_old_is_not_given_and_the_process_goes_on(talk: Talk) -> None:
    import time

    now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * MICROSECONDS)
    talk.say(shell(1, "while read x; do echo $x >&3; done"), start(1, 1, flags=Input.OPEN | Input.TELL))
    talk.hear(Started)
    talk.say(Task(1, 1, 0, 0, now - 2 * MICROSECONDS, MICROSECONDS, 2, b"", b"a\n"))
    assert talk.hear(NotStarted)[:] == (1, 62, Step.TOO_OLD, 0)
    talk.say(Task(1, 2, 0, 0, now, 60 * MICROSECONDS, 2, b"", b"b\n"))
    assert talk.hear(Events).data == b"b\n"


def test_a_hundred_starts_that_are_killed_at_once_leave_nothing(talk: Talk) -> None:
    talk.say(shell(1, "exec sleep 60"))
    runs = range(OWN, OWN + 100)
    for run in runs:
        talk.say(start(run, 1), KillRun(run, Stop.CANCELLED))
    for run in runs:
        over = talk.hear(Over, where=lambda one, run=run: one.run == run)  # type: ignore[type-var, arg-type, misc]
        assert over.stopped == Stop.CANCELLED
    for run in runs:
        assert marked(run) == 0


def test_five_hundred_short_runs_end_truly(talk: Talk) -> None:
    talk.say(shell(1, "read x; echo $x; exit $(($x % 7))"))
    talk.say(*[start(run, 1, b"%d\n" % run) for run in range(1, 501)])
    for run in range(1, 501):
        end = talk.end(run, 60)
        assert (end.stdout, end.status >> 8) == (b"%d\n" % run, run % 7)
    pid = talk.link._process.pid if talk.link._process is not None else 0
    talk.in_step()
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 20


@needs_root
def test_what_it_may_not_signal_is_left_over_until_it_is_gone(tmp_path: Path) -> None:
    """A set-user-id program that a supervisor without rights cannot end: the end is told, then that it has gone."""
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        program = Path(shutil.copy(supervisors.program(), directory))
        sleeper = Path(directory) / "sleeper"
        (Path(directory) / "sleeper.c").write_text(
            "#include <unistd.h>\nint main(void) { if (setresuid(0, 0, 0)) return 1; return sleep(4) != 0; }\n"
        )
        subprocess.run(["cc", f"{sleeper}.c", "-o", sleeper], check=True)
        sleeper.chmod(0o4755)
        wrapper = Path(directory) / "as-nobody"
        wrapper.write_text(f'#!/bin/sh\nexec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {program} "$@"\n')
        wrapper.chmod(0o755)
        with paired(wrapper) as talk:
            script = f"{sleeper} >/dev/null 2>&1 3>&- & sleep 0.3"
            talk.say(shell(1, script, grace=MICROSECONDS // 4), start(1, 1))
            end = talk.end(1)
            ((_, uid, name),) = named(end.left_over)
            assert (uid, name, end.status) == (0, "sleeper", 0)
            talk.hear(Gone)
            talk.say(Ack(1, 0, 0, 0, Acknowledged.GONE))
            talk.in_step()
