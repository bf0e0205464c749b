"""What a plugin, another user of the machine and a reader of the logs can learn: nothing that is not theirs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from conftest import skip_or_fail
from disbatch_host.clock import SystemClock
from disbatch_host.store.open import open_store
from disbatch_protocol.status import Status
from helpers import nodes
from helpers.mongod import Mongod
from helpers.nodes import COMMAND, Cluster
from helpers.processes import assert_group_is_gone, catches, wait_until

OF_ANOTHER_TASK = "parameter-of-another-task"
OF_THE_HOST = "variable-of-the-host"
PASSWORD = "hunter2"  # of a store
# Looks for secrets wherever a program can look without breaking anything, and says what it has found.
SPY = r"""#!/usr/bin/env python3
import json, os, sys
secrets = [bytes.fromhex(one) for one in json.loads(sys.stdin.readline())["parameters"]["look_for"]]
found = []
def look(path):
    try:
        with open(path, "rb") as file:
            data = file.read(2**20)
    except OSError:
        return
    found.extend([path, secret.decode()] for secret in secrets if secret in data)
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline", "mountinfo"):
        look(f"/proc/{pid}/{name}")
    try:
        links = [(fd, os.readlink(f"/proc/{pid}/fd/{fd}")) for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        continue
    found.extend([f"/proc/{pid}/fd/{fd}", s.decode()] for fd, link in links for s in secrets if s in link.encode())
parent = os.getppid()
readable = []
for name in ("environ", "maps", "mem", "fd", "fdinfo", "cwd", "root", "exe", "io", "stack", "syscall", "auxv"):
    path = f"/proc/{parent}/{name}"
    try:
        if name in ("fd", "cwd", "root", "exe"):
            os.readlink(f"{path}/0" if name == "fd" else path)
        else:
            open(f"{path}/0" if name == "fdinfo" else path, "rb").read(1)
        readable.append(name)
    except OSError:
        pass
own = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
descriptors = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1]  # without that of the listing
print(json.dumps({"found": found, "readable": readable, "own": own, "descriptors": descriptors, "argv": sys.argv}))
"""


@pytest.fixture
def secret_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A database whose address is a secret; other users may look into the plugins' directory."""
    with (
        nodes.cluster_on_sqlite(tmp_path / "secret-address" / "test.db", tmp_path) as cluster,
        nodes.public_plugins(cluster),
    ):
        yield cluster


def start_quietly(cluster: Cluster, *prefix: str, **more: Any) -> subprocess.Popen[str]:
    """A node as a careful person starts it: the address in its environment."""
    with (cluster.directory / "n1.log").open("a") as log:
        process = subprocess.Popen(
            [*prefix, *COMMAND, "--plugins", str(cluster.plugins), "--node-id", "n1"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
            env={**os.environ, "DISBATCH_STORE": cluster.url, "SECRET_OF_HOST": OF_THE_HOST},
            start_new_session=True,
            **more,
        )
    cluster.processes.append(process)
    return process


def spy_on(cluster: Cluster, process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the spy has found while another task of the same plugin directory, with a secret parameter, runs."""
    gate = cluster.plugins.parent / "gate"
    cluster.plugin("Other", f"read -r line; echo begun; while ! test -e {gate}; do sleep 0.1; done")
    (other,) = cluster.push(cluster.queue("Other"), {"password": OF_ANOTHER_TASK})
    wait_until(lambda: cluster.task(other).document["stdout"] == "begun\n", 20, "did not begin")
    secrets = ["secret-address", OF_ANOTHER_TASK, OF_THE_HOST]
    look_for = [one.encode().hex() for one in secrets]  # else it would find its own
    (task_id,) = cluster.push(cluster.queue("Spy"), {"look_for": look_for})
    task = cluster.wait_for_status(task_id, Status.CONCLUDED)
    seen: dict[str, Any] = json.loads(task.document["stdout"])
    assert cluster.task(other).status == Status.RUNNING
    gate.touch()
    process.terminate()
    assert process.wait(30) == 0
    assert_group_is_gone(process.pid)
    return seen


def test_a_plugin_of_the_hosts_own_user_finds_no_address_and_no_other_tasks_parameters(secret_cluster: Cluster) -> None:
    """Without the rights of root, which may read everything: a plugin's process may look at all that its user may."""
    cluster = secret_cluster
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            skip_or_fail("no setpriv to take root's rights away")
        prefix = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--"]
    cluster.plugin("Spy", SPY, file="spy.py")
    seen = spy_on(cluster, start_quietly(cluster, *prefix))
    assert int(seen["own"]["CapEff"], 16) == 0, "else the test shows nothing"
    assert (seen["found"], seen["readable"]) == ([], [])
    assert seen["descriptors"] == [0, 1, 2, 3]
    assert len(seen["argv"]) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
def test_run_as_drops_everything_that_the_host_may(secret_cluster: Cluster) -> None:
    cluster = secret_cluster
    cluster.plugin("Spy", SPY, file="spy.py", run_as="nobody")
    seen = spy_on(cluster, start_quietly(cluster, extra_groups=[0, 4, 27]))
    own = seen["own"]
    assert (own["Uid"].split(), own["Gid"].split()) == (["65534"] * 4, ["65534"] * 4)
    assert set(own["Groups"].split()) <= {"65534"}
    assert {name: int(own[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {
        "CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapAmb": 0,
    }  # fmt: skip
    assert (seen["found"], seen["readable"]) == ([], [])
    assert seen["descriptors"] == [0, 1, 2, 3]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
def test_work_directories_are_private_also_from_other_plugins(cluster: Cluster) -> None:
    with nodes.public_plugins(cluster) as directory:
        look_into_each_others_directories(cluster, directory)


def look_into_each_others_directories(cluster: Cluster, public: Path) -> None:
    temporary = public / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    gate = public / "gate"
    kept = 'umask 0; echo mine >private; stat -c "%a %U" .; pwd'
    cluster.plugin("Mine", f"{kept}; while ! test -e {gate}; do sleep 0.1; done; exit 1", cwd="work", run_as="daemon")
    cluster.plugin("Thief", f"cat {temporary}/*/private {temporary}/*/*", run_as="nobody")
    (mine,) = cluster.push(cluster.queue("Mine"), {})
    process = cluster.start(env={"TMPDIR": str(temporary)})
    wait_until(lambda: cluster.task(mine).document["stdout"].count("\n") == 2, 20, "did not begin")
    (thief,) = cluster.push(cluster.queue("Thief"), {})
    assert cluster.wait_for_status(thief, Status.FAILED).document["stdout"] == ""
    mode, directory = cluster.task(mine).document["stdout"].splitlines()
    assert (mode, Path(directory).parent) == ("700 daemon", temporary)
    gate.touch()
    run = cluster.wait_for_status(mine, Status.FAILED).run
    assert stat.S_IMODE(Path(run["work_directory"]).stat().st_mode) == 0o700, "kept for its owner, and for nobody else"
    process.terminate()
    assert process.wait(30) == 0


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_spools_have_no_name_and_the_database_is_its_owners_alone(cluster: Cluster) -> None:
    temporary = cluster.directory / "tmp"
    temporary.mkdir()
    gate = cluster.directory / "gate"
    large = "head -c 3000000 /dev/zero | tr '\\0' x"
    cluster.plugin("Large", f"{large}; echo; while ! test -e {gate}; do sleep 0.1; done")
    (task_id,) = cluster.push(cluster.queue("Large"), {})
    other = cluster.directory / "open" / "other.db"
    process = subprocess.Popen(
        [*COMMAND, "--store", f"sqlite://{other}", "--plugins", str(cluster.plugins), "--node-id", "n2"],
        stderr=subprocess.DEVNULL,
        umask=0,
    )
    cluster.processes.append(process)
    files = [Path(f"{other}{suffix}") for suffix in ("", "-wal", "-shm")]
    wait_until(lambda: all(one.exists() for one in files), 20, "no database")
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}
    assert stat.S_IMODE(other.parent.stat().st_mode) == 0o700
    wait_until(lambda: catches(process.pid, signal.SIGTERM), 20, "the node did not start")
    process.terminate()
    assert process.wait(30) == 0

    process = cluster.start(env={"TMPDIR": str(temporary)})
    wait_until(lambda: len(cluster.task(task_id).document["stdout"]) > 10**6, 20, "not so much was printed")
    links = [str(one.readlink()) for one in Path(f"/proc/{process.pid}/fd").iterdir() if one.is_symlink()]
    spools = [one for one in links if one.startswith(str(temporary))]
    assert spools and all(one.endswith(" (deleted)") for one in spools)
    assert list(temporary.iterdir()) == []
    gate.touch()
    cluster.wait_for_status(task_id, Status.CONCLUDED)
    process.terminate()
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def server_with_login(own_mongod: Callable[..., Mongod]) -> Iterator[Mongod]:
    with own_mongod(is_standalone=True, wants_login=True) as server:
        with pymongo.MongoClient(server.url) as client:
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        with pymongo.MongoClient(server.database_url("admin", login=f"root:{PASSWORD}")) as client:
            for name in ("x", "xtext", "xjson"):
                client[name].command("createUser", "node", pwd=PASSWORD, roles=["readWrite"])
        yield server


@pytest.mark.mongodb
def test_a_password_in_the_arguments_is_hidden_at_once_and_its_owner_is_told(
    server_with_login: Mongod, tmp_path: Path
) -> None:
    url = server_with_login.database_url("x", login=f"node:{PASSWORD}")
    store = open_store(url, SystemClock())
    store.open()
    with nodes.cluster(url, store, tmp_path) as cluster:
        process = cluster.start(is_afresh=True)
        wait_until(lambda: "node n1 runs on" in cluster.log(), 20, "the node did not start")
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert PASSWORD.encode() not in arguments and b"mongodb://node:*******@127.0.0.1" in arguments
        assert "--store holds a password" in cluster.log() and "DISBATCH_STORE" in cluster.log()
        process.terminate()
        assert process.wait(30) == 0
    store.close()
    assert PASSWORD not in cluster.log()


@pytest.mark.mongodb
@pytest.mark.parametrize(("mode", "is_said"), [(0o644, True), (0o640, True), (0o600, False)])
def test_a_password_in_a_file_that_others_can_read_is_said(
    server_with_login: Mongod, tmp_path: Path, mode: int, is_said: bool
) -> None:
    config = tmp_path / "host.json"
    (tmp_path / "plugins").mkdir()
    url = server_with_login.database_url("x", login=f"node:{PASSWORD}")
    config.write_text(json.dumps({"store": url, "plugins": str(tmp_path / "plugins"), "node_id": "n1"}))
    config.chmod(mode)
    done = subprocess.run(
        [*COMMAND, "--config", str(config), "--until-idle"], capture_output=True, text=True, check=True, timeout=30
    )
    assert (f"can be read by others; chmod 600 {config}" in done.stderr) is is_said
    assert PASSWORD not in done.stderr


@pytest.mark.mongodb
@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_secret_is_in_a_log_of_any_level(server_with_login: Mongod, tmp_path: Path, form: str) -> None:
    """Parameters, environment values and passwords, on the ways that end well and on those that do not."""
    url = server_with_login.database_url(f"x{form}", login=f"node:{PASSWORD}")
    store = open_store(url, SystemClock())
    store.open()
    secret, value = "parameter-that-is-secret", "value-that-is-secret"
    schema = {"properties": {"key": {"type": "string", "maxLength": 40, "writeOnly": True}}}
    common: dict[str, Any] = {"parameters": schema, "env": {"TOKEN": value}, "env_pass": ["PASSED"]}
    with nodes.cluster(url, store, tmp_path) as cluster:
        says_it = 'read -r line; echo "$line $TOKEN $PASSED" >&3; printf %s "$line"; echo "$line $TOKEN" >&2; exit'
        cluster.plugin("Fine", f"{says_it} 0", **common)
        cluster.plugin("Fails", f"{says_it} 1", **common, retry={"max": 1, "delay": 0})
        cluster.plugin("Dies", f"{says_it.removesuffix('exit')} kill -9 $$", **common)
        cluster.plugin("Slow", "cat >&3; exec sleep 60", **common, timeout=0.2)
        cluster.plugin("Gone", "cat >&3", **common)
        (cluster.plugins / "Gone" / "run.sh").write_text("#!/bin/sh -e\0\nexit 0\n")
        cluster.plugin("Broken", "#!/usr/bin/env no-such-program\n", **common)
        hello = 'read -r hello; echo \'{"type":"ready","protocol":1}\' >&3; read -r line'
        cluster.plugin("Worker", f'{hello}; echo "$line $TOKEN" >&3; echo "$line" >&2; exit 3', mode="worker", **common)
        ids = []
        for name in ("Fine", "Fails", "Dies", "Slow", "Gone", "Broken", "Worker"):
            ids += cluster.push(cluster.queue(name), {"key": secret}, {"key": secret * 2}, {"key": [secret]})
        process = cluster.start("--log-level", "debug", "--debug", "--log-format", form, env={"PASSED": value})
        waiting = {"Broken"}
        wait_until(
            lambda: all(
                one.status != Status.CREATED or one.queue in waiting
                for one in cluster.tasks()
            )
            and not cluster.tasks(statuses=frozenset({int(Status.CLAIMED), int(Status.RUNNING)})),
            60,
            "not all have ended",
        )  # fmt: skip
        process.terminate()
        assert process.wait(30) == 0
        unfit = [task for task in cluster.tasks() if task.run.get("reason") == "parameters"]
        assert len(unfit) == 12
        for task in unfit:
            assert "/key: expected" in task.document["error"]["message"], "it says what does not fit"
            assert secret not in json.dumps(task.document["error"]), "and not what it was"
    store.close()
    log = cluster.log()
    assert "task" in log and ("DEBUG" if form == "text" else '"level":"debug"') in log
    for one in (secret, value, PASSWORD):
        assert one not in log
    for wrong in (url.replace("node:", "nobody:"), url.replace("127.0.0.1", "%zz"), url.replace("@", "@@:x:")):
        for more in ((), ("--debug",)):
            refused = subprocess.run(
                [*COMMAND, "--store", wrong, "status", *more], capture_output=True, text=True, check=False, timeout=60
            )
            assert refused.returncode in (2, 3)
            assert PASSWORD not in refused.stdout + refused.stderr, (wrong, more)
