"""What a store is asked with, and answers, besides documents: values without behavior.

Responsible for: these values. Must not know: any driver, who asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar


class Access(StrEnum):
    """How a store may be opened. A server makes no difference between the first three."""

    CREATE = "create"  # a missing file is created
    EXISTING = "existing"  # the file must exist; a file that is only readable can be read
    OR_EMPTY = "or_empty"  # likewise, but a missing file looks like an empty store, and is not created
    # Nothing at all is created, written or brought up to date, on a server either, and nothing is waited for long; such
    # a store is only for calls that read. A layout of another version is not refused: see `StoreCondition`.
    LOOK = "look"


@dataclass(frozen=True, slots=True)
class Look:
    """What a look whether others have written has found, and when the next one is due."""

    has_changed: bool  # they may have written since the last look
    again_seconds: float  # until the next look
    # A descriptor that is open for reading as long as the store is: once it can be read, a look is due at once. None if
    # writes are not announced, at least not until the next look.
    announced_on: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """How many tasks of a batch have each status."""

    SEEN_MAX: ClassVar[int] = 10_000  # of one status, where the time was too short to count all

    by_status: Mapping[int, int]
    is_whole: bool  # False: the time was over; a count of SEEN_MAX is "at least"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many tasks a filter selects."""

    value: int
    is_exact: bool  # False: at least so many; there was no time for the others


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCondition:
    """What a store says about itself, to somebody who changes nothing in it."""

    product: str  # with its version: MongoDB 6.0.5
    form: str  # how it is set up: replica set rs0; standalone server; file
    layout: int | None  # the version of this program's layout; None: nobody has used it yet
    missing_indexes: tuple[str, ...] | None = ()  # of a layout of this version; None: this user may not see them
    why_not_write: str | None = None  # None: writing is allowed, as far as that can be seen without doing it
    why_not_index: str | None = None  # likewise, of creating indexes
    announces: bool = True  # others are told of changes by the store itself; else they look for them
    answer_seconds: float  # from a question to its answer
    file: Path | None = None  # of a store that is a file
