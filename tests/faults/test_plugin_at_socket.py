"""A plugin of the node's own user goes to the socket of the supervisor that runs it, with the key that it can read and
everything else that a node knows. It neither takes over, nor harms another run, nor keeps a node from coming."""

from __future__ import annotations

import json
from typing import Any

import pytest

from disbatch_host.node.home import store_id_of
from disbatch_host.process.flags import Input
from disbatch_host.process.frames import Bye, Hello, KillRun, Look, NodeBye, Stop, StopRun, SupervisorBye
from disbatch_host.process.framing import FrameReader, encode
from disbatch_protocol.status import Status
from helpers import supervisors
from helpers.nodes import QUICK_TO_SEE, Cluster
from helpers.processes import wait_until
from helpers.stores import on_sqlite
from helpers.supervisors import shell, start

pytestmark = [supervisors.usable(), pytest.mark.timeout(180)]

HELD = 'echo begun; while ! [ -e "$DISBATCH_PLUGIN_DIR/../go" ]; do sleep 0.1; done; echo done'
NO_KEY = b"the key is here!"  # as long as one
# Says each text at a connection of its own, and prints what it hears; then keeps as many connections as it gets.
INTRUDES = f"""#!/usr/bin/env python3
import json, os, socket, sys, time

parameters = json.loads(sys.stdin.readline())["parameters"]
os.chdir(parameters["home"])
key = open("key", "rb").read()


def connected():
    peer = socket.socket(socket.AF_UNIX)
    peer.connect("socket")
    return peer


heard = []
for text in parameters["says"]:
    peer = connected()
    try:
        peer.sendall(bytes.fromhex(text).replace({NO_KEY!r}, key))
    except OSError:
        pass
    said = b""
    try:
        while data := peer.recv(65536):
            said += data
    except OSError:
        pass
    heard.append(said.hex())
print(json.dumps(heard), flush=True)
peers = []
while not os.path.exists(os.environ["DISBATCH_PLUGIN_DIR"] + "/../go"):
    peers = [*peers[-100:], connected()]
    time.sleep(0.001)
"""


@on_sqlite
def test_a_plugin_at_the_socket_of_its_own_supervisor_harms_nobody(cluster: Cluster) -> None:
    cluster.keep_runs()
    cluster.plugin("Held", HELD)
    cluster.plugin("Intrudes", INTRUDES, file="run.py")
    cluster.plugin("Quick", "echo ran")
    (held,) = cluster.push(cluster.queue("Held"), {})
    node = cluster.start(pace=QUICK_TO_SEE)
    wait_until(lambda: "begun" in cluster.task(held).document["stdout"], 30, "it did not begin")
    assert cluster.state is not None
    (home,) = cluster.state.glob("n1-*")
    says = frames_of_a_node(store_id_of(cluster.store))
    (intruder,) = cluster.push(cluster.queue("Intrudes"), {"home": str(home), "says": [one.hex() for one in says]})
    wait_until(lambda: cluster.task(intruder).document["stdout"].endswith("\n"), 30, "it was not answered")
    answers = json.loads(cluster.task(intruder).document["stdout"])
    assert [list(FrameReader().feed(bytes.fromhex(one))) for one in answers] == [[REFUSED]] * len(says)
    quick = cluster.queue("Quick")
    cluster.wait_for_status(*cluster.push(quick, {}), Status.CONCLUDED)

    node.kill()
    node.wait()
    node = cluster.start(pace=QUICK_TO_SEE)
    wait_until(lambda: cluster.task(held).run.get("adopted"), 60, "the next node does not go on with it")
    cluster.wait_for_status(*cluster.push(quick, {}), Status.CONCLUDED)
    (cluster.plugins / "go").touch()
    for task_id in (held, intruder):
        assert cluster.wait_for_status(task_id, Status.CONCLUDED).run["attempt"] == 1
    assert cluster.task(held).document["stdout"] == "begun\ndone\n"
    assert "the connection to the supervisor of the runs" not in cluster.log()
    node.terminate()
    assert node.wait(30) == 0


REFUSED = SupervisorBye(Bye.REFUSED, b"a program of one of its runs is not its node")


def frames_of_a_node(store_id: bytes) -> list[bytes]:
    """What would take everything over, end all runs, start another or tell of them; and what is no frame."""

    def hello(**more: Any) -> bytes:
        fields = {"session": 2**63, "keep": 0, "store_id": store_id, "node_id": b"n1", "key": NO_KEY, **more}
        return encode(Hello(1, 1, **fields))

    stops = b"".join(encode(one(run, Stop.CANCELLED)) for one in (StopRun, KillRun) for run in (1, 2))
    program = encode(shell(1, "echo intruded")) + encode(start(2**39, 1, flags=Input.NULL))
    return [
        hello(),
        hello() + stops,
        hello() + program,
        hello(session=0),
        hello(key=b"x" * 16),
        encode(Look(NO_KEY)),
        encode(NodeBye(Bye.ENDS)),
        stops,
        program,
        b"\xff" * 100_000,
        b"GET / HTTP/1.1\r\n\r\n",
    ]
