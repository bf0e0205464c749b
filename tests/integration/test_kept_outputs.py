"""The outputs of attempts that a node has run one after the other: small ones, and some larger than a document."""

from __future__ import annotations

import pytest

from disbatch_host.client.output import attempt_pieces
from disbatch_host.documents.changes import INLINE_OUTPUT_MAX
from disbatch_host.errors import NotFoundError
from disbatch_protocol.status import Status
from helpers.nodes import Cluster

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
