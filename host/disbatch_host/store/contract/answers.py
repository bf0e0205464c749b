"""What a store is asked with, and answers, besides documents: values without behavior.

Responsible for: these values. Must not know: any driver, who asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Access(StrEnum):
    """How a store that is a file may be opened. A server makes no difference between them."""

    CREATE = "create"  # a missing file is created
    EXISTING = "existing"  # the file must exist; a file that is only readable can be read
    OR_EMPTY = "or_empty"  # likewise, but a missing file looks like an empty store, and is not created


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
