"""`task why` against what the scheduler really does: in each situation the reason is said, the task does not start; the
cause is removed, and it starts. With a real node; on both stores what depends on more than a node and its plugins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from acceptance.conftest import Result, Terminal
from disbatch_host.clock import SystemClock
from disbatch_host.decide.why import Code
from disbatch_host.documents.changes import TaskChange, Want
from disbatch_host.documents.requests import request_of
from disbatch_host.documents.transitions import retry_change
from disbatch_protocol.status import Status
from helpers.nodes import UNKNOWN_FORMAT, Cluster
from helpers.processes import wait_until
from helpers.stores import on_sqlite


class Asker:
    """Somebody who wonders why."""

    def __init__(self, cluster: Cluster, terminal: Terminal) -> None:
        self.cluster = cluster
        self._terminal = terminal

    def start(self, *options: str, node_id: str = "n1") -> None:
        """A node that looks at nearly everything as often as it beats: `pass_rounds` waits for it."""
        pace = {"refresh_seconds": 0.1, "plugin_scan_seconds": 0.2}
        self.cluster.start("--heartbeat", "0.15", *options, node_id=node_id, pace=pace)

    def ask(self, task_id: Any) -> tuple[str, str]:
        """The code, and the sentence."""
        result: Result = self._terminal.fine("task", "why", str(task_id), "--store", self.cluster.url, "--json")
        (document,) = result.json
        assert set(document) == {"_id", "reason", "sentence"} and document["_id"] == str(task_id)
        assert document["reason"] in {str(code) for code in Code}
        return document["reason"], document["sentence"]

    def wait_for(self, task_id: Any, code: str, *words: str, status: int = Status.CREATED) -> str:
        """The answer comes to be this one, and the task does not start: not at several rounds of its node."""
        seen: list[Any] = []

        def is_said() -> bool:
            seen[:] = self.ask(task_id)
            return seen[0] == code and all(word in seen[1] for word in words)

        try:
            wait_until(is_said, 20)
        except AssertionError:
            raise AssertionError(f"expected {code} {words}, was told {seen}") from None
        self.pass_rounds()
        assert self.cluster.task(task_id).status == status
        assert self.ask(task_id)[0] == code
        return str(seen[1])

    def pass_rounds(self, count: int = 2) -> None:
        """So many heartbeats of a living node; without one, nobody could start anything."""
        for record in self.cluster.store.nodes():
            if record.is_stale(5.0):
                continue
            marks = {record.heartbeat_mark}

            def has_beaten(node_id: str = record.id, marks: set[object] = marks) -> bool:
                now = self.cluster.store.get_node(node_id)
                marks.add(None if now is None else now.heartbeat_mark)
                return len(marks) > count

            wait_until(has_beaten, 20, "the node's heartbeat")

    def starts(self, task_id: Any) -> None:
        """The cause is gone: it starts, and ends well."""
        self.cluster.wait_for_status(task_id, Status.CONCLUDED)
        code, sentence = self.ask(task_id)
        assert code == "ended" and "concluded" in sentence


@pytest.fixture
def asker(cluster: Cluster, terminal: Terminal) -> Asker:
    cluster.plugin("quick", "exit 0")
    return Asker(cluster, terminal)


@contextmanager
def busy_task(asker: Asker, queue: str, **fields: Any) -> Iterator[Any]:
    """A task that runs until the end of the block."""
    gate = asker.cluster.directory / f"gate-{queue}"
    asker.cluster.plugin("gated", 'read task; while [ ! -e "$GATE" ]; do sleep 0.1; done', env={"GATE": str(gate)})
    asker.cluster.queue("gated", queue, **fields)
    (task_id,) = asker.cluster.push(queue, {})
    wait_until(lambda: asker.cluster.task(task_id).status == Status.RUNNING, 20)
    assert asker.ask(task_id)[0] == "running"
    yield task_id
    gate.touch()


def test_no_node_is_alive(asker: Asker) -> None:
    asker.cluster.queue("quick")
    (task_id,) = asker.cluster.push("quick", {})
    asker.wait_for(task_id, "no_node", "no node is alive")
    asker.start()
    asker.starts(task_id)


def test_there_is_no_such_queue(asker: Asker) -> None:
    asker.start()
    (task_id,) = asker.cluster.push("quik", {})
    asker.wait_for(task_id, "no_queue", "there is no queue quik")
    asker.cluster.queue("quick", "quik")
    asker.starts(task_id)


def test_a_queue_that_cannot_be_used(asker: Asker) -> None:
    asker.cluster.queue("quick", maxthreads="many")
    (task_id,) = asker.cluster.push("quick", {})
    asker.start()
    asker.wait_for(task_id, "queue_fault", '"maxthreads" must be a whole number')
    asker.cluster.store.update_queue("quick", {"maxthreads": 1})
    asker.starts(task_id)


def test_a_paused_queue_is_said_with_who_and_why(asker: Asker) -> None:
    request = request_of("ann@desk", "the mail server moves", now=SystemClock().now())
    asker.cluster.queue("quick", paused=request)
    (task_id,) = asker.cluster.push("quick", {})
    asker.start()
    wait_until(lambda: asker.cluster.store.get_node("n1") is not None, 20)
    words = ("it waits: queue quick is paused by ann@desk, ", "ago: the mail server moves")
    assert "no node" not in asker.wait_for(task_id, "paused", *words)
    asker.cluster.store.update_queue("quick", {}, ["paused"])
    asker.starts(task_id)


@pytest.mark.parametrize("limit", ["maxthreads", "maxtotal"])
def test_a_limit_of_0(asker: Asker, limit: str) -> None:
    asker.cluster.queue("quick", **{limit: 0})
    (task_id,) = asker.cluster.push("quick", {})
    asker.start()
    asker.wait_for(task_id, limit, f"{limit} is 0")
    asker.cluster.store.update_queue("quick", {limit: 1})
    asker.starts(task_id)


@on_sqlite
def test_no_node_has_the_plugin(asker: Asker) -> None:
    asker.cluster.queue("quikc")
    (task_id,) = asker.cluster.push("quikc", {})
    asker.start()
    asker.wait_for(task_id, "no_plugin", "no living node has plugin quikc, did you mean quick?")
    asker.cluster.plugin("quikc", "exit 0")
    asker.starts(task_id)


@on_sqlite
def test_a_broken_plugin_is_said_with_its_fault(asker: Asker) -> None:
    home = asker.cluster.plugin("weak", "exit 0", timeout="soon")
    asker.cluster.queue("weak")
    (task_id,) = asker.cluster.push("weak", {})
    asker.start()
    asker.wait_for(task_id, "broken", "plugin weak is broken on node n1: ", "timeout")
    (home / "plugin.json").write_text("{")  # it does not even tell its name now
    asker.wait_for(task_id, "broken", "plugin weak is broken on node n1: not valid JSON")
    asker.cluster.plugin("weak", "exit 0")
    asker.starts(task_id)


@on_sqlite
def test_a_plugin_that_was_set_aside_is_said_with_its_reason(asker: Asker) -> None:
    home = asker.cluster.plugin("weak", "exit 0")
    (home / "run.sh").write_bytes(UNKNOWN_FORMAT)
    asker.cluster.queue("weak")
    (task_id,) = asker.cluster.push("weak", {})
    asker.start()
    asker.wait_for(task_id, "set_aside", "plugin weak is set aside on node n1: ", "run.sh")
    asker.cluster.plugin("weak", "exit 0")
    asker.starts(task_id)


@on_sqlite
def test_pinned_to_a_node_that_is_not_there_and_ignored_by_the_one_that_is(asker: Asker) -> None:
    asker.cluster.queue("quick", "pinned", nodes_pin=["n2"])
    asker.cluster.queue("quick", "ignored", nodes_ignore=["n1"])
    (pinned,), (ignored,) = asker.cluster.push("pinned", {}), asker.cluster.push("ignored", {})
    asker.start()
    asker.wait_for(pinned, "pinned", "its queue is pinned to n2, which is not alive")
    asker.wait_for(ignored, "ignored", "its queue is ignored by n1; no other living node has plugin quick")
    asker.start(node_id="n2")
    asker.starts(pinned)
    asker.starts(ignored)


def test_a_drained_node_is_said_with_who_and_why(asker: Asker) -> None:
    asker.start()
    wait_until(lambda: asker.cluster.store.get_node("n1") is not None, 20)
    request = request_of("ann@desk", "new disks", now=SystemClock().now())
    asker.cluster.store.request_of_node("n1", "drain", request)
    asker.cluster.queue("quick")
    wait_until(lambda: asker.cluster.store.nodes()[0].state == "drained", 20)
    (task_id,) = asker.cluster.push("quick", {})
    asker.wait_for(task_id, "draining", "node n1 is drained (asked by ann@desk: new disks)")
    asker.cluster.store.request_of_node("n1", "drain", None)
    asker.starts(task_id)


@on_sqlite
def test_maxthreads_is_reached(asker: Asker) -> None:
    asker.start()
    with busy_task(asker, "gated", maxthreads=1):
        first, second = asker.cluster.push("gated", {}, {})
        asker.wait_for(first, "maxthreads", "n1 runs 1 of 1 (maxthreads of the queue)")
        asker.wait_for(second, "maxthreads", "; 1 task of its queue comes before it")
    asker.starts(second)


@on_sqlite
def test_the_max_of_the_node_is_reached(asker: Asker) -> None:
    asker.start("--max", "1")
    with busy_task(asker, "gated"):
        (task_id,) = asker.cluster.push("gated", {})
        asker.wait_for(task_id, "maxthreads", "n1 runs 1 of 1 (--max of the node)")
    asker.starts(task_id)


@on_sqlite
def test_the_max_total_of_the_node_is_reached_by_another_queue(asker: Asker) -> None:
    asker.start("--max-total", "1")
    with busy_task(asker, "gated"):
        asker.cluster.queue("quick")
        (task_id,) = asker.cluster.push("quick", {})
        asker.wait_for(task_id, "max_total", "n1 runs 1 of 1 tasks in all (--max-total of the node)")
    asker.starts(task_id)


@on_sqlite
def test_the_concurrency_of_the_plugin_is_reached_by_another_queue(asker: Asker) -> None:
    gate = asker.cluster.directory / "gate"
    program = 'read task; while [ ! -e "$GATE" ]; do sleep 0.1; done'
    asker.cluster.plugin("single", program, concurrency=1, env={"GATE": str(gate)})
    for name in ("a", "b"):
        asker.cluster.queue("single", name)
    asker.start()
    (first,) = asker.cluster.push("a", {})
    wait_until(lambda: asker.cluster.task(first).status == Status.RUNNING, 20)
    (task_id,) = asker.cluster.push("b", {})
    asker.wait_for(task_id, "concurrency", "n1 runs 1 of 1 of plugin single (its concurrency)")
    gate.touch()
    asker.starts(task_id)


def test_maxtotal_is_reached_on_another_node(asker: Asker) -> None:
    asker.start()
    with busy_task(asker, "gated", maxtotal=1):
        asker.start(node_id="n2")
        wait_until(lambda: len(asker.cluster.store.nodes()) == 2, 20)
        (task_id,) = asker.cluster.push("gated", {})
        asker.wait_for(task_id, "maxtotal", "the maxtotal of its queue is reached: 1 of 1 run (1 on n1)")
    asker.starts(task_id)


def test_the_rate_is_reached(asker: Asker) -> None:
    asker.cluster.queue("quick", rate="1/h")
    asker.start()
    (first,) = asker.cluster.push("quick", {})
    asker.starts(first)
    second, third = asker.cluster.push("quick", {}, {})
    asker.wait_for(second, "rate", "the rate of its queue is 1 in 1h, and it is the next one, within 1h")
    asker.wait_for(third, "rate", "; 1 task of its queue comes before it, so it starts in about 2h")
    asker.cluster.store.update_queue("quick", {}, ["rate"])
    asker.starts(third)


def test_not_due_yet(asker: Asker) -> None:
    asker.cluster.queue("quick")
    later = SystemClock().now() + timedelta(hours=1)
    (task_id,) = asker.cluster.push("quick", {}, status=int(Status.BLOCKED), not_before=later)
    asker.start()
    asker.wait_for(task_id, "not_due", "it is not due until ", ", in 59m", status=Status.BLOCKED)
    change = TaskChange(
        task_id=task_id, statuses=frozenset({int(Status.BLOCKED)}), set={"not_before": SystemClock().now()}
    )
    assert not asker.cluster.store.change_tasks([change])
    asker.starts(task_id)


def test_what_waits_for_another_task_says_which_and_that_it_has_failed(asker: Asker) -> None:
    gate = asker.cluster.directory / "works"
    asker.cluster.plugin("shaky", '[ -e "$GATE" ] || exit 3', env={"GATE": str(gate)})
    asker.cluster.queue("shaky", paused={"at": SystemClock().now(), "by": "ann"})
    asker.cluster.queue("quick")
    (first,) = asker.cluster.push("shaky", {})
    (task_id,) = asker.cluster.push("quick", {}, status=int(Status.BLOCKED), after=[first])
    asker.start()
    asker.wait_for(task_id, "after", f"it waits for task {first} (created) to conclude", status=Status.BLOCKED)
    asker.cluster.store.update_queue("shaky", {}, ["paused"])
    asker.cluster.wait_for_status(first, Status.FAILED)
    asker.wait_for(task_id, "after_failed", f"task {first} (failed), which did not end well", status=Status.BLOCKED)
    gate.touch()
    ended = asker.cluster.task(first)

    change = retry_change(ended, request_of("ann", None, now=SystemClock().now()), now=SystemClock().now())
    assert change is not None and not asker.cluster.store.change_tasks([change])
    asker.starts(task_id)


def test_a_task_that_another_has_in_its_document_is_held(asker: Asker) -> None:
    asker.cluster.queue("quick")
    (task_id,) = asker.cluster.push("quick", {}, node="n7")
    asker.start()
    asker.wait_for(task_id, "held", "names node n7")
    change = TaskChange(task_id=task_id, statuses=frozenset({int(Status.CREATED)}), set={"node": -1})
    assert not asker.cluster.store.change_tasks([change])
    asker.starts(task_id)


def test_an_expired_task_is_said_to_be_expired_and_then_cancelled(asker: Asker) -> None:
    asker.cluster.queue("quick")
    (task_id,) = asker.cluster.push("quick", {}, expires=SystemClock().now())
    asker.wait_for(task_id, "expired", "it expired")
    asker.start()
    asker.cluster.wait_for_status(task_id, Status.CANCELLED)
    assert "cancelled (it was not started before it expired)" in asker.ask(task_id)[1]


def test_a_claimed_task_of_a_node_that_stands_still(asker: Asker) -> None:
    asker.cluster.queue("quick")
    (task_id,) = asker.cluster.push("quick", {})

    (claimed,) = asker.cluster.store.claim("n9", [Want("quick", 1)], "token")
    assert claimed.id == task_id
    gone = ("it was claimed by node n9, which is not in the store", "it goes back to its queue")
    asker.wait_for(task_id, "lost_node", *gone, status=Status.CLAIMED)
    document = {"_id": "n9", "session": "s", "version": "disbatch-host 0.2.0", "heartbeat": {"pid": 7}}
    assert asker.cluster.store.put_node(document, replacing=None)
    code, sentence = asker.ask(task_id)
    assert code == "claimed" and sentence.startswith("node n9 claimed it ")


@on_sqlite
def test_the_sentence_for_people_is_one_sentence(asker: Asker, terminal: Terminal) -> None:
    asker.cluster.queue("quick")
    (task_id,) = asker.cluster.push("quick", {})
    shown = terminal.fine("task", "why", str(task_id), "--store", asker.cluster.url)
    assert shown.out == "It waits: no node is alive.\n"
    node = f"disbatch-host --plugins DIR --store {asker.cluster.url}"
    assert shown.err == f"`{node}` runs one, DIR being where its plugins are\n"
    assert "no task 'x'" in terminal.refused(4, "task", "why", "x", "--store", asker.cluster.url)
