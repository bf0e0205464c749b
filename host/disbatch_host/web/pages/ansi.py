"""What a program printed as lines that a page can show: colors as classes, nothing else that controls a terminal.

Responsible for: lines with their places, SGR sequences as classes, all other control characters made visible. Must not
know: stores, HTML. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SEQUENCE = re.compile(r"\x1b(?:\[([0-9;:]*)m|\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_COLORS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_DIGITS_MAX = 9  # of a code, the last ones: a program may print any number
_LINE_MAX = 20_000  # letters of one line
_CUT = re.compile(r"disbatch-host: \d+ bytes of output are left out here \(")  # as `run.output` says it


@dataclass(frozen=True, slots=True)
class Span:
    """Letters that look alike."""

    text: str
    classes: str = ""
    is_hit: bool = False  # of what somebody looks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line."""

    at: int  # the byte of the stream that it begins at
    number: int | None  # from 1; None where the lines before it were not counted
    spans: Sequence[Span]
    is_cut: bool = False  # it says that something is left out between the lines around it


def lines_of(
    data: bytes, *, start: int, number: int | None, find: str = "", is_plain: bool = False
) -> Iterator[Line]:  # fmt: skip
    """The lines of a part of a stream. `start`: its byte in the stream; `number`: of its first line, if that is known.
    `find`: what is looked for, in upper or lower case. `is_plain`: sequences are left out without their colors."""
    at, state = start, _State()
    raws = data.split(b"\n")
    for raw in raws[:-1] if raws[-1] == b"" else raws:
        text = raw.removesuffix(b"\r").decode("utf-8", "replace")
        spans = [*_marked(_spans(text[:_LINE_MAX], state, is_plain=is_plain), find)]
        if len(text) > _LINE_MAX:
            spans.append(Span(f" … {len(text) - _LINE_MAX} more letters", "cut"))
        yield Line(at=at, number=number, spans=spans, is_cut=_CUT.match(text) is not None)
        at += len(raw) + 1
        number = None if number is None else number + 1


class _State:
    """Of a terminal, as far as it is followed."""

    def __init__(self) -> None:
        self.color = ""
        self.is_bold = self.is_dim = False

    def apply(self, codes: str) -> None:
        parts = [int(one[-_DIGITS_MAX:] or 0) for one in codes.replace(":", ";").split(";")]
        position = 0
        while position < len(parts):
            code = parts[position]
            if code == 0:
                self.color, self.is_bold, self.is_dim = "", False, False
            elif code in (1, 2):
                self.is_bold, self.is_dim = code == 1, code == 2
            elif code == 22:
                self.is_bold = self.is_dim = False
            elif 30 <= code <= 37 or 90 <= code <= 97:
                self.color = _COLORS[code % 10]
            elif code == 39:
                self.color = ""
            elif code in (38, 48):  # of many colors: passed over, with what belongs to it
                position += 2 if parts[position + 1 : position + 2] == [5] else 4
            position += 1

    @property
    def classes(self) -> str:
        found = [f"c-{self.color}"] if self.color else []
        return " ".join([*found, *(["c-bold"] if self.is_bold else []), *(["c-dim"] if self.is_dim else [])])


def _spans(text: str, state: _State, *, is_plain: bool) -> Iterator[Span]:
    position = 0
    for match in _SEQUENCE.finditer(text):
        if match.start() > position:
            yield Span(visible(text[position : match.start()]), "" if is_plain else state.classes)
        if match[1] is not None:
            state.apply(match[1])
        position = match.end()
    if position < len(text):
        yield Span(visible(text[position:]), "" if is_plain else state.classes)


def visible(text: str) -> str:
    """Control characters as U+FFFD; those that turn the direction of writing among them."""
    return _CONTROL.sub("\ufffd", text)


def _marked(spans: Iterator[Span], find: str) -> Iterator[Span]:
    if not find:
        yield from spans
        return
    wanted = re.compile(re.escape(find), re.IGNORECASE)
    for one in spans:
        position = 0
        for match in wanted.finditer(one.text):
            if match.start() > position:
                yield Span(one.text[position : match.start()], one.classes)
            yield Span(match[0], one.classes, is_hit=True)
            position = match.end()
        if position < len(one.text):
            yield Span(one.text[position:], one.classes)
