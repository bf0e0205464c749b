"""How things look: tables on a terminal, the same as plain columns when piped, one JSON document a line with --json.

Responsible for: everything that is printed. Must not know: where it comes from.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import orjson

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
    """One document, one line."""
    click.echo(orjson.dumps(plain_document(document, other=other)))


def print_pretty_json(value: Any, other: Other | None = None) -> None:
    """A value for people: indented."""
    click.echo(orjson.dumps(to_json(value, other=other), option=orjson.OPT_INDENT_2))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    right: Sequence[int] = (),
    title: str | None = None,
) -> None:
    """A table. `right` are the columns of numbers; cells may be `(text, style)`. Piped, columns are separated by at
    least two blanks, nothing is cut or wrapped, and there are no colors."""
    cells = [[cell if isinstance(cell, tuple) else (_text(cell), None) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(columns, cells, right, title)
        return
    widths = [max([len(column), *(len(row[index][0]) for row in cells)]) for index, column in enumerate(columns)]
    for line in [[(column, None) for column in columns], *cells]:
        parts = [
            text.rjust(width) if index in right else text.ljust(width)
            for index, ((text, _), width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(parts).rstrip())


def _rich_table(columns: Sequence[str], cells: Any, right: Sequence[int], title: str | None) -> None:
    from rich.console import Console  # noqa: PLC0415  (a fifth of the start time of a command that prints no table)
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for index, column in enumerate(columns):
        # Ids must be copied whole; what is too long for the line is the text at its end.
        is_last = index == len(columns) - 1
        table.add_column(
            column,
            justify="right" if index in right else "left",
            overflow="ellipsis" if is_last else "fold",
            no_wrap=not is_last or index == 0,
            ratio=1 if is_last else None,
        )
    for row in cells:
        table.add_row(*(Text(text, style=style or "") for text, style in row))
    Console().print(table)


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Any]:
    """A progress bar on a terminal, nothing when piped; gives a function that advances it."""
    if not sys.stderr.isatty() or (total is not None and total < 2):
        yield lambda count: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task(what, total=total)
        yield lambda count: shown.advance(bar, count)


def print_facts(facts: Sequence[tuple[str, Any]]) -> None:
    """Names and values, one a line, in two columns; values of several lines are indented as a block."""
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
    """`3 min ago`; `in 40 s` for what is to come."""
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
    return value.astimezone().isoformat(sep=" ", timespec="milliseconds")


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
    """Without control characters: somebody's data must not move the cursor of whoever looks at it."""
    return (
        text if text.isprintable() else "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
    )
