"""`disbatch-host task output`."""

from __future__ import annotations

import codecs
import sys

import click

from disbatch_host.cli import common, render, results, terminal
from disbatch_host.cli.frame import common_options
from disbatch_host.client.finding import find_task
from disbatch_host.client.output import Piece, follow_output, is_binary, output_pieces
from disbatch_host.documents.records import TaskId
from disbatch_host.errors import UsageError


@click.command()
@click.argument("id")
@click.option("--stderr", "wants_stderr", is_flag=True, help="Print its stderr instead of its stdout.")
@click.option("--follow", is_flag=True, help="Keep printing until the task has ended.")
@click.option("--raw", is_flag=True, help="Print control characters on a terminal as well.")
@common_options
def output(id: str, wants_stderr: bool, follow: bool, raw: bool) -> None:
    """Print the plugin's output. With --json, as text in a document; with --follow, one per piece.

    Into a pipe or a file it is printed unchanged; on a terminal without control characters (colors, cursor movements,
    titles), unless --raw is given. Output that is not text (`"encoding": "binary"`) is printed into a file or a pipe
    only.

    \b
      disbatch-host task output 5f0c…
      disbatch-host task output 5f0c… --follow
    """
    stream = "stderr" if wants_stderr else "stdout"
    with common.opened_store() as store:
        found = find_task(store, id, common.who())
        if is_binary(found, stream) and (common.wants_json() or sys.stdout.isatty()):
            option = " --stderr" if wants_stderr else ""
            raise UsageError(
                f"the {stream} of task {found.id} is not text; write it into a file: "
                f"disbatch-host task output {found.id}{option} > FILE"
            )
        printer = _DocumentPrinter(found.id, stream) if common.wants_json() else _Printer(is_raw=raw)
        if follow:
            for piece in follow_output(store, found.id, stream, results.say_still):
                if piece is None:
                    printer.pause()
                else:
                    printer.add(piece)
        else:
            for data in output_pieces(store, found, stream):
                printer.add(Piece(data=data))
        printer.finish()


class _Printer:
    """Prints the bytes."""

    def __init__(self, *, is_raw: bool = False) -> None:
        self._stdout = terminal.raw(sys.stdout) if is_raw else sys.stdout.buffer

    def add(self, piece: Piece) -> None:
        self._stdout.write(piece.data)

    def pause(self) -> None:
        """There is no more for now."""
        self._stdout.flush()

    def finish(self) -> None:
        self._stdout.flush()


class _DocumentPrinter(_Printer):
    """Prints a document for the output up to each pause; an empty one only if there is no output at all."""

    def __init__(self, task_id: TaskId, stream: str) -> None:
        super().__init__()
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
