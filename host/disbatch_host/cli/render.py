"""Formatting: tables on a terminal, plain columns when piped, one JSON document per line with --json.

Responsible for: everything that is printed, and which characters may be. Must not know: where it comes from.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from disbatch_host.documents import local_time
from disbatch_protocol import status as statuses
from disbatch_protocol.document import readable_line, rfc3339
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import Status

Other = Callable[[object], object]

_STYLES = {
    Status.CONCLUDED: "green",
    Status.RUNNING: "cyan",
    Status.CLAIMED: "cyan",
    Status.CREATED: "default",
    Status.BLOCKED: "default",
    Status.FAILED: "red",
    Status.TERMINATED: "red",
    Status.ORPHANED: "magenta",
    Status.CANCELLED: "yellow",
}


def print_json(document: Mapping[str, Any], other: Other | None = None, *, err: bool = False) -> None:
    """A document on one line. Characters that could do something to a terminal are escaped, which is the same JSON."""
    line = readable_line(document, other=other)
    if not line.isascii() or b"\x7f" in line:
        line = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line.decode()).encode()
    click.echo(line, err=err)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[int] = (), cuts_middle: bool = False
) -> None:
    """A table. `right` lists the columns of numbers; cells may be `(text, style)`. Nothing is cut when piped; on a
    terminal only the last column is, to the remaining width; if that is too narrow, its text gets a line of
    its own. `cuts_middle`: it lacks its middle then, not its end. Colors only on a terminal."""
    cut = cut_middle if cuts_middle else _cut
    cells = [[_cell(cell) for cell in row] for row in rows]
    last = len(columns) - 1
    widths = [max([len(column), *(_width(row[index][0]) for row in cells)]) for index, column in enumerate(columns)]
    left = None
    if sys.stdout.isatty():
        left = shutil.get_terminal_size().columns - sum(widths[:last]) - 2 * last
        if widths[last] <= left:
            left = None
    has_own_line = left is not None and left < min(_LAST_COLUMN_MIN, widths[last])
    header = columns[:last] if has_own_line else columns
    first: list[tuple[str, str | None]] = [(column, "bold") for column in header]
    for line in (first, *cells):
        parts = []
        for index, ((text, kind), width) in enumerate(zip(line, widths, strict=False)):
            if index == last and has_own_line:
                continue
            shown = text if index != last or left is None else cut(text, left)
            blanks = " " * (width - _width(shown) if index != last or index in right else 0)
            styled = style(shown, kind)
            parts.append(f"{blanks}{styled}" if index in right else f"{styled}{blanks}")
        click.echo("  ".join(parts).rstrip())
        if has_own_line and len(line) > last and line[last][0]:
            text, kind = line[last]
            click.echo(f"    {style(cut(text, shutil.get_terminal_size().columns - 4), kind)}")


_LAST_COLUMN_MIN = 24  # characters worth showing; below that, a line of its own is better


def _cell(cell: Any) -> tuple[str, str | None]:
    text, kind = cell if isinstance(cell, tuple) else (_text(cell), None)
    return printable(text).replace("\n", " ").replace("\t", " "), kind


def _width(text: str) -> int:
    """Its width in terminal columns."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415

    return cell_len(text)


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while text and _width(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def cut_middle(text: str, width: int) -> str:
    """At most this many columns: of an error, the beginning is often a path, and the end says what is wrong."""
    if _width(text) <= width:
        return text
    head = tail = text
    while head and _width(head) > width // 3:
        head = head[:-1]
    while tail and _width(tail) > width - 1 - _width(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def print_facts(facts: Sequence[tuple[str, Any]]) -> None:
    """Names and values in two columns, one per line; multi-line values are indented as a block."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        text, kind = value if isinstance(value, tuple) else (_text(value), None)
        lines = printable(text).splitlines() or [""]
        click.echo(f"{style(printable(name).ljust(width), 'bold')}  {style(lines[0], kind)}")
        for line in lines[1:]:
            click.echo(f"{' ' * width}  {line}")


def style(text: str, kind: str | None) -> str:
    """A text in a color, or `bold` or `dim`, for `click.echo`; None and `default`: as it is. Only these sequences reach
    a terminal, see `with_own_styles`."""
    if not text or kind in (None, "", "default"):
        return text
    return f"{_own_sequence()}{_CODES[str(kind)]}m{text}{_own_sequence()}0m"


_CODES = {
    "bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36,
    "bright_black": 90,
}  # fmt: skip


@functools.cache
def _own_sequence() -> str:
    """The beginning of this program's own sequences: with a number in it that no data can know. In this form click
    leaves them out where there is no terminal."""
    return f"\x1b[{int.from_bytes(os.urandom(7))};"


def with_own_styles(text: str) -> str:
    """A text as a terminal may get it: without control characters, but with this program's own styles."""
    first, *others = text.split(_own_sequence())
    if not others:
        return printable(text)
    pieces = (one.partition("m") for one in others)
    return printable(first) + "".join(f"\x1b[{code}m{printable(rest)}" for code, _, rest in pieces)


def status_cell(status: int) -> tuple[str, str]:
    """A status in its color."""
    try:
        style = _STYLES[statuses.kind(status)]
    except ValueError:
        style = "default"
    return statuses.name(status), style


def age(moment: Any, now: datetime) -> str:
    """`3 min ago`; `in 40 s` for the future."""
    if not isinstance(moment, datetime):
        return "-"
    seconds = (now - moment).total_seconds()
    size = abs(seconds)
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if size < limit:
            text = f"{size / unit:.0f} {name}"
            break
    else:
        text = f"{size / 86400:.0f} days"
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def moment(value: Any) -> str:
    """A date in full, in local time with its offset."""
    if not isinstance(value, datetime):
        return "-"
    return local_time.shown(value)


def duration(seconds: Any) -> str:
    return format_duration(float(seconds)) if isinstance(seconds, (int, float)) else "-"


def now() -> datetime:
    return datetime.now(UTC)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return rfc3339(value)
    return printable(str(value))


def printable(text: str) -> str:
    """Without characters that do something to a terminal instead of being shown, except for line ends and tabs:
    somebody's data must not move a reader's cursor, or turn the direction of a line. What joins the parts of an emoji
    or of a script stays."""
    return text if text.isprintable() else _CONTROLS.sub("\ufffd", text)


# C0 and C1, DEL, separators of lines and paragraphs, embeddings, overrides and isolates of direction, the deprecated
# formats, annotations, and what is not a character.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]")
