"""The kinds of values that options and arguments take, where these are not any text.

Responsible for: reading such a value, or saying in one form what was expected and what was found. Must not know: what
the values are for, how a message is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

_SHOWN_MAX = 60  # characters of a value that is repeated


class Whole(click.IntRange):
    """A whole number in a range."""

    def __init__(self, least: int, most: int | None = None) -> None:
        super().__init__(least, most)
        self.expected = (
            f"a whole number of {least} or more" if most is None else f"a whole number from {least} to {most}"
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected {self.expected}, found {_shown(value)}", param, ctx)


class OneOf(click.Choice):  # type: ignore[type-arg]  # generic only in newer versions
    """One of some words."""

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(list(words))
        self.expected = f"one of {', '.join(words)}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            from disbatch_protocol.faults import near_name  # noqa: PLC0415  (only for a mistake)

            near = near_name(str(value), [str(one) for one in self.choices])
            hint = "" if near is None else f"; did you mean {near!r}?"
            self.fail(f"expected {self.expected}, found {_shown(value)}{hint}", param, ctx)


class NewFile(click.Path):
    """The path of a file to be written."""

    expected = "the path of a file"

    def __init__(self) -> None:
        super().__init__(dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            what = "the directory " if Path(str(value)).is_dir() else ""
            found = f"{what}{_shown(value)}" + ("" if what else ", which cannot be read")
            self.fail(f"expected {self.expected}, found {found}", param, ctx)


def _shown(value: Any) -> str:
    text = repr(str(value))
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"
