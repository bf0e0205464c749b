"""The report of an import: the rows that do not fit, as the file's name says: a table, or a JSON object for each.

Responsible for: the file that `--report` names. Must not know: why a row does not fit, terminals.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import orjson

from disbatch_host.client import tables
from disbatch_host.client.importing.task_maker import RowFault
from disbatch_host.client.tables import Format
from disbatch_host.errors import OutputError, UsageError
from disbatch_protocol.document import to_json

_FIRST = ("line", "column", "reason")


class Report:
    """The open report. `of` names the source of the rows, in each line of NDJSON.

    A table is CSV or TSV, by the ending of the name. It has the line, the column that does not fit, the reason, and the
    cells of the row, and is written at the end, when all names of cells are known."""

    def __init__(self, path: str, of: str) -> None:
        """Raises UsageError if it cannot be written, or its name promises another format."""
        self.columns: Sequence[str] | None = None  # the header of the source, if it has one
        self._path = path
        self._of = of
        self._form = tables.format_of(path)
        self._names: dict[str, int] = {}
        self._is_closed = False
        try:
            self._file: IO[bytes] = self._opened(path)
        except OSError as error:
            raise UsageError(f"report {path} cannot be written: {error.strerror}") from error
        self._spool = None if self._form is Format.NDJSON else tempfile.TemporaryFile()  # noqa: SIM115

    @staticmethod
    def _opened(path: str) -> IO[bytes]:
        if path.endswith(".gz"):
            return gzip.open(path, "wb")  # type: ignore[return-value]
        return Path(path).open("wb")

    def add(self, fault: RowFault) -> None:
        """Raises OutputError if it can no longer be written."""
        try:
            if self._spool is None:
                line = {"file": self._of, "line": fault.line, "reason": fault.reason, "row": to_json(fault.row)}
                self._file.write(orjson.dumps(line) + b"\n")
            else:
                self._spool.write(orjson.dumps(self._spooled(fault)) + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Raises OutputError if the last of it cannot be written. Closing twice is fine."""
        try:
            if self._spool is not None and not self._is_closed:
                self._is_closed = True
                with self._spool as spool:
                    self._write_table(spool)
            self._file.close()
        except OSError as error:
            raise self._unwritable(error) from error

    def _spooled(self, fault: RowFault) -> list[Any]:
        """The first cells, then the numbers of the names of the others, and these."""
        cells = self._cells_of(to_json(fault.row))
        numbers = [self._names.setdefault(name, len(self._names)) for name in cells]
        first = [fault.line, tables.cell_of(fault.column), tables.cell_of(fault.reason)]
        return [first, numbers, [tables.cell_of(one) for one in cells.values()]]

    def _cells_of(self, row: Any) -> Mapping[str, Any]:
        if isinstance(row, Mapping):
            return {str(name): value for name, value in row.items()}
        if isinstance(row, list):  # of a CSV row with too few or too many
            names = list(self.columns or ())
            return {names[at] if at < len(names) else f"field {at + 1}": value for at, value in enumerate(row)}
        return {} if row is None else {"row": row}

    def _write_table(self, spool: IO[bytes]) -> None:
        names = list(self.columns or ())
        names += [one for one in self._names if one not in names]
        place = {self._names[one]: at for at, one in enumerate(names) if one in self._names}
        delimiter = tables.delimiter_of(None, self._form)
        write = tables.row_writer(self._file, delimiter, has_mark=self._form is Format.CSV)
        write([*_FIRST, *map(tables.cell_of, names)])
        spool.seek(0)
        for line in spool:
            first, numbers, values = orjson.loads(line)
            cells: list[Any] = [None] * len(names)
            for number, value in zip(numbers, values, strict=True):
                cells[place[number]] = value
            write([*first, *cells])

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(f"report {self._path} cannot be written: {error.strerror}")
