"""The kernel kills the supervisor of a node's runs for want of memory: whoever reads the task is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from disbatch_host.process.memory_kills import kills_together, memory_kills
from disbatch_protocol.status import Status
from helpers import supervisors
from helpers.nodes import QUICK_TO_SEE, Cluster
from helpers.processes import wait_until
from helpers.supervisors import supervisor_of

ROOT = Path("/sys/fs/cgroup")
LIMIT = 300 * 2**20
# As much as there is, and more.
EATS = """#!/usr/bin/env python3
import os, time
from pathlib import Path
while not (Path(os.environ["DISBATCH_PLUGIN_DIR"]) / "go").exists():
    time.sleep(0.02)
eaten = []
while True:
    eaten.append(bytearray(os.urandom(2**20)))
"""


def small_group() -> Path | None:
    """A control group with little memory; None if there can be none."""
    for above, file in ((ROOT / "memory", "memory.limit_in_bytes"), (ROOT, "memory.max")):
        made = above / f"disbatch-test-{os.getpid()}"
        try:
            made.mkdir()
            (made / file).write_text(str(LIMIT))
        except OSError:
            if made.exists():
                made.rmdir()
        else:
            return made
    return None


@pytest.fixture
def group() -> Iterator[Path]:
    made = small_group()
    if made is None:
        pytest.skip("no control group with limited memory can be made")
    yield made
    wait_until(lambda: not (made / "cgroup.procs").read_text(), 30, "it still has processes")
    made.rmdir()


@supervisors.usable()
@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_run_whose_supervisor_was_killed_for_want_of_memory_says_so(cluster: Cluster, group: Path) -> None:
    home = cluster.plugin("Eats", EATS, file="eats.py")
    (task_id,) = cluster.push(cluster.queue("Eats"), {})
    enter = ("sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh")
    node = cluster.start(through=enter, pace=QUICK_TO_SEE)
    cluster.wait_for_status(task_id, Status.RUNNING)
    supervisor = supervisor_of(node)
    Path(f"/proc/{supervisor}/oom_score_adj").write_text("1000")  # the first that the kernel takes
    (home / "go").touch()
    task = cluster.wait_for_status(task_id, Status.ORPHANED, within_seconds=60)
    assert "(the kernel killed processes of its control group for want of memory)" in task.document["error"]["message"]
    assert "for want of memory" in cluster.log()
    node.terminate()
    assert node.wait(30) == 0


@pytest.mark.parametrize(
    ("own", "file", "text", "expected"),
    [
        ("0::/system.slice/x.service\n", "system.slice/x.service/memory.events", "oom 3\noom_kill 2\n", 2),
        ("0::/a\n", "unified/a/memory.events", "oom_kill 1\n", 1),
        ("3:cpu:/b\n4:memory:/a/b\n", "memory/a/b/memory.oom_control", "under_oom 0\noom_kill 7\n", 7),
        ("0::/a\n", "a/memory.events", "nothing that is known\n", 0),
        ("nonsense\n", "x", "", 0),
    ],
)
def test_the_count_of_kills_is_read_of_either_version(
    tmp_path: Path, own: str, file: str, text: str, expected: int
) -> None:
    (tmp_path / "own").write_text(own)
    (tmp_path / "groups" / file).parent.mkdir(parents=True)
    (tmp_path / "groups" / file).write_text(text)
    assert memory_kills(tmp_path / "own", tmp_path / "groups") == expected
    assert memory_kills(tmp_path / "none", tmp_path / "groups") == 0


@pytest.mark.parametrize(
    ("group", "expected"),
    [("a.slice/x.service", "a.slice/x.service"), ("a.slice/x.service/below", "a.slice/x.service"), ("b.slice", None)],
)
def test_a_group_in_which_all_are_killed_together_is_found(tmp_path: Path, group: str, expected: str | None) -> None:
    (tmp_path / "own").write_text(f"0::/{group}\n")
    for name, value in (("a.slice", "0"), ("a.slice/x.service", "1"), ("b.slice", "0")):
        (tmp_path / "groups" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name / "memory.oom.group").write_text(f"{value}\n")
    found = None if expected is None else tmp_path / "groups" / expected / "memory.oom.group"
    assert kills_together(tmp_path / "own", tmp_path / "groups") == found
