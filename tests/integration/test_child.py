"""Children that misbehave, really started: what `process` promises of each, on both ways of starting one."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from disbatch_host.process.child import Child
from disbatch_host.process.host import DRAIN_SECONDS
from disbatch_host.process.interface import (
    Account,
    Deadlines,
    Environment,
    Process,
    ProcessEnd,
    Program,
    Start,
    StartError,
    StopReason,
    Stream,
)
from disbatch_host.process.pipes import PIPE_SIZE
from disbatch_host.process.spawn import Launch, ThreadMask, spawn
from disbatch_host.process.this_process import close_others_on_exec
from helpers.hosts import host_under_test
from helpers.processes import assert_group_is_gone, descriptors

pytestmark = pytest.mark.usefixtures("each_supervisor")
SHORT_GRACE = Deadlines(kill_grace_seconds=0.2)
ENVIRONMENT = {"PATH": os.environ["PATH"]}
# An rlimit that hinders nobody makes the slow way of starting (fork) the one that is taken.
WAYS = {"posix_spawn": {}, "fork": {resource.RLIMIT_CORE: 0}}


@dataclass
class Seen:
    """What came of a child."""

    end: ProcessEnd
    output: dict[Stream, bytes] = field(default_factory=dict)


@pytest.fixture(params=WAYS)
def limits(request: pytest.FixtureRequest) -> dict[int, int]:
    return WAYS[request.param]


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


def run(
    *argv: str,
    words: tuple[bytes, ...] = (),
    stdin: bytes | None = b"",
    keeps_stdin_open: bool = False,
    umask: int = 0o022,
    account: Account | None = None,
    leave_running: bool = False,
    limits: dict[int, int] | None = None,
    deadlines: Deadlines | None = None,
    when: Callable[[Process, Stream, bytes], None] | None = None,
    directory: Path = Path("/"),
    drain_seconds: float = DRAIN_SECONDS,
) -> Seen:
    """Run a program to its end; `when` is called with each block that comes. Nothing of its group is left after."""

    async def perform() -> Seen:
        output: dict[Stream, list[bytes]] = {stream: [] for stream in Stream}
        end: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()

        class Listener:
            def said(self, stream: Stream, offset: int, data: bytes) -> None:
                assert offset == sum(len(block) for block in output[stream])
                output[stream].append(data)
                if when is not None:
                    when(child, stream, data)

            def closed(self, stream: Stream) -> None:
                pass

            def ended(self, process_end: ProcessEnd) -> None:
                end.set_result(process_end)

        processes = host_under_test(drain_seconds=drain_seconds)
        program = Program(
            argv=argv, directory=directory, environment=Environment.of(ENVIRONMENT), limits=limits or {}, umask=umask,
            account=account, leave_running=leave_running,
        )  # fmt: skip
        start = Start(
            program=program, deadlines=deadlines or Deadlines(), words=words, stdin=stdin,
            keeps_stdin_open=keeps_stdin_open,
        )  # fmt: skip
        try:
            child = await processes.start(start, Listener())
            await asyncio.wait_for(end, 60)
            assert_group_is_gone(child.pid)
            child.forget()
        finally:
            processes.close()
        assert not processes.runs()
        return Seen(end.result(), {stream: b"".join(blocks) for stream, blocks in output.items()})

    return asyncio.run(perform())


def sh(script: str, **more: object) -> Seen:
    return run("/bin/sh", "-c", script, **more)  # type: ignore[arg-type]


def test_exit_code_and_all_streams_are_told_apart(limits: dict[int, int]) -> None:
    seen = sh("echo out; echo err >&2; echo ev >&3; exit 7", limits=limits)
    assert (seen.end.exit_code, seen.end.signal, seen.end.stopped) == (7, None, None)
    assert seen.output == {Stream.STDOUT: b"out\n", Stream.STDERR: b"err\n", Stream.EVENTS: b"ev\n"}


def test_death_by_signal_is_no_exit_code(limits: dict[int, int]) -> None:
    seen = sh("kill -SEGV $$", limits=limits)
    assert (seen.end.exit_code, seen.end.signal, seen.end.stopped) == (None, signal.SIGSEGV, None)


def test_nothing_but_the_four_descriptors_is_inherited(limits: dict[int, int]) -> None:
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)  # as one that whoever started the host has left open
    try:
        close_others_on_exec()
        listing = sh("ls /proc/self/fd", limits=limits).output[Stream.STDOUT].split()
    finally:
        os.close(inherited)
    assert sorted(int(name) for name in listing) == [0, 1, 2, 3, 4]  # 4 is the directory that `ls` itself reads


def test_it_leads_its_own_session_without_ignored_or_blocked_signals(limits: dict[int, int]) -> None:
    seen = run(
        sys.executable,
        "-c",
        "import os;s=open('/proc/self/status').read();print(os.getsid(0)==os.getpid()==os.getpgrp());"
        "print([l for l in s.splitlines() if l.startswith('SigBlk')])",
        limits=limits,
    )
    assert seen.output[Stream.STDOUT].split() == [b"True", b"['SigBlk:\\t0000000000000000']"]
    assert sh("kill -PIPE $$", limits=limits).end.signal == signal.SIGPIPE


SHOW_SIGNALS = "grep -E '^Sig(Blk|Ign)' /proc/self/status"
NO_SIGNALS = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"


def test_it_ignores_no_signal_whatever_its_host_ignores(limits: dict[int, int]) -> None:
    """Those of the C library itself, 32 and 33, were left ignored by its posix_spawn."""
    ignored = [signal.SIGHUP, signal.SIGWINCH, signal.SIGRTMAX]
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    try:
        assert sh(SHOW_SIGNALS, limits=limits).output[Stream.STDOUT].decode() == NO_SIGNALS
    finally:
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)


HOST = """
import os, sys
from disbatch_host.process.spawn import Launch, ThreadMask, spawn
limits = [(int(number), int(value), int(value)) for number, value in (one.split("=") for one in sys.argv[2:])]
launch = Launch(argv=[b"/bin/sh", b"-c", os.fsencode(sys.argv[1])], directory=b"/", limits=limits,
                environment=[b"PATH=" + os.fsencode(os.environ["PATH"])])
null = os.open("/dev/null", os.O_RDWR)
out = os.dup(1)
pid = spawn(launch, directory=b"/", variables=[], descriptors=(null, out, out, null), mask=ThreadMask())
sys.exit(os.waitpid(pid, 0)[1])
"""


def test_it_does_not_inherit_ignored_signals_of_the_c_library_either(limits: dict[int, int]) -> None:
    """As under a service manager that starts its services with posix_spawn."""
    reading, writing = os.pipe()
    arguments = [f"{number}={value}" for number, value in limits.items()]
    pid = os.posix_spawn(  # leaves 32 and 33 ignored
        sys.executable, [sys.executable, "-c", HOST, SHOW_SIGNALS, *arguments], dict(os.environ),
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as output:
        assert output.read() == NO_SIGNALS
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0])
def test_it_has_the_mask_that_it_is_given_and_its_host_keeps_its_own(limits: dict[int, int], mask: int) -> None:
    before = os.umask(0o037)
    try:
        assert sh("umask", limits=limits, umask=mask).output[Stream.STDOUT] == b"%04o\n" % mask
    finally:
        found = os.umask(before)
    assert found == 0o037


@pytest.mark.parametrize("mask", [0o022, 0o077])
@pytest.mark.parametrize("may_be_own", [True, False])
def test_it_has_its_mask_even_if_threads_cannot_have_their_own(may_be_own: bool, mask: int) -> None:
    """As in a container that does not allow unshare(2)."""
    reading, writing = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)

    def start() -> None:
        path = b"PATH=" + os.fsencode(ENVIRONMENT["PATH"])
        launch = Launch(argv=[b"/bin/sh", b"-c", b"umask"], directory=b"/", environment=[path], umask=mask)
        own = ThreadMask(may_be_own=may_be_own)
        pid = spawn(launch, directory=b"/", variables=[], descriptors=(null, writing, writing, null), mask=own)
        os.waitpid(pid, 0)

    before = os.umask(0o037)
    try:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    finally:
        found = os.umask(before)
        os.close(writing)
        os.close(null)
    with os.fdopen(reading) as output:
        assert (output.read(), found) == (f"{mask:04o}\n", 0o037)


def test_without_stdin_it_reads_dev_null(limits: dict[int, int]) -> None:
    seen = sh("readlink /proc/self/fd/0; cat", stdin=None, limits=limits)
    assert (seen.output[Stream.STDOUT], seen.end.stdin_unread) == (b"/dev/null\n", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
def test_dev_null_is_not_given_to_the_account_that_reads_it() -> None:
    """Pipes are, so that it can open them again."""
    before = Path("/dev/null").stat()
    nobody = Account(uid=65534, gid=65534, groups=())
    assert sh("id -u; cat", stdin=None, account=nobody).output[Stream.STDOUT] == b"65534\n"
    after = Path("/dev/null").stat()
    assert (before.st_uid, before.st_gid, before.st_mode) == (after.st_uid, after.st_gid, after.st_mode)


def test_what_it_has_not_read_of_its_stdin_is_known() -> None:
    left: list[int] = []

    def look(process: Process, stream: Stream, data: bytes) -> None:
        left.append(process.stdin_left_bytes)
        process.kill(StopReason.CANCELLED)

    sh("echo >&3; exec sleep 60", stdin=b"x" * 1000, keeps_stdin_open=True, when=look)
    sh("head -c 1000 >/dev/null; echo >&3; exec sleep 60", stdin=b"x" * 1000, keeps_stdin_open=True, when=look)
    sh("echo >&3; exec sleep 60", stdin=b"x" * (PIPE_SIZE + 1000), keeps_stdin_open=True, when=look)
    assert left == [1000, 0, PIPE_SIZE + 1000]


def test_eight_megabytes_of_stdin_are_written_while_output_is_read() -> None:
    data = os.urandom(2**23)
    seen = run("/bin/cat", stdin=data)
    assert seen.output[Stream.STDOUT] == data
    assert not seen.end.stdin_unread


def test_stdin_that_is_not_read_is_no_error() -> None:
    seen = sh("exec <&-; echo done", stdin=b"x" * 2**20)
    assert (seen.end.exit_code, seen.output[Stream.STDOUT]) == (0, b"done\n")
    assert seen.end.stdin_unread


def test_small_stdin_that_is_not_read_is_no_error_and_nothing_is_said() -> None:
    """Whether it was said hung on who was faster: 32 of 60 runs."""
    for program in ("exit 0", "exec <&-; sleep 0.1"):
        for stdin in (b"{}\n", b"x" * PIPE_SIZE):
            end = sh(program, stdin=stdin).end
            assert (end.exit_code, end.stdin_unread) == (0, False)
    assert sh("exit 0", stdin=b"x" * (PIPE_SIZE + 1)).end.stdin_unread


def test_a_background_child_that_holds_the_output_is_given_two_seconds_and_then_its_grace() -> None:
    deadlines = Deadlines(kill_grace_seconds=0.5)
    began = time.monotonic()
    seen = sh("(trap '' TERM HUP; echo $$ >&2; exec sleep 600) & echo leader; exit 3", deadlines=deadlines)
    assert 2.5 <= time.monotonic() - began < 8
    assert (seen.end.exit_code, seen.end.output_held_open, seen.end.killed) == (3, True, False)
    assert seen.output[Stream.STDOUT] == b"leader\n"


def test_a_background_child_without_the_output_is_ended_at_once() -> None:
    seen = sh("sleep 600 >/dev/null 2>&1 3>&- </dev/null & exit 0")
    assert (seen.end.exit_code, seen.end.output_held_open) == (0, False)


def test_closed_descriptors_do_not_end_the_run() -> None:
    seen = sh("exec >&- 2>&- 3>&-; sleep 0.2; exit 4")
    assert seen.end.exit_code == 4


def test_timeout_stops_the_whole_group() -> None:
    seen = sh("sleep 600 & sleep 600", deadlines=Deadlines(timeout_seconds=0.2))
    assert (seen.end.signal, seen.end.stopped, seen.end.killed) == (signal.SIGTERM, StopReason.TIMEOUT, False)


def test_timeout_is_told_even_where_the_program_then_exits_with_zero() -> None:
    seen = sh("trap 'exit 0' TERM; while :; do sleep 0.05; done", deadlines=Deadlines(timeout_seconds=0.3))
    assert (seen.end.exit_code, seen.end.stopped) == (0, StopReason.TIMEOUT)


def test_an_ignored_stop_signal_is_followed_by_kill_after_the_grace() -> None:
    deadlines = Deadlines(timeout_seconds=0.2, kill_grace_seconds=0.2)
    seen = sh("trap '' TERM; sleep 600 & wait; wait", deadlines=deadlines)
    assert (seen.end.signal, seen.end.stopped, seen.end.killed) == (signal.SIGKILL, StopReason.TIMEOUT, True)


def test_the_stop_signal_is_the_one_asked_for() -> None:
    deadlines = Deadlines(timeout_seconds=0.2, stop_signal=signal.SIGUSR1)
    seen = sh("trap 'echo usr1; exit 9' USR1; while :; do sleep 0.05; done", deadlines=deadlines)
    assert (seen.end.exit_code, seen.output[Stream.STDOUT]) == (9, b"usr1\n")


def test_silence_is_measured_from_the_last_output_on_any_stream() -> None:
    deadlines = Deadlines(idle_timeout_seconds=0.5)
    talkative = "for i in 1 2 3; do sleep 0.25; echo $i >&%d; done; exit 0"
    for descriptor in (1, 2, 3):
        assert sh(talkative % descriptor, deadlines=deadlines).end.exit_code == 0
    assert sh("echo once; sleep 600", deadlines=deadlines).end.stopped is StopReason.IDLE_TIMEOUT


def test_a_stop_after_the_end_does_not_claim_to_have_stopped_it() -> None:
    def stop_late(child: Process, stream: Stream, data: bytes) -> None:
        child.stop(StopReason.CANCELLED)

    seen = sh("(sleep 0.3; echo late) & exit 0", when=stop_late)
    assert seen.output[Stream.STDOUT] == b"late\n"
    assert (seen.end.exit_code, seen.end.stopped) == (0, None)


def test_cancel_stops_and_says_so() -> None:
    seen = sh("echo ready; sleep 600", when=lambda child, stream, data: child.stop(StopReason.CANCELLED))
    assert (seen.end.signal, seen.end.stopped) == (signal.SIGTERM, StopReason.CANCELLED)


def test_kill_does_not_wait_for_any_grace() -> None:
    seen = sh(
        "trap '' TERM; echo ready; sleep 600 & wait; wait",
        when=lambda child, stream, data: child.kill(StopReason.SHUTDOWN),
    )
    assert (seen.end.signal, seen.end.stopped, seen.end.killed) == (signal.SIGKILL, StopReason.SHUTDOWN, True)


def test_thirty_megabytes_without_a_newline_come_through_whole() -> None:
    seen = sh("head -c 30000000 /dev/zero")
    assert len(seen.output[Stream.STDOUT]) == 30_000_000


def test_cpu_seconds_and_peak_memory_are_those_of_the_child() -> None:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = own + 100_000_000
    program = f"import time; x = bytearray({size}); t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    end = run(sys.executable, "-c", program).end
    assert 0.3 <= end.cpu_seconds < 5
    assert size <= end.peak_memory_bytes < size + 100_000_000


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0, "No such file"),
        ("#!/bin/sh\n", 0o600, "Permission denied"),
        ("#!/no/such/interpreter\n", 0o700, "the interpreter that it names is not there"),
        ("not a program\n", 0o700, 'no "#!" line'),
    ],
)
def test_what_cannot_be_started_says_why(
    tmp_path: Path, limits: dict[int, int], content: str | None, mode: int, said: str
) -> None:
    program = tmp_path / "program"
    if content is not None:
        program.write_text(content)
        program.chmod(mode)
    with pytest.raises(StartError, match=said):
        run(str(program), limits=limits)


def test_a_program_that_is_being_written_is_told_from_one_that_is_wrong(tmp_path: Path, limits: dict[int, int]) -> None:
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o700)
    with program.open("ab"), pytest.raises(StartError) as caught:
        run(str(program), limits=limits)
    assert caught.value.is_busy


def test_a_missing_directory_is_named(tmp_path: Path, limits: dict[int, int]) -> None:
    with pytest.raises(StartError, match=r"working directory .* is not there"):
        run("/bin/true", limits=limits, directory=tmp_path / "gone")


def test_a_nul_in_an_argument_is_refused(limits: dict[int, int]) -> None:
    with pytest.raises(StartError, match=r"[Nn][Uu][Ll]|null byte"):
        run("/bin/echo", "a\0b", limits=limits)


def test_limits_are_set_on_the_child_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen = sh("ulimit -n", limits={resource.RLIMIT_NOFILE: 64})
    assert seen.output[Stream.STDOUT] == b"64\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    cpu = sh("while :; do :; done", limits={resource.RLIMIT_CPU: 1})
    assert cpu.end.signal in (signal.SIGXCPU, signal.SIGKILL)


def test_a_process_that_no_pidfd_tells_of_is_seen_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that ran out of descriptors between the start of a process and its pidfd forgot the process."""

    def no_pidfd(pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Child, "open_pidfd", staticmethod(no_pidfd))
    seen = sh("echo out; sleep 0.1; exit 5")
    assert (seen.end.exit_code, seen.output[Stream.STDOUT]) == (5, b"out\n")


def test_the_drain_is_bounded_however_much_a_background_child_prints() -> None:
    seen = sh("(trap '' TERM; while :; do echo more; done) & exit 0", drain_seconds=0.3, deadlines=SHORT_GRACE)
    assert (seen.end.exit_code, seen.end.output_held_open) == (0, True)


def test_words_come_behind_those_of_the_program(limits: dict[int, int]) -> None:
    argv = ("/bin/sh", "-c", 'printf "[%s]" "$@"', "name", "own")
    seen = run(*argv, words=(b"a b", b"", "\u00fc".encode(), b"\xff"), limits=limits)
    assert seen.output[Stream.STDOUT] == b"[own][a b][][\xc3\xbc][\xff]"


def test_a_command_line_that_is_too_large_is_told_as_that(limits: dict[int, int]) -> None:
    for words in ((b"x" * 2**17,), (b"y" * 2**16,) * 200):
        with pytest.raises(StartError) as caught:
            run("/bin/echo", words=words, limits=limits)
        assert caught.value.is_too_large and not caught.value.is_machines_fault
