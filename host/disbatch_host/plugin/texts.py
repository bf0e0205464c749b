"""Texts about plugins, in which the names of files occur, for documents and terminals.

Responsible for: that they are UTF-8, and of a bounded size. Must not know: what they say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from disbatch_protocol.faults import Fault

_FAULTS_MAX = 50  # of one plugin: a manifest of 4 MiB has room for a hundred thousand, and nodes' documents list them
_TEXT_MAX = 1000  # characters of each


def shown(faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """Faults whose texts are of a bounded size, and UTF-8 even where they quote the name of a file."""
    found = [
        dataclasses.replace(fault, pointer=_text(fault.pointer), message=_text(fault.message), hint=_text(fault.hint))
        for fault in faults[:_FAULTS_MAX]
    ]
    if len(faults) > _FAULTS_MAX:
        found.append(Fault(pointer="", message=f"and {len(faults) - _FAULTS_MAX} more faults"))
    return tuple(found)


def _text(text: str) -> str:
    whole = printable(text)
    return whole if len(whole) <= _TEXT_MAX else f"{whole[: _TEXT_MAX - 1]}…"


def printable(text: str) -> str:
    """A text in which the name of a file may occur, with bytes that are not UTF-8 written as \\xNN."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, from no file name
        return text.encode("utf-8", "backslashreplace").decode()
