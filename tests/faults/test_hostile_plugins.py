"""Plugins that misbehave in every way that has been thought of, each on a node that runs other tasks beside it.

Each ends with a reason that its owner understands, the node's memory stays bounded, the others do not notice, and no
process of the plugin's group is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conftest import skip_or_fail
from disbatch_host.documents.records import Task
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.process import facts, leftovers
from disbatch_protocol.status import Status
from helpers.disks import CannotMount, small_disk
from helpers.nodes import Cluster, public_plugins, write_plugin
from helpers.processes import assert_group_is_gone, peak_memory, wait_until

MIB = 2**20
NODE_MEMORY_MAX = 150 * MIB  # at its peak, whatever a plugin does
WITNESSES = 8
WITNESS_SECONDS_MAX = 5.0  # for an `echo`, on a machine whose cores are taken
SOAK = pytest.mark.soak
PYTHON = "#!/usr/bin/env python3\n"


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A program, what it may, and how its task must end."""

    program: str
    manifest: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] | Callable[[], dict[str, Any]] = field(default_factory=dict)
    status: Status
    run: dict[str, Any] = field(default_factory=dict)
    check: Callable[[Cluster, Task], None] = lambda cluster, task: None


def endless(cluster: Cluster, task: Task) -> None:
    output = cluster.output(task.id)
    assert len(output) < 4 * MIB + 200 and b"bytes of output are left out here (max_output is 4 MiB)" in output
    assert task.document["error"]["message"] == "disbatch-host: it ran longer than its timeout of 0.7 s"


def lines(cluster: Cluster, task: Task) -> None:
    assert cluster.output(task.id) == b"".join(b"%d\n" % number for number in range(1, 10**6 + 1))


def binary(cluster: Cluster, task: Task) -> None:
    summary = task.run["output"]["stdout"]
    assert summary["bytes"] == 3_000_000 and summary["replaced"] > 100_000
    cluster.output(task.id).decode("utf-8")  # what is kept is text


def one_bad_event(cluster: Cluster, task: Task) -> None:
    errors = task.run["event_errors"]
    assert errors["count"] == 1 and "expected a line of at most 1048576 bytes" in errors["first"][0]["message"]


def large_events(cluster: Cluster, task: Task) -> None:
    assert task.run["event_errors"]["count"] == 24 and len(task.run["event_errors"]["first"]) <= 20
    assert task.document["result"] == "heard after all"


def nothing_left(cluster: Cluster, task: Task) -> None:
    wait_until(lambda: left_of(task) == [], 5, "processes are left")


def count_of_forks(cluster: Cluster, task: Task) -> None:
    assert 1 <= int(task.document["stdout"]) < 40
    nothing_left(cluster, task)


def too_long_to_check(cluster: Cluster, task: Task) -> None:
    assert "its parameters could not be checked within 2 s" in task.document["error"]["message"]
    assert "plugin Hostile: the parameters of a task could not be checked within 2 s" in cluster.log()


def refers_to_itself(cluster: Cluster, task: Task) -> None:
    assert "the schema refers to itself without end" in task.document["error"]["message"]


def events(count: int) -> Hostile:
    """So many of them, a tenth of which are for the log."""

    def check(cluster: Cluster, task: Task) -> None:
        assert task.document["progress"]["value"] == 1 and len(task.document["log"]) == 1000
        assert task.run["log_dropped"] == count // 10 - 1000

    lines = r"""b'{"type":"progress","value":1}\n' * 9 + b'{"type":"log","message":"m"}\n'"""
    program = (
        f"{PYTHON}import os\nwith os.fdopen(3, 'wb') as events:\n"
        f"    for _ in range({count // 10}):\n        events.write({lines})\n"
    )
    return Hostile(program=program, status=Status.CONCLUDED, check=check)


DOUBLING = {
    "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {}},
    "$ref": "#/$defs/d0",
}
HOSTILE = {
    "endless output": Hostile(
        program="exec yes",
        manifest={"timeout": 0.7, "max_output": "4M"},
        status=Status.TERMINATED,
        run={"reason": "timeout"},
        check=endless,
    ),
    "a million tiny lines": Hostile(program="seq 1000000", status=Status.CONCLUDED, check=lines),
    "binary": Hostile(program="head -c 3000000 /dev/urandom", status=Status.CONCLUDED, check=binary),
    "closed descriptors": Hostile(
        program="exec 0<&- 1>&- 2>&- 3>&-; sleep 0.3; exit 4",
        parameters={"much": "x" * MIB},
        status=Status.FAILED,
        run={"reason": "exited", "exit_code": 4, "stdin_unread": True},
    ),
    "closed descriptors, for ever": Hostile(
        program="exec 0<&- 1>&- 2>&- 3>&-; exec sleep 600",
        manifest={"idle_timeout": 0.5},
        status=Status.TERMINATED,
        run={"reason": "idle_timeout", "signal": "TERM"},
    ),
    "ignored TERM": Hostile(
        program="trap '' TERM INT HUP QUIT; echo deaf; while :; do sleep 0.05; done",
        manifest={"timeout": 0.5, "kill_grace": 0.5},
        status=Status.TERMINATED,
        run={"reason": "timeout", "signal": "KILL", "killed": True},
    ),
    "fork until it fails": Hostile(
        program=PYTHON
        + "import os, time\nforks = 0\ntry:\n    while True:\n        if os.fork() == 0:\n            time.sleep(600)\n"
        + "        forks += 1\nexcept BlockingIOError:\n    print(forks, flush=True)\n    os._exit(7)\n",
        manifest={"run_as": "nobody", "limits": {"processes": 40}, "timeout": 20},
        status=Status.FAILED,
        run={"exit_code": 7},
        check=count_of_forks,
    ),
    "fork storm": Hostile(
        program=PYTHON
        + "import os, time\nwhile True:\n    try:\n        os.fork()\n"
        + "    except BlockingIOError:\n        time.sleep(0.02)\n",
        manifest={"run_as": "daemon", "limits": {"processes": 40}, "timeout": 1, "kill_grace": 0.2},
        status=Status.TERMINATED,
        run={"reason": "timeout"},
        check=nothing_left,
    ),
    "30,000 events": events(30_000),
    "a million events": events(1_000_000),
    "events of 2 MiB": Hostile(
        program=PYTHON
        + 'import os\nline = b\'{"type":"log","message":"\' + b"x" * 2**21 + b\'"}\\n\'\n'
        + "with os.fdopen(3, 'wb') as events:\n    for _ in range(24):\n        events.write(line)\n"
        + '    events.write(b\'{"type":"result","value":"heard after all"}\\n\')\n',
        status=Status.CONCLUDED,
        check=large_events,
    ),
    "an event without end": Hostile(
        program="exec cat /dev/zero >&3",
        manifest={"timeout": 0.5},
        status=Status.TERMINATED,
        run={"reason": "timeout"},
        check=one_bad_event,
    ),
    "never reads 8 MiB of parameters": Hostile(
        program="sleep 0.3; echo done",
        parameters={"much": "x" * 8 * MIB},
        status=Status.CONCLUDED,
        run={"stdin_unread": True, "exit_code": 0},
    ),
    "closes its stdin while 8 MiB of parameters are written": Hostile(
        program="head -c 100000 >/dev/null; exec 0<&-; sleep 0.3; echo done",
        parameters={"much": "x" * 8 * MIB},
        status=Status.CONCLUDED,
        run={"stdin_unread": True, "exit_code": 0},
    ),
    "a list that is compared with itself": Hostile(
        program="echo never",
        manifest={"parameters": {"properties": {"much": {"uniqueItems": True}}}},
        parameters=lambda: {"much": [{"n": [number]} for number in range(50_000)]},
        status=Status.CONCLUDED,  # by a digest of each, not each with each
    ),
    "a schema that doubles with each reference": Hostile(
        program="echo never",
        manifest={"parameters": DOUBLING},
        status=Status.FAILED,
        run={"reason": "parameters"},
        check=too_long_to_check,
    ),
    "a schema that refers to itself where there is a value": Hostile(
        program="echo never",
        manifest={"parameters": {"dependentSchemas": {"much": {"$ref": "#"}}}},
        parameters={"much": 1},
        status=Status.FAILED,
        run={"reason": "parameters"},
        check=refers_to_itself,
    ),
    "a file that grows past its limit": Hostile(
        program="exec cat /dev/zero >large",
        manifest={"cwd": "work", "limits": {"file_size": "1M"}},
        status=Status.TERMINATED,
        run={"reason": "signaled", "signal": "XFSZ"},
    ),
}


# What goes into the store in an unusual amount or shape; the others are the same to both stores.
OF_BOTH_STORES = ("endless output", "binary", "30,000 events", "never reads 8 MiB of parameters")
LONG = ("a million events",)
CASES = [
    *(pytest.param("sqlite", name, marks=[SOAK] if name in LONG else []) for name in HOSTILE),
    *(
        pytest.param("mongodb", name, marks=[pytest.mark.mongodb, *([] if name in OF_BOTH_STORES else [SOAK])])
        for name in HOSTILE
    ),
]


@pytest.mark.parametrize(("store_url", "name"), CASES, indirect=["store_url"])
def test_a_hostile_plugin_harms_nobody_but_itself(cluster: Cluster, name: str) -> None:
    hostile = HOSTILE[name]
    if "run_as" in hostile.manifest and os.geteuid() != 0:
        skip_or_fail("only root can change to another user")
    with public_plugins(cluster) if "run_as" in hostile.manifest else contextlib.nullcontext():
        run_hostile(cluster, hostile)


def run_hostile(cluster: Cluster, hostile: Hostile) -> None:
    cluster.plugin("Hostile", hostile.program, **hostile.manifest)
    with beside_witnesses(cluster):
        parameters = hostile.parameters() if callable(hostile.parameters) else hostile.parameters
        (task_id,) = cluster.push(cluster.queue("Hostile"), parameters)
        task = cluster.wait_for_status(task_id, hostile.status, within_seconds=40)
        assert {key: task.run.get(key) for key in hostile.run} == hostile.run
        hostile.check(cluster, task)
        if "pid" in task.run:
            assert_group_is_gone(task.run["pid"])


def _witness_seconds_max() -> float:
    """What the node may spend on a hostile task at once is bounded in CPU time (a second for its parameters); how long
    that takes depends on how many others want the cores."""
    return WITNESS_SECONDS_MAX * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@contextlib.contextmanager
def beside_witnesses(cluster: Cluster, **node: Any) -> Iterator[None]:
    """A node that runs other tasks one after another beside what the block does; then all that must hold of it."""
    cluster.plugin("Witness", 'read -r line; echo "fine $DISBATCH_TASK_ID"')
    witnesses = cluster.push(cluster.queue("Witness", maxthreads=1), *({} for _ in range(WITNESSES)))
    process = cluster.start("--heartbeat", "0.2", **node)
    yield
    for task_id in witnesses:
        task = cluster.wait_for_status(task_id, Status.CONCLUDED)
        assert task.document["stdout"] == f"fine {task_id}\n"
        assert task.run["attempt"] == 1 and task.run["seconds"] < _witness_seconds_max()
    peak = peak_memory(process.pid)
    assert 0 < peak < NODE_MEMORY_MAX, f"the node needed {peak / MIB:.0f} MiB"
    process.terminate()
    assert process.wait(30) == 0
    assert_group_is_gone(process.pid)
    assert "Traceback" not in cluster.log()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_plugin_whose_schema_refers_to_itself_without_end_is_left_out_and_its_queue_waits(cluster: Cluster) -> None:
    """Whatever its parameters are, it could not be checked: the plugin is at fault, and no task."""
    cluster.plugin("Hostile", "echo mended", parameters={"allOf": [{"$ref": "#"}, {"$ref": "#"}]})
    with beside_witnesses(cluster):
        (task_id,) = cluster.push(cluster.queue("Hostile"), {})
        wait_until(lambda: 'reference "#" leads in a circle' in cluster.log(), 20, "it was not left out")
        assert cluster.task(task_id).status == Status.CREATED
        cluster.plugin("Hostile", "echo mended")
        assert cluster.wait_for_status(task_id, Status.CONCLUDED).document["stdout"] == "mended\n"


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("holds_output", [True, False])
def test_a_daemon_that_a_plugin_leaves_behind_does_not_hold_its_run_open(cluster: Cluster, holds_output: bool) -> None:
    """It has left session and group on purpose, and its plugin says so: it is not killed. Where it holds the output,
    the run ends two seconds after its first process, and says so."""
    closing = "" if holds_output else "for fd in range(4):\n    os.close(fd)\n"
    program = (
        f"{PYTHON}import os, time\nprint('begun', flush=True)\nif os.fork():\n    time.sleep(0.1)\n    os._exit(0)\n"
        f"os.setsid()\nif os.fork():\n    os._exit(0)\n"
        f"open('{cluster.directory}/daemon.new', 'w').write(str(os.getpid()))\n"
        f"os.rename('{cluster.directory}/daemon.new', '{cluster.directory}/daemon')\n{closing}"
        "time.sleep(600)\n"
    )
    cluster.plugin("Daemon", program, protocol=2, leave_running=True)
    with beside_witnesses(cluster):
        (task_id,) = cluster.push(cluster.queue("Daemon"), {})
        task = cluster.wait_for_status(task_id, Status.CONCLUDED)
        daemon = int((cluster.directory / "daemon").read_text())
        try:
            assert task.run.get("output_held_open", False) is holds_output
            assert task.run["seconds"] < 8
            assert task.document["stdout"] == "begun\n"
            assert_group_is_gone(task.run["pid"])
            assert facts.process_started(daemon) is not None
        finally:
            os.kill(daemon, signal.SIGKILL)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_plugin_that_changes_its_own_manifest_is_run_by_the_old_one_to_its_end(cluster: Cluster) -> None:
    gate = cluster.directory / "gate"
    home = cluster.plugin(
        "Mutant", f'cp new "$DISBATCH_PLUGIN_DIR/plugin.json"; while ! test -e {gate}; do sleep 0.1; done'
    )
    changed = {"protocol": 1, "command": ["./run.sh"], "name": "Mutant", "version": "2", "timeout": 0.1}
    (home / "new").write_text(json.dumps({**changed, "exit_codes": {"0": "permanent"}}))
    with beside_witnesses(cluster):
        (task_id,) = cluster.push(cluster.queue("Mutant"), {})
        wait_until(lambda: "plugin Mutant 2: " in cluster.log(), 20, "the new manifest was not seen")
        gate.touch()
        assert cluster.wait_for_status(task_id, Status.CONCLUDED).run["plugin"]["version"] == ""
        gate.unlink()
        (task_id,) = cluster.push("Mutant", {})
        assert cluster.wait_for_status(task_id, Status.TERMINATED).run["plugin"]["version"] == "2"


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_plugin_that_deletes_its_own_directory_runs_to_its_end_and_its_queue_waits(cluster: Cluster) -> None:
    gate = cluster.directory / "gate"
    program = f'rm -r "$DISBATCH_PLUGIN_DIR"; while ! test -e {gate}; do sleep 0.1; done; echo to the end'
    cluster.plugin("Suicide", program)
    with beside_witnesses(cluster):
        (task_id,) = cluster.push(cluster.queue("Suicide", maxthreads=1), {})
        (next_id,) = cluster.push("Suicide", {})
        wait_until(lambda: "plugin Suicide is gone or broken; its queues wait" in cluster.log(), 20, "not seen")
        gate.touch()
        assert cluster.wait_for_status(task_id, Status.CONCLUDED).document["stdout"] == "to the end\n"
        assert cluster.task(next_id).status == Status.CREATED
        cluster.plugin("Suicide", "echo back again")
        assert cluster.wait_for_status(next_id, Status.CONCLUDED).document["stdout"] == "back again\n"


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_plugin_that_fills_its_work_directory_fails_and_leaves_room_when_it_is_done(cluster: Cluster) -> None:
    program = "cat /dev/zero >large || echo no more room; ls; pwd"
    cluster.plugin("Fill", program, cwd="work")
    try:
        with (
            small_disk(cluster.directory / "disk", megabytes=4) as disk,
            beside_witnesses(cluster, env={"TMPDIR": str(disk.path)}),
        ):
            (task_id,) = cluster.push(cluster.queue("Fill"), {})
            task = cluster.wait_for_status(task_id, Status.CONCLUDED)
            said, listed, directory = task.document["stdout"].splitlines()
            assert (said, listed) == ("no more room", "large") and directory.startswith(str(disk.path))
            assert "No space left" in task.document["stderr"]
            wait_until(lambda: list(disk.path.iterdir()) == [], 20, "its work directory was not removed")
    except CannotMount as error:
        skip_or_fail(str(error))


@pytest.mark.skipif(os.geteuid() != 0, reason="the limit holds for every user but root")
def test_a_limit_of_processes_that_root_is_not_held_to_is_said(tmp_path: Path) -> None:
    limits = {"processes": 40}
    for more, is_warned in (({}, True), ({"run_as": "root"}, True), ({"run_as": "nobody"}, False)):
        home = write_plugin(tmp_path, "Limited", "echo ran", limits=limits, **more)
        (plugin,) = load_plugins([home]).plugins.values()
        said = [fault.message for fault in plugin.warnings if fault.pointer == "/limits/processes"]
        assert bool(said) is is_warned and all("does not hold for root" in one for one in said)


def left_of(task: Task) -> list[int]:
    """Processes anywhere whose environment says that they belong to the task."""
    return [pid for pid, _, _ in leftovers.find_runs("n1", {str(task.id)})]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_what_runs_leave_behind_is_reaped_when_it_ends(cluster: Cluster) -> None:
    """It becomes the node's child, and would stay a zombie for as long as the node lives."""
    cluster.plugin("Leaves", "(setsid sleep 0.2 >/dev/null 2>&1 3>&- </dev/null &)")
    ids = cluster.push(cluster.queue("Leaves", maxthreads=4), *({} for _ in range(8)))
    process = cluster.start()
    for task_id in ids:
        cluster.wait_for_status(task_id, Status.CONCLUDED)

    def left() -> list[str]:
        pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        found = []
        for pid in pids:
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/comm").read_text().strip())
        return [name for name in found if name == "sleep"]

    wait_until(lambda: not left(), 20, "they are still there")
