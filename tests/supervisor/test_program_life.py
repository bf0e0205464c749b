"""disbatch-supervisor in a directory: its lock, socket and key, taking over, adoption, its end."""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disbatch_host.process import connection, facts
from disbatch_host.process.connection import SupervisorError
from disbatch_host.process.flags import Input
from disbatch_host.process.frames import (
    Ack,
    Acknowledged,
    Bye,
    End,
    Events,
    Hello,
    KeptPlugin,
    KillRun,
    Log,
    Look,
    NodeBye,
    NotStarted,
    Ping,
    Pong,
    Ready,
    Said,
    Started,
    State,
    Stdin,
    Step,
    Stop,
    StopRun,
    SupervisorBye,
    Task,
    Window,
)
from disbatch_host.process.framing import FrameReader, encode
from disbatch_host.process.link import LinkClosedError
from helpers import supervisors
from helpers.processes import assert_group_is_gone, stop, wait_until
from helpers.supervisors import MICROSECONDS, Home, Talk, plugin, shell, start

pytestmark = supervisors.usable()


NOBODY = 65534


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Callable[[], Home]]:
    made: list[Home] = []

    def make() -> Home:
        made.append(Home(tmp_path / f"home-{len(made)}"))
        return made[-1]

    yield make
    for home in made:
        home.close()


@pytest.fixture
def home(homes: Callable[[], Home]) -> Home:
    return homes()


def bye(talk: Talk) -> SupervisorBye:
    return talk.hear(SupervisorBye)


def is_closed(talk: Talk) -> bool:
    """Whether the other side closes the connection without a word more."""
    try:
        talk.hear(Ready, 5.0)
    except LinkClosedError:
        return True
    return False


def test_its_files_are_for_its_user_alone(home: Home) -> None:
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in home.directory.iterdir()}
    assert stat.S_IMODE(home.directory.stat().st_mode) == 0o700
    assert modes == dict.fromkeys(("supervisor.lock", "socket", "key", "supervisor.json", "supervisor.log"), 0o600)
    assert len(home.key) == 16


def test_its_description_names_the_process_that_answers(home: Home) -> None:
    answer = home.visit().hello(key=home.key, keep=600)
    described = json.loads((home.directory / "supervisor.json").read_text())
    assert (described["id"], described["pid"], described["started"]) == (
        answer.supervisor_id.hex(),
        answer.pid,
        answer.started,
    )
    assert described["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert described["pid_namespace"] == str(Path("/proc/self/ns/pid").readlink())
    assert home.pid == answer.pid


def test_only_one_lives_in_a_directory(home: Home) -> None:
    with pytest.raises(SupervisorError, match="lives there already"):
        connection.start_in(home.directory, home.program, environment=os.environ)


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(SupervisorError, match="mode 0700"):
        connection.start_in(tmp_path, supervisors.program(), environment=os.environ)


def test_a_directory_with_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    home = Home(tmp_path / ("x" * 200))
    try:
        assert home.node().link.fileno() >= 0
    finally:
        home.close()


def test_a_program_inherits_none_of_its_descriptors_and_marks_its_environment(home: Home) -> None:
    talk = home.visit()
    answer = talk.hello(key=home.key)
    talk.say(shell(1, "ls -l /proc/self/fd | grep -c 'pipe:'; ls /proc/self/fd | wc -l; env | grep DISBATCH_"))
    talk.say(start(1, 1))
    end = talk.end(1)
    # ls itself has opened the directory: 0 to 3 and that.
    assert end.stdout.split() == [b"4", b"5", f"DISBATCH_RUN={answer.supervisor_id.hex()}-1".encode()]


def test_a_wrong_key_is_refused_and_changes_nothing(home: Home) -> None:
    node, other = home.node(session=5), home.visit()
    with pytest.raises(LinkClosedError, match="key"):
        other.hello(session=9, key=b"k" * 16)
    node.in_step()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"store_id": b"another"}, "another store"),
        ({"node_id": b"another"}, "another node"),
        ({"session": 4}, "higher session"),
        ({"version_min": 3, "version_max": 4}, "version"),
    ],
)
def test_another_store_node_or_session_is_refused_in_words(home: Home, fields: dict[str, object], words: str) -> None:
    node, other = home.node(session=5), home.visit()
    with pytest.raises(LinkClosedError, match=words):
        other.hello(**{"session": 6, "key": home.key, **fields})  # type: ignore[arg-type]
    assert bye(other).reason == Bye.REFUSED
    node.in_step()


def test_a_peer_that_says_nothing_is_closed_after_a_second(home: Home) -> None:
    assert is_closed(home.visit())


def test_a_peer_that_says_something_else_first_is_told_nothing(home: Home) -> None:
    talk = home.visit()
    talk.say(start(1, 1))
    assert is_closed(talk)
    assert talk.kept == []


def test_of_five_silent_peers_four_may_wait(home: Home) -> None:
    """More would use up the descriptors that a node needs."""
    talks = [home.visit() for _ in range(5)]
    with pytest.raises(LinkClosedError):
        talks[4].hello(key=home.key)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_a_peer_of_another_user_is_closed_at_once(home: Home) -> None:
    """Whatever the modes of the files: here it may enter, connect, and even knows the key."""
    home.directory.chmod(0o755)
    (home.directory / "socket").chmod(0o666)
    hello = Hello(1, 1, session=9, keep=0, store_id=b"store", node_id=b"node", key=home.key)
    connects = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
peer = socket.socket(socket.AF_UNIX)
peer.connect(f"/proc/self/fd/{sys.argv[2]}/socket")
try:
    peer.send(bytes.fromhex(sys.argv[3]))
    print(peer.recv(1))
except (BrokenPipeError, ConnectionResetError):
    print(b"")
"""
    directory = os.open(home.directory, os.O_PATH)
    try:
        command = [sys.executable, "-c", connects, str(NOBODY), str(directory), encode(hello).hex()]
        said = subprocess.run(command, pass_fds=[directory], capture_output=True, text=True, check=True).stdout
    finally:
        os.close(directory)
    assert said == "b''\n"
    home.node(session=1).in_step()


# Connects once for each text in hex, says it, and prints what it hears until the end.
CONNECTS = """
import os, socket, sys
os.chdir(sys.argv[1])
for said in sys.argv[2:]:
    peer, heard = socket.socket(socket.AF_UNIX), b""
    peer.connect("socket")
    try:
        peer.sendall(bytes.fromhex(said))
        while data := peer.recv(2**16):
            heard += data
    except (BrokenPipeError, ConnectionResetError):
        while data := peer.recv(2**16):
            heard += data
    print(heard.hex())
"""
# Connects as fast as it can, and keeps what it gets.
CROWDS = """
import os, socket, sys, time
os.chdir(sys.argv[1])
peers = []
while True:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect("socket")
    peers = [*peers[-50:], peer]
    if len(peers) == 50:
        print("crowded", flush=True)
    time.sleep(0.001)
"""
SHED = ("/usr/bin/env", "-i", "/usr/bin/setsid", "--wait")  # the environment and the session of its run


@pytest.mark.parametrize("through", [(), SHED], ids=["as it is", "shed"])
def test_a_program_of_a_run_takes_nothing_over_although_it_knows_everything(
    home: Home, through: tuple[str, ...]
) -> None:
    """It is of the same user, and can read the key."""
    node = home.node(session=5)
    hello = Hello(1, 1, session=9, keep=0, store_id=b"store", node_id=b"node", key=home.key)
    stop = encode(KillRun(1, Stop.CANCELLED))
    says = [encode(hello) + stop, encode(Look(home.key)), stop, encode(start(9, 1)), b"\xff" * 5000]
    command = (*through, sys.executable, "-c", CONNECTS, str(home.directory), *(one.hex() for one in says))
    node.say(plugin(1, *command), start(1, 1))
    end = node.end(1)
    assert (end.status, end.stopped) == (0, Stop.NOT), end.stderr
    answers = [list(FrameReader().feed(bytes.fromhex(line))) for line in end.stdout.decode().splitlines()]
    refused = SupervisorBye(Bye.REFUSED, b"a program of one of its runs is not its node")
    assert answers == [[refused]] * len(says)
    node.in_step()


def test_programs_that_connect_again_and_again_keep_no_node_from_coming(home: Home) -> None:
    """Four peers that say nothing may wait for a second: these would always be there before it."""
    first = home.node(session=5)
    first.say(plugin(1, sys.executable, "-c", CROWDS, str(home.directory)), start(1, 1), Window(1, 1, 0, 2**20))
    first.hear(Said)
    second = home.node(session=6)
    second.in_step()
    second.say(KillRun(1, Stop.CANCELLED))
    second.end(1)


def test_frames_that_come_byte_by_byte_are_frames(home: Home) -> None:
    talk = home.visit()
    hello = Hello(1, 1, session=1, keep=0, store_id=b"store", node_id=b"node", key=home.key)
    for byte in b"".join(map(encode, (hello, shell(1, "cat"), start(1, 1, b"word"), Ping(7)))):
        select.select([], [_socket_of(talk)], [], 20)
        os.write(_socket_of(talk), bytes([byte]))
    assert talk.hear(Pong).number == 7
    assert talk.end(1).stdout == b"word"


def test_a_frame_of_64_kib_is_too_long_for_a_peer_that_has_not_said_hello(home: Home) -> None:
    talk = home.visit()
    talk.say(plugin(1, "x" * 2**17))
    assert is_closed(talk)


def test_a_node_of_an_equal_or_higher_session_takes_over(home: Home) -> None:
    first = home.node(session=5)
    first.say(shell(1, "echo said; echo event >&3; exec sleep 60", note=b"manifest"))
    first.say(start(7, 1, note=b"task 7", flags=Input.TELL))
    started = first.hear(Started)
    first.say(Window(7, 1, 0, 2**20))
    first.hear(Said)
    first.hear(Events)
    for session in (5, 6):
        second = home.node(session=session)
        assert bye(first).reason == Bye.TAKEN_OVER
        plugin_told = second.hear(KeptPlugin)
        (run,) = second.runs()
        assert plugin_told.note == b"manifest"
        assert (run.run, run.plugin, run.pid, run.note) == (7, plugin_told.number, started.pid, b"task 7")
        assert (run.pid_started, run.state) == (started.pid_started, State.RUNNING)
        second.hear(Events, where=lambda one: (one.offset, one.data, one.stdout_at) == (0, b"event\n", 5))
        second.say(Window(7, 1, 0, 2**20))
        assert second.hear(Said).data == b"said\n"
        first = second
    first.say(KillRun(7, Stop.CANCELLED))
    assert first.end(7).stopped == Stop.CANCELLED


def test_a_new_node_starts_runs_of_a_kept_plugin_under_a_higher_number(home: Home) -> None:
    first = home.node(session=1)
    first.say(shell(3, "read x; echo $x"), start(10, 3, flags=Input.OPEN | Input.TELL))
    first.hear(Started)
    second = home.visit()
    answer = second.hello(session=2, keep=600, key=home.key)
    number = second.hear(KeptPlugin).number
    assert answer.next_run == 11
    second.say(start(11, number, b"hello\n"))
    assert second.end(11).stdout == b"hello\n"
    second.say(start(11, number))
    assert bye(second).reason == Bye.RULE_BROKEN


def test_what_a_run_that_is_followed_live_said_without_a_node_is_told_to_the_next_one(
    home: Home, tmp_path: Path
) -> None:
    """Before, the supervisor told of nothing for ever, and heard nobody any more: random orders have found it."""
    node = home.node(session=1)
    waits = f"while ! [ -e {tmp_path}/go ]; do sleep 0.01; done"
    node.say(shell(1, f"{waits}; echo out; echo event >&3; : >{tmp_path}/said; exec sleep 60"))
    node.say(start(1, 1, flags=Input.LIVE))
    node.in_step()
    node.leave()
    (tmp_path / "go").touch()
    wait_until((tmp_path / "said").exists)
    node = home.node(session=2)
    node.say(Window(1, 1, 0, 0))  # without effect
    assert node.hear(Said).data == b"out\n" and node.hear(Events).data == b"event\n"
    node.say(KillRun(1, Stop.CANCELLED))
    node.end(1)


def test_runs_and_their_limits_go_on_without_a_node(home: Home) -> None:
    node = home.node(session=1)
    node.say(shell(1, "exec sleep 60"), shell(2, "sleep 0.4; echo done; exit 3"))
    node.say(start(1, 1, timeout=MICROSECONDS // 2), start(2, 2))
    node.in_step()
    node.leave()
    wait_until(lambda: home.ask("--list").stdout.count("ended") == 2)
    node = home.node(session=2)
    states = {run.run: run.state for run in node.runs()}
    assert states == {1: State.ENDED, 2: State.ENDED}
    ends = {run: node.end(run) for run in (1, 2)}
    assert (ends[1].stopped, ends[1].status) == (Stop.TIMEOUT, signal.SIGTERM)
    assert (ends[2].status, ends[2].stdout) == (3 << 8, b"done\n")


def test_an_end_is_told_to_each_node_until_it_is_acknowledged(home: Home) -> None:
    node = home.node(session=1)
    node.say(shell(1, "echo x"), start(1, 1))
    node.hear(End)
    for session in (2, 3):
        node = home.node(session=session)
        assert [run.state for run in node.runs()] == [State.ENDED]
        assert node.hear(End).stdout == b"x\n"
    node.say(Ack(1, 2, 0, 0, Acknowledged.END))
    node.in_step()
    node = home.node(session=4)
    assert node.runs() == []


def test_an_acknowledged_part_of_the_output_is_not_told_again(home: Home) -> None:
    node = home.node(session=1)
    node.say(shell(1, "echo 12345; echo event >&3; exec sleep 60"), start(1, 1, flags=Input.TELL))
    node.say(Window(1, 1, 0, 2**20))
    node.hear(Said)
    node.hear(Events)
    node.say(Ack(1, 3, 0, 6, Acknowledged.OFFSETS))
    node.in_step()
    node = home.node(session=2)
    (run,) = node.runs()
    assert (run.stored_stdout, run.stored_stderr, run.stored_events) == (3, 0, 6)
    node.say(KillRun(1, Stop.LOST))
    end = node.end(1)
    assert (end.stdout_at, end.stdout, end.events_at, end.events) == (3, b"45\n", 6, b"")
    assert not [one for one in node.kept if isinstance(one, Events)]


def test_a_start_whose_input_did_not_come_whole_is_void(home: Home) -> None:
    """Half an input must never be run: the next node finds that it was certainly not started."""
    node = home.node(session=1)
    node.say(shell(1, "cat >/dev/null; echo ran"))
    node.say(start(1, 1, b"x" * 100, total=200))
    node.in_step()
    node = home.node(session=2)
    assert node.runs() == []


def test_a_task_whose_input_did_not_come_whole_is_void(home: Home) -> None:
    node = home.node(session=1)
    node.say(shell(1, "while read x; do echo got $x >&3; done"), start(1, 1, flags=Input.OPEN | Input.TELL))
    node.hear(Started)
    node.say(Task(1, 1, 0, 0, 0, 0, 100, b"first", b"half of it"))
    node.in_step()
    node = home.node(session=2)
    (run,) = node.runs()
    assert (run.task, run.task_note) == (0, b"")
    node.say(Task(1, 2, 0, 0, 0, 0, 6, b"second", b"who"))
    node.say(Stdin(1, b"le\n"))
    assert node.hear(Events).data == b"got whole\n"
    (run,) = home.node(session=3).runs()
    assert (run.task, run.task_note, run.stdin_left) == (2, b"second", 0)


def test_half_a_frame_of_a_connection_that_ends_is_void(home: Home) -> None:
    node = home.node(session=1)
    node.say(shell(1, "echo ran"))
    node.in_step()
    half = encode(start(1, 1))[:-1]
    raw = socket.socket(fileno=os.dup(_socket_of(node)))
    raw.send(half)
    raw.close()
    node.link.close()
    assert home.node(session=2).runs() == []


def _socket_of(talk: Talk) -> int:
    return talk.link._socket.fileno()


def test_runs_are_stopped_when_no_node_came_for_long_enough(home: Home) -> None:
    node = home.node(session=1, keep=0.3)
    node.say(shell(1, "exec sleep 60"), start(1, 1, flags=Input.TELL))
    pid = node.hear(Started).pid
    node.leave()
    assert_group_is_gone(pid)
    node = home.node(session=2)
    assert node.end(1).stopped == Stop.LOST
    assert bye(node).reason == Bye.ENDS


def test_with_nothing_to_keep_runs_are_killed_with_the_connection(home: Home) -> None:
    node = home.node(session=1, keep=0)
    node.say(shell(1, "trap '' TERM; while :; do sleep 1; done"), start(1, 1, flags=Input.TELL))
    pid = node.hear(Started).pid
    node.link.close()
    assert_group_is_gone(pid)
    wait_until(lambda: home.ask("--list").returncode == 1)


def test_taking_over_from_a_node_with_nothing_to_keep_kills_nothing(home: Home) -> None:
    node = home.node(session=1, keep=0)
    node.say(shell(1, "exec sleep 60"), start(1, 1, flags=Input.TELL))
    node.hear(Started)
    node = home.node(session=2, keep=600)
    assert [run.state for run in node.runs()] == [State.RUNNING]


def test_it_stops_its_runs_at_sigterm_and_writes_down_what_nobody_acknowledged(home: Home) -> None:
    node = home.node(session=1)
    node.say(shell(1, "echo before; echo event >&3; exec sleep 60", note=b"manifest"))
    node.say(start(1, 1, note=b"task 1", flags=Input.TELL))
    node.hear(Started)
    node.hear(Events)
    node.say(NodeBye(Bye.KEEP))
    assert home.ask("--stop").returncode == 0
    told = connection.read_ends(home.directory)
    assert [type(one).__name__ for one in told[1:]] == ["KeptPlugin", "Run", "Said", "End", "Ready"] or [
        type(one).__name__ for one in told[1:]
    ] == ["KeptPlugin", "Run", "End", "Ready"]
    (end,) = [one for one in told if isinstance(one, End)]
    assert (end.stopped, end.stdout, end.events) == (Stop.SHUTDOWN, b"before\n", b"event\n")


def test_a_node_hears_the_ends_of_a_shutdown_and_then_bye(home: Home) -> None:
    node = home.node(session=1)
    node.say(shell(1, "exec sleep 60"), start(1, 1, flags=Input.TELL))
    node.hear(Started)
    os.kill(home.pid, signal.SIGTERM)
    assert node.hear(End).stopped == Stop.SHUTDOWN
    node.say(start(2, 1))
    refused = node.hear(NotStarted)
    assert (refused.step, refused.stopped) == (Step.STOPPED, Stop.SHUTDOWN)
    node.say(Ack(1, 0, 0, 0, Acknowledged.END))
    assert bye(node).reason == Bye.ENDS
    assert connection.read_ends(home.directory) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_it_ignores_the_signals_of_a_terminal(home: Home, number: signal.Signals) -> None:
    os.kill(home.pid, number)
    home.node().in_step()


def test_it_makes_its_socket_again_at_sighup(home: Home) -> None:
    pid = home.pid
    (home.directory / "socket").unlink()
    os.kill(pid, signal.SIGHUP)
    wait_until((home.directory / "socket").exists)
    home.node().in_step()
    assert home.pid == pid
    assert "made again" in (home.directory / "supervisor.log").read_text()


def test_it_ends_when_nobody_needs_it(home: Home) -> None:
    home.node().leave()
    wait_until(lambda: home.ask("--list").returncode == 1, 20)
    connection.start_in(home.directory, home.program, environment=os.environ)


def test_it_ends_at_once_when_its_node_ends_and_leaves_nothing(home: Home) -> None:
    """So the next one has a program of its own version, with the limits and groups that it finds itself in."""
    pid, started = home.pid, facts.process_started(home.pid)
    node = home.node()
    node.say(shell(1, "exit 0"), start(1, 1))
    node.end(1)
    began = time.monotonic()
    node.say(NodeBye(Bye.ENDS))
    wait_until(lambda: facts.process_started(pid) != started)
    assert time.monotonic() - began < 5.0  # and not ten seconds after the last connection
    assert connection.read_ends(home.directory) == []


def test_it_goes_on_when_its_node_ends_and_leaves_a_run(home: Home) -> None:
    node = home.node(session=1)
    node.say(shell(1, "exec sleep 60"), start(1, 1, flags=Input.TELL))
    node.hear(Started)
    node.say(NodeBye(Bye.ENDS))
    assert [run.state for run in home.node(session=2).runs()] == [State.RUNNING]


def test_it_goes_on_where_the_next_node_has_come_before_it_ends(home: Home) -> None:
    """That node would find its connection closed, and run its programs itself for as long as it lives."""
    node, pid = home.node(session=1), home.pid
    stop(pid)
    try:
        node.say(NodeBye(Bye.ENDS))
        link, key, _ = connection.connect_in(home.directory)
    finally:
        os.kill(pid, signal.SIGCONT)
    later = Talk(link)
    assert later.hello(session=2, keep=600, key=key).pid == pid
    link.close()


def test_a_start_right_after_an_end_waits_for_the_lock(home: Home) -> None:
    os.kill(home.pid, signal.SIGTERM)
    link, _, _ = connection.connect_or_start(home.directory, home.program)
    link.close()


def test_a_broken_rule_closes_the_connection_and_runs_go_on(home: Home) -> None:
    node = home.node(session=1)
    node.say(shell(1, "exec sleep 60"), start(1, 1, flags=Input.TELL))
    node.hear(Started)
    node.say(start(2, 99))
    assert bye(node).reason == Bye.RULE_BROKEN
    assert [run.run for run in home.node(session=1).runs()] == [1]


def test_it_lists_its_runs_without_taking_over(home: Home) -> None:
    node = home.node(session=3)
    node.say(shell(1, "exec sleep 60"), start(1, 1, flags=Input.TELL))
    pid = node.hear(Started).pid
    listed = home.ask("--list")
    assert (listed.returncode, listed.stdout.split()[:5]) == (0, ["run", "1", "pid", str(pid), "running"])
    node.in_step()


def test_programs_have_the_limit_of_descriptors_that_was_there_before(home: Home) -> None:
    node = home.node()
    node.say(shell(1, "ulimit -Sn"), start(1, 1))
    limits = Path(f"/proc/{home.pid}/limits").read_text()
    soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert soft == hard
    assert node.end(1).stdout.decode().strip() == subprocess.check_output(["sh", "-c", "ulimit -Sn"], text=True).strip()


def test_its_surroundings_are_those_that_a_node_finds_itself_in(home: Home) -> None:
    answer = home.visit().hello(key=home.key)
    assert answer.fingerprint == connection.fingerprint()
    assert answer.mount_namespace == Path("/proc/self/ns/mnt").stat().st_ino


def test_it_names_the_limits_and_rights_that_its_node_has_and_programs_will_not_get(home: Home) -> None:
    """After `LimitNOFILE=` was changed, a restart of the node that keeps its runs seemed to change nothing."""
    node = home.node(session=1)
    node.in_step()
    assert not [one for one in node.kept if isinstance(one, Log)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        words = home.node(session=2).hear(Log).words.decode()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert words.endswith("in: Max open files")
    assert words in (home.directory / "supervisor.log").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_its_memory_is_not_for_other_processes_of_its_user_to_read() -> None:
    """It holds what programs are given on stdin."""
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / "home"
        os.chown(parent, NOBODY, NOBODY)
        program = shutil.copy(supervisors.program(), parent)
        subprocess.run([program, "--directory", directory], check=True, user=NOBODY, group=NOBODY, extra_groups=[])
        pid = json.loads((directory / "supervisor.json").read_text())["pid"]
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0  # of a process that others may look at: its own user
        subprocess.run([program, "--stop", directory], check=True, user=NOBODY, group=NOBODY, extra_groups=[])


def test_of_a_thousand_runs_it_knows_in_little_memory(home: Home) -> None:
    node = home.node()
    node.say(plugin(1, "/bin/sleep", "60"))
    for run in range(1, 1001):
        node.say(start(run, 1, b"input of a task " * 20, note=b"n" * 300, flags=Input.TELL))
    for _ in range(1000):
        node.hear(Started, 60)
    rss = next(line for line in Path(f"/proc/{home.pid}/status").read_text().splitlines() if "VmHWM" in line)
    assert int(rss.split()[1]) < 20_000
    node.say(*[KillRun(run, Stop.CANCELLED) for run in range(1, 1001)])
    for run in range(1, 1001):
        node.end(run, 60)


def test_it_uses_nothing_while_nothing_happens(home: Home) -> None:
    node = home.node()
    node.say(plugin(1, "/bin/sleep", "60"))
    node.say(*[start(run, 1) for run in range(1, 21)])
    for _ in range(20):
        node.hear(Started)
    status = Path(f"/proc/{home.pid}/status")

    def switches() -> int:
        return sum(int(line.split()[1]) for line in status.read_text().splitlines() if "ctxt_switches" in line)

    before = switches()
    home_is_quiet(node)
    assert switches() - before <= 2


def home_is_quiet(node: Talk) -> None:
    """Nothing comes for a second."""
    with pytest.raises(AssertionError):
        node.hear(End, 1.0)


def test_a_stop_of_a_start_that_still_waits_for_its_input(home: Home) -> None:
    node = home.node()
    node.say(shell(1, "echo ran"), start(1, 1, b"x", total=10), StopRun(1, Stop.CANCELLED))
    refused = node.hear(NotStarted)
    assert (refused.run, refused.step, refused.stopped) == (1, Step.STOPPED, Stop.CANCELLED)


def test_a_node_never_waits_for_a_supervisor_that_stands_still(home: Home) -> None:
    """And what was said meanwhile is done when it goes on."""
    node = home.node()
    node.say(shell(1, "cat"))
    node.in_step()
    pid = home.pid
    stop(pid)
    try:
        for run in range(1, 201):
            node.say(start(run, 1, b"x" * 2**14))
    finally:
        os.kill(pid, signal.SIGCONT)
    for run in range(1, 201):
        assert node.end(run, 60).stdout_end == 2**14


def test_a_start_that_was_read_too_late_is_not_made(home: Home) -> None:
    """The supervisor stood still for longer than the node's knowledge holds: others may have the task by then."""
    node = home.node()
    node.say(shell(1, "echo ran"))
    node.in_step()
    pid = home.pid
    stop(pid)
    asked_at = int(time.clock_gettime(time.CLOCK_BOOTTIME) * MICROSECONDS)
    node.say(start(1, 1, asked_at=asked_at, trusted=MICROSECONDS // 5))
    wait_until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * MICROSECONDS > asked_at + MICROSECONDS // 4)
    os.kill(pid, signal.SIGCONT)
    assert node.hear(NotStarted).step == Step.TOO_OLD


def test_the_runs_of_a_node_that_was_killed_end_truly(home: Home) -> None:
    """kill -9 with 50 running: every end is told to the next node once, none is killed."""
    node = home.node(session=1)
    node.say(shell(1, "read n; sleep 0.3; echo out $n; exit $n"))
    node.say(*[start(run, 1, b"%d\n" % run) for run in range(1, 51)])
    node.in_step()
    node.link.close()
    node = home.node(session=2)
    assert [run.run for run in node.runs()] == list(range(1, 51))
    for run in range(1, 51):
        end = node.end(run)
        assert (end.status >> 8, end.stdout) == (run, b"out %d\n" % run)
    node.in_step()
    assert not [one for one in node.kept if isinstance(one, End)]
