"""Later, after, in order, within limits, only once: what `task push` and the fields of a queue say of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acceptance.conftest import Site
from disbatch_host.documents.changes import TaskFilter
from disbatch_protocol.status import Status
from helpers.processes import wait_until


def test_a_delayed_task_is_blocked_until_it_is_due(site: Site) -> None:
    task_id = site.push(site.queue(), "--delay", "1.5s")
    task = site.task(task_id)
    assert task.status == Status.BLOCKED
    due = task.document["not_before"]
    run = site.wait_for(task_id, Status.CONCLUDED).run
    assert 0 <= (run["started"] - due).total_seconds() < 5
    assert "not_before" not in site.task(task_id).document


def test_a_task_starts_at_a_time(site: Site) -> None:
    queue = site.queue()
    # Not over before both are there: each command may be a process of its own.
    soon = (datetime.now(UTC) + timedelta(seconds=15 if site.is_process else 6)).replace(microsecond=0)
    later = site.push(queue, "--at", soon.isoformat())
    past = site.push(queue, "--at", "2020-02-29 14:00")
    assert site.task(later).document["not_before"] == soon
    run = site.wait_for(past, Status.CONCLUDED).run
    assert run["started"] < soon
    assert 0 <= (site.wait_for(later, Status.CONCLUDED, within_seconds=30).run["started"] - soon).total_seconds() < 5


def test_a_chain_runs_in_its_order(site: Site, tmp_path: Path) -> None:
    queue, gate = site.queue(), tmp_path / "gate"
    first = site.push(queue, "-p", "do=until", "-p", f"file={gate}")
    second = site.push(queue, "--after", first)
    third = site.push(queue, "--after", first, "--after", second, "--after", second)
    assert list(map(str, site.task(third).document["after"])) == [first, second]
    gate.touch()
    runs = [site.wait_for(task_id, Status.CONCLUDED).run for task_id in (first, second, third)]
    assert runs[0]["ended"] <= runs[1]["started"] and runs[1]["ended"] <= runs[2]["started"]
    late = site.push(queue, "--after", third)  # that has ended already
    site.wait_for(late, Status.CONCLUDED)


def test_a_failed_predecessor_leaves_its_follower_blocked_until_it_is_run_again(site: Site, tmp_path: Path) -> None:
    queue = site.queue()
    before = site.push(queue, "-p", "do=exists", "-p", f"file={tmp_path}/marker")
    follower = site.push(queue, "--after", before)
    anyhow = site.push(queue, "--after", before, "--after-any")
    assert site.wait_for(anyhow, Status.CONCLUDED).run["started"] >= site.task(before).run["ended"]
    task = site.task(follower)
    assert (task.status, task.document["error"]["code"]) == (Status.BLOCKED, "after_failed")
    (document,) = site.fine("task", "show", follower, "--json").json
    assert document["after"] == [before]
    assert task.document["error"]["task"] == before and f"task retry {before}" in task.document["error"]["message"]
    (tmp_path / "marker").touch()
    site.fine("task", "retry", before)
    assert "error" not in site.wait_for(follower, Status.CONCLUDED).document


def test_a_task_that_expires_before_it_is_started_is_cancelled(site: Site) -> None:
    queue = site.queue("--maxthreads", "0")
    task_id = site.push(queue, "--expires", "1s")
    task = site.wait_for(task_id, Status.CANCELLED)
    assert task.document["error"]["code"] == "expired" and not task.run
    assert site("task", "wait", task_id).code == 1


def test_what_cannot_be_planned_is_refused_and_nothing_is_created(site: Site) -> None:
    queue = site.queue(class_name="nowhere")
    refused = [
        (2, "found both", ["--delay", "1s", "--at", "14:00"]),
        (2, "--after-any needs --after", ["--after-any"]),
        (4, "no task", ["--after", "0" * 24]),
        (4, "no task", ["--after", "itself"]),
        (2, "--delay: expected a duration", ["--delay", "soon"]),
        (2, "--at: expected a time", ["--at", "25:00"]),
        (2, "--expires: expected a duration", ["--expires", "x"]),
        (2, "which has passed", ["--expires", "2020-01-01"]),
        (2, "when the task is due", ["--delay", "2h", "--expires", "1h"]),
        (2, "--priority", ["--priority", "high"]),
        (2, "a unique key", ["--unique-key", ""]),
    ]
    for code, words, options in refused:
        assert words in site.refused(code, "task", "push", queue, *options)
    assert site.store.count_tasks(TaskFilter(queue=queue)) == 0


def test_the_options_hold_for_every_line(site: Site) -> None:
    queue = site.queue(class_name="nowhere")
    site.fine("task", "push", queue, "-", "--delay", "1h", "--priority", "4", "--expires", "2d", stdin="{}\n{}\n")
    found = [one.document for one in site.store.find_tasks(TaskFilter(queue=queue))]
    assert [(one["status"], one["priority"]) for one in found] == [(Status.BLOCKED, 4)] * 2
    assert all("not_before" in one and "expires" in one for one in found)


@pytest.mark.parametrize("sort", ["fifo", "lifo"])
def test_the_higher_priority_goes_first_and_then_the_sort_of_the_queue(site: Site, sort: str) -> None:
    queue = site.queue("--maxthreads", "1", "--sort", sort, "--pin", "n9")
    low = site.push(queue, "--priority", "-1")
    plain = site.fine("task", "push", queue, "-", stdin="{}\n" * 3).out.split()
    high = site.push(queue, "--priority", "5")
    site.fine("queue", "set", queue, "nodes_pin=")
    expected = [high, *(plain if sort == "fifo" else reversed(plain)), low]
    runs = {one: site.wait_for(one, Status.CONCLUDED).run["started"] for one in expected}
    assert sorted(runs, key=runs.__getitem__) == expected


def test_maxtotal_holds_over_two_nodes(site: Site, tmp_path: Path) -> None:
    """Each of both may run two, both together three."""
    file = tmp_path / "count"
    queue = site.queue("--maxthreads", "2", "--maxtotal", "3", "--pin", "n9")
    lines = f'{{"do": "count", "file": "{file}"}}\n' * 12
    ids = site.fine("task", "push", queue, "-", stdin=lines).out.split()
    with site.node(node_id="n2"):
        wait_until(lambda: site.store.get_node("n2"), 20, "node n2 never came")
        site.fine("queue", "set", queue, "nodes_pin=")
        nodes = {site.wait_for(one, Status.CONCLUDED, within_seconds=60).run["node"] for one in ids}
    running, most = 0, 0
    for sign in file.read_text().split():
        running += 1 if sign == "+" else -1
        most = max(most, running)
    assert most <= 3 and nodes == {"n1", "n2"}


def test_a_rate_holds_in_any_period(site: Site) -> None:
    queue = site.queue("--rate", "4/s")
    ids = site.fine("task", "push", queue, "-", stdin="{}\n" * 9).out.split()
    times = sorted(site.wait_for(one, Status.CONCLUDED).document["claim"]["at"] for one in ids)
    assert all((later - sooner).total_seconds() > 0.95 for sooner, later in zip(times, times[4:], strict=False))


def test_a_paused_queue_starts_nothing_until_it_is_resumed(site: Site) -> None:
    queue, other = site.queue(), site.queue()
    running = site.push(queue, "-p", "do=sleep")
    site.begun(running)
    site.fine("queue", "pause", queue, "--reason", "the server is down")
    (document,) = site.fine("queue", "list", "--paused", "--class", "job", "--json").json
    assert (document["_id"], document["paused"]["why"]) == (queue, "the server is down")
    assert re.search(r"state +paused by .+@.+: the server is down, since", site.fine("queue", "show", queue).out)
    site.wait_for(site.push(site.queue()), Status.CONCLUDED)  # who knows this new queue has read the other one as well
    waiting, elsewhere = site.push(queue), site.push(other)
    site.wait_for(elsewhere, Status.CONCLUDED)
    assert site.task(waiting).status == Status.CREATED
    assert site.task(running).status == Status.RUNNING
    site.fine("queue", "resume", queue)
    site.wait_for(waiting, Status.CONCLUDED)
    assert "is not paused" in site.fine("queue", "resume", queue).err
    site.fine("task", "cancel", running, "--wait")


def test_limits_of_a_queue_are_shown_and_checked(site: Site) -> None:
    queue = site.queue("--maxtotal", "4", "--rate", "100/m", "--sort", "lifo", "--keep", "30d")
    shown = site.fine("queue", "show", queue).out
    assert all(re.search(line, shown) for line in ("maxtotal +4", "rate +100/m", "sort +lifo", "keep +30d"))
    assert "4 at once in all; at most 100/m; lifo; kept 30d" in site.fine("queue", "list").out
    site.fine("queue", "set", queue, "maxtotal=2", "rate=", "sort=fifo", "keep=1h")
    (document,) = site.fine("queue", "show", queue, "--json").json
    assert (document["maxtotal"], document["sort"], document["keep"]) == (2, "fifo", "1h") and "rate" not in document
    for change in ("rate=fast", "sort=random", "keep=ever", "maxtotal=-1"):
        name = change.partition("=")[0]
        assert name in site.refused(2, "queue", "set", queue, change)
    assert "expected a rate" in site.refused(2, "queue", "create", "x", "--class", "A", "--rate", "fast")
    assert "no queue" in site.refused(4, "queue", "pause", "nosuch")


def test_a_unique_key_is_held_by_one_unfinished_task(site: Site, tmp_path: Path) -> None:
    queue = site.queue()
    held = site.push(queue, "--unique-key", "k", "-p", "do=until", "-p", f"file={tmp_path}/go")
    site.begun(held)
    result = site.fine("task", "push", queue, "--unique-key", "k")
    assert result.out == f"{held}\n"
    line = f"nothing was created: task {held} of queue {queue} (status running) has the unique key 'k' already\n"
    assert result.err == line
    (document,) = site.fine("task", "push", queue, "--unique-key", "k", "--json").json
    assert (document["_id"], document["created"], document["status_name"]) == (held, False, "running")
    assert site.push(site.queue(class_name="nowhere"), "--unique-key", "k") != held
    (tmp_path / "go").touch()
    site.wait_for(held, Status.CONCLUDED)
    (document,) = site.fine("task", "push", queue, "--unique-key", "k", "--json").json
    assert document["_id"] != held and document["created"] is True
    listed = site.fine("task", "list", "--queue", queue, "--unique-key", "k", "--json").json
    assert {one["_id"] for one in listed} == {held, document["_id"]}


def test_tasks_are_listed_by_filters(site: Site) -> None:
    queue = site.queue()
    fine, failed, delayed = site.push(queue), site.push(queue, "-p", "do=fail"), site.push(queue, "--delay", "1h")
    for task_id in (fine, failed):
        site.wait_for(task_id, Status.CONCLUDED, Status.FAILED)

    def listed(*options: str) -> list[str]:
        return [one["_id"] for one in site.fine("task", "list", "--queue", queue, "--json", *options).json]

    assert listed() == [delayed, failed, fine]
    assert listed("--status", "failed", "--status", "blocked") == [delayed, failed]
    assert listed("--error", "exit_3") == [failed]
    assert listed("--node", "n1") == [failed, fine] and listed("--node", "n9") == []
    assert listed("--since", "1h") == [delayed, failed, fine] and listed("--before", "1h") == []
    assert listed("--before", "2020-01-01") == [] and listed("--since", "2020-01-01 14:00", "--limit", "1") == [delayed]
    assert "--since: expected a duration" in site.refused(2, "task", "list", "--since", "yesterday")
