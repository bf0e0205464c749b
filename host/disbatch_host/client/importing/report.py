"""The report of an import: one JSON object per row that does not fit.

Responsible for: the file that `--report` names. Must not know: why a row does not fit, terminals.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from disbatch_host.client.importing.task_maker import RowFault
from disbatch_host.errors import OutputError, UsageError
from disbatch_protocol.document import to_json


class Report:
    """The open report. `of` names the source of the rows, in each line."""

    def __init__(self, path: str, of: str) -> None:
        """Raises UsageError if it cannot be written."""
        self._path = path
        self._of = of
        try:
            self._file = Path(path).open("wb")  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"report {path} cannot be written: {error.strerror}") from error

    def add(self, fault: RowFault) -> None:
        """Raises OutputError if it can no longer be written."""
        line = {"file": self._of, "line": fault.line, "reason": fault.reason, "row": to_json(fault.row)}
        try:
            self._file.write(orjson.dumps(line) + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Raises OutputError if the last of it cannot be written. Closing twice is fine."""
        try:
            self._file.close()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(f"report {self._path} cannot be written: {error.strerror}")
