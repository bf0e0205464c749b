"""What a run needs to go on with a program that an earlier node has started.

Responsible for: keeping it together. Must not know: how such a program is found, whose task it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from disbatch_host.process.interface import Stream
from disbatch_host.run.execution import Execution


class Adopted(NamedTuple):
    """Such a program."""

    execution: Execution
    age_seconds: float  # since its start
    text_bytes: Mapping[Stream, int]  # that the document has of its output
