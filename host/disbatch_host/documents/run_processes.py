"""The processes that a run names: those that it had left when its first one had ended. Pure.

Responsible for: their words. Must not know: how they are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PROCESSES_SHOWN = 5


def processes_in_words(run: Mapping[str, Any], which: str) -> str | None:
    """The processes that a field of a run names, in words; None if there are none. `run` may be anybody's."""
    left = run.get(which)
    found = [one for one in left if isinstance(one, Mapping)] if isinstance(left, (list, tuple)) else []
    if not found:
        return None
    shown = [f"{one.get('pid')} ({one.get('program')}, of user {one.get('user')})" for one in found[:_PROCESSES_SHOWN]]
    more = len(found) - len(shown)
    return f"process{'' if len(found) == 1 else 'es'} {', '.join(shown)}{f' and {more} more' if more else ''}"
