"""Run again, release, delete and change: what a person does about tasks that nothing happens to any more."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from acceptance.conftest import Site
from disbatch_host.documents.changes import TaskFilter
from disbatch_protocol.status import Status
from helpers.processes import wait_until


@pytest.fixture
def marker(site: Site, tmp_path: Path) -> Path:
    """A file that is not there yet: tasks with do=exists fail without it."""
    return tmp_path / "marker"


def test_a_failed_task_is_run_again_and_keeps_its_history(site: Site, marker: Path) -> None:
    task_id = site.push(site.queue(), "-p", "do=exists", "-p", f"file={marker}")
    site.wait_for(task_id, Status.FAILED)
    marker.touch()
    assert site.fine("task", "retry", task_id, "--reason", "made it").out == f"{task_id} will be run again\n"
    task = site.wait_for(task_id, Status.CONCLUDED)
    (first,) = task.attempts
    assert (first["attempt"], first["status"], first["exit_code"], first["node"]) == (1, 2, 3, "n1")
    assert first["error"]["code"] == "exit_3"
    assert (task.run["attempt"], task.run["exit_code"]) == (2, 0)
    assert (task.document["retried"]["why"], task.document["retried"]["attempts"]) == ("made it", 1)
    assert "error" not in task.document


def test_all_that_failed_in_a_queue_are_run_again_and_nothing_else(site: Site, marker: Path) -> None:
    queue = site.queue()
    lines = f'{{"do": "exists", "file": "{marker}"}}\n' * 3 + "{}\n"
    *failed, fine = site.fine("task", "push", queue, "-", stdin=lines).out.split()
    elsewhere = site.push(site.queue(), "-p", "do=fail")
    for task_id in (*failed, elsewhere):
        site.wait_for(task_id, Status.FAILED)
    site.wait_for(fine, Status.CONCLUDED)
    cancelled = site.push(queue, "--delay", "1h")
    site.fine("task", "cancel", cancelled)
    assert (
        site.fine("task", "retry", "--failed", "--queue", queue, "--error", "nosuch").out
        == "0 tasks will be run again\n"
    )
    marker.touch()
    assert site.fine("task", "retry", "--failed", "--queue", queue).out == "3 tasks will be run again\n"
    for task_id in failed:
        assert site.wait_for(task_id, Status.CONCLUDED).run["attempt"] == 2
    assert site.task(fine).run["attempt"] == 1 and site.task(elsewhere).status == Status.FAILED
    assert site.task(cancelled).status == Status.CANCELLED


def test_tasks_that_fail_again_at_once_are_run_again_only_once(site: Site) -> None:
    queue = site.queue()
    ids = site.fine("task", "push", queue, "-", stdin='{"do": "fail"}\n' * 5).out.split()
    for task_id in ids:
        site.wait_for(task_id, Status.FAILED)
    assert site.fine("task", "retry", "--failed", "--queue", queue).out == "5 tasks will be run again\n"
    for task_id in ids:
        assert site.wait_for(task_id, Status.FAILED).run["attempt"] == 2


def test_retry_is_the_way_out_of_orphaned(site: Site) -> None:
    from acceptance.test_cancel import make_orphaned

    queue = site.queue("--pin", "n9")
    task_id = site.push(queue)
    make_orphaned(site, task_id)
    assert site.fine("task", "retry", "--status", "orphaned", "--queue", queue).out == "1 task will be run again\n"
    task = site.task(task_id)
    assert task.status == Status.CREATED and task.attempts[-1]["status"] == Status.ORPHANED
    site.fine("queue", "set", queue, "nodes_pin=")
    assert site.wait_for(task_id, Status.CONCLUDED).run["attempt"] == 2


def test_what_has_not_ended_is_not_run_again(site: Site) -> None:
    queue = site.queue(class_name="nowhere")
    task_id = site.push(queue)
    result = site("task", "retry", task_id)
    assert (result.code, result.out) == (1, f"{task_id} is not run again: it has not ended, it is created\n")
    assert "have ended" in site.refused(2, "task", "retry", "--queue", queue, "--status", "waiting")
    assert "expected --failed or --status" in site.refused(2, "task", "retry", "--queue", queue)
    assert "found both" in site.refused(2, "task", "retry", "--queue", queue, "--failed", "--status", "orphaned")
    assert "found both" in site.refused(2, "task", "retry", task_id, "--failed")
    assert "expected task ids" in site.refused(2, "task", "retry", "--failed")


def test_what_others_have_the_unique_key_of_is_not_run_again(site: Site) -> None:
    queue = site.queue(class_name="nowhere")
    first = site.push(queue, "--unique-key", "k")
    site.fine("task", "cancel", first)
    second = site.push(queue, "--unique-key", "k")
    assert second != first
    result = site("task", "retry", first)
    why = f"is not run again: task {second}, which is created, has the same unique key"
    assert (result.code, result.out) == (1, f"{first} {why}\n")
    (document,) = site("task", "retry", "--status", "cancelled", "--queue", queue, "--json").json
    assert (document["_id"], document["outcome"], document["other"]) == (first, "unique_key", second)
    site.fine("task", "cancel", second)
    assert site("task", "retry", first).code == 0


def test_a_blocked_task_is_released(site: Site) -> None:
    queue = site.queue()
    before = site.push(queue, "-p", "do=fail")
    delayed, follower = site.push(queue, "--delay", "1h"), site.push(queue, "--after", before)
    site.wait_for(before, Status.FAILED)
    assert site.fine("task", "release", delayed, follower).out == f"{delayed} is released\n{follower} is released\n"
    for task_id in (delayed, follower):
        site.wait_for(task_id, Status.CONCLUDED)
    result = site("task", "release", delayed)
    assert (result.code, result.out) == (1, f"{delayed} is not blocked, it is concluded\n")


def test_blocked_tasks_of_a_filter_are_released_and_no_others(site: Site) -> None:
    queue, other = site.queue(), site.queue()
    lines = '{"user": "ann"}\n{"user": "bob"}\n{"user": "bob"}\n'
    ann, *bobs = site.fine("task", "push", queue, "-", "--delay", "1h", stdin=lines).out.split()
    elsewhere = site.push(other, "-p", "user=bob", "--delay", "1h")
    assert "without --yes" in site.refused(2, "task", "release", "--queue", queue)
    assert "expected blocked, found failed" in site.refused(2, "task", "release", "--queue", queue, "--failed")
    of_bob = ("task", "release", "--queue", queue, "--where", "user=bob")
    assert site.fine(*of_bob, "--yes").out == "2 tasks released\n"
    for task_id in bobs:
        site.wait_for(task_id, Status.CONCLUDED)
    assert [site.task(one).status for one in (ann, elsewhere)] == [Status.BLOCKED] * 2
    (document,) = site.fine("task", "release", "--queue", queue, "--status", "blocked", "--json").json
    assert (document["_id"], document["outcome"]) == (ann, "released")
    assert site.fine(*of_bob, "--yes").out == "0 tasks released\n"


def test_the_next_page_and_the_retry_of_a_cause_are_of_the_store_that_was_named(site: Site) -> None:
    queue, store = site.queue(), site.environment["DISBATCH_STORE"]
    failed = site.fine("task", "push", queue, "-", stdin='{"do": "fail"}\n' * 2).out.split()
    for task_id in failed:
        site.wait_for(task_id, Status.FAILED)
    elsewhere = replace(site, environment={**site.environment, "DISBATCH_STORE": "sqlite:///nowhere/x.db"})
    listed = elsewhere.fine("task", "list", "--queue", queue, "--limit", "1", "--store", store)
    (command,) = re.findall(r"or: disbatch-host (.*)", listed.err)
    assert failed[0] in elsewhere.fine(*shlex.split(command)).out and failed[1] in listed.out
    (cause,) = elsewhere.fine("task", "failures", "--queue", queue, "--json", "--store", store).json
    retried = elsewhere.fine(*shlex.split(cause["retry"])[1:])
    assert retried.out == "2 tasks will be run again\n"
    assert "--store" not in site.fine("task", "list", "--queue", queue, "--limit", "1").err


@pytest.mark.parametrize("command", ["cancel", "delete", "release", "retry"])
def test_a_filter_without_a_queue_is_refused_with_the_command_that_shows_what_fits(site: Site, command: str) -> None:
    queue = site.queue()
    site.push(queue, "-p", "user=it's me", "--delay", "1h")
    line = site.refused(2, "task", command, "--where", "user=it's me", "--yes")
    assert "expected task ids, or --queue Q, --batch B or --failure KEY beside --where" in line
    (shows,) = re.findall(r"`disbatch-host (.*?)`", line)
    assert queue in site.fine(*shlex.split(shows)).out
    assert "expected task ids, or --queue Q" in site.refused(2, "task", command)


def test_a_filter_that_a_command_does_not_take_is_taken_by_another(site: Site) -> None:
    line = site.refused(2, "task", "set", "--where", "user=ann", "priority=1")
    assert "'disbatch-host task set' does not take --where; `disbatch-host task list --where PATH=VALUE` shows" in line
    line = site.refused(2, "batch", "cancel", "march", "--where", "user=ann")
    assert "`disbatch-host task cancel --batch ID --where PATH=VALUE` does" in line
    line = site.refused(2, "batch", "list", "--status", "done")
    assert "did you mean '--state'?" in line
    line = site.refused(2, "task", "delete", "--queue", "a queue", "--status", "running")
    assert "cancel unfinished tasks first: `disbatch-host task cancel --queue 'a queue' --status unfinished`" in line
    line = site.refused(2, "task", "retry", "--queue", site.queue(), "--failed", "-p", "a=b")
    assert "expected task ids with -p, found --queue; `disbatch-host task list --queue " in line


def test_ended_tasks_are_deleted_with_their_output_and_no_others(site: Site) -> None:
    queue = site.queue()
    ids = site.fine("task", "push", queue, "-", stdin="{}\n" * 3).out.split()
    failed = site.push(queue, "-p", "do=fail")
    waiting = site.push(queue, "--delay", "1h")
    for task_id in (*ids, failed):
        site.wait_for(task_id, Status.CONCLUDED, Status.FAILED)
    result = site("task", "delete", ids[0], waiting)
    assert result.code == 1
    assert result.out.splitlines() == [
        f"{ids[0]} deleted",
        f"{waiting} is not deleted: it has not ended, it is blocked; cancel it first",
    ]
    concluded = ("task", "delete", "--queue", queue, "--status", "concluded")
    assert "without --yes" in site.refused(2, *concluded)
    assert site.fine(*concluded, "--yes", "--older", "1h").out == "0 tasks deleted\n"
    assert site.fine(*concluded, "--yes").out == "2 tasks deleted\n"
    assert {str(one.id) for one in site.store.find_tasks(TaskFilter(queue=queue))} == {failed, waiting}
    (document,) = site.fine("task", "delete", "--queue", queue, "--status", "finished", "--yes", "--json").json
    assert (document["_id"], document["outcome"]) == (failed, "deleted")
    assert "cancel unfinished tasks first" in site.refused(2, "task", "delete", "--queue", queue, "--status", "waiting")
    assert "expected --status" in site.refused(2, "task", "delete", "--queue", queue)
    assert "no task" in site.refused(4, "task", "delete", failed)


def test_what_another_task_waits_for_is_not_deleted(site: Site) -> None:
    queue = site.queue()
    before = site.push(queue, "-p", "do=fail")
    follower = site.push(queue, "--after", before)
    site.wait_for(before, Status.FAILED)
    result = site("task", "delete", before)
    assert result.code == 1 and "another task waits for it" in result.out
    result = site.fine("task", "delete", "--queue", queue, "--status", "failed", "--yes")
    assert (result.out, result.err) == ("0 tasks deleted\n", "1 task kept, because another task waits for it\n")
    site.fine("task", "release", follower)
    site.wait_for(follower, Status.CONCLUDED)
    wait_until(lambda: site.task(before).document["awaited"] is False, 20, "nobody says that all know how it ended")
    assert site.fine("task", "delete", before).out == f"{before} deleted\n"


def test_priority_and_expiry_of_a_waiting_task_are_changed(site: Site) -> None:
    task_id = site.push(site.queue(class_name="nowhere"), "--priority", "1")
    site.fine("task", "set", task_id, "priority=7", "expires=2h")
    document = site.task(task_id).document
    assert document["priority"] == 7
    assert abs((document["expires"] - site.store.now()).total_seconds() - 7200) < 60
    site.fine("task", "set", task_id, "expires=", "priority=-3")
    document = site.task(task_id).document
    assert document["priority"] == -3 and "expires" not in document
    assert "did you mean 'priority'" in site.refused(2, "task", "set", task_id, "priorty=1")
    assert "whole number" in site.refused(2, "task", "set", task_id, "priority=high")
    assert "expected KEY=VALUE" in site.refused(2, "task", "set", task_id, "priority")
    site.fine("task", "cancel", task_id)
    result = site("task", "set", task_id, "priority=1")
    assert result.code == 1 and "is no longer waiting, it is cancelled" in result.out
