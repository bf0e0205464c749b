"""Output that is too large for a task's document: GridFS files, which any GridFS reader can read.

Responsible for: the collections `tasks.files` and `tasks.chunks`, one file for each stream of an attempt. Must not
know: how large is too large, who reads.

Rules:
1. Writing a piece twice changes nothing, and an old piece that comes again does not shorten its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from pymongo import UpdateOne
from pymongo import errors as driver
from pymongo.collection import Collection
from pymongo.database import Database

from disbatch_host.documents.changes import OUTPUT_CHUNK_SIZE, OutputChunk, RunChange
from disbatch_host.documents.records import Document, TaskId
from disbatch_host.store.mongo import driver_errors, forms

_PIECES_BYTES = 8 * 2**20  # of pieces in one write: the driver copies them twice before it sends them
_STREAMS = ("stdout", "stderr")


class OutputFiles:
    def __init__(self, database: Database[Document], now: Callable[[], datetime]) -> None:
        self._files, self._chunks = database["tasks.files"], database["tasks.chunks"]
        self._now = now

    def write(self, chunks: Sequence[OutputChunk]) -> None:
        if not chunks:
            return
        files: dict[str, UpdateOne] = {}
        for chunk in chunks:
            token = chunk.key.token or ""
            file_id = forms.file_id(chunk.key.task_id, token, chunk.stream)
            fields = {
                "chunkSize": OUTPUT_CHUNK_SIZE,
                "filename": f"{chunk.key.task_id}/{chunk.stream}",
                "metadata": {"task_id": chunk.key.task_id, "token": token, "stream": chunk.stream},
            }
            file = {
                "$set": fields,
                "$max": {"length": chunk.number * OUTPUT_CHUNK_SIZE + len(chunk.data)},
                "$setOnInsert": {"uploadDate": self._now()},
            }
            files[file_id] = UpdateOne({"_id": file_id}, file, upsert=True)
        per_write = _PIECES_BYTES // OUTPUT_CHUNK_SIZE
        for start in range(0, len(chunks), per_write):
            _upsert(self._chunks, [forms.piece(chunk) for chunk in chunks[start : start + per_write]])
        _upsert(self._files, list(files.values()))

    def piece(self, task: TaskId, token: str, stream: str, number: int) -> bytes | None:
        found = self._chunks.find_one({"files_id": forms.file_id(task, token, stream), "n": number})
        return None if found is None else bytes(found["data"])

    def delete_of_tasks(self, tasks: Sequence[TaskId]) -> None:
        """Delete those of all their attempts."""
        self._delete([one["_id"] for one in self._files.find({"metadata.task_id": {"$in": list(tasks)}}, {"_id": 1})])

    def keep(self, changes: Iterable[RunChange]) -> None:
        """Write the pieces of earlier attempts that go with these changes, before they are carried out. For a change
        that is not, another node writes the same."""
        self.write([chunk for change in changes if change.keeps for chunk in change.keeps])

    def forget(self, changes: Iterable[RunChange]) -> None:
        """Delete the pieces of earlier attempts that go with these changes, once they are carried out."""
        self._delete(
            [
                forms.file_id(change.key.task_id, token, stream)
                for change in changes
                for token in change.forgets
                for stream in _STREAMS
            ]
        )

    def _delete(self, files: Sequence[str]) -> None:
        if files:
            self._chunks.delete_many({"files_id": {"$in": list(files)}})
            self._files.delete_many({"_id": {"$in": list(files)}})


def _upsert(collection: Collection[Document], writes: Sequence[UpdateOne]) -> None:
    """Two tries of one write may both find nothing and insert: the server refuses one of them, which then finds it."""
    try:
        collection.bulk_write(writes, ordered=False)
    except driver.BulkWriteError as error:
        failures = error.details.get("writeErrors", ())
        is_double = all(one.get("code") == driver_errors.DUPLICATE_KEY for one in failures)
        if error.details.get("writeConcernErrors") or not is_double:
            raise
        collection.bulk_write(writes, ordered=False)
