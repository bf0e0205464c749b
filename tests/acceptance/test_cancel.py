"""Cancel: waiting tasks at once, running ones on whichever node they run, with who, when and why."""

from __future__ import annotations

import getpass
import re
import socket

from acceptance.conftest import Site
from disbatch_host.documents.changes import TaskFilter
from disbatch_protocol.status import Status
from helpers.processes import assert_group_is_gone
from helpers.steps import walk

ME = f"{getpass.getuser()}@{socket.gethostname()}"


def test_a_waiting_task_becomes_cancelled_at_once(site: Site) -> None:
    queue = site.queue(class_name="nowhere")
    waiting, delayed = site.push(queue), site.push(queue, "--delay", "1h")
    result = site.fine("task", "cancel", waiting, delayed, "--reason", "wrong letter")
    assert result.out == f"{waiting} cancelled\n{delayed} cancelled\n"
    for task_id in (waiting, delayed):
        task = site.task(task_id)
        assert (task.status, task.node) == (Status.CANCELLED, None)
        cancelled = task.run["cancelled"]
        assert (cancelled["by"], cancelled["why"]) == (ME, "wrong letter")
        assert abs((site.store.now() - cancelled["at"]).total_seconds()) < 60
        assert task.document["error"]["code"] == "cancelled"
    assert site("task", "wait", waiting).code == 1


def test_a_running_task_is_stopped_and_nothing_of_it_is_left(site: Site) -> None:
    task_id = site.push(site.queue(), "-p", "do=sleep")
    group = site.begun(task_id)
    result = site.fine("task", "cancel", task_id, "--reason", "too long", "--json")
    assert result.json == [{"_id": task_id, "queue": site.task(task_id).queue, "outcome": "asked", "node": "n1"}]
    task = site.wait_for(task_id, Status.CANCELLED)
    assert_group_is_gone(group)
    assert (task.run["cancelled"]["by"], task.run["cancelled"]["why"]) == (ME, "too long")
    assert (task.run["reason"], task.run["signal"]) == ("cancelled", "TERM")
    assert "cancel" not in task.document and "too long" in task.document["error"]["message"]
    assert "cancelled: it was cancelled by" in site("task", "wait", task_id).err


def test_a_running_task_is_stopped_within_two_seconds(site: Site) -> None:
    """On an idle cluster. What else the machine does now may make one of them late, not each."""
    queue = site.queue()
    took = []
    for _ in range(3):
        task_id = site.push(queue, "-p", "do=sleep")
        site.begun(task_id)
        site.fine("task", "cancel", task_id, "--wait")
        run = site.task(task_id).run
        took.append((run["ended"] - run["cancelled"]["at"]).total_seconds())
        if took[-1] < 2:
            break
    assert min(took) < 2, took


def test_a_running_task_that_is_deaf_is_killed_and_wait_returns_then(site: Site) -> None:
    task_id = site.push(site.queue(), "-p", "do=deaf")
    group = site.begun(task_id)
    site.fine("task", "cancel", task_id, "--wait")
    task = site.task(task_id)
    assert (task.status, task.run["signal"], task.run["killed"]) == (Status.CANCELLED, "KILL", True)
    assert_group_is_gone(group)


def test_a_queue_is_cancelled_by_status(site: Site) -> None:
    queue = site.queue("--maxthreads", "2")
    other = site.push(site.queue(class_name="nowhere"))
    both = [site.push(queue, "-p", "do=sleep") for _ in range(2)]
    for running in both:
        site.wait_for(running, Status.RUNNING)
    site.fine("task", "push", queue, "-", "--json", stdin='{"do": "sleep"}\n' * 1500)
    assert site.fine("task", "cancel", "--queue", queue, "--status", "waiting").out == "1500 tasks cancelled\n"
    assert [site.task(one).status for one in both] == [Status.RUNNING] * 2
    done = site.fine("task", "cancel", "--queue", queue, "--status", "running", "--wait")
    assert done.out == "0 tasks cancelled\n2 running tasks being stopped: 2 by node n1\n"
    assert re.fullmatch(r"2 ended in \S+ \w+: 0 concluded, 2 cancelled\n", done.err)
    cancelled = frozenset({int(Status.CANCELLED)})
    assert site.store.count_tasks(TaskFilter(queue=queue, statuses=cancelled)) == 1502
    assert site.task(other).status == Status.CREATED


def test_a_whole_queue_wants_a_yes_from_a_script(site: Site) -> None:
    queue = site.queue(class_name="nowhere")
    first, second = site.push(queue), site.push(queue)
    line = site.refused(2, "task", "cancel", "--queue", queue)
    assert "refusing to cancel 2 tasks" in line and "without --yes" in line
    documents = site.fine("task", "cancel", "--queue", queue, "--yes", "--json").json
    assert {(one["_id"], one["outcome"]) for one in documents} == {(first, "cancelled"), (second, "cancelled")}
    assert site.fine("task", "cancel", "--queue", queue).out == "0 tasks cancelled\n"


def test_what_had_ended_already_is_said_with_exit_code_1(site: Site) -> None:
    queue = site.queue("--maxthreads", "1")
    ended = site.push(queue)
    site.wait_for(ended, Status.CONCLUDED)
    waiting = site.push(queue, "--delay", "1h")
    result = site("task", "cancel", ended, waiting)
    assert (result.code, result.out) == (1, f"{waiting} cancelled\n{ended} had already ended: concluded\n")
    (document,) = site("task", "cancel", ended, "--json").json
    assert (document["outcome"], document["status_name"]) == ("ended", "concluded")


def test_an_orphaned_task_can_be_cancelled(site: Site) -> None:
    task_id = site.push(site.queue(class_name="nowhere"))
    make_orphaned(site, task_id)
    assert site.fine("task", "cancel", task_id).out == f"{task_id} cancelled\n"
    assert site.task(task_id).status == Status.CANCELLED


def make_orphaned(site: Site, task_id: str) -> None:
    """As a lost node leaves a task."""
    run = {"attempt": 1, "token": "t", "node": "n9", "reason": "lost"}
    walk(site.store, site.task(task_id).id, Status.ORPHANED, run=run)


def test_wrong_use_changes_nothing(site: Site) -> None:
    queue = site.queue(class_name="nowhere")
    task_id = site.push(queue)
    unknown = "0" * 24
    assert "no task" in site.refused(4, "task", "cancel", task_id, unknown)
    assert "found both" in site.refused(2, "task", "cancel", task_id, "--queue", queue)
    assert "expected task ids, or --queue" in site.refused(2, "task", "cancel")
    assert "expected task ids, or --queue" in site.refused(2, "task", "cancel", "--status", "waiting")
    assert "can be cancelled, found" in site.refused(2, "task", "cancel", "--queue", queue, "--status", "failed")
    assert "no queue" in site.refused(4, "task", "cancel", "--queue", "nosuch", "--yes")
    assert "control characters" in site.refused(2, "task", "cancel", task_id, "--reason", "a\nb")
    assert site.task(task_id).status == Status.CREATED
