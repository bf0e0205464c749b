"""`disbatch-host task output`."""

from __future__ import annotations

import codecs
import sys

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.frame import common_options
from disbatch_host.client.finding import find_task
from disbatch_host.client.output import Piece, follow_output, is_binary, output_pieces
from disbatch_host.documents.records import TaskId
from disbatch_host.errors import UsageError


@click.command()
@click.argument("id")
@click.option("--stderr", "wants_stderr", is_flag=True, help="Print its stderr instead of its stdout.")
@click.option("--follow", is_flag=True, help="Keep printing until the task has ended.")
@common_options
def output(id: str, wants_stderr: bool, follow: bool) -> None:
    """Print the plugin's output, unchanged. With --json, as text in a document; with --follow, one per piece.
    Output that is not text (`"encoding": "binary"`) is printed into a file or a pipe only.

    \b
      disbatch-host task output 5f0c…
      disbatch-host task output 5f0c… --follow
    """
    stream = "stderr" if wants_stderr else "stdout"
    with common.opened_store() as store:
        found = find_task(store, id)
        if is_binary(found, stream) and (common.wants_json() or sys.stdout.isatty()):
            option = " --stderr" if wants_stderr else ""
            raise UsageError(
                f"the {stream} of task {found.id} is not text; write it into a file: "
                f"disbatch-host task output {found.id}{option} > FILE"
            )
        printer = _DocumentPrinter(found.id, stream) if common.wants_json() else _Printer()
        if follow:
            for piece in follow_output(store, found.id, stream):
                if piece is None:
                    printer.pause()
                else:
                    printer.add(piece)
        else:
            for data in output_pieces(store, found, stream):
                printer.add(Piece(data=data))
        printer.finish()


class _Printer:
    """Prints the bytes unchanged."""

    def add(self, piece: Piece) -> None:
        sys.stdout.buffer.write(piece.data)

    def pause(self) -> None:
        """There is no more for now."""
        sys.stdout.buffer.flush()

    def finish(self) -> None:
        sys.stdout.buffer.flush()


class _DocumentPrinter(_Printer):
    """Prints a document for the output up to each pause; an empty one only if there is no output at all."""

    def __init__(self, task_id: TaskId, stream: str) -> None:
        self._task_id = task_id
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text: list[str] = []
        self._has_printed = False

    def add(self, piece: Piece) -> None:
        if piece.is_first:
            self._decoder.reset()
        self._text.append(self._decoder.decode(piece.data))

    def pause(self) -> None:
        if any(self._text):
            self._print()

    def finish(self) -> None:
        if any(self._text) or not self._has_printed:
            self._print()

    def _print(self) -> None:
        render.print_json({"_id": self._task_id, "stream": self._stream, "text": "".join(self._text)})
        self._text, self._has_printed = [], True
