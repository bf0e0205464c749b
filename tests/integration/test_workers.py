"""Worker mode with real processes: one process for many tasks, and everything that can go wrong with it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.read_concern import ReadConcern

from disbatch_host.documents.changes import TaskFilter
from disbatch_host.plugin.classes import START_FAILURES_MAX
from disbatch_protocol.status import Status
from helpers.nodes import QUICK_TO_SEE, Cluster, Living
from helpers.processes import state_of, stop, wait_until
from helpers.stores import living_on_sqlite, on_sqlite

# From the contract alone. What it does with a task is its parameter `do`.
WORKER = r"""#!/usr/bin/env python3
import json, os, select, signal, subprocess, sys, time
events = os.fdopen(3, "wb", buffering=0)
def say(**event):
    events.write(json.dumps(event).encode() + b"\n")
hello = json.loads(sys.stdin.buffer.readline())
assert hello["type"] == "hello" and hello["protocol"] == 1, hello
say(type="ready", protocol=1)
def byte_by_byte():
    text = b""
    while byte := os.read(0, 1):
        text += byte
        if byte == b"}":
            try:
                yield json.loads(text)["task"]
                text = b""
            except ValueError:
                pass  # not the last brace
count = 0
for line in sys.stdin.buffer:
    message = json.loads(line)
    task, count = message["task"], count + 1
    do, n = task["parameters"].get("do", "work"), task["parameters"].get("n")
    print(f"task {n} in process {os.getpid()} as number {count}")
    print(f"attempt {message['attempt']} worker {hello['worker']}", file=sys.stderr)
    exit_code = 0
    if do == "fail":
        exit_code = 3
    elif do == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif do == "leave":
        sys.exit(task["parameters"].get("code", 0))
    elif do == "sleep":
        say(type="progress", value=0.5)
        time.sleep(60)
    elif do == "take":
        time.sleep(task["parameters"]["seconds"])
    elif do == "twice":
        say(type="done", exit=0)
    elif do == "no exit code":
        say(type="done")
        time.sleep(60)
    elif do == "no exit code, then exit 5":
        say(type="done")
        sys.exit(5)
    elif do == "leave the line feed":
        say(type="done", exit=0)
        for task in byte_by_byte():
            print("task", task["parameters"]["n"], "byte by byte", flush=True)
            say(type="done", exit=0)
        sys.exit(0)
    elif do == "done again when the next task comes":
        sys.stdout.flush()
        say(type="done", exit=0)
        select.select([0], [], [])
        say(type="done", exit=0)
        time.sleep(60)
    elif do == "done again, and leave, when the next task comes":
        sys.stdout.flush()
        say(type="done", exit=0)
        select.select([0], [], [])
        say(type="done", exit=0)
        os._exit(0)
    elif do == "close":
        print("closing", flush=True)
        events.close()
        time.sleep(60)
    elif do == "close after done":
        say(type="done", exit=0, task=task["_id"])
        events.close()
        time.sleep(60)
    elif do == "events":
        say(type="result", value={"n": n, "deadline": message.get("deadline")})
        say(type="log", message="hello")
    elif do == "error":
        say(type="error", message="no luck")
    elif do == "much":
        sys.stdout.write("x" * 3 * 2**20)
    sys.stdout.flush()
    if do == "done for another":
        say(type="done", exit=0, task="x")
        time.sleep(60)
    say(type="done", exit=exit_code, task=task["_id"])
    if do == "late event":
        say(type="progress", value=0.1)
"""


def worker_plugin(cluster: Cluster, program: str = WORKER, **manifest: Any) -> Any:
    name = cluster.own_name("W")
    cluster.plugin(name, program, file="w.py", mode="worker", **manifest)
    return cluster.queue(name)


def test_short_tasks_never_fill_more_places_than_there_are(cluster: Cluster) -> None:
    """Ends and the claims that they make room for are written together, also those that come while a claim is on its
    way: a reader never sees more in the node's hands, and no process is started for what another one could take."""
    quick = "#!/bin/sh\necho ran\n"
    cluster.plugin("O", quick)
    queues = [worker_plugin(cluster), cluster.queue("O")]
    for queue in queues:
        cluster.store.update_queue(queue, {"maxthreads": 3})
        cluster.push(queue, *({"n": number} for number in range(150)))
    node = cluster.start("--until-idle")
    seen = Counter[str]()
    with tasks_in_hand_of(cluster) as count:
        while node.poll() is None:
            for queue in queues:
                seen[str(queue)] = max(seen[str(queue)], count(queue))
    assert node.returncode == 0
    assert seen == {str(queue): 3 for queue in queues}
    tasks = cluster.tasks()
    assert len(tasks) == 300 and {task.status for task in tasks} == {Status.CONCLUDED}
    assert {task.run["worker"] for task in tasks if task.queue == queues[0]} <= {1, 2, 3}


@contextlib.contextmanager
def tasks_in_hand_of(cluster: Cluster) -> Iterator[Callable[[Any], int]]:
    """How many tasks of a queue are Claimed or Running at one moment. A plain count on MongoDB is of no moment: the
    server may let writes pass in the middle of it, and then counts a task that has ended and the one that came in its
    place."""
    statuses = [int(Status.CLAIMED), int(Status.RUNNING)]
    if cluster.url.startswith("sqlite://"):
        yield lambda queue: cluster.store.count_tasks(TaskFilter(queue=queue, statuses=frozenset(statuses)))
        return
    with pymongo.MongoClient[dict[str, Any]](cluster.url) as client:
        tasks = client.get_default_database().get_collection("tasks", read_concern=ReadConcern("snapshot"))
        yield lambda queue: len(list(tasks.find({"queue": queue, "status": {"$in": statuses}}, {"_id": 1})))


def run_all(cluster: Cluster, queue: Any, *parameters: Any) -> list[Any]:
    ids = cluster.push(queue, *parameters)
    cluster.finish(*ids)
    return [cluster.task(task_id) for task_id in ids]


def pids(tasks: list[Any]) -> Counter[int]:
    return Counter(task.run["pid"] for task in tasks)


def set_aside(cluster: Cluster) -> list[Any]:
    return [one for node in cluster.store.nodes() for one in node.document["set_aside"]]


def assert_no_process_is_left(cluster: Cluster) -> None:
    marker = f"DISBATCH_PLUGIN_DIR={cluster.plugins}".encode()

    def left() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if marker in (entry / "environ").read_bytes():
                        found.append(entry.name)
                except OSError:
                    continue
        return found

    wait_until(lambda: not left(), 10, "a worker process is left")


def test_one_process_takes_many_tasks_each_with_its_own_output(cluster: Cluster) -> None:
    queue = worker_plugin(cluster, version="2.0")
    tasks = run_all(cluster, queue, *({"n": n} for n in range(50)))
    assert {task.status for task in tasks} == {Status.CONCLUDED}
    assert 1 <= len(pids(tasks)) <= 10
    for n, task in enumerate(tasks):
        assert task.document["stdout"].startswith(f"task {n} in process {task.run['pid']} as number ")
        assert task.document["stdout"].count("\n") == 1
        assert task.document["stderr"] == f"attempt 1 worker {task.run['worker']}\n"
        assert (task.run["reason"], task.run["exit_code"], task.run["outcome"]) == ("done", 0, "success")
        assert task.run["cpu_seconds"] >= 0 and task.run["peak_memory_bytes"] > 0
        assert task.run["plugin"]["version"] == "2.0"
    assert_no_process_is_left(cluster)


def test_exit_codes_events_and_large_output_are_those_of_a_oneshot_run(living: Living) -> None:
    queue = worker_plugin(living, concurrency=1, timeout="1h")
    fail, events, error, much, fine = run_all(
        living, queue, {"do": "fail"}, {"do": "events", "n": 7}, {"do": "error"}, {"do": "much"}, {"n": 9}
    )
    assert (fail.status, fail.run["exit_code"], fail.document["error"]["code"]) == (2, 3, "exit_3")
    assert events.document["result"]["n"] == 7 and events.document["log"][0]["message"] == "hello"
    assert events.document["result"]["deadline"] > events.run["started"].timestamp() + 3500
    assert (error.status, error.document["error"]["message"]) == (2, "no luck")
    assert living.output(much.id).endswith(b"x" * 3 * 2**20)
    assert fine.document["stdout"].startswith("task 9 ") and len(pids([fail, events, error, much, fine])) == 1


def test_a_crash_ends_its_own_task_only_and_the_process_is_replaced(living: Living) -> None:
    queue = worker_plugin(living, concurrency=1)
    before, crash, left, nothing, after = run_all(
        living, queue, {"n": 1}, {"do": "crash"}, {"do": "leave", "code": 4}, {"do": "leave"}, {"n": 2}
    )
    assert (before.status, after.status) == (1, 1)
    assert (crash.status, crash.run["signal"], crash.run["reason"]) == (Status.TERMINATED, "SEGV", "signaled")
    assert (left.status, left.run["exit_code"], left.run["reason"]) == (2, 4, "worker_exited")
    assert (nothing.status, nothing.run["exit_code"], nothing.run["outcome"]) == (2, 0, "failure")
    assert "without saying done" in nothing.document["error"]["message"]
    assert len(pids([before, crash, left, nothing, after])) == 4


@pytest.mark.parametrize("limit", ["timeout", "idle_timeout"])
@living_on_sqlite
def test_a_time_limit_stops_the_process_and_the_next_task_gets_a_new_one(living: Living, limit: str) -> None:
    queue = worker_plugin(living, concurrency=1, **{limit: 1})
    before, slow, after = run_all(living, queue, {"n": 1}, {"do": "sleep"}, {"n": 2})
    assert (before.status, slow.status, after.status) == (1, Status.TERMINATED, 1)
    assert (slow.run["reason"], slow.document["error"]["code"]) == (limit, limit)
    assert before.run["pid"] == slow.run["pid"] != after.run["pid"]
    assert 0.9 < slow.run["seconds"] < 15


@pytest.mark.parametrize("do", ["no exit code", "done for another"])
@living_on_sqlite
def test_a_done_that_cannot_be_understood_ends_the_task_and_the_process(living: Living, do: str) -> None:
    queue = worker_plugin(living, concurrency=1)
    odd, after = run_all(living, queue, {"do": do}, {"n": 2})
    assert (odd.run["reason"], odd.status, after.status) == ("worker_exited", Status.TERMINATED, 1)
    assert "done" in odd.document["error"]["message"] and odd.run["pid"] != after.run["pid"]


@pytest.mark.parametrize("do", ["close", "close after done"])
@on_sqlite
def test_a_process_that_closes_descriptor_3_is_replaced(cluster: Cluster, do: str) -> None:
    """It was never noticed: the task ran for ever, and the class with it where it had one process."""
    queue = worker_plugin(cluster, concurrency=1, kill_grace=0.5)  # for the one that does not end with its stdin
    if do == "close":
        mute, after = run_all(cluster, queue, {"do": do}, {"n": 2})
    else:
        node = cluster.start()
        mute = cluster.wait_for_status(*cluster.push(queue, {"do": do}), 1)
        wait_until(lambda: state_of(mute.run["pid"]) == "", 20, "it is not replaced")
        after = cluster.wait_for_status(*cluster.push(queue, {"n": 2}), 1)
        node.terminate()
        assert node.wait(30) == 0
    assert after.status == 1 and mute.run["pid"] != after.run["pid"]
    if do == "close":
        assert (mute.run["reason"], mute.status) == ("worker_exited", Status.TERMINATED)
        assert "closed descriptor 3" in mute.document["error"]["message"]
        assert mute.document["stdout"].endswith("closing\n") and mute.run["seconds"] < 30
    else:
        assert mute.status == 1
    assert_no_process_is_left(cluster)


@on_sqlite
def test_a_process_that_closes_descriptor_3_is_never_ready(cluster: Cluster) -> None:
    queue = worker_plugin(cluster, "exec 3>&-; exec sleep 60", worker={"start_timeout": 50})
    ids = cluster.push(queue, *[{}] * START_FAILURES_MAX)  # at once: each takes seconds
    cluster.start("--heartbeat", "0.2", pace=QUICK_TO_SEE)
    wait_until(lambda: set_aside(cluster), 40, "the class was not set aside")
    assert "closed descriptor 3" in set_aside(cluster)[0]["reason"]
    wait_until(lambda: {cluster.task(one).status for one in ids} == {Status.CREATED}, 20, "they do not wait again")


def test_a_done_too_many_replaces_the_process_and_never_ends_another_task(living: Living) -> None:
    queue = worker_plugin(living, concurrency=1)
    tasks = run_all(living, queue, {"n": 0}, {"do": "twice", "n": 1}, {"n": 2}, {"n": 3})
    assert tasks[1].status == 1
    for task in tasks:
        if task.status == 1:
            assert f"task {task.document['parameters']['n']} in" in task.document["stdout"]
    assert tasks[3].status == 1 and tasks[3].run["pid"] != tasks[1].run["pid"]


@pytest.mark.parametrize("leaves", ["", ", and leave,"])
def test_a_late_done_never_ends_a_task_that_was_not_read(living: Living, leaves: str) -> None:
    """Incident: a done too many without `task`, said when the next task had been sent, ended that one with status 1,
    although its program had not read a byte of it."""
    queue = worker_plugin(living, concurrency=1)
    first, second = run_all(living, queue, {"do": f"done again{leaves} when the next task comes", "n": 1}, {"n": 2})
    assert (first.status, second.status) == (Status.CONCLUDED, Status.CONCLUDED)
    assert second.document["stdout"].startswith("task 2 in process") and first.run["pid"] != second.run["pid"]
    returned = [one["reason"] for one in second.document["attempts"]]
    assert returned and set(returned) == {"start_failed"} and second.run["attempt"] == 1, "no attempt is used"


@living_on_sqlite
def test_a_process_may_leave_the_line_feed_of_its_task_for_later(living: Living) -> None:
    queue = worker_plugin(living, concurrency=1)
    tasks = run_all(living, queue, {"do": "leave the line feed", "n": 1}, {"n": 2}, {"n": 3})
    assert [task.status for task in tasks] == [Status.CONCLUDED] * 3
    assert [task.document["stdout"] for task in tasks[1:]] == ["task 2 byte by byte\n", "task 3 byte by byte\n"]


@living_on_sqlite
def test_a_process_out_of_step_ends_its_task_as_terminated_whatever_its_exit_code_means(living: Living) -> None:
    queue = worker_plugin(living, concurrency=1, exit_codes={"5": "success"})
    odd, after = run_all(living, queue, {"do": "no exit code, then exit 5"}, {"n": 2})
    assert (odd.run["reason"], odd.status, after.status) == ("worker_exited", Status.TERMINATED, 1)
    assert "exit_code" not in odd.run and odd.document["error"]["code"] == "worker_exited"


@living_on_sqlite
def test_an_event_with_nothing_in_hand_changes_no_task(living: Living) -> None:
    queue = worker_plugin(living, concurrency=1)
    first, second = run_all(living, queue, {"do": "late event"}, {"n": 2})
    assert (first.status, second.status) == (1, 1)
    assert "progress" not in first.document


@on_sqlite
def test_workers_are_retired_after_max_tasks(cluster: Cluster) -> None:
    queue = worker_plugin(cluster, concurrency=1, worker={"max_tasks": 3})
    tasks = run_all(cluster, queue, *({"n": n} for n in range(9)))
    assert sorted(pids(tasks).values()) == [3, 3, 3]
    assert_no_process_is_left(cluster)


@pytest.mark.parametrize("rule", [{"max_age": 0.001}, {"max_memory": "1K"}])
@living_on_sqlite
def test_workers_are_retired_when_they_are_old_or_large(living: Living, rule: dict[str, Any]) -> None:
    queue = worker_plugin(living, concurrency=1, worker=rule)
    tasks = run_all(living, queue, *({"n": n} for n in range(3)))
    assert len(pids(tasks)) == 3


@on_sqlite
def test_an_idle_worker_ends_by_end_of_file(cluster: Cluster) -> None:
    queue = worker_plugin(cluster, worker={"idle_exit": 0.2})
    (task_id,) = cluster.push(queue, {"n": 1})
    node = cluster.start()
    cluster.wait_for_status(task_id, 1)
    assert_no_process_is_left(cluster)
    assert node.poll() is None
    assert "idle worker" not in cluster.log()


@on_sqlite
def test_a_worker_that_is_busy_when_its_time_to_wait_is_over_ends_after_its_next_rest(cluster: Cluster) -> None:
    queue = worker_plugin(cluster, concurrency=1, worker={"idle_exit": 0.4})
    first, second = cluster.push(queue, {"n": 1}, {"do": "take", "seconds": 0.8})
    (third,) = cluster.push(queue, {"n": 3}, status=int(Status.BLOCKED), after=[second])
    node = cluster.start()
    for task_id in (first, second, third):
        cluster.wait_for_status(task_id, 1)
    assert len(pids([cluster.task(one) for one in (first, second, third)])) == 1
    assert_no_process_is_left(cluster)
    assert node.poll() is None


def test_a_plugin_that_never_says_ready_is_set_aside_with_the_reason(cluster: Cluster) -> None:
    queue = worker_plugin(cluster, "echo I am lost >&2; exec sleep 60", worker={"start_timeout": 0.2}, kill_grace=0.1)
    (task_id,) = cluster.push(queue, {})
    cluster.start("--heartbeat", "0.2", pace=QUICK_TO_SEE)

    def reason() -> str:
        return " ".join(one["reason"] for one in set_aside(cluster))

    wait_until(lambda: "was not ready" in reason(), 30, "the class was never set aside")
    assert "within 0.2 s" in reason() and "I am lost" in reason()
    task = cluster.task(task_id)
    assert (task.status, task.node, task.run["attempt_used"]) == (Status.CREATED, None, False)
    assert "I am lost" in task.document["attempts"][-1]["error"]["message"]


def test_a_program_that_ends_before_it_is_ready_is_told_how_it_ended_and_what_was_missing(cluster: Cluster) -> None:
    queue = worker_plugin(cluster, "echo I am no worker >&2; exit 5")
    (task_id,) = cluster.push(queue, {})
    cluster.start("--heartbeat", "0.2", pace=QUICK_TO_SEE)
    wait_until(lambda: bool(set_aside(cluster)), 30, "the class was never set aside")
    message = cluster.task(task_id).document["attempts"][-1]["error"]["message"]
    assert "ended with exit code 5 before it had sent a ready event on descriptor 3" in message
    assert "I am no worker" in message


def test_workers_that_keep_dying_set_their_class_aside_and_a_new_file_is_tried(cluster: Cluster) -> None:
    queue = worker_plugin(cluster, concurrency=1)
    crashed = cluster.push(queue, *({"do": "crash"} for _ in range(5)))
    (waiting,) = cluster.push(queue, {"n": 1})
    cluster.start("--heartbeat", "0.2", pace={**QUICK_TO_SEE, "plugin_scan_seconds": 0.2})
    for task_id in crashed:
        cluster.wait_for_status(task_id, Status.TERMINATED)

    wait_until(lambda: bool(set_aside(cluster)), 10, "the class was not set aside")
    assert "SEGV" in set_aside(cluster)[0]["reason"]
    assert cluster.task(waiting).status == Status.CREATED
    worker_file = WORKER + "# mended\n"
    cluster.plugin("W", worker_file, file="w.py", mode="worker")
    cluster.wait_for_status(waiting, 1)


@on_sqlite
def test_a_changed_plugin_gets_new_processes(cluster: Cluster) -> None:
    queue = worker_plugin(cluster, concurrency=1, version="1")
    (first,) = cluster.push(queue, {"n": 1})
    cluster.start("--heartbeat", "0.2", pace={**QUICK_TO_SEE, "plugin_scan_seconds": 0.2})
    cluster.wait_for_status(first, 1)
    cluster.plugin("W", WORKER + "# new\n", file="w.py", mode="worker", version="2")

    def new_version() -> bool:
        (node,) = cluster.store.nodes()
        return bool([one["version"] for one in node.document["queuetypes"]] == ["2"])

    wait_until(new_version, 20, "the new version was not seen")
    (second,) = cluster.push(queue, {"n": 2})
    task = cluster.wait_for_status(second, 1)
    assert (task.run["plugin"]["version"], task.run["pid"] != cluster.task(first).run["pid"]) == ("2", True)


def test_an_orderly_stop_sees_the_task_through_and_ends_the_processes(cluster: Cluster) -> None:
    program = WORKER.replace("time.sleep(60)", "time.sleep(1)")
    queue = worker_plugin(cluster, program)
    (task_id,) = cluster.push(queue, {"do": "sleep"})
    node = cluster.start()
    wait_until(lambda: cluster.task(task_id).document.get("progress"), 20, "it never ran")
    node.terminate()
    assert node.wait(20) == 0
    assert cluster.task(task_id).status == 1
    assert_no_process_is_left(cluster)


@on_sqlite
def test_a_stop_while_the_worker_starts_gives_the_task_back(cluster: Cluster) -> None:
    started = cluster.directory / "started"
    queue = worker_plugin(cluster, f"touch {started}; exec sleep 60", kill_grace=0.1)
    (task_id,) = cluster.push(queue, {})
    node = cluster.start("--stop-grace", "0")
    wait_until(started.exists, 20, "the worker was not started")
    node.terminate()
    assert node.wait(20) == 0
    task = cluster.task(task_id)
    assert (task.status, task.node, task.run) == (Status.CREATED, None, {})
    assert_no_process_is_left(cluster)


def test_killing_a_worker_that_is_idle_costs_no_task(cluster: Cluster) -> None:
    queue = worker_plugin(cluster, concurrency=1)
    (first,) = cluster.push(queue, {"n": 1})
    cluster.start()
    pid = cluster.wait_for_status(first, 1).run["pid"]
    stop(pid)  # it cannot read: the task is handed over, but not a byte of it is taken
    (second,) = cluster.push(queue, {"n": 2})
    cluster.wait_for_status(second, 0)
    os.kill(pid, signal.SIGKILL)
    task = cluster.wait_for_status(second, 1)
    assert task.run["attempt"] == 1
    # Running is durable a moment before the task is handed over. Killed in between, it is simply given to another.
    assert len(task.attempts) <= 1
    assert all("before it had read its task" in one["error"]["message"] for one in task.attempts)


def test_a_worker_of_a_dead_node_is_killed_before_its_task_is_settled(cluster: Cluster) -> None:
    queue = worker_plugin(cluster)
    (task_id,) = cluster.push(queue, {"do": "sleep"})
    node = cluster.start()
    wait_until(lambda: cluster.task(task_id).document.get("progress"), 20, "it never ran")
    node.kill()
    node.wait()
    cluster.run()
    assert cluster.task(task_id).status == Status.ORPHANED
    assert_no_process_is_left(cluster)
