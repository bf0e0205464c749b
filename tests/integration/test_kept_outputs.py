"""The outputs of attempts that a node has run one after the other: small ones, and some larger than a document."""

from __future__ import annotations

import pytest

from disbatch_host.client.output import attempt_pieces, attempts_with_output
from disbatch_host.documents.changes import INLINE_OUTPUT_MAX, OUTPUT_CHUNK_SIZE
from disbatch_host.errors import NotFoundError
from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.processes import wait_until
from helpers.supervisors import kill_with_supervisor

# A line that tells the attempt, then so many bytes, then it fails.
PROGRAM = """\
read -r line
echo "attempt $DISBATCH_ATTEMPT"
head -c %d /dev/zero | tr '\\0' x
echo "why $DISBATCH_ATTEMPT" >&2
exit 3"""
SIZES = {"Small": 10, "Large": 200_000, "Huge": INLINE_OUTPUT_MAX + 5}
AGAIN = {"max": 3, "delay": 0}
WORKER = r"""#!/usr/bin/env python3
import json, os, sys
sys.stdin.buffer.readline()
os.write(3, b'{"type":"ready","protocol":1}\n')
for line in sys.stdin.buffer:
    number = json.loads(line)["attempt"]
    os.write(1, b"attempt %d\n" % number + b"x" * 70_000)
    os.write(2, b"why %d\n" % number)
    os.write(3, b'{"type":"done","exit":3}\n')
"""


def test_the_outputs_of_the_attempts_before_are_kept_whatever_their_size(cluster: Cluster) -> None:
    for name, size in SIZES.items():
        cluster.plugin(name, PROGRAM % size, retry=AGAIN)
    cluster.plugin("Worker", WORKER, mode="worker", retry=AGAIN)
    sizes = {**SIZES, "Worker": 70_000}
    kept = dict(zip(sizes, (1, 2, 3, 50), strict=True))
    tasks = {name: cluster.push(cluster.queue(name, keep_attempts=number), {})[0] for (name, number) in kept.items()}
    cluster.run()
    for name, task_id in tasks.items():
        task = cluster.task(task_id)
        assert task.status == Status.FAILED and task.run["attempt"] == 4, task.document
        for number in range(1, 5):
            if number <= 4 - kept[name]:
                with pytest.raises(NotFoundError, match="no longer kept"):
                    attempt_pieces(cluster.store, task, number, "stdout")
                continue
            stdout = b"".join(attempt_pieces(cluster.store, task, number, "stdout"))
            assert stdout == b"attempt %d\n" % number + b"x" * sizes[name], (name, number, stdout[:30], len(stdout))
            assert b"".join(attempt_pieces(cluster.store, task, number, "stderr")) == b"why %d\n" % number
    cluster.check_documents()
    ids = list(tasks.values())
    tokens = {task_id: [one["token"] for one in cluster.task(task_id).attempts] for task_id in ids}
    assert cluster.store.delete_tasks(ids) == len(ids)
    for task_id, names in tokens.items():
        assert all(next(cluster.store.read_output(task_id, name, "stdout"), None) is None for name in names)


LOST = """\
read -r line
[ "$DISBATCH_ATTEMPT" = 1 ] || exit 0
head -c %d /dev/zero | tr '\\0' x
echo "why" >&2
while :; do sleep 1; done"""
LOST_SIZES = {"Small": 10, "Large": 400_000, "Huge": 3 * 2**20}
OF_WORKER = r"""#!/usr/bin/env python3
import json, os, sys, time
sys.stdin.buffer.readline()
os.write(3, b'{"type":"ready","protocol":1}\n')
for line in sys.stdin.buffer:
    if json.loads(line)["attempt"] > 1:
        os.write(3, b'{"type":"done","exit":0}\n')
        continue
    os.write(1, b"x" * 10)
    os.write(2, b"why\n")
    time.sleep(600)
"""


def test_what_an_attempt_had_printed_before_it_was_lost_with_its_node_is_kept(cluster: Cluster) -> None:
    """As far as the store had it: what was printed a second or more before."""
    for name, size in LOST_SIZES.items():
        cluster.plugin(name, LOST % size, idempotent=True)
    cluster.plugin("Worker", OF_WORKER, mode="worker", idempotent=True)
    tasks = {name: cluster.push(cluster.queue(name), {})[0] for name in (*LOST_SIZES, "Worker")}
    node = cluster.start()
    for name, task_id in tasks.items():
        wait_until(lambda task_id=task_id: cluster.task(task_id).document["stderr"] == "why\n", 30, f"{name} is silent")
    kill_with_supervisor(node)
    cluster.run()
    for name, task_id in tasks.items():
        task = cluster.task(task_id)
        assert (task.status, task.run["attempt"], task.attempts[0]["reason"]) == (Status.CONCLUDED, 2, "lost"), name
        stdout = b"".join(attempt_pieces(cluster.store, task, 1, "stdout"))
        size = LOST_SIZES.get(name, 10)
        # The last piece of what has outgrown the document is written once it is whole, or at the end.
        size -= size % OUTPUT_CHUNK_SIZE if size > INLINE_OUTPUT_MAX else 0
        assert stdout == b"x" * size, (name, len(stdout))
        assert b"".join(attempt_pieces(cluster.store, task, 1, "stderr")) == b"why\n"
        assert [one["attempt"] for one in attempts_with_output(task)] == [1]
    cluster.check_documents()
