"""What renews itself on a terminal: `status --watch`, the bar of `task wait`, and the output of a task that another
process runs; on both stores."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acceptance.conftest import PROGRAM, Terminal
from helpers import mongod
from helpers.processes import wait_until
from helpers.proxy import Proxy
from helpers.stores import on_sqlite

Plugin = Callable[..., Path]

IN_SCREEN, OUT_OF_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
CURSOR_BACK = "\x1b[?25h"


class Watched:
    """A command on a terminal of its own that goes on by itself."""

    def __init__(self, terminal: Terminal, columns: int, rows: int, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns, rows)
        settings = {name: value for name, value in terminal.environment.items() if name != "COLUMNS"}
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _AS_A_SHELL_DOES, str(PROGRAM), *arguments], cwd=terminal.directory,
            stdin=slave, stdout=slave, stderr=slave, env={**settings, "TERM": "xterm-256color"},
        )  # fmt: skip
        self.slave = slave  # held open, so that what it is set to can be seen at the end
        self.text = ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> str:
        """Everything that it has written by now."""
        while select.select([self.master], [], [], 0.05)[0]:
            self.text += os.read(self.master, 65536).decode()
        return self.text

    def wait_for(self, words: str, within_seconds: float = 30) -> str:
        wait_until(lambda: words in plain(self.read()), within_seconds, f"{words!r} in {self.text[-3000:]!r}")
        return self.text

    def frames(self) -> list[list[str]]:
        """The pictures that it has drawn, each as its lines."""
        drawn = self.read().split("\x1b[H")[1:]
        return [plain(frame).replace("\r", "").split("\n") for frame in drawn]

    def wait_for_picture(self, *patterns: str) -> list[str]:
        """One that shows all of this at once: what is read at different moments need not fit together."""
        found: list[list[str]] = []

        def is_drawn() -> bool:
            whole = self.frames()[:-1]  # the last one may be half drawn
            found[:] = [one for one in whole if all(re.search(each, "\n".join(one), re.M) for each in patterns)]
            return bool(found)

        wait_until(is_drawn, 30, f"a picture with {patterns} in {self.text[-3000:]!r}")
        return found[-1]

    def write(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def leaves(self, within_seconds: float = 15) -> int:
        wait_until(lambda: (self.read(), self.process.poll() is not None)[1], within_seconds, "it stays")
        self.read()
        return self.process.returncode

    def is_as_before(self) -> bool:
        """The terminal is out of the alternate screen, its cursor is there, and keys are shown again."""
        left = self.text.rindex(OUT_OF_SCREEN) > self.text.rindex(IN_SCREEN) and CURSOR_BACK in self.text
        return left and termios.tcgetattr(self.slave) == self.before


# Only to whom the terminal belongs Ctrl-C comes as a signal.
_AS_A_SHELL_DOES = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@contextlib.contextmanager
def on_terminal(terminal: Terminal, columns: int, rows: int, *arguments: str) -> Iterator[Watched]:
    watched = Watched(terminal, columns, rows, *arguments)
    try:
        yield watched
    finally:
        watched.process.kill()
        watched.process.wait()
        os.close(watched.master)
        os.close(watched.slave)


def stopping_node(terminal: Terminal) -> contextlib.AbstractContextManager[None]:
    """A node that waits for nothing when it is to stop."""
    return terminal.node("--stop-grace", "0")


def busy_cluster(terminal: Terminal, plugin: Plugin) -> None:
    """Queues of every kind: one that runs, one that fails, one that nobody runs."""
    plugin("slow", """echo '{"type":"progress","value":0.25,"message":"a quarter"}' >&3; exec sleep 600""")
    plugin("bad", "echo 'no space left on device' >&2; exit 3")
    for name, class_name in (("migration", "slow"), ("media", "bad"), ("stuck-with-a-rather-long-name", "slwo")):
        terminal.fine("queue", "create", name, "--class", class_name, "--maxthreads", "2")
        terminal.fine("task", "push", name, "-", stdin="{}\n" * 3)


def test_status_watch_shows_what_matters_at_80_columns_and_leaves_on_q(on_store: Terminal, plugin: Plugin) -> None:
    busy_cluster(on_store, plugin)
    with stopping_node(on_store), on_terminal(on_store, 80, 24, "status", "--watch", "--interval", "0.2") as watched:
        frame = watched.wait_for_picture(
            "25 % a quarter", "failed, by cause, of 3", r"^n1 +alive +2 of 4", r"^migration +1 +2 +0 +0 ",
            r"^media +0 +0 +0 +3 ", r"^exit_3 +3 +100 % +media +no space left on device"
        )  # fmt: skip
        assert len(frame) == 24 and all(len(line) == 80 for line in frame), frame
        text = "\n".join(frame)
        assert "queue (3)" in text and "no living node has plugin slwo, did you mean slow?" in text
        assert re.search(r"^[0-9a-f]{24} +migration +n1 +\d", text, re.M)
        assert text.index("stuck-with") < text.index("migration")  # what nobody runs comes first
        drawn = len(watched.frames())
        wait_until(lambda: len(watched.frames()) > drawn, 20, "another picture")
        watched.write("q")
        assert watched.leaves() == 0
        assert watched.is_as_before()
        assert "Traceback" not in watched.text


@on_sqlite
def test_status_watch_leaves_on_ctrl_c_and_when_it_is_terminated(on_store: Terminal, plugin: Plugin) -> None:
    on_store.fine("queue", "create", "q", "--class", "hello")
    with on_terminal(on_store, 80, 24, "status", "--watch") as watched:
        watched.wait_for("queue (1)")
        watched.write("\x03")
        assert (watched.leaves(), watched.is_as_before()) == (0, True)
    with on_terminal(on_store, 80, 24, "status", "--watch") as watched:
        watched.wait_for("queue (1)")
        watched.process.send_signal(signal.SIGTERM)
        assert (watched.leaves(), watched.is_as_before()) == (0, True)


@on_sqlite
def test_status_watch_follows_the_size_of_its_terminal(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "hello")
    with on_terminal(on_store, 80, 24, "status", "--watch", "--interval", "60") as watched:
        watched.wait_for("queue (1)")
        watched.resize(100, 30)
        wait_until(lambda: [len(watched.frames()[-1]), len(watched.frames()[-1][0])] == [30, 100], 20)


def test_status_watch_without_a_terminal_says_so_or_gives_documents(on_store: Terminal, plugin: Plugin) -> None:
    busy_cluster(on_store, plugin)
    assert "--watch needs a terminal" in on_store.refused(2, "status", "--watch")
    assert "--interval is for --watch" in on_store.refused(2, "status", "--interval", "3")
    assert "--interval: expected seconds" in on_store.refused(2, "status", "--watch", "--interval", "soon")
    with stopping_node(on_store):
        command = [str(PROGRAM), "status", "--watch", "--interval", "0.1", "--json"]
        process = subprocess.Popen(
            command, cwd=on_store.directory, env=on_store.environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        document = {}
        for line in process.stdout:
            document = json.loads(line)
            if document["failures_seen"] == 3 and any(one["progress"] for one in document["running"]):
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    (failure,) = document["failures"]
    assert (failure["code"], failure["count"], failure["queues"]) == ("exit_3", 3, ["media"])
    assert failure["text"] == "exit_3: no space left on device" and len(failure["tasks"]) == 3
    queues = {one["queue"]: one for one in document["queues"]}
    assert queues["media"]["failed"] == 3 and queues["migration"]["running"] == 2
    assert queues["stuck-with-a-rather-long-name"]["reasons"] == ["no_plugin"]
    assert queues["migration"]["oldest_waiting_seconds"] > 0


@pytest.mark.mongodb
def test_status_watch_shows_the_last_picture_while_the_store_is_away(
    terminal: Terminal, mongod_server: mongod.Mongod
) -> None:
    with mongod_server.database() as url, Proxy(mongod_server.port) as proxy:
        name = url.rpartition("/")[2].partition("?")[0]
        options = "directConnection=true&serverSelectionTimeoutMS=500"
        terminal.environment["DISBATCH_STORE"] = f"mongodb://127.0.0.1:{proxy.port}/{name}?{options}"
        terminal.fine("queue", "create", "q", "--class", "hello")
        with on_terminal(terminal, 80, 24, "status", "--watch", "--interval", "0.1") as watched:
            watched.wait_for("queue (1)")
            proxy.refuse()
            watched.wait_for("not refreshed: ")
            assert any(line.startswith("q ") for line in watched.frames()[-1])
            proxy.mend()
            wait_until(lambda: "not refreshed" not in "".join(watched.frames()[-1]), 20)
            watched.write("q")
            assert watched.leaves() == 0


def test_status_json_says_how_long_the_oldest_waits_and_why(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "hello")
    on_store.fine("task", "push", "q")
    (document,) = on_store.fine("status", "--json").json
    assert document["reasons"] == ["no_node"] and document["paused"] is None
    assert document["oldest_waiting_seconds"] >= 0 and document["oldest_waiting"].startswith("20")


@on_sqlite
def test_wait_shows_a_bar_that_counts_those_that_failed(on_store: Terminal, plugin: Plugin) -> None:
    gate = on_store.directory / "gate"
    plugin("mixed", 'read task; while [ ! -e "$GATE" ]; do sleep 0.1; done; case $task in *bad*) exit 3;; esac',
           env={"GATE": str(gate)})  # fmt: skip
    plugin("bad", "exit 3")
    on_store.fine("queue", "create", "q", "--class", "mixed")
    on_store.fine("queue", "create", "bad", "--class", "bad")
    ids = on_store.fine("task", "push", "q", "-", stdin="{}\n" * 3).out.split()
    ids += on_store.fine("task", "push", "bad", "-", stdin="{}\n" * 2).out.split()
    with on_store.node(), on_terminal(on_store, 80, 24, "task", "wait", *ids) as watched:
        watched.wait_for("2/5 2 failed")
        gate.touch()
        assert watched.leaves(30) == 1
        shown = plain(watched.text)
        assert shown.count("failed: ") == 2 and "Traceback" not in shown


def test_wait_for_a_queue_waits_for_all_of_it_and_names_what_has_failed(on_store: Terminal, plugin: Plugin) -> None:
    gate = on_store.directory / "gate"
    program = """
        read task
        while [ ! -e "$GATE" ]; do sleep 0.1; done
        case $task in *bad*) echo no space >&2; exit 3;; esac
    """
    plugin("mixed", program, env={"GATE": str(gate)})
    on_store.fine("queue", "create", "q", "--class", "mixed")
    on_store.fine("task", "push", "q", "-", stdin="{}\n" * 3)
    bad = on_store.fine("task", "push", "q", "-p", "bad=1").out.strip()
    late = on_store("task", "wait", "--queue", "q", "--timeout", "0")
    assert late.code == 1 and "4 tasks have not ended: " in late.err and bad in late.err
    assert "nothing moves; task " in late.err and "it waits: no node is alive" in late.err
    assert "` runs one, DIR being where its plugins are" in late.err
    assert re.fullmatch(r"0 ended in 0(\.\d)? s: 0 concluded; 4 unfinished", late.err.splitlines()[-1])
    with stopping_node(on_store), on_terminal(on_store, 80, 24, "task", "wait", "--queue", "q") as watched:
        watched.wait_for("0/4")
        gate.touch()
        assert watched.leaves(30) == 1
        shown = plain(watched.text)
        assert f"task {bad} failed: no space" in shown
        assert re.search(r"^4 ended in [0-9.]+ s: 3 concluded, 1 failed \(exit_3 1\)", shown, re.MULTILINE), shown
    # All is over: that is no success, since all may have failed.
    over = on_store("task", "wait", "--queue", "q")
    assert (over.code, over.out) == (1, "")
    assert over.err == ("nothing to wait for: queue q has no unfinished task; ended before: 3 concluded, 1 failed\n")
    (document,) = on_store("task", "wait", "--queue", "q", "--json").json
    assert (document["ended"], document["unfinished"], document["failed"]) == (0, 0, 0)
    assert document["ended_before"] == {"concluded": 3, "failed": 1, "cancelled": 0, "orphaned": 0}
    mine = on_store("task", "wait", "--queue", "q", "--where", "bad=1")
    assert (mine.code, mine.err) == (
        1,
        "nothing to wait for: no such task is unfinished; ended before: 0 concluded, 1 failed\n",
    )
    assert "no queue 'x'" in on_store.refused(4, "task", "wait", "--queue", "x")
    assert "expected either task ids" in on_store.refused(2, "task", "wait")
    assert "expected either task ids" in on_store.refused(2, "task", "wait", "x", "--queue", "q")


def test_wait_takes_very_many_ids_from_stdin(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "hello")
    ids = on_store.fine("task", "push", "q", "-", stdin="{}\n" * 5000).out
    result = on_store("task", "wait", "-", "--timeout", "0.5", stdin=ids)
    assert result.code == 1
    assert "5000 tasks have not ended within 0.5 s: " in result.err and "and 4980 more" in result.err
    on_store.fine("task", "cancel", "--queue", "q", "--yes")
    result = on_store("task", "wait", "-", stdin=ids)
    assert result.code == 1 and "and 4980 more" in result.err
    assert "no task" in on_store.refused(4, "task", "wait", "-", stdin=f"{ids}x\n")


def test_follow_shows_output_within_about_a_second_and_ends_on_ctrl_c(on_store: Terminal, plugin: Plugin) -> None:
    gate = on_store.directory / "gate"
    plugin("talks", 'echo first; while [ ! -e "$GATE" ]; do sleep 0.1; done; echo second; exec sleep 600',
           env={"GATE": str(gate)})  # fmt: skip
    on_store.fine("queue", "create", "q", "--class", "talks")
    task_id = on_store.fine("task", "push", "q").out.strip()
    with stopping_node(on_store):
        command = [str(PROGRAM), "task", "output", task_id, "--follow"]
        with (on_store.directory / "followed").open("w") as out:
            follower = subprocess.Popen(
                command, cwd=on_store.directory, env=on_store.environment, stdout=out, stderr=subprocess.PIPE
            )
        followed = on_store.directory / "followed"
        wait_until(lambda: followed.read_text() == "first\n", 20)
        gate.touch()
        began = time.monotonic()
        wait_until(lambda: followed.read_text() == "first\nsecond\n", 20)
        assert time.monotonic() - began < 5  # about one second, on a machine that does nothing else
        follower.send_signal(signal.SIGINT)
        assert follower.wait(15) == 130
        assert follower.stderr is not None and follower.stderr.read().strip() == b""
        follower.stderr.close()
        on_store.fine("task", "cancel", task_id)
        on_store("task", "wait", task_id, "--timeout", "30")
