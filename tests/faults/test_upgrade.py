"""What an operator does to a node that is in use: change its settings, stop it, stop it again."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disbatch_protocol.status import Status
from helpers.nodes import Cluster, cluster_on_sqlite, write_plugin
from helpers.processes import assert_group_is_gone, catches, wait_until

HOLD = "echo begun; while ! test -e {gate}; do sleep 0.1; done; echo ended"


def test_hangup_reads_the_configuration_again(cluster: Cluster) -> None:
    gate = cluster.directory / "gate"
    cluster.plugin("Hold", HOLD.format(gate=gate))
    more = cluster.directory / "more"
    write_plugin(more, "More", "echo more")
    config = Config(cluster, max=1, heartbeat="30s", dead_after=120, log_level="info", plugins=[str(cluster.plugins)])
    tasks = cluster.push(cluster.queue("Hold"), {}, {}, {})
    (of_more,) = cluster.push(cluster.queue("More"), {})
    process = config.start("--max-total", "2")
    wait_until(lambda: running(cluster, tasks) == 1, 20, "none began")

    config.write(max=5, max_total=50, heartbeat=0.2, dead_after=90, log_level="debug", plugins=[str(more)])
    process.send_signal(signal.SIGHUP)
    assert cluster.wait_for_status(of_more, Status.CONCLUDED).document["stdout"] == "more\n"
    log = cluster.log()
    for said in ("max is 5", "heartbeat_seconds is 0.2", "dead_after_seconds is 90.0", f"plugins is {more}"):
        assert said in log
    assert "max_total is" not in log, "what an option says, the file does not change"
    wait_until(lambda: f"task {of_more} of queue More: success" in cluster.log(), 20, "the level of the log is old")
    wait_until(lambda: node_settings(cluster).get("max") == 5, 20, "other nodes do not see it")
    expected = {"max": 5, "max_total": 2, "heartbeat_seconds": 0.2, "dead_after_seconds": 90.0}
    assert node_settings(cluster) == expected
    assert running(cluster, tasks) == 1, "its plugin is gone: what runs runs on, nothing more is started"

    config.write(max=5, plugins=[str(cluster.plugins), str(more)])
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: running(cluster, tasks) == 2, 20, "a second one did not begin")
    gate.touch()
    for task_id in tasks:
        assert cluster.wait_for_status(task_id, Status.CONCLUDED).document["stdout"] == "begun\nended\n"
    stop(process)


BROKEN: dict[str, tuple[str | dict[str, Any], str]] = {
    "no JSON": ('{"max": 5,}', "is not JSON"),
    "unknown key": ({"maximum": 5}, 'unknown key "maximum"'),
    "wrong type": ({"max": "many"}, "/max: expected a whole number of 1 or more"),
    "no such directory": ({"max": 5, "plugins": ["/nowhere/at/all"]}, "plugin directory /nowhere/at/all is not there"),
    "a contradiction": ({"max": 5, "heartbeat": 40}, "--dead-after: expected more than the interval"),
}


def test_a_broken_configuration_is_reported_and_changes_nothing(cluster: Cluster) -> None:
    gate = cluster.directory / "gate"
    cluster.plugin("Hold", HOLD.format(gate=gate))
    config = Config(cluster, max=1, heartbeat=0.2, plugins=[str(cluster.plugins)])
    tasks = cluster.push(cluster.queue("Hold"), {}, {})
    process = config.start()
    wait_until(lambda: running(cluster, tasks) == 1, 20, "none began")
    before = node_settings(cluster)
    for content, said in BROKEN.values():
        if isinstance(content, str):
            config.path.write_text(content)
        else:
            config.write(**content)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda said=said: said in cluster.log(), 20, f"it does not say: {said}")
    config.path.unlink()
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "cannot be read: No such file" in cluster.log(), 20, "it does not say that the file is gone")
    assert cluster.log().count("the settings stay as they are") == len(BROKEN) + 1
    assert (node_settings(cluster), running(cluster, tasks)) == (before, 1)
    config.write(max=2, plugins=[str(cluster.plugins)])
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: running(cluster, tasks) == 2, 20, "the mended file was not taken")
    gate.touch()
    stop(process)


def test_store_and_node_id_do_not_change_while_a_node_runs(cluster: Cluster) -> None:
    cluster.plugin("Echo", "echo ran")
    config = Config(cluster, store=cluster.url, node_id="n1", plugins=[str(cluster.plugins)])
    process = config.start(are_given=False)
    wait_until(lambda: "node n1 runs on" in cluster.log(), 20, "the node did not start")
    config.write(store="mongodb://me:hunter2@elsewhere/db", node_id="n2", plugins=[str(cluster.plugins)])
    process.send_signal(signal.SIGHUP)
    for name in ("store", "node_id"):
        said = f'"{name}" has changed; the change takes effect when the node is restarted'
        wait_until(lambda said=said: said in cluster.log(), 20, f"it does not say: {said}")
    (task_id,) = cluster.push(cluster.queue("Echo"), {})
    assert cluster.wait_for_status(task_id, Status.CONCLUDED).document["node"] == "n1"
    stop(process)
    assert "hunter2" not in cluster.log()


@pytest.fixture
def sqlite_cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_on_sqlite(tmp_path / "test.db", tmp_path) as one:
        yield one


def test_signals_during_the_start_leave_no_node_behind(sqlite_cluster: Cluster) -> None:
    """Before, the handlers were set after the id had been taken: a signal in between ended the node at once, and its
    id was in use for another `dead_after`."""
    cluster = sqlite_cluster  # the moment is held open by a lock on its file
    with lock_of(cluster):
        process = cluster.start()
        wait_until(lambda: catches(process.pid, signal.SIGTERM), 20, "no handler before the id is taken")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert cluster.store.nodes() == []


def test_an_orderly_stop_under_load_loses_nothing(cluster: Cluster) -> None:
    gate, trace = cluster.directory / "gate", cluster.directory / "trace"
    account = f'echo "start $DISBATCH_TASK_ID" >>{trace}; {{}}; echo "end $DISBATCH_TASK_ID" >>{trace}'
    cluster.plugin("Long", account.format(HOLD.format(gate=gate)))
    cluster.plugin("Short", account.format("echo short"))
    long = cluster.push(cluster.queue("Long", maxthreads=4), *({} for _ in range(20)))
    short = cluster.push(cluster.queue("Short", maxthreads=4), *({} for _ in range(400)))
    process = cluster.start("--heartbeat", "0.2", "--dead-after", "2")
    wait_until(lambda: running(cluster, long) == 4, 20, "the long ones did not begin")
    wait_until(lambda: len(marks(trace)) > 60, 60, "the short ones did not get on")
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "run on to their end" in cluster.log(), 20, "the stop was not said")
    started = {one for mark, one in marks(trace) if mark == "start"}
    wait_until(lambda: len(in_hand(cluster)) == 4, 20, "what was claimed was not given back")
    (node,) = cluster.store.nodes()
    assert node.age_seconds is not None and not node.is_stale(30), "its heartbeat goes on"
    gate.touch()
    assert process.wait(30) == 0
    assert_group_is_gone(process.pid)
    assert in_hand(cluster) == [] and cluster.store.nodes() == []
    counts = Counter(marks(trace))
    for task_id in [*long, *short]:
        task = cluster.task(task_id)
        times = 1 if task.status == Status.CONCLUDED else 0
        assert task.status == (Status.CONCLUDED if times else Status.CREATED)
        assert (counts["start", str(task_id)], counts["end", str(task_id)]) == (times, times)
    assert sum(1 for one in long if cluster.task(one).status == Status.CONCLUDED) == 4
    after = {one for mark, one in marks(trace) if mark == "start"}
    assert len(after - started) <= 8, "nothing was claimed after the signal"


@pytest.mark.parametrize("how", ["signals", "grace"])
def test_long_tasks_under_load_are_stopped_by_a_second_signal_or_the_grace(cluster: Cluster, how: str) -> None:
    deaf = "trap '' TERM; echo begun; while :; do sleep 0.05; done"
    cluster.plugin("Safe", "echo begun; exec sleep 600", idempotent=True)
    cluster.plugin("Soft", "echo begun; exec sleep 600")
    cluster.plugin("Deaf", deaf, kill_grace="0.3s" if how == "grace" else "600s")
    tasks = {
        name: cluster.push(cluster.queue(name, maxthreads=5), *({} for _ in range(8)))
        for name in ("Safe", "Soft", "Deaf")
    }
    process = cluster.start(*(["--stop-grace", "0.3"] if how == "grace" else []))
    begun = [one for group in tasks.values() for one in group[:5]]
    wait_until(lambda: all(cluster.task(one).document["stdout"] == "begun\n" for one in begun), 30, "did not begin")
    groups = [cluster.task(one).run["pid"] for one in begun]
    process.send_signal(signal.SIGTERM)
    if how == "signals":
        wait_until(lambda: "15 tasks run on to their end" in cluster.log(), 20, "the first signal was not said")
        process.send_signal(signal.SIGTERM)
        for one in tasks["Soft"][:5]:
            cluster.wait_for_status(one, Status.TERMINATED)
        assert running(cluster, tasks["Deaf"]) == 5
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    for group in (*groups, process.pid):
        assert_group_is_gone(group)
    for name, group in tasks.items():
        for number, one in enumerate(group):
            task = cluster.task(one)
            if number >= 5:
                assert (task.status, task.attempts) == (Status.CREATED, [])
                continue
            assert task.status == (Status.CREATED if name == "Safe" else Status.TERMINATED)
            assert (task.run["reason"], task.run["attempt_used"]) == ("shutdown", False)
            assert task.run["signal"] == ("KILL" if name == "Deaf" else "TERM")
    assert cluster.store.nodes() == []


def test_a_stop_while_the_sqlite_file_is_locked_ends_at_the_third_signal(sqlite_cluster: Cluster) -> None:
    """SQLite waits 30 seconds for its turn; a node that was told three times to leave waits no longer."""
    cluster = sqlite_cluster  # MongoDB: test_store_away.py
    cluster.plugin("Hold", "echo begun; exec sleep 600")
    (task_id,) = cluster.push(cluster.queue("Hold"), {})
    process = cluster.start("--heartbeat", "0.2")
    wait_until(lambda: cluster.task(task_id).document["stdout"] == "begun\n", 20, "did not begin")
    group = cluster.task(task_id).run["pid"]
    with lock_of(cluster):
        for said in ("run on to their end", "asked to stop"):
            process.send_signal(signal.SIGTERM)
            wait_until(lambda said=said: said in cluster.log(), 20, f"the node did not say: {said}")
        assert_group_is_gone(group)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 3
    assert "1 tasks are left as they are, until this node starts again" in cluster.log()
    assert_group_is_gone(process.pid)
    assert cluster.task(task_id).status == Status.RUNNING
    cluster.run()
    assert cluster.task(task_id).status == Status.ORPHANED


class Config:
    """A configuration file, and a node that reads it."""

    def __init__(self, cluster: Cluster, **values: Any) -> None:
        self._cluster = cluster
        self.path = cluster.directory / "host.json"
        self.write(**values)

    def write(self, **values: Any) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(values))
        new.rename(self.path)

    def start(self, *options: str, are_given: bool = True) -> subprocess.Popen[str]:
        """`are_given`: whether store and node id are options, or come from the file as everything else."""
        from helpers.nodes import COMMAND

        given = ["--store", self._cluster.url, "--node-id", "n1"] if are_given else []
        with (self._cluster.directory / "n1.log").open("a") as log:
            process = subprocess.Popen(
                [*COMMAND, "--config", str(self.path), *given, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._cluster.processes.append(process)
        return process


class lock_of:
    """Holds the write lock of the cluster's SQLite file, as another process would."""

    def __init__(self, cluster: Cluster) -> None:
        self._connection = sqlite3.connect(cluster.url.removeprefix("sqlite://"), isolation_level=None)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def running(cluster: Cluster, tasks: list[Any]) -> int:
    return sum(cluster.task(one).status == Status.RUNNING for one in tasks)


def in_hand(cluster: Cluster) -> list[Any]:
    return cluster.tasks(statuses=frozenset({int(Status.CLAIMED), int(Status.RUNNING)}))


def marks(trace: Path) -> list[tuple[str, str]]:
    lines = trace.read_text().splitlines() if trace.exists() else []
    return [(line.split()[0], line.split()[1]) for line in lines]


def node_settings(cluster: Cluster) -> dict[str, Any]:
    record = cluster.store.get_node("n1")
    return dict(record.document["settings"]) if record is not None else {}


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    assert process.wait(30) == 0
    assert_group_is_gone(process.pid)
