"""Programs that nobody here wrote, unchanged behind small manifests: the exit code alone is enough."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.stores import on_sqlite

NAGIOS = Path("/usr/lib/nagios/plugins")  # Debian: monitoring-plugins-basic
CNI = Path("/usr/lib/cni")  # Debian: containernetworking-plugins
# As docs/plugins.md says it.
NAGIOS_EXITS = {
    "1": {"outcome": "failure", "status": 11},
    "2": {"outcome": "failure", "status": 12},
    "3": {"outcome": "failure", "status": 13},
}


def manifest(cluster: Cluster, name: str, command: list[str], **more: Any) -> str:
    home = cluster.plugins / name
    home.mkdir(mode=0o755)
    (home / "plugin.json").write_text(json.dumps({"protocol": 1, "command": command, **more}))
    (home / "plugin.json").chmod(0o644)
    cluster.queue(name)
    return name


@on_sqlite
def test_wc_counts_the_task(cluster: Cluster) -> None:
    task = cluster.run_one(manifest(cluster, "Count", ["wc", "-l"]))
    assert (task.status, task.document["stdout"].strip()) == (Status.CONCLUDED, "1")


@on_sqlite
def test_sha256sum_of_a_file_and_of_one_that_is_not_there(cluster: Cluster) -> None:
    file = cluster.directory / "file"
    file.write_bytes(b"abc")
    good = manifest(cluster, "Sum", ["sha256sum", str(file)])
    bad = manifest(cluster, "NoSum", ["sha256sum", str(cluster.directory / "nothing")])
    (first,), (second,) = cluster.push(good, {}), cluster.push(bad, {})
    cluster.run()
    assert cluster.task(first).document["stdout"].startswith(hashlib.sha256(b"abc").hexdigest())
    failed = cluster.task(second)
    assert (failed.status, failed.run["exit_code"]) == (Status.FAILED, 1)
    assert "No such file or directory" in failed.document["error"]["message"]


@on_sqlite
def test_gzip_t_tells_a_good_archive_from_a_broken_one(cluster: Cluster) -> None:
    (cluster.directory / "good.gz").write_bytes(gzip.compress(b"x" * 1000))
    (cluster.directory / "bad.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    queues = [
        manifest(cluster, name, ["gzip", "-t", str(cluster.directory / f"{name}.gz")]) for name in ("good", "bad")
    ]
    ids = [cluster.push(queue, {})[0] for queue in queues]
    cluster.run()
    assert [cluster.task(task_id).status for task_id in ids] == [Status.CONCLUDED, Status.FAILED]
    assert "unexpected end of file" in cluster.task(ids[1]).document["error"]["message"]


@pytest.mark.skipif(not NAGIOS.is_dir(), reason="monitoring-plugins-basic is not installed")
@on_sqlite
def test_a_nagios_check_says_its_state_by_its_status(cluster: Cluster) -> None:
    file = cluster.directory / "file"
    file.write_text("x")
    fresh = [str(NAGIOS / "check_file_age"), "-f", str(file), "-w", "3600", "-c", "7200"]
    small = [*fresh, "-C", "100"]  # critical where it is smaller than 100 bytes
    commands = {"fresh": (fresh, 1), "small": (small, 12)}
    commands |= {f"dummy{code}": ([str(NAGIOS / "check_dummy"), str(code), "why"], code + 10) for code in (1, 2, 3)}
    ids = {}
    for name, (command, _) in commands.items():
        (ids[name],) = cluster.push(manifest(cluster, name, command, exit_codes=NAGIOS_EXITS), {})
    cluster.run()
    assert {name: cluster.task(ids[name]).status for name in ids} == {name: one[1] for name, one in commands.items()}
    assert cluster.task(ids["fresh"]).document["stdout"].startswith("FILE_AGE OK")


@pytest.mark.skipif(not CNI.is_dir(), reason="containernetworking-plugins is not installed")
def test_a_cni_plugin_gives_an_address_for_a_task_that_is_its_configuration(cluster: Cluster) -> None:
    """CNI reads its network configuration from stdin, and that is the task document: free fields are enough."""
    environment = {
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(CNI),
    }
    program = [str(CNI / "host-local")]
    add = manifest(cluster, "Add", program, env={**environment, "CNI_COMMAND": "ADD"})
    version = manifest(cluster, "Version", program, env={"CNI_COMMAND": "VERSION"})
    ipam = {"type": "host-local", "subnet": "10.1.2.0/24", "dataDir": str(cluster.directory / "leases")}
    (first,) = cluster.push(add, {}, cniVersion="1.0.0", name="net", ipam=ipam)
    (refused,) = cluster.push(add, {}, cniVersion="1.0.0", name="net")
    (asked,) = cluster.push(version, {})
    cluster.run()
    assert json.loads(cluster.task(first).document["stdout"])["ips"][0]["address"] == "10.1.2.2/24"
    assert "1.0.0" in json.loads(cluster.task(asked).document["stdout"])["supportedVersions"]
    assert cluster.task(refused).status == Status.FAILED
