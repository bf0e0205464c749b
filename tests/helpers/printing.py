"""A run as a store sees it, without a program: it prints as a node would write it down.

Must not know: which store it is, what reads it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from disbatch_host.client import Client
from disbatch_host.documents.changes import OutputChunk, RunChange, RunKey, TaskChange, Want
from disbatch_host.documents.run_record import attempts_with
from disbatch_host.documents.transitions import start_change
from disbatch_host.run.output import OutputStream
from disbatch_protocol.encodings import Encoding
from disbatch_protocol.status import Status
from helpers.steps import walk

_NODE = "printer"
_AT_ONCE = 8 * 2**20  # bytes of pieces in one write


class Printing:
    """The only task of a queue that can be claimed, as it runs."""

    def __init__(self, client: Client, task_id: Any, *, encoding: Encoding = Encoding.UTF_8) -> None:
        self._store = client.store
        self._encoding = encoding
        self.id = task_id
        self.attempt = 0
        self._token: str | None = None
        self.streams: dict[str, OutputStream] = {}
        self._run: dict[str, Any] = {}

    def begin(self, *, keep_attempts: int = 1) -> Printing:
        """The next attempt."""
        self.attempt += 1
        self._token = f"secret-token-{self.id}-{self.attempt}"
        task = self._store.get_task(self.id)
        assert task is not None
        (claimed,) = self._store.claim(_NODE, [Want(task.queue, 1)], self._token)
        assert claimed.id == self.id
        self.streams = {name: OutputStream(max_bytes=2**32, encoding=self._encoding) for name in ("stdout", "stderr")}
        now = datetime.now(UTC)
        self._run = {"token": self._token, "attempt": self.attempt, "node": _NODE, "started": now}
        if self._encoding is not Encoding.UTF_8:
            told = {"encoding": str(self._encoding), "bytes": 0, "in_file": False}
            self._run["output"] = {"stdout": told, "stderr": told}
        change = start_change(task, self._key, self._run, now=now, keep_attempts=keep_attempts)
        assert self._store.commit([change]) == set()
        return self

    @property
    def _key(self) -> RunKey:
        return RunKey(self.id, _NODE, self._token)

    def prints(self, data: bytes, stream: str = "stdout") -> None:
        """It is in the store, as far as a node writes it while the program runs."""
        self.streams[stream].feed(data)
        self.tells(**{stream: self.streams[stream].inline_text()})
        self._write_pieces(stream)

    def tells(self, **fields: Any) -> None:
        change = RunChange(key=self._key, statuses=(Status.RUNNING,), set=fields)
        assert self._store.commit([change]) == set()

    def ends(self, status: int = Status.CONCLUDED) -> None:
        for name, stream in self.streams.items():
            stream.finish()
            self._write_pieces(name)
        output = {name: one.summary() for name, one in self.streams.items()}
        texts = {name: one.inline_text() for name, one in self.streams.items()}
        change = RunChange(
            key=self._key, statuses=(Status.RUNNING,),
            set={"status": int(status), "run": {**self._run, "output": output}, **texts},
        )  # fmt: skip
        assert self._store.commit([change]) == set()
        for stream in self.streams.values():
            stream.close()

    def is_to_run_again(self) -> None:
        """From an end, or from where it is, to where a node can claim it."""
        task = self._store.get_task(self.id)
        assert task is not None
        if task.status == Status.RUNNING:
            self.ends(Status.FAILED)
        task = self._store.get_task(self.id)
        assert task is not None
        attempts = attempts_with(task, task.run, None, Status.CREATED)
        walk(self._store, self.id, int(Status.CREATED))
        change = TaskChange(
            task_id=self.id, statuses=frozenset({int(Status.CREATED)}), set={"node": -1, "attempts": attempts}
        )
        assert self._store.change_tasks([change]) == set()

    def _write_pieces(self, stream: str) -> None:
        while pieces := self.streams[stream].take_chunks(_AT_ONCE):
            chunks = [OutputChunk(key=self._key, stream=stream, number=number, data=data) for number, data in pieces]
            self._store.commit([], chunks)
