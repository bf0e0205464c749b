"""A real node on a host and in a database where a node of Disbatch 4 is at work."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.errors import ExitCode
from disbatch_host.node import default_id
from disbatch_host.settings.forms import make_node_id
from disbatch_host.settings.values import resolve
from disbatch_host.store.mongo import MongoStore
from disbatch_protocol.status import Status
from helpers.nodes import COMMAND, Cluster
from helpers.stores import NOW

pytestmark = pytest.mark.mongodb


def without_an_id(cluster: Cluster, state_directory: Path) -> subprocess.CompletedProcess[str]:
    """A node that is not told its id."""
    options = ["--store", cluster.url, "--plugins", str(cluster.plugins), "--until-idle", "--log-format", "json"]
    environment = {**os.environ, "DISBATCH_STATE_DIR": str(state_directory)}
    command = [*COMMAND, *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize("their", [{"node": "vm1"}, {"_id": "vm1", "version": "Disbatch.rb 1"}], ids=["4", "den-1.0"])
def test_the_id_of_another_programs_node_is_refused(
    mongo_cluster: Cluster, raw: Any, their: dict[str, Any], force: tuple[str, ...]
) -> None:
    raw["nodes"].insert_one({**their, "timestamp": NOW})
    theirs = raw["tasks"].insert_one({"queue": "q", "node": "vm1", "status": 0, "params": {}}).inserted_id
    process = mongo_cluster.start("--until-idle", *force, node_id="vm1")
    assert process.wait(30) == ExitCode.NODE_ID_IN_USE
    assert "is that of a node of another program" in mongo_cluster.log("vm1")
    assert raw["tasks"].find_one({"_id": theirs})["status"] == 0
    assert raw["nodes"].count_documents({}) == 1


def test_a_node_that_is_told_no_id_takes_none_of_theirs_and_keeps_to_its_choice(
    mongo_cluster: Cluster, raw: Any, tmp_path: Path
) -> None:
    cluster = mongo_cluster
    ours = make_node_id(socket.gethostname())
    cluster.plugin("Echo", "echo ran")
    queue = cluster.queue("Echo")
    raw["nodes"].insert_one({"node": ours, "timestamp": NOW})
    theirs = raw["tasks"].insert_one({"queue": "demo", "node": ours, "status": 0, "params": {}}).inserted_id
    chosen = set()
    for _ in range(2):
        (task_id,) = cluster.push(queue, {})
        done = without_an_id(cluster, tmp_path / "state")
        assert done.returncode == 0, done.stderr
        task = cluster.task(task_id)
        assert task.status == Status.CONCLUDED
        chosen.add(task.run["node"])
        assert f'"node":"{task.run["node"]}"' in done.stderr
        raw["nodes"].delete_many({"node": ours})
    assert chosen == {f"{ours[:7]}d"}
    assert raw["tasks"].find_one({"_id": theirs})["status"] == 0


def test_a_choice_takes_what_nobody_has(mongo: MongoStore, raw: Any, tmp_path: Path) -> None:
    assert default_id.choose(mongo, "mail0001", None) == "mail0001"
    for taken, then in (("mail0001", "mail000d"), ("mail000d", "mail00dd")):
        raw["nodes"].insert_one({"node": taken})
        assert default_id.choose(mongo, "mail0001", tmp_path / "a" / "b") == then
    raw["nodes"].delete_many({})
    assert default_id.choose(mongo, "mail0001", tmp_path / "a" / "b") == "mail00dd"
    assert default_id.choose(mongo, "mail0001", None) == "mail0001"
    assert default_id.choose(mongo, "other", tmp_path / "a" / "b") == "other"
    raw["nodes"].insert_one({"node": "other"})
    assert default_id.choose(mongo, "other", Path("/proc/none")) == "otherd"  # it cannot be kept there


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/me"}, "/home/me/.local/state/disbatch"),
        ({"HOME": "/home/me", "XDG_STATE_HOME": "/state"}, "/state/disbatch"),
        ({"HOME": "/home/me", "STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a"),
        ({"HOME": "/home/me", "STATE_DIRECTORY": "/var/lib/a", "DISBATCH_STATE_DIR": "/mine"}, "/mine"),
    ],
)
def test_where_a_choice_is_kept(environ: dict[str, str], expected: str) -> None:
    found = resolve({"store": "mongodb://db/x"}, environ).node.state_directory
    assert found == Path(expected)
