"""The disk is full on which a supervisor keeps what its runs say: nothing is lost that it had promised to keep, and
everything goes on when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import small_disk_or_skip
from disbatch_protocol.status import Status
from helpers import supervisors
from helpers.disks import SmallDisk
from helpers.nodes import QUICK_TO_SEE, Cluster
from helpers.processes import wait_until

pytestmark = [supervisors.usable(), pytest.mark.timeout(180)]

LARGE = 3 * 2**20
EVENTS = 3000  # lines of 100 bytes: more than a supervisor has in memory
WAITS = 'echo begun; while ! [ -e "$DISBATCH_PLUGIN_DIR/../go" ]; do sleep 0.1; done'
EVENT = '{{"type": "log", "message": "{}"}}'.format("x" * 66)
PROGRAMS = {
    "Output": f"{WAITS}; head -c {LARGE} /dev/zero | tr '\\0' x; echo; echo the end",
    "Events": f'{WAITS}; yes \'{EVENT}\' | head -n {EVENTS} >&3; echo \'{{"type": "result", "value": "heard"}}\' >&3',
    "Small": f'{WAITS}; echo \'{{"type": "result", "value": "heard"}}\' >&3',
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk_or_skip(tmp_path / "disk", megabytes=2) as one:
        yield one


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("is_killed", [False, True], ids=["the node stays", "the node is killed"])
def test_a_full_disk_under_a_supervisor_costs_the_middle_of_outputs_and_no_event(
    disk: SmallDisk, cluster: Cluster, is_killed: bool
) -> None:
    """Also where the node is killed meanwhile, and the next one finds the runs in a home that takes no byte."""
    cluster.state = disk.path / "state"
    for name, program in PROGRAMS.items():
        cluster.plugin(name, program, max_output=2 * LARGE)
        cluster.push(cluster.queue(name), {})
    output, events, small = (cluster.tasks(queue=name)[0].id for name in PROGRAMS)
    node = cluster.start(pace=QUICK_TO_SEE)
    for task_id in (output, events, small):
        wait_until(lambda one=task_id: "begun" in cluster.task(one).document["stdout"], 30, "it did not begin")
    disk.fill()
    if is_killed:
        node.kill()
        node.wait()
        (cluster.plugins / "go").touch()
        node = cluster.start(pace=QUICK_TO_SEE)
    (cluster.plugins / "go").touch()

    task = cluster.wait_for_status(output, Status.CONCLUDED, within_seconds=60)
    summary = task.run["output"]["stdout"]
    assert summary["bytes"] == LARGE + len("begun\n\nthe end\n") and 0 < summary["dropped_bytes"] < summary["bytes"]
    said = cluster.output(output)
    assert said.startswith(b"begun\n") and said.endswith(b"xxx\nthe end\n")
    assert b"%d bytes of output are left out here (they could not be kept" % summary["dropped_bytes"] in said
    assert cluster.wait_for_status(small, Status.CONCLUDED).document["result"] == "heard"
    wait_until(lambda: "descriptor 3 is not read, and the program waits" in cluster.log(), 30, "nothing is said")
    assert cluster.task(events).status == Status.RUNNING

    disk.make_room()
    task = cluster.wait_for_status(events, Status.CONCLUDED, within_seconds=60)
    assert (task.document["result"], task.run["attempt"]) == ("heard", 1)
    assert "event_errors" not in task.run
    assert bool(task.run.get("adopted")) is is_killed
    node.terminate()
    assert node.wait(30) == 0
