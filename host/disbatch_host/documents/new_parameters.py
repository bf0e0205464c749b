"""Other parameters for a task that is run again, and what is kept of those before. Pure.

Responsible for: which values changed, and their place in the document. Must not know: which values are secret, what a
plugin takes, stores.

Rules:
1. An attempt keeps the values of its own that a retry has changed (`attempts[].parameters`); null stands for one that
   was not given. The values that a task has now, with those of its later attempts over them, backwards, are what an
   attempt ran with.
2. Secrets are masked before they are kept: nobody needs an old password, and programs of other versions, which show
   `attempts`, know nothing of secrets in it.
3. Values of more than BEFORE_MAX bytes of JSON are not kept, but for the word `changed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from disbatch_host.documents.records import Document, Task

BEFORE_MAX = 64 * 2**10
CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewParameters:
    """For one task."""

    values: Mapping[str, Any] = field(repr=False)  # all of them
    before: Mapping[str, Any] | str = field(repr=False)  # those that differ, as they were and masked, or CHANGED
    secrets: tuple[str, ...] = ()  # JSON pointers into `values`


def changed_values(old: Mapping[str, Any], new: Mapping[str, Any], masked: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `old` that are others in `new`, as `masked` has them."""
    names = [name for name in new if name not in old or not _is_same(old[name], new[name])]
    return {name: masked.get(name) for name in names}


def fields_of_retry(new: NewParameters, task: Task, fields: Mapping[str, Any]) -> Document:
    """The fields that a retry with them sets beside its own `fields`. The last attempt keeps what it had."""
    changed: Document = {"parameters": dict(new.values)}
    if new.secrets:
        changed["secrets"] = list(new.secrets)
    attempts = fields.get("attempts", task.attempts)
    if attempts and isinstance(attempts[-1], Mapping):
        changed["attempts"] = [*attempts[:-1], _with_values_of_before(attempts[-1], new.before)]
    else:
        changed["retried"] = _with_values_of_before(fields["retried"], new.before)
    return changed


def _with_values_of_before(attempt: Mapping[str, Any], before: Mapping[str, Any] | str) -> dict[str, Any]:
    """An element of `attempts`, or another record of a run, with the values that it had and that are others now. Those
    that it says already are its own: later ones were never used."""
    known = attempt.get("parameters")
    if not before or isinstance(known, str):
        return dict(attempt)
    if isinstance(before, str):
        return {**attempt, "parameters": CHANGED}
    return {**attempt, "parameters": {**before, **(known if isinstance(known, Mapping) else {})}}


def _is_same(one: Any, other: Any) -> bool:
    """1, 1.0 and true are three values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_is_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(_is_same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)
