"""The supervisor in C for tests: building it, starting it, talking to it in frames."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import hatch_build
import pytest

from disbatch_host.process import connection, facts, family
from disbatch_host.process.connection import SocketLink
from disbatch_host.process.frames import (
    Ack,
    Acknowledged,
    Bye,
    End,
    Frame,
    Hello,
    NodeBye,
    Ping,
    Plugin,
    Pong,
    Ready,
    Run,
    Start,
    SupervisorHello,
)
from disbatch_host.process.framing import packed
from helpers.forked import Started
from helpers.processes import stop, wait_until

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "host/disbatch_host/process/native"
MICROSECONDS = 1_000_000
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")

F = TypeVar("F", bound=Frame)


def compiler() -> list[str]:
    """The C compiler. Without one the test fails; with NO_SUPERVISOR=1 it is skipped."""
    command = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(command[0]) is None:
        if os.environ.get("NO_SUPERVISOR") == "1":
            pytest.skip("no C compiler")
        pytest.fail("no C compiler; NO_SUPERVISOR=1 leaves out the tests that need one")
    return command


def build(to: Path, *flags: str, sources: tuple[Path, ...] = (), by: Sequence[str] = ()) -> Path:
    """Compile the program, or other `sources`, with further flags. `by`: another compiler."""
    files = sources or tuple(sorted(NATIVE.glob("*.c")))
    command = [*(by or compiler()), "-std=c11", "-g", "-O1", "-pthread", *WARNINGS, *flags, f"-I{NATIVE}"]
    done = subprocess.run([*command, *map(str, files), "-o", str(to)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return to


def build_once(config: pytest.Config, *flags: str) -> Path:
    """The same, kept for the sources as they are: each of several workers may ask for it."""
    cache = config.cache
    assert cache is not None
    name = hashlib.sha256(" ".join((hatch_build.source_hash(NATIVE), *compiler(), *flags)).encode()).hexdigest()[:16]
    kept = cache.mkdir("supervisor") / name
    if not kept.exists():
        made = kept.with_name(f"{name}.{os.getpid()}")  # another worker may build it at the same time
        build(made, *flags).replace(kept)
    return kept


def release_compiler() -> str | None:
    """CC for release wheels, as `make wheels` has it; None if it is not here."""
    for python in (Path(sys.executable), ROOT / ".venv-wheels/bin/python"):
        command = [str(python), "-m", "ziglang", "version"]
        if python.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return shlex.join([str(python), "-m", "ziglang", "cc"])
    return None


def program() -> Path:
    """The one that is tested: this package's, or another build of it."""
    other = os.environ.get("DISBATCH_TESTED_SUPERVISOR")
    return Path(other) if other else connection.program_path()


def usable() -> pytest.MarkDecorator:
    """Tests fail where there is no program; with NO_SUPERVISOR=1 they are skipped."""
    why = connection.why_not_usable(program()) if os.environ.get("NO_SUPERVISOR") == "1" else None
    return pytest.mark.skipif(why is not None, reason=str(why))


class Talk:
    """One side of a conversation with a supervisor: what came and was not looked at yet is kept."""

    def __init__(self, link: SocketLink) -> None:
        self.link = link
        self.kept: list[Frame] = []
        self.supervisor_id = b""  # once it has answered

    def say(self, *frames: Frame) -> None:
        for frame in frames:
            self.link.send(frame)
        self.link.flush()

    def hear(self, kind: type[F], seconds: float = 20.0, *, where: Callable[[F], bool] = lambda _: True) -> F:
        """The next frame of a kind; those before it stay."""
        until = time.monotonic() + seconds
        looked = 0
        while True:
            for place in range(looked, len(self.kept)):
                frame = self.kept[place]
                if isinstance(frame, kind) and where(frame):
                    del self.kept[place]
                    return frame
            looked = len(self.kept)
            left = until - time.monotonic()
            assert left > 0, f"no {kind} within {seconds} s; heard {[str(one)[:200] for one in self.kept[-50:]]}"
            select.select([self.link.fileno()], [], [], left)
            self.kept += self.link.receive()

    def hello(self, *, session: int = 1, keep: float = 0.0, key: bytes = b"", **more: Any) -> SupervisorHello:
        """Say HELLO. Returns the answer; everything up to READY is in `kept`."""
        fields = {"store_id": b"store", "node_id": b"node", "version_min": 1, "version_max": 1, **more}
        self.say(Hello(session=session, keep=int(keep * MICROSECONDS), key=key, **fields))
        answer = self.hear(SupervisorHello)
        self.supervisor_id, self.answer = answer.supervisor_id, answer
        self.hear(Ready)
        return answer

    def runs(self) -> list[Run]:
        """The runs that were told since the last look."""
        runs = [one for one in self.kept if isinstance(one, Run)]
        self.kept = [one for one in self.kept if not isinstance(one, Run)]
        return runs

    def in_step(self) -> None:
        """Wait until the other side has carried out everything that was said."""
        self.say(Ping(77))
        self.hear(Pong)

    def end(self, run: int, seconds: float = 20.0) -> End:
        """The end of a run, acknowledged."""
        end = self.hear(End, seconds, where=lambda one: one.run == run)
        self.say(Ack(run, end.stdout_end, end.stderr_end, end.events_end, Acknowledged.END))
        return end

    def leave(self) -> None:
        self.say(NodeBye(Bye.KEEP))
        self.link.close()


def plugin(number: int, *argv: str | bytes, **more: Any) -> Plugin:
    fields: dict[str, Any] = {
        "stop_signal": 15,
        "grace": MICROSECONDS,
        "drain": 2 * MICROSECONDS,
        "max_output": 2**20,
        "umask": 0o022,
        "uid": 0,
        "gid": 0,
        "flags": 0,
        "directory": b"/",
        "environment": packed([f"PATH={os.environ['PATH']}".encode()]),
        "groups": b"",
        "limits": b"",
        "note": b"",
        **more,
    }
    return Plugin(number=number, argv=packed([os.fsencode(one) for one in argv]), **fields)


def shell(number: int, script: str, **more: Any) -> Plugin:
    return plugin(number, "/bin/sh", "-c", script, **more)


def start(run: int, plugin: int, stdin: bytes = b"", **more: Any) -> Start:
    fields: dict[str, Any] = {
        "timeout": 0,
        "idle_timeout": 0,
        "asked_at": 0,
        "trusted": 0,
        "total": len(stdin),
        "flags": 0,
        "note": b"",
        "environment": packed([]),
        "work_directory": b"",
        **more,
    }
    return Start(run=run, plugin=plugin, stdin=stdin, **fields)


@contextlib.contextmanager
def paired(path: Path | None = None, *, files: Path | None = None, **hello: Any) -> Iterator[Talk]:
    """A supervisor over a pair of sockets that has heard HELLO. `files`: where it puts what it keeps on disk."""
    environment = os.environ if files is None else {**os.environ, "TMPDIR": str(files)}
    talk = Talk(connection.paired(path or program(), environment=environment))
    try:
        talk.hello(**hello)
        yield talk
    finally:
        talk.link.close()


class Home:
    """A supervisor in a directory, and its connections."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program = program()
        connection.start_in(directory, self.program, environment=os.environ)
        self._talks: list[Talk] = []

    @property
    def pid(self) -> int:
        link, _, pid = connection.connect_in(self.directory)
        link.close()
        return pid

    @property
    def key(self) -> bytes:
        return (self.directory / connection.KEY).read_bytes()

    def visit(self) -> Talk:
        """A connection that has said nothing."""
        link, _, _ = connection.connect_in(self.directory)
        talk = Talk(link)
        self._talks.append(talk)
        return talk

    def node(self, *, session: int = 1, keep: float = 600.0, **more: Any) -> Talk:
        talk = self.visit()
        talk.hello(session=session, keep=keep, key=self.key, **more)
        return talk

    def ask(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, command, str(self.directory)], capture_output=True, text=True, timeout=60, check=False
        )

    def close(self) -> None:
        """Kill its runs and end it: a connection with nothing kept does both."""
        try:
            talk = self.node(session=2**60, keep=0)
        except (OSError, connection.LinkClosedError):
            pass  # it has ended
        else:
            talk.link.close()
            deadline = time.monotonic() + 10
            while self._listens() and time.monotonic() < deadline:
                time.sleep(0.01)
        for talk in self._talks:
            talk.link.close()

    def _listens(self) -> bool:
        try:
            link, _, _ = connection.connect_in(self.directory)
        except OSError:
            return False
        link.close()
        return True


def mark_of(supervisor_id: bytes, run: int, level: int = 62) -> int:
    """What every process of a run carries as a limit. `level`: lower in a run of another supervisor."""
    return 2**level + int.from_bytes(supervisor_id[:8]) % 2 ** (level - 40) * 2**40 + run


def supervisor_of(node: Started) -> int:
    """The process of a node that runs its programs, once it is there."""
    found: list[int] = []

    def is_there() -> bool:
        found[:] = [pid for pid in children_of(node.pid) if name_of(pid) == "disbatch-superv"]
        return len(found) == 1

    wait_until(is_there, 30, "the node has no supervisor")
    return found[0]


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def kill_with_supervisor(node: Started) -> None:
    """Kill a node and the supervisor of its runs, neither of which can do anything about the other."""
    if os.environ.get("NO_SUPERVISOR") != "1":
        supervisor = supervisor_of(node)
        stop(node.pid)
        os.kill(supervisor, signal.SIGKILL)
    node.kill()
    node.wait()


def living_below(state: Path) -> list[tuple[int, str]]:
    """The supervisors in the homes below a state directory: pid and id of each."""
    found = []
    for description in state.rglob("supervisor.json"):
        described = json.loads(description.read_text())
        if facts.process_started(described["pid"]) == described["started"]:
            found.append((described["pid"], described["id"]))
    return found


def end_all_below(state: Path) -> None:
    """Kill the supervisors in the homes below a state directory, and everything that they run."""
    for pid, identity in living_below(state):
        mark = f"DISBATCH_RUN={identity}-".encode()
        os.kill(pid, signal.SIGKILL)
        while marked := [one for one in _processes() if (family.mark_of(one) or b"").startswith(mark)]:
            for one in marked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            time.sleep(0.01)


def _processes() -> list[int]:
    return [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]
