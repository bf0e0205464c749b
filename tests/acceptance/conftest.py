"""The program as its users have it: its commands, in a directory of their own, with a clean environment.

Commands run within this process (`helpers/in_process.py`), nodes are copies of one (`helpers/forked.py`). Processes of
the installed program are those whose promise is about a process (`terminal.as_process`, and whatever a test starts
itself), and with DISBATCH_TESTS_AS_PROCESS=1 all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import click
import pytest

from disbatch_host.cli.main import cli
from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import Task
from disbatch_host.store.contract import Store
from disbatch_host.store.open import open_store
from helpers import forked, in_process
from helpers.nodes import write_plugin
from helpers.processes import wait_until

PROGRAM = Path(sys.executable).with_name("disbatch-host")
ARE_PROCESSES = os.environ.get("DISBATCH_TESTS_AS_PROCESS") == "1"
_NO_NODE = frozenset({*cli.list_commands(click.Context(cli)), "--help", "-h", "--version"})


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        """One document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Terminal:
    """Somebody who types commands."""

    directory: Path
    environment: dict[str, str]
    is_process: bool = field(default=ARE_PROCESSES, kw_only=True)

    @property
    def as_process(self) -> Self:
        """The same somebody, whose commands are processes."""
        return replace(self, is_process=True)

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = 60) -> Result:
        """`timeout` is for processes; what takes too long in this one is ended by the time limit of the test."""
        if not (self.needs_process(arguments)):
            done = in_process.run(arguments, directory=self.directory, environment=self.environment, stdin=stdin)
            return Result(*done)
        if "demo" not in arguments and not stdin and (copied := self._copied_node(arguments, timeout)):
            return copied
        done = subprocess.run(
            [str(PROGRAM), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self.environment,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def _copied_node(self, arguments: Sequence[str], timeout: float) -> Result | None:
        """What a node said that is not one of this somebody's processes; None where it has to be one."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            node = self._copy(arguments, out, err)
            if node is None:
                return None
            try:
                code = node.wait(timeout)
            finally:
                node.kill()
            for stream in (out, err):
                stream.seek(0)
            return Result(code, out.read().decode(), err.read().decode())

    def _copy(self, options: Sequence[str], stdout: BinaryIO, stderr: BinaryIO) -> forked.Started | None:
        # An interpreter looks at its language and at its own variables when it starts.
        is_special = self.environment.get("LANG") != "C.UTF-8" or any("PYTHON" in name for name in self.environment)
        if self.is_process or is_special:
            return None
        return forked.start_node(
            options, stdout=stdout, stderr=stderr, directory=self.directory, environment=self.environment
        )

    def needs_process(self, arguments: Sequence[str]) -> bool:
        """All commands of somebody whose commands are processes. A node, which is always one, runs where neither a
        command is named nor help or a completion asked for, and in the demo."""
        is_node = _NO_NODE.isdisjoint(arguments) and "_DISBATCH_HOST_COMPLETE" not in self.environment
        return self.is_process or is_node or "demo" in arguments

    def fine(self, *arguments: str, **more: Any) -> Result:
        """A command that must succeed."""
        result = self(*arguments, **more)
        assert result.code == 0, (arguments, result)
        return result

    def refused(self, code: int, *arguments: str, **more: Any) -> str:
        """A command that must fail with this exit code, in one line and without a traceback; the line."""
        result = self(*arguments, **more)
        assert result.code == code, (arguments, result)
        assert result.err.startswith("disbatch-host: ") and result.err.count("\n") == 1, result.err
        assert "Traceback" not in result.err
        return result.err

    @contextlib.contextmanager
    def node(self, *options: str, node_id: str = "n1") -> Iterator[forked.Started]:
        """A node beside the commands, until the end of the block."""
        options = ("--node-id", node_id, *options)
        with (self.directory / "node.log").open("ab") as log:
            node = self._copy(options, log, log) or subprocess.Popen(
                [str(PROGRAM), *options], cwd=self.directory, env=self.environment, stdout=log, stderr=log
            )
        try:
            yield node
        finally:
            node.terminate()
            node.wait(30)


@dataclass
class Site(Terminal):
    """Somebody who types commands to a cluster that runs, and a view of its store."""

    store: Store

    def queue(self, *options: str, class_name: str = "job") -> str:
        """A queue that no other test uses."""
        return self.fine("queue", "create", f"q{uuid.uuid4().hex[:8]}", "--class", class_name, *options).out.strip()

    def push(self, queue: str, *arguments: str) -> str:
        """The id of a new task."""
        return self.fine("task", "push", queue, *arguments).out.strip()

    def task(self, task_id: str) -> Task:
        found = self.store.get_task(self.store.parse_id(task_id))
        assert found is not None
        return found

    def wait_for(self, task_id: str, *wanted: int, within_seconds: float = 20) -> Task:
        """The task, as soon as it has one of these statuses."""
        wait_until(lambda: self.task(task_id).status in wanted, within_seconds, f"task {task_id} never became {wanted}")
        return self.task(task_id)

    def begun(self, task_id: str, within_seconds: float = 20) -> int:
        """The process group of a running task, as soon as its program has said that it has begun."""
        wait_until(
            lambda: self.task(task_id).document["stdout"] == "begun\n" and "pid" in self.task(task_id).run,
            within_seconds,
            f"task {task_id} never began",
        )
        return int(self.task(task_id).run["pid"])


def _terminal(directory: Path) -> Terminal:
    home = directory / "home"
    (home / "plugins").mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "COLUMNS": "80"}
    environment |= {name: os.environ[name] for name in ("GOCACHE",) if name in os.environ}  # see tests/conftest.py
    return Terminal(home, environment)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """No store is named: the default one, below the directory."""
    return _terminal(tmp_path)


# What the tasks of `site` do, by their parameter `do`; whatever they append to a file comes in the true order.
_JOB = """\
read -r line
field() { expr "$line" : '.*"'"$1"'":"\\([^"]*\\)"'; }
file=$(field file)
case "$(field do)" in
    sleep) echo begun; sleep 600 & sleep 600 ;;
    deaf) trap '' TERM; echo begun; while :; do sleep 0.1; done ;;
    until) echo begun; while [ ! -e "$file" ]; do sleep 0.1; done ;;
    exists) [ -e "$file" ] || { echo "no $file" >&2; exit 3; } ;;
    count) echo + >> "$file"; sleep 0.3; echo - >> "$file" ;;
    fail) echo "it broke" >&2; exit 3 ;;
esac
"""


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A cluster of each kind with a living node n1 and a plugin `job`, for all tests of a module: each makes its own
    queue."""
    terminal = _terminal(tmp_path_factory.mktemp("site"))
    write_plugin(terminal.directory / "plugins", "job", _JOB, kill_grace="300ms")
    with contextlib.ExitStack() as stack:
        url = f"sqlite://{terminal.directory}/store.db"
        if request.param == "mongodb":
            url = stack.enter_context(request.getfixturevalue("mongod_server").database())
        store = open_store(url, SystemClock())
        store.open()
        stack.callback(store.close)
        environment = {**terminal.environment, "DISBATCH_STORE": url}
        one = Site(terminal.directory, environment, store)
        stack.enter_context(one.node("--stop-grace", "0"))
        wait_until(lambda: store.get_node("n1"), 20, "node n1 never came")
        yield one


@pytest.fixture
def on_store(terminal: Terminal, store_url: str) -> Terminal:
    """With DISBATCH_STORE set to an empty store of each kind."""
    terminal.environment["DISBATCH_STORE"] = store_url
    return terminal


@pytest.fixture
def plugin(terminal: Terminal) -> Callable[..., Path]:
    return lambda name, program, **manifest: write_plugin(terminal.directory / "plugins", name, program, **manifest)
