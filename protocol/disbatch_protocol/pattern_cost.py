"""A bound on the steps of a regular expression, for the plain ones among them. Pure.

Responsible for: a bound that holds for any string, or none. Must not know: what a pattern is used for.

A pattern that backtracks tries one way after another. Where repeats do not contain each other, the ways are as many as
there are places at which each repeat can end: a power of the string's length. A repeated group multiplies with itself,
except where each turn of it begins or ends with a character that nothing else in it can match, as in `(-[a-z]+)*`: then
a string has one way to be cut into turns. Everything else (references, groups that look around, other repeated groups)
has no bound here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ATOM = r"\\[dDwWsSnrtfv]|\\[^A-Za-z0-9\s]|\[\^?\]?(?:\\.|[^\]\\\[])*\]|[^\\\[\](){}|*+?^$.]|\."
_REPEAT = r"[*+?]|\{\d{1,4}(?:,\d{0,4})?\}"
_TOKEN = re.compile(
    rf"(?P<open>\((?:\?:)?(?!\?))|(?P<close>\))|(?P<bar>\|)|(?P<edge>\^|\$|\\[bBAZ])|(?P<atom>{_ATOM})", re.DOTALL
)
_AFTER = re.compile(rf"(?P<repeat>{_REPEAT})?(?P<more>[?+*]?)", re.DOTALL)
_PATTERN_MAX = 2000  # characters; longer ones are not read
_GROUPS_MAX = 20  # levels


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """At most tries * (n + 1) ** degree steps on a string of n characters."""

    tries: float
    degree: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A part of a pattern. `atom`: it is this one, without a repeat that varies; `inner`: the atoms of a group."""

    tries: float = 1.0
    degree: int = 0
    atom: str | None = None
    varies: str | None = None  # the atom whose repeat varies
    inner: tuple[_Piece, ...] = ()


class _UnboundedError(Exception):
    """Not a plain pattern."""


def steps_of(pattern: str) -> Bound | None:
    """The bound for `re.search` with this pattern; None if it is not known."""
    if len(pattern) > _PATTERN_MAX:
        return None
    reader = _Reader(pattern)
    try:
        piece = reader.alternatives(0)
        if reader.at != len(pattern):
            return None
    except _UnboundedError:
        return None
    is_anchored = pattern.startswith(("^", "\\A")) and not reader.has_outer_bar
    # The literals between two repeats are compared for each way, but seldom beyond the first of them.
    return Bound(tries=piece.tries * (1 + len(pattern) / 8), degree=piece.degree + (0 if is_anchored else 1))


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0
        self.has_outer_bar = False

    def alternatives(self, depth: int) -> _Piece:
        if depth > _GROUPS_MAX:
            raise _UnboundedError
        choices = [self._sequence(depth)]
        while self._pattern.startswith("|", self.at):
            self.at += 1
            self.has_outer_bar = self.has_outer_bar or depth == 0
            choices.append(self._sequence(depth))
        if len(choices) == 1:
            return choices[0]
        return _Piece(tries=sum(one.tries for one in choices), degree=max(one.degree for one in choices))

    def _sequence(self, depth: int) -> _Piece:
        pieces: list[_Piece] = []
        while self.at < len(self._pattern):
            token = _TOKEN.match(self._pattern, self.at)
            if token is None:
                raise _UnboundedError
            if token["close"] or token["bar"]:
                break
            self.at = token.end()
            if token["open"]:
                piece = self.alternatives(depth + 1)
                if not self._pattern.startswith(")", self.at):
                    raise _UnboundedError
                self.at += 1
            elif token["edge"]:
                piece = _Piece()
            else:
                piece = _Piece(atom=token["atom"])
            pieces.append(self._repeated(piece, is_edge=bool(token["edge"])))
        tries, degree = 1.0, 0
        for one in pieces:
            tries, degree = tries * one.tries, degree + one.degree
        return _Piece(tries=tries, degree=degree, inner=tuple(pieces))

    def _repeated(self, piece: _Piece, *, is_edge: bool) -> _Piece:
        after = _AFTER.match(self._pattern, self.at)
        assert after is not None
        if after["repeat"] is None:
            if after["more"]:
                raise _UnboundedError
            return piece
        self.at = after.end()
        if is_edge or after["more"] not in ("", "?"):
            raise _UnboundedError
        if after["repeat"] == "?":
            return _Piece(tries=piece.tries + 1, degree=piece.degree)
        least, _, most = after["repeat"].strip("{}").partition(",")
        is_fixed = least.isdigit() and (most == least or "," not in after["repeat"])
        if piece.atom is not None:
            return _Piece() if is_fixed else _Piece(degree=1, varies=piece.atom)
        if is_fixed and piece.degree == 0 and piece.tries == 1:
            return _Piece()
        if not _is_cut_in_one_way(piece.inner):
            raise _UnboundedError
        return _Piece(tries=2.0, degree=1)  # each place in the string is come to once


def _is_cut_in_one_way(turn: tuple[_Piece, ...]) -> bool:
    """Whether a string can be cut into turns of this group in one way only (see above)."""
    varying = [one.varies for one in turn if one.varies is not None]
    plain = [one.atom for one in turn if one.atom is not None]
    if len(turn) < 2 or len(varying) != 1 or len(varying) + len(plain) != len(turn):
        return False
    for index in (0, -1):
        mark = turn[index].atom
        others = [one.atom or one.varies for place, one in enumerate(turn) if place != index % len(turn)]
        if mark is not None and not any(other is None or _may_meet(mark, other) for other in others):
            return True
    return False


def _may_meet(mark: str, other: str) -> bool:
    """Whether one character can match both; a mark that is not one plain character may match anything."""
    if len(mark) != 1 and not (len(mark) == 2 and mark[0] == "\\" and not mark[1].isalnum()):
        return True
    if mark == ".":
        return True
    try:
        return re.fullmatch(other, mark[-1]) is not None
    except re.error:
        return True
