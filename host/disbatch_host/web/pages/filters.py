"""Filters of tasks as an address has them, as chips, and as the API takes them. Pure.

Responsible for: the grammar `queue=mail&status=failed&p.host=h7`, with `!` before a value for its opposite. Must not
know: tasks, HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disbatch_host.documents.causes import group_in
from disbatch_host.web.pages.page import Pairs
from disbatch_host.web.problems import Code, Fault, Problem
from disbatch_host.web.queries import FILTER
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import near_name

_CAUSE_MAX = 80  # letters of a cause on its chip
_PARAMETER = "p."
_LISTS = frozenset(name for name, schema in FILTER.items() if schema.get("type") == "array")
ADDABLE = ("status", "error", "queue", "node", "since", "before", "ended_since", "ended_before", "class", "version",
           "unique_key", "batch", "grep", "where")  # fmt: skip
# Those whose opposite is a condition on the task.
_NEGATED = {"error": ".error.code", "node": ".node", "queue": ".queue", "batch": ".batch", "class": ".run.plugin.class",
            "version": ".run.plugin.version", "unique_key": ".unique_key"}  # fmt: skip


# What else the address of the list has.
_OTHERS = frozenset({"add", "value", "word", "not", "parameter", "columns", "cursor", "order", "live"})
_ABSENT = re.compile(r"no (\w+) '([^']*)'")
_NEAR = re.compile(r"did you mean '?([^'?]+)'?\?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One part of an address that narrows a list."""

    name: str
    value: str


def filters_in(query: Pairs) -> list[Filter]:
    """Those of an address, in its order; all else of it (columns, cursor) is left out."""
    return [Filter(name=name, value=value) for name, value in query
            if value and (name in FILTER or name.startswith(_PARAMETER))]  # fmt: skip


def unknown_in(query: Pairs) -> list[Filter]:
    """What an address has that is neither a filter nor anything else of the list."""
    return [Filter(name=name, value=value) for name, value in query
            if name not in FILTER and name not in _OTHERS and not name.startswith(_PARAMETER)]  # fmt: skip


def require_known(query: Pairs) -> None:
    """Raises Problem for the first that is not: else the list would be of more tasks than somebody meant."""
    for one in unknown_in(query):
        near = near_name(one.name, FILTER)
        hint = f"did you mean {near}?" if near else f"a parameter of the tasks is {_PARAMETER}{one.name:.60}"
        message = f"not a filter of tasks; {hint}"
        raise Problem(Code.QUERY, f"{one.name!r:.60} is {message}", faults=[Fault(pointer=one.name, message=message)])


def wrong_in(query: Pairs, problem: Problem) -> Filter | None:
    """The filter that a problem is about."""
    name = problem.faults[0].pointer if problem.faults else problem.detail.partition(":")[0]
    given = [*unknown_in(query), *filters_in(query)]
    if absent := _ABSENT.match(problem.detail):  # the queue, batch or task that a filter names
        of_it = [one for one in given if one.value.removeprefix("!") == absent[2]]
        return next((one for one in of_it if one.name == absent[1]), of_it[0] if of_it else None)
    of_it = [one for one in given if one.name == name]
    return of_it[-1] if of_it else None


def meant_by(wrong: Filter, problem: Problem, queues: Iterable[str]) -> Filter | None:
    """What was probably meant by a filter that cannot be used."""
    if wrong.name not in FILTER:
        near = near_name(wrong.name, FILTER)
        return Filter(name=near or f"{_PARAMETER}{wrong.name}", value=wrong.value)
    known = {"status": statuses.names(), "queue": queues}.get(wrong.name)
    if known is not None:
        sign = "!" if wrong.value.startswith("!") else ""
        near = near_name(wrong.value.removeprefix("!"), known)
        return None if near is None else Filter(name=wrong.name, value=f"{sign}{near}")
    found = _NEAR.search(problem.detail)
    return None if found is None else Filter(name=wrong.name, value=found[1])


def to_query(filters: Sequence[Filter]) -> dict[str, Any]:
    """The same for the API. Raises Problem for a value that nobody can have."""
    found: dict[str, Any] = {}
    for one in filters:
        name, value = _in_api(one)
        if name in _LISTS:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise Problem(Code.QUERY, f"{name}: expected once, found several times")
        elif name == "failed":
            found[name] = value in ("yes", "true", "1")
        else:
            found[name] = value
    return found


def to_pairs(filters: Sequence[Filter]) -> list[tuple[str, str]]:
    return [(one.name, one.value) for one in filters]


def words_of(one: Filter) -> tuple[str, str]:
    """A filter on its chip: what, and which."""
    if one.name.startswith(_PARAMETER):
        is_not = one.value.startswith("!")
        return one.name.removeprefix(_PARAMETER), f"{'≠' if is_not else '='} {one.value.removeprefix('!')}"
    if one.value.startswith("!") and (one.name in _NEGATED or one.name == "status"):
        return one.name.replace("_", " "), f"not {one.value[1:]}"
    return one.name.replace("_", " "), one.value


def words_among(one: Filter, tasks: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The same; of a cause, its code and message instead of its key, where one of the tasks has them."""
    if one.name == "failure":
        text = next((found[0] for task in tasks if (found := group_in(task)) is not None), "")
        if text:
            return "cause", f"{text[:_CAUSE_MAX]}…" if len(text) > _CAUSE_MAX else text
    return words_of(one)


def _in_api(one: Filter) -> tuple[str, str]:
    is_not, plain = one.value.startswith("!"), one.value.removeprefix("!")
    if one.name.startswith(_PARAMETER):
        path = one.name.removeprefix(_PARAMETER).replace("\\", "\\\\").replace("=", "\\=")
        return "where", f"parameters.{path}{'!=' if is_not else '='}{plain}"
    if is_not and one.name == "status":
        return "status", _others(plain)
    if is_not and one.name in _NEGATED:
        return "where", f"{_NEGATED[one.name]}!={plain}"
    return one.name, one.value


def _others(words: str) -> str:
    """All statuses but these."""
    left_out: set[int] = set()
    has_failed = False
    for word in words.split(","):
        try:
            some, failed = statuses.parse(word)
        except ValueError as error:
            raise Problem(Code.QUERY, f"status: {error}") from error
        left_out |= some
        has_failed |= failed
    kept = [
        int(one)
        for one in statuses.Status
        if int(one) not in left_out and not (has_failed and one >= statuses.Status.FAILED)
    ]
    plain = [str(one) for one in kept if one != statuses.Status.FAILED]
    return ",".join([*plain, *(["2+"] if int(statuses.Status.FAILED) in kept else [])])
