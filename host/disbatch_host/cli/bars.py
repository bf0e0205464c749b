"""What moves on a terminal while something takes long: bars and spinners; nothing when piped.

Responsible for: drawing them with rich, past what cleans the output, and cleaning what is written meanwhile. Must not
know: what takes long.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from disbatch_host.cli import terminal
from disbatch_host.cli.render import printable

if TYPE_CHECKING:  # rich takes longer to import than most commands take
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn


def console(*, is_stderr: bool = True) -> Console:
    """What rich draws on. Its own sequences pass; texts have to be `printable` before they are drawn."""
    from rich.console import Console  # noqa: PLC0415

    return Console(file=terminal.unguarded(sys.stderr if is_stderr else sys.stdout))


@contextlib.contextmanager
def drawn(*columns: ProgressColumn) -> Iterator[Progress]:
    """Bars on stderr until the end of the block; whatever is printed meanwhile stands above them, cleaned."""
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(*columns, console=console(), transient=True) as shown, terminal.guarded():
        yield shown


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Any]:
    """A progress bar on a terminal, nothing when piped; yields a function that advances it."""
    if not sys.stderr.isatty() or (total is not None and total < 2):
        yield lambda count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    text = TextColumn("{task.description}", markup=False)
    with drawn(text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as shown:
        bar = shown.add_task(printable(what), total=total)
        yield lambda count: shown.advance(bar, count)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """On a terminal, shows for how long something has been waited for."""
    if not sys.stderr.isatty():
        yield
        return
    with _spinner() as shown:
        shown.add_task(printable(f"waiting {what}"), total=None)
        yield


@contextlib.contextmanager
def current(what: str) -> Iterator[Callable[[str], object]]:
    """On a terminal, shows what is being done and for how long; yields a function that names it."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    with _spinner() as shown:
        task = shown.add_task(what, total=None, start=False)

        def show(name: str) -> None:
            shown.reset(task, description=f"{what} {printable(name)}")

        yield show


def _spinner() -> contextlib.AbstractContextManager[Progress]:
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    return drawn(SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
