"""The character between the fields of a CSV file that nobody has named: spreadsheets write `;` or a tab in half of the
world.

Responsible for: recognizing it by the first lines, or by a line `sep=;` before them. Must not know: files, what the
rows are for.
"""

from __future__ import annotations

import csv
import io
import re
from itertools import islice

COMMA, TAB = ",", "\t"
_OTHERS = (COMMA, ";", TAB, "|")
_ROWS_MAX = 100  # that are looked at
_SEP_LINE = re.compile(r'"?sep=([^"\r\n])"?\r?\n?', re.IGNORECASE)
_NAMES = {COMMA: "a comma", TAB: "a tab"}


def in_sep_line(sample: str) -> str | None:
    """The delimiter that a first line `sep=;` names, as some spreadsheets write it; None: there is no such line."""
    match = _SEP_LINE.fullmatch(_lines(sample).readline())
    return None if match is None else match[1]


def recognized(sample: str, usual: str) -> str:
    """The delimiter of these first lines: the usual one, unless another divides the header and the rows more evenly."""
    best, evenness = usual, _evenness(sample, usual)
    for one in _OTHERS:
        found = _evenness(sample, one)
        if one != usual and found > max(evenness, 0.5):
            best, evenness = one, found
    return best


def in_words(delimiter: str) -> str:
    return _NAMES.get(delimiter, f"{delimiter!r}")


def _lines(sample: str) -> io.StringIO:
    return io.StringIO(sample, newline="")  # line ends as they are; the CSV reader decides what ends a record


def _evenness(sample: str, delimiter: str) -> float:
    """How many of the records have as many fields as the header, from 0 to 1; 0 if that has only one."""
    widths = []
    try:
        reader = csv.reader(_lines(sample), delimiter=delimiter, strict=True)
        for record in islice(reader, _ROWS_MAX):
            if record:
                widths.append(len(record))
    except csv.Error as error:
        if "unexpected end" not in str(error):  # the sample may end inside a field
            widths.append(0)
    if not widths or widths[0] < 2:
        return 0.0
    return sum(one == widths[0] for one in widths) / len(widths)
