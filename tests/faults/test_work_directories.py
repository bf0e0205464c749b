"""Work directories that take long to remove, or cannot be: neither the end of their run nor anybody else waits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import skip_or_fail
from disbatch_host.plugin.removal import ASIDE_PREFIX
from disbatch_protocol.status import Status
from helpers.nodes import COMMAND, Cluster, write_plugin
from helpers.processes import assert_group_is_gone, peak_memory, wait_until

PYTHON = f"#!{sys.executable}\n"
# Deeper than Python calls itself (1,000), with a path longer than the kernel takes at once (4,096 bytes).
DEEP = PYTHON + 'import os\nfor _ in range(1200):\n    os.mkdir("deep")\n    os.chdir("deep")\n'
WIDE = PYTHON + (
    "import os\nfor d in range(%d):\n    os.mkdir(str(d))\n    for f in range(1000):\n"
    '        os.close(os.open(f"{d}/{f}", os.O_CREAT | os.O_WRONLY))\n'
)
LONG = [pytest.mark.soak, pytest.mark.timeout(600)]
TREES = [
    pytest.param("sqlite", DEEP, id="sqlite-deep"),
    pytest.param("mongodb", DEEP, id="mongodb-deep", marks=pytest.mark.mongodb),
    pytest.param("sqlite", WIDE % 8, id="sqlite-wide"),
    pytest.param("sqlite", WIDE % 300, id="sqlite-300,000 files", marks=LONG),
    pytest.param("mongodb", WIDE % 300, id="mongodb-300,000 files", marks=[*LONG, pytest.mark.mongodb]),
    pytest.param("sqlite", DEEP.replace("1200", "100_000"), id="sqlite-100,000 levels", marks=LONG),
]
HEARTBEAT_SECONDS_MAX = 3.0
MEMORY_MAX = 150 * 2**20


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    directory = tmp_path / "tmp"
    directory.mkdir()
    return directory


@pytest.fixture
def mounting(temporary: Path) -> Iterator[None]:
    """Unmounts everything that a plugin has mounted."""
    yield
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if str(temporary) in line:
            subprocess.run(["umount", line.split()[1]], check=True)


@pytest.mark.parametrize(("store_url", "program"), TREES, indirect=["store_url"])
def test_the_end_is_recorded_and_heartbeats_go_on_while_a_tree_is_removed(
    cluster: Cluster, temporary: Path, program: str
) -> None:
    """A tree of 3,000 levels kept the end of its run from being recorded; one of 300,000 files stood the node still for
    so long that another took it for dead, and orphaned the task that had succeeded."""
    cluster.plugin("Tree", program, file="run.py", cwd="work")
    cluster.plugin("Quick", "echo fine")
    process = cluster.start("--heartbeat", "0.2", env={"TMPDIR": str(temporary)})
    (tree,) = cluster.push(cluster.queue("Tree"), {})
    cluster.wait_for_status(tree, Status.CONCLUDED, within_seconds=300)
    quick = cluster.push(cluster.queue("Quick"), {})
    oldest = 0.0

    def is_over() -> bool:
        nonlocal oldest
        node = cluster.store.get_node("n1")
        assert node is not None and node.age_seconds is not None
        oldest = max(oldest, node.age_seconds)
        is_quick_over = cluster.task(quick[-1]).status == Status.CONCLUDED
        if list(temporary.iterdir()):
            quick.extend(cluster.push("Quick", {}) if is_quick_over else ())  # other work goes on meanwhile
            return False
        return is_quick_over

    wait_until(is_over, 200, "it was not removed")
    peak = peak_memory(process.pid)
    print(f"oldest heartbeat {oldest:.2f} s, peak memory {peak / 2**20:.0f} MiB, other tasks run: {len(quick)}")
    assert oldest < HEARTBEAT_SECONDS_MAX and peak < MEMORY_MAX
    assert "work_directory" not in cluster.task(tree).run
    assert " ERROR " not in cluster.log() and "Traceback" not in cluster.log()
    process.terminate()
    assert process.wait(30) == 0
    assert_group_is_gone(process.pid)


def test_a_work_directory_that_cannot_be_removed_is_said_in_the_log_and_in_the_task(
    cluster: Cluster, temporary: Path, mounting: None
) -> None:
    cluster.plugin("Mounts", "mkdir m && mount -t tmpfs none m && touch m/kept", cwd="work")
    process = cluster.start(env={"TMPDIR": str(temporary)})
    (task_id,) = cluster.push(cluster.queue("Mounts"), {})
    task = cluster.wait_for_status(task_id, Status.CONCLUDED, Status.FAILED)
    if task.status == Status.FAILED:
        skip_or_fail("nothing can be mounted here")
    wait_until(lambda: "work_directory" in cluster.task(task_id).run, 20, "the task does not say where it is")
    task = cluster.task(task_id)
    directory = Path(task.run["work_directory"])
    assert (directory / "m" / "kept").exists() and (task.status, task.run["exit_code"]) == (Status.CONCLUDED, 0)
    assert f"work directory {directory} cannot be removed: another file system is mounted in it" in cluster.log()
    process.terminate()
    assert process.wait(30) == 0


def test_the_next_node_removes_what_one_that_was_killed_had_begun_to_remove(cluster: Cluster, temporary: Path) -> None:
    left = temporary / f"{ASIDE_PREFIX}4194305-0a"  # no process has a number that high
    (left / "d").mkdir(parents=True)
    (left / "d" / "file").touch()
    cluster.run(env={"TMPDIR": str(temporary)})
    assert list(temporary.iterdir()) == []


def test_a_temporary_directory_that_is_not_utf_8_costs_no_task(cluster: Cluster, tmp_path: Path) -> None:
    temporary = tmp_path / os.fsdecode(b"t\xe9mp")
    temporary.mkdir()
    cluster.plugin("Fails", "pwd; exit 1", cwd="work")
    (task_id,) = cluster.push(cluster.queue("Fails"), {})
    cluster.run(env={"TMPDIR": os.fspath(temporary)})
    task = cluster.task(task_id)
    assert task.status == Status.FAILED and "t\\xe9mp/disbatch-" in task.run["work_directory"]


def test_exec_and_check_remove_what_they_have_made(tmp_path: Path, temporary: Path) -> None:
    example = {"name": "one", "parameters": {}}
    write_plugin(tmp_path / "plugins", "Tree", DEEP, file="run.py", cwd="work", examples=[example])
    environment = {**os.environ, "TMPDIR": str(temporary)}
    for arguments in (["exec", "Tree"], ["check", "--run", "Tree"]):
        command = [*COMMAND, *arguments, "--plugins", str(tmp_path / "plugins")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(temporary.iterdir()) == []
