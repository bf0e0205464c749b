"""What has left its run altogether when the supervisor of that ends: it is killed before the task is settled."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from disbatch_host.process import facts
from disbatch_protocol.status import Status
from helpers import supervisors
from helpers.nodes import QUICK_TO_NOTICE, QUICK_TO_SEE, Cluster
from helpers.processes import stop, wait_until
from helpers.supervisors import name_of, supervisor_of

pytestmark = [supervisors.usable(), pytest.mark.timeout(120)]
# Without the environment, the session, the group, the descriptors and the parents of its run.
SHEDS = "(setsid env -i /bin/sh -c 'exec >/dev/null 2>&1 3>&- </dev/null; echo $$ >{}; exec sleep 600' &)"


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_what_has_shed_everything_is_found_by_its_mark_once_its_supervisor_is_dead(cluster: Cluster) -> None:
    written = cluster.directory / "pid"
    cluster.plugin("Sheds", f"{SHEDS.format(written)}; echo begun; sleep 600")
    (task_id,) = cluster.push(cluster.queue("Sheds"), {})
    node = cluster.start(pace=QUICK_TO_SEE)
    wait_until(lambda: written.exists() and written.read_text(), 30, "it did not begin")
    pid = int(written.read_text())
    supervisor = supervisor_of(node)
    wait_until(lambda: parent_of(pid) == supervisor, 20, "it has not lost its parents")
    os.kill(supervisor, signal.SIGKILL)
    assert cluster.wait_for_status(task_id, Status.ORPHANED, within_seconds=30).run["reason"] == "lost"
    assert facts.process_started(pid) is None
    node.terminate()
    assert node.wait(30) == 0


@pytest.mark.parametrize("where", ["with the node", "in a home"])
@pytest.mark.parametrize("who", ["n1", "n2"])
@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_it_is_found_by_a_node_that_never_knew_the_supervisor(cluster: Cluster, where: str, who: str) -> None:
    """The next life of a node that was killed with its supervisor, or another node that settles it."""
    written = cluster.directory / "pid"
    if where == "in a home":
        cluster.keep_runs()
    cluster.plugin("Sheds", f"{SHEDS.format(written)}; echo begun; sleep 600")
    (task_id,) = cluster.push(cluster.queue("Sheds"), {})
    quick = ("--heartbeat", "0.3", "--dead-after", "1")
    node = cluster.start(*quick, pace={**QUICK_TO_SEE, **QUICK_TO_NOTICE})
    wait_until(lambda: written.exists() and written.read_text(), 30, "it did not begin")
    wait_until(lambda: cluster.task(task_id).run.get("pid"), 30, "it is not known to the store")
    pid = int(written.read_text())
    wait_until(lambda: name_of(parent_of(pid)) == "disbatch-superv", 20, "it has not lost its parents")
    stop(node.pid)
    os.kill(parent_of(pid), signal.SIGKILL)
    node.kill()
    node.wait()
    assert facts.process_started(pid) is not None
    cluster.start(*quick, node_id=who, pace={**QUICK_TO_SEE, **QUICK_TO_NOTICE})
    assert cluster.wait_for_status(task_id, Status.ORPHANED, within_seconds=60).run["reason"] == "lost"
    assert facts.process_started(pid) is None


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
