"""The rounds of a batch: what a retry of its tasks does to it.

Responsible for: saying in a batch that tasks of it run again. Must not know: how tasks are retried.

Rules:
1. It is said after its tasks are waiting again. Said before, a node would find a closed batch without an unfinished
   task, and take it for done.
2. A node that has counted the tasks before the retry does not mark the batch after it: it is another round.
"""

from __future__ import annotations

from collections.abc import Iterable

from disbatch_host.documents import batch as batches
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.records import Task
from disbatch_host.store.contract import Store

_TRIES = 5  # of a change of a batch that others are changing too


def tasks_run_again(store: Store, tasks: Iterable[Task]) -> None:
    """Tasks that had ended are waiting again, so their batches are not done any more."""
    for batch_id in {name for one in tasks if isinstance(name := one.document.get("batch"), str)}:
        for _ in range(_TRIES):
            document = store.get_batch(batch_id)
            batch = None if document is None else Batch.from_document(document)
            if batch is None or batch.fault is not None or batch.state is BatchState.OPEN:
                break
            wanted = (
                batches.reopened_change(batch, arms=False)
                if batch.state is BatchState.DONE
                else batches.touched_change(batch)
            )
            if store.change_batch(batch_id, wanted.set, wanted.unset, only_if=wanted.only_if):
                break
