"""Masks for secret values, which are given by JSON pointers, and values without them. Pure.

Must not know: which values are secret. It imports little, since commands that only show tasks import it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from disbatch_protocol.faults import pointer_to

MASK = "********"


def masked_at(value: Any, pointers: Collection[str]) -> Any:
    """The value with everything that these JSON pointers name masked; pointers that lead nowhere are skipped."""
    return _masked_at(value, frozenset(pointers), "") if pointers else value


def _masked_at(value: Any, pointers: frozenset[str], at: str) -> Any:
    if at in pointers:
        return MASK
    if isinstance(value, Mapping):
        return {name: _masked_at(one, pointers, at + pointer_to([str(name)])) for name, one in value.items()}
    if isinstance(value, list):
        return [_masked_at(one, pointers, f"{at}/{index}") for index, one in enumerate(value)]
    return value


def without(value: Any, pointers: Collection[str]) -> Any:
    """The value without what these JSON pointers name; None if that is all of it."""
    places = frozenset(pointers)
    return None if "" in places else _without(value, places, "") if places else value


def _without(value: Any, pointers: frozenset[str], at: str) -> Any:
    if isinstance(value, Mapping):
        named = {name: at + pointer_to([str(name)]) for name in value}
        return {
            name: _without(one, pointers, named[name]) for name, one in value.items() if named[name] not in pointers
        }
    if isinstance(value, list):
        named_items = [(f"{at}/{index}", one) for index, one in enumerate(value)]
        return [_without(one, pointers, place) for place, one in named_items if place not in pointers]
    return value
