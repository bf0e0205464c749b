"""A node finds the supervisor of an earlier life with which it cannot go on: that is ended with its runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from disbatch_host.process import facts
from disbatch_protocol.status import Status
from helpers import supervisors
from helpers.nodes import QUICK_TO_SEE, Cluster
from helpers.processes import wait_until
from helpers.supervisors import Home, living_below

pytestmark = [supervisors.usable(), pytest.mark.timeout(180)]
NOBODY = 65534
# As another user, tries to end the supervisor that its arguments name.
ENDS = """
import asyncio, os, sys
from disbatch_host.process.leftovers import OtherSupervisor, end_supervisor
other = OtherSupervisor(id=sys.argv[1], pid=int(sys.argv[2]), pid_started=int(sys.argv[3]), directory="")
os.setuid(int(sys.argv[4]))
print(asyncio.run(end_supervisor(other, stop_seconds=1, kill_seconds=1)))
"""


@pytest.mark.parametrize("how", ["without the program", "in another state directory"])
@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_what_an_earlier_life_has_left_where_this_one_cannot_go_on_with_it_is_ended_and_settled(
    cluster: Cluster, how: str
) -> None:
    """Somebody insists on it (--force); else it would run on beside a second run of the same task."""
    cluster.keep_runs()
    cluster.plugin("Hold", 'setsid sleep 600 & echo "$$ $!"; wait')
    (task_id,) = cluster.push(cluster.queue("Hold"), {})
    node = cluster.start(pace=QUICK_TO_SEE)
    wait_until(lambda: "\n" in cluster.task(task_id).document.get("stdout", ""), 30, "it did not begin")
    pids = [int(word) for word in cluster.task(task_id).document["stdout"].split()]
    node.kill()
    node.wait()
    assert all(map(facts.process_started, pids))
    first = cluster.directory / "state"
    if how == "without the program":
        later = cluster.start("--force", env={"DISBATCH_SUPERVISOR": "no"}, pace=QUICK_TO_SEE)
    else:
        cluster.state = cluster.directory / "another"
        later = cluster.start("--force", pace=QUICK_TO_SEE)
    try:
        assert cluster.wait_for_status(task_id, Status.ORPHANED, within_seconds=60).document["error"]["code"] == "lost"
        assert not any(map(facts.process_started, pids))
        later.terminate()
        assert later.wait(30) == 0
    finally:
        for state in (first, cluster.directory / "another"):
            supervisors.end_all_below(state)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_the_supervisor_of_another_user_is_not_taken_for_ended(tmp_path: Path) -> None:
    """Nor can the marks of its runs be read: they would all look gone."""
    home = Home(tmp_path / "home")
    try:
        described = json.loads((home.directory / "supervisor.json").read_text())
        arguments = [described["id"], str(described["pid"]), str(described["started"]), str(NOBODY)]
        done = subprocess.run([sys.executable, "-c", ENDS, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
        assert [pid for pid, _ in living_below(tmp_path)] == [described["pid"]]
    finally:
        home.close()
