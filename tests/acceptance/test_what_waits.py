"""Why nothing happens: status, and a node that leaves, name the reason for each queue that waits; on both stores."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from acceptance.conftest import PROGRAM, Terminal
from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.store.contract.answers import Access
from disbatch_host.store.open import open_store
from disbatch_protocol.status import Status
from helpers.processes import wait_until

Plugin = Callable[..., Path]

QUEUES = {
    "fine": ["--class", "hello"],
    "typo": ["--class", "helo"],
    "pinned": ["--class", "hello", "--pin", "n9"],
    "ignored": ["--class", "hello", "--ignore", "n1"],
    "pinless": ["--class", "other", "--pin", "n1"],
    "zero": ["--class", "hello", "--maxthreads", "0"],
}
NOTES = {
    "fine": "",
    "typo": "no living node has plugin helo, did you mean hello?",
    "pinned": "pinned to n9, which is not alive",
    "ignored": "ignored by n1; no other living node has plugin hello",
    "pinless": "pinned to n1, where there is no plugin other",
    "zero": "maxthreads is 0, so none of its tasks is started",
}


def make_queues(terminal: Terminal) -> None:
    for name, options in QUEUES.items():
        terminal.fine("queue", "create", name, *options)
        terminal.fine("task", "push", name)


def test_status_says_why_a_queue_waits(on_store: Terminal, plugin: Plugin) -> None:
    plugin("hello", "exit 0")
    make_queues(on_store)
    alone = {one["queue"]: one["note"] for one in on_store.fine("status", "--json").json}
    assert (alone["fine"], alone["zero"]) == ("no node is alive", f"{NOTES['zero']}; no node is alive")
    with on_store.node():
        wait_until(lambda: any("node" in one for one in on_store.fine("status", "--json").json), 20)

        def notes() -> dict[str, str]:
            return {one["queue"]: one["note"] for one in on_store.fine("status", "--json").json if "queue" in one}

        wait_until(lambda: notes() == NOTES, 20)
        shown = on_store.fine("status").out
        assert all(note in shown for note in NOTES.values())


def test_a_node_that_leaves_says_what_it_leaves(on_store: Terminal, plugin: Plugin) -> None:
    plugin("hello", "exit 0")
    make_queues(on_store)
    log = on_store.fine("--until-idle", "--node-id", "n1", timeout=30).err
    assert "nothing is left to do here; waiting tasks that this node does not run: 5" in log
    for name, note in NOTES.items():
        assert not note or (f"queue {name}, 1 waiting: " in log and note in log)
    on_store.fine("queue", "set", "zero", "maxthreads=1")
    assert "does not run: 4" in on_store.fine("--until-idle", "--node-id", "n1", timeout=30).err


def test_a_node_whose_id_is_taken_says_one_line(on_store: Terminal, plugin: Plugin) -> None:
    plugin("hello", "exit 0")
    with on_store.node():
        wait_until(lambda: on_store("node", "show", "n1").code == 0, 20)
        assert "node id 'n1' is in use" in on_store.refused(5, "--node-id", "n1")


def test_the_log_says_how_a_task_failed_and_when_in_which_zone(terminal: Terminal, plugin: Plugin) -> None:
    plugin(
        "bad", 'echo first >&2; echo "no space left (key hunter2, token $TOKEN)" >&2; exit 3', env={"TOKEN": "s3cret"},
        parameters={"properties": {"key": {"type": "string", "writeOnly": True}}},
    )  # fmt: skip
    plugin("killed", "kill -KILL $$")
    for name in ("bad", "killed"):
        terminal.fine("queue", "create", name, "--class", name)
        terminal.fine("task", "push", name, "-p", "key=hunter2")
    terminal.environment["TZ"] = "Asia/Kolkata"
    log = terminal.fine("--until-idle").err
    (bad,) = [line for line in log.splitlines() if "of queue bad: " in line]
    assert " WARNING " in bad and "first" not in log
    assert bad.endswith("failure (exit code 3), now failed: exit_3: no space left (key ********, token ********)")
    assert "(signal KILL), now terminated: signal_KILL: " in log
    assert all(line[23:29] == "+05:30" for line in log.splitlines()), log


def test_a_lost_task_is_not_said_to_have_run_until_it_was_found(on_store: Terminal, plugin: Plugin) -> None:
    plugin("slow", "echo begun; sleep 600")
    on_store.fine("queue", "create", "q", "--class", "slow")
    task_id = on_store.fine("task", "push", "q").out.strip()
    node = subprocess.Popen(
        [str(PROGRAM), "--node-id", "n1"], cwd=on_store.directory, env=on_store.environment, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: "pid_started" in on_store.fine("task", "show", task_id, "--json").json[0].get("run", {}), 20)
    finally:
        node.kill()
        node.wait()
    on_store.fine("--until-idle", "--node-id", "n1")
    shown = on_store.fine("task", "show", task_id).out
    assert "lost, at an unknown time; found at 20" in shown
    assert "claimed" not in shown and "after" not in shown.split("parameters")[0].split("ended")[1].split("error")[0]
    (line,) = on_store.fine("task", "list").out.splitlines()[1:]
    assert " ago  -    lost   node n1 was lost" in line


def concluded_in_demo(place: Path) -> int:
    (file,) = place.glob("disbatch-demo-*/disbatch.db")
    with contextlib.closing(open_store(f"sqlite://{file}", SystemClock(), Access.EXISTING)) as store:
        store.open()
        return int(store.count_tasks(TaskFilter(statuses=frozenset({int(Status.CONCLUDED)}))))


def test_a_demo_that_is_stopped_says_so(terminal: Terminal, tmp_path: Path) -> None:
    terminal.environment["TMPDIR"] = str(tmp_path)
    terminal.environment["PATH"] = "/usr/bin:/bin"  # what takes long to build is not what this is about
    with (tmp_path / "out").open("w") as out:
        demo = subprocess.Popen(
            [str(PROGRAM), "demo", "--files", "500"], cwd=terminal.directory, env=terminal.environment, stdout=out,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait_until(lambda: "a node runs them" in (tmp_path / "out").read_text(), 90)
        wait_until(lambda: concluded_in_demo(tmp_path) > 0, 60, "no task of the demo has run")
        os.kill(demo.pid, signal.SIGINT)
        assert demo.wait(60) == 130
    text = (tmp_path / "out").read_text()
    assert "disbatch-host: stopped; " in text and "were not run" in text
    assert "FAILED" not in text
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("disbatch")] == []


def test_the_demo_gives_documents_with_json(terminal: Terminal) -> None:
    documents = terminal.fine("demo", "--files", "1", "--json", timeout=120).json
    assert {"plugin", "language", "tasks", "concluded", "failed"} <= documents[0].keys()
    assert all((one["tasks"], one["concluded"]) == (1, 1) for one in documents), json.dumps(documents)


def test_check_says_which_of_the_named_plugins_is_not_there(terminal: Terminal, plugin: Plugin) -> None:
    plugin("hello", "exit 0")
    assert "no plugin 'helo' found" in terminal.refused(2, "check", "hello", "helo", "--run")
    assert "did you mean 'hello'?" in terminal.refused(2, "check", "helo")
