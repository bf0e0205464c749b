"""`disbatch-host task output`."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.frame import common_options
from disbatch_host.documents.records import Task
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses

_LOOK_SECONDS = 0.5  # between two looks at a task that is followed, where the store does not wake us
_PAUSE_FACTOR = 9  # so many times as long as a look takes is the pause after it, at least: a tenth of the time is spent
_LOOK_SECONDS_MAX = 5.0  # but never longer than that


@click.command()
@click.argument("id")
@click.option("--stderr", "wants_stderr", is_flag=True, help="What it printed on stderr instead of stdout.")
@click.option("--follow", is_flag=True, help="Go on until the task has ended.")
@common_options
def output(id: str, wants_stderr: bool, follow: bool) -> None:
    """Print what the plugin printed, as it is. With --json a document: its text; with --follow one for each piece.

    \b
      disbatch-host task output 5f0c…
      disbatch-host task output 5f0c… --follow
    """
    stream = "stderr" if wants_stderr else "stdout"
    with common.opened_store() as store:
        found = common.find_task(store, id)
        reader = _OutputReader(store, stream, found.id)
        reader.print_new(found)
        if follow:
            watcher = store.watch()
            try:
                while not statuses.is_finished(found.status):
                    reader.finish_piece()
                    watcher.wait(_LOOK_SECONDS)
                    began = time.monotonic()
                    found = common.find_task(store, id)
                    reader.print_new(found)
                    # On a store where much happens the watcher wakes us at once, and a large output takes long to read.
                    time.sleep(min(_LOOK_SECONDS_MAX, (time.monotonic() - began) * _PAUSE_FACTOR))
            finally:
                watcher.close()
        reader.finish_piece(is_last=True)


class _OutputReader:
    """Prints what a stream has more than at the last call; from the start again where a new attempt has begun."""

    def __init__(self, store: Store, stream: str, task_id: Any) -> None:
        self._store = store
        self._stream = stream
        self._task_id = task_id
        self._token: Any = None
        self._printed = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text: list[str] = []  # of a piece, where it becomes a document
        self._has_printed = False

    def print_new(self, found: Task) -> None:
        token = found.run.get("token")
        if token != self._token:
            self._token, self._printed = token, 0
            self._decoder.reset()
        position = 0
        for piece in self._pieces(found):
            start = max(0, self._printed - position)
            if start < len(piece):
                self._write(piece[start:])
            position += len(piece)
        self._printed = max(self._printed, position)
        if not common.wants_json():
            sys.stdout.buffer.flush()

    def finish_piece(self, *, is_last: bool = False) -> None:
        """With --json: print what has come as a document; an empty one only where there is nothing at all."""
        if common.wants_json() and (any(self._text) or (is_last and not self._has_printed)):
            render.print_json({"_id": self._task_id, "stream": self._stream, "text": "".join(self._text)})
            self._text, self._has_printed = [], True

    def _write(self, data: bytes) -> None:
        if common.wants_json():
            self._text.append(self._decoder.decode(data))
        else:
            sys.stdout.buffer.write(data)

    def _pieces(self, found: Task) -> Iterator[bytes]:
        """The document's text, and where there is more, the file whose beginning it is."""
        facts = found.run.get("output")
        facts = facts.get(self._stream) if isinstance(facts, Mapping) else None
        is_running = not statuses.is_finished(found.status)
        if isinstance(self._token, str) and (is_running or (isinstance(facts, Mapping) and facts.get("in_file"))):
            seen = False
            for piece in self._store.read_output(found.id, self._token, self._stream):
                seen = True
                yield piece
            if seen:
                return
        text = found.document.get(self._stream)
        yield text.encode("utf-8", "replace") if isinstance(text, str) else b""
