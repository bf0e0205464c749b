"""Formatting: tables on a terminal, plain columns when piped, one JSON document per line with --json.

Responsible for: everything that is printed. Must not know: where it comes from.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import orjson

from disbatch_host.documents import local_time
from disbatch_protocol import status as statuses
from disbatch_protocol.document import plain_document, rfc3339, to_json
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


def print_json(document: Mapping[str, Any], other: Other | None = None) -> None:
    """A document on one line."""
    click.echo(orjson.dumps(plain_document(document, other=other)))


def print_pretty_json(value: Any, other: Other | None = None) -> None:
    """A value for people: indented."""
    click.echo(orjson.dumps(to_json(value, other=other), option=orjson.OPT_INDENT_2))


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
        for index, ((text, style), width) in enumerate(zip(line, widths, strict=False)):
            if index == last and has_own_line:
                continue
            shown = text if index != last or left is None else cut(text, left)
            blanks = " " * (width - _width(shown) if index != last or index in right else 0)
            styled = _styled(shown, style)
            parts.append(f"{blanks}{styled}" if index in right else f"{styled}{blanks}")
        click.echo("  ".join(parts).rstrip())
        if has_own_line and len(line) > last and line[last][0]:
            text, style = line[last]
            click.echo(f"    {_styled(cut(text, shutil.get_terminal_size().columns - 4), style)}")


_LAST_COLUMN_MIN = 24  # characters worth showing; below that, a line of its own is better
_CLICK_STYLES: Mapping[str, Mapping[str, Any]] = {"bold": {"bold": True}, "dim": {"dim": True}, "default": {}, "": {}}


def _cell(cell: Any) -> tuple[str, str | None]:
    text, style = cell if isinstance(cell, tuple) else (_text(cell), None)
    return printable(text).replace("\n", " ").replace("\t", " "), style


def _styled(text: str, style: str | None) -> str:
    return click.style(text, **_CLICK_STYLES.get(style or "", {"fg": style})) if text and style else text


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


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Any]:
    """A progress bar on a terminal, nothing when piped; yields a function that advances it."""
    if not sys.stderr.isatty() or (total is not None and total < 2):
        yield lambda count: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task(what, total=total)
        yield lambda count: shown.advance(bar, count)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """On a terminal, shows for how long something has been waited for."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        shown.add_task(f"waiting {what}", total=None)
        yield


@contextlib.contextmanager
def current(what: str) -> Iterator[Callable[[str], object]]:
    """On a terminal, shows what is being done and for how long; yields a function that names it."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None, start=False)

        def show(name: str) -> None:
            shown.reset(task, description=f"{what} {printable(name)}")

        yield show


def print_facts(facts: Sequence[tuple[str, Any]]) -> None:
    """Names and values in two columns, one per line; multi-line values are indented as a block."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        text, style = value if isinstance(value, tuple) else (_text(value), None)
        style = None if style == "default" else style
        lines = text.splitlines() or [""]
        click.echo(f"{bold(name.ljust(width))}  {click.style(lines[0], fg=style) if style else lines[0]}")
        for line in lines[1:]:
            click.echo(f"{' ' * width}  {line}")


def bold(text: str) -> str:
    return click.style(text, bold=True)


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
    """Without control characters: somebody's data must not move a reader's cursor."""
    return (
        text if text.isprintable() else "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
    )
