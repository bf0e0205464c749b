"""A disk that is full, read-only or broken: under the SQLite file, and under the node's temporary directory.

What runs is seen through, the node says what is wrong and what to do, nothing is recorded that did not happen, and when
the disk is well again everything goes on by itself.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import small_disk_or_skip
from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import Task
from disbatch_host.errors import StoreRefusedError, StoreUnwritableError
from disbatch_host.store import sqlite as sqlite_store
from disbatch_host.store.open import open_store
from disbatch_protocol.status import Status
from helpers import nodes
from helpers.disks import SmallDisk
from helpers.processes import assert_group_is_gone, wait_until

HOLD = "echo begun; while ! test -e {gate}; do sleep 0.1; done; echo said meanwhile; echo $DISBATCH_TASK_ID >>{trace}"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk_or_skip(tmp_path / "disk", megabytes=8) as one:
        yield one


@pytest.fixture
def on_disk(disk: SmallDisk, tmp_path: Path) -> Iterator[nodes.Cluster]:
    """A cluster whose database, and nothing else, is on the small disk."""
    with nodes.cluster_on_sqlite(disk.path / "test.db", tmp_path) as one:
        yield one


def test_a_full_disk_under_the_database_is_waited_out(on_disk: nodes.Cluster, disk: SmallDisk) -> None:
    """Before, SQLITE_FULL was taken for a refusal: the end of a run was thrown away with an error in the log, and the
    task stayed Running until the node was started again, then became Orphaned."""
    cluster = on_disk
    running, waiting, trace, process = begin_one_and_let_one_wait(cluster)
    disk.fill()
    (cluster.directory / "gate").touch()
    wait_until(trace.exists, 20, "the running task did not go on")
    wait_until(lambda: "running tasks go on and their output is kept" in cluster.log(), 20, "the node says nothing")
    wait_until(lambda: "nothing is claimed until it works again" in cluster.log(), 20, "nothing said of claims")
    assert "the disk is full; make room" in cluster.log()
    push = subprocess.run(
        [*nodes.COMMAND, "--store", cluster.url, "task", "push", "Hold", "-p", f"much={'x' * 100_000}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (push.returncode, push.stdout, push.stderr.count("\n")) == (3, "", 1)
    assert "the disk is full; make room" in push.stderr
    held = cluster.task(running)
    assert (held.status, held.document["stdout"]) == (Status.RUNNING, "begun\n")
    assert cluster.task(waiting).status == Status.CREATED
    assert cluster.store.count_by_status() == {"Hold": {Status.RUNNING: 1, Status.CREATED: 1}}

    disk.make_room()
    for task_id in (running, waiting):
        task = cluster.wait_for_status(task_id, Status.CONCLUDED)
        assert (task.document["stdout"], task.run["attempt"]) == ("begun\nsaid meanwhile\n", 1)
    assert sorted(trace.read_text().split()) == sorted([str(running), str(waiting)])
    wait_until(lambda: "the store takes writes again" in cluster.log(), 20, "it does not say that all is well")
    log = cluster.log()
    assert log.count("the disk is full") in (1, 2), (
        "said once by whoever finds it first, writer or claim; not each second"
    )
    assert log.count("nothing is claimed until it works again") == 1
    assert " ERROR " not in log
    assert "the store is back" in log
    end_orderly(process)


def test_errors_of_the_file_system_are_waited_out_as_well(sqlite_cluster: nodes.Cluster) -> None:
    """A limit on the size of files, set from outside, makes every write of a database that has outgrown it fail."""
    cluster = sqlite_cluster
    running, waiting, trace, process = begin_one_and_let_one_wait(cluster)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**14, resource.RLIM_INFINITY))
    (cluster.directory / "gate").touch()
    wait_until(lambda: "running tasks go on and their output is kept" in cluster.log(), 20, "the node says nothing")
    assert (
        "the disk or file system fails, or a file beside it (-wal, -shm) is not its own; check these (disk I/O error)"
        in cluster.log()
    )
    assert cluster.task(running).status == Status.RUNNING
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for task_id in (running, waiting):
        task = cluster.wait_for_status(task_id, Status.CONCLUDED)
        assert task.document["stdout"] == "begun\nsaid meanwhile\n"
    assert len(trace.read_text().split()) == 2
    end_orderly(process)


def begin_one_and_let_one_wait(cluster: nodes.Cluster) -> tuple[object, object, Path, subprocess.Popen[str]]:
    trace = cluster.directory / "trace"
    cluster.plugin("Hold", HOLD.format(gate=cluster.directory / "gate", trace=trace))
    running, waiting = cluster.push(cluster.queue("Hold", maxthreads=1), {}, {})
    process = cluster.start("--heartbeat", "0.2")
    wait_until(lambda: cluster.task(running).document["stdout"] == "begun\n", 20, "did not begin")
    return running, waiting, trace, process


def end_orderly(process: subprocess.Popen[str]) -> None:
    process.terminate()
    assert process.wait(30) == 0
    assert_group_is_gone(process.pid)


@pytest.fixture
def sqlite_cluster(tmp_path: Path) -> Iterator[nodes.Cluster]:
    with nodes.cluster_on_sqlite(tmp_path / "test.db", tmp_path) as one:
        yield one


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_node_does_not_start_and_a_command_says_it_in_one_line(disk: SmallDisk, tmp_path: Path, trouble: str) -> None:
    url = f"sqlite://{disk.path}/test.db"
    store = open_store(url, SystemClock())
    store.open()
    store.insert_queue({"_id": "Echo", "class": "Echo"})
    store.close()
    nodes.write_plugin(tmp_path / "plugins", "Echo", "echo ran")
    if trouble == "full":
        disk.fill()
    else:
        disk.set_read_only()
    expected = {"full": "the disk is full; make room", "read-only": "ead-only"}[trouble]
    common = ["--store", url, "--plugins", str(tmp_path / "plugins")]
    for arguments in (["--node-id", "n1"], ["task", "push", "Echo", "{}"]):
        command = [*nodes.COMMAND, *common, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), done
        assert expected in done.stderr


def test_what_passes_and_what_does_not_are_told_apart(tmp_path: Path) -> None:
    store = sqlite_store.SqliteStore(tmp_path / "test.db", SystemClock())
    store.open()
    connection = store._opened()
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnwritableError, match="read-only; check permissions"):
        store.insert_queue({"class": "A"})
    connection.execute("PRAGMA query_only = OFF")
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(StoreUnwritableError, match="the disk is full; make room"):
        store.insert_queue({"class": "A", "description": "x" * 100_000})
    connection.execute("PRAGMA max_page_count = 1000000")
    assert store.queues() == [] and not connection.in_transaction
    connection.execute("DROP TABLE queues")
    with pytest.raises(StoreRefusedError, match="no such table"):
        store.queues()
    store.close()
    (tmp_path / "test.db").write_bytes(b"no database at all" * 500)
    with pytest.raises(StoreRefusedError, match="is not a database of this program"):
        store.open()
    assert sqlite3.sqlite_version_info > (3, 35)


def test_a_full_temporary_directory_loses_the_middle_of_large_outputs_and_says_so(
    cluster: nodes.Cluster, disk: SmallDisk
) -> None:
    size = 3 * 2**20
    gate = cluster.directory / "gate"
    waits = f"echo begun; while ! test -e {gate}; do sleep 0.1; done"
    cluster.plugin("Large", f"{waits}; head -c {size} /dev/zero | tr '\\0' x; echo; echo the end; exit 3")
    cluster.plugin("Small", f"{waits}; echo fits into the document")
    (large,) = cluster.push(cluster.queue("Large"), {})
    (small,) = cluster.push(cluster.queue("Small"), {})
    process = cluster.start(env={"TMPDIR": str(disk.path)})
    for task_id in (large, small):
        wait_until(
            lambda task_id=task_id: cluster.task(task_id).document["stdout"] == "begun\n", 20, "it did not begin"
        )
    disk.fill()
    gate.touch()
    task = cluster.wait_for_status(large, Status.FAILED)
    assert (task.run["reason"], task.run["exit_code"]) == ("exited", 3)
    output = cluster.output(large)
    assert output.startswith(b"begun\nxxx") and len(output) <= 2**20
    assert b"bytes of output are left out here (the host could not keep it: No space left on device)" in output
    summary = task.run["output"]["stdout"]
    assert summary["bytes"] == size + len("begun\n\nthe end\n") and 0 < summary["dropped_bytes"] < summary["bytes"]
    assert cluster.wait_for_status(small, Status.CONCLUDED).document["stdout"] == "begun\nfits into the document\n"
    assert "output can no longer be kept on disk: No space left on device" in cluster.log()
    end_orderly(process)


def test_tasks_that_want_a_work_directory_wait_for_room_and_their_class_is_not_set_aside(
    cluster: nodes.Cluster, disk: SmallDisk
) -> None:
    """Before, want of room counted as a start that the plugin had failed: five of them, and its class was set aside
    until somebody changed the plugin's files."""
    process = cluster.start(env={"TMPDIR": str(disk.path)}, pace={"shortage_seconds": 1.0})
    wait_until(lambda: "node n1 runs on" in cluster.log(), 20, "the node did not start")
    fill_also_inodes(disk)
    cluster.plugin("Work", "pwd; head -c 1000 /dev/zero >file", cwd="work")
    tasks = cluster.push(cluster.queue("Work"), *({} for _ in range(10)))
    wait_until(lambda: "this machine is short of something" in cluster.log(), 20, "the node says nothing")
    wait_until(lambda: all(why_returned(cluster.task(one)) == "start_failed" for one in tasks), 20, "not given back")
    assert "set aside" not in cluster.log()
    assert cluster.log().count("this machine is short of something") == 1
    subprocess.run(["mount", "-o", "remount,nr_inodes=1000", str(disk.path)], check=True)
    disk.make_room()
    for one in tasks:
        cluster.wait_for_status(one, Status.CONCLUDED)
    end_orderly(process)


def why_returned(task: Task) -> str | None:
    """The code of the error that a task was given back with, None while it was not yet."""
    error = task.document.get("error")
    return error["code"] if task.status == Status.CREATED and error is not None else None


def fill_also_inodes(disk: SmallDisk) -> None:
    """A directory takes no page of a tmpfs: only the number of its files keeps one from being made."""
    subprocess.run(["mount", "-o", "remount,nr_inodes=20", str(disk.path)], check=True)
    disk.fill()
    for number in range(20):
        try:
            os.close(os.open(disk.path / f"inode{number}", os.O_CREAT | os.O_WRONLY))
        except OSError:
            return
