"""Conditions on the content of tasks in MongoDB's query language.

Responsible for: these queries, none of which can become another one by what is in a path or a value. Must not know: who
asks; what a condition means (`documents.conditions`).

Rules:
1. A path is a name in a query where the server reads it as one. Keys with dots, dollars or nothing in them are asked
   for by an expression, which is slower and means the same.
2. A text of 24 digits may also be an id: people see both alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce
from typing import Any

from bson.objectid import ObjectId
from bson.regex import Regex

from disbatch_host.documents.conditions import Condition, Scalar, index_of
from disbatch_host.documents.records import Document


def condition_of(condition: Condition) -> Document:
    path, values = condition.path, [*condition.values, *_ids_among(condition.values)]
    query = _by_name(".".join(path), values) if all(map(_is_name, path)) else _by_expression(path, values)
    return {"$nor": [query]} if condition.negated else query


def grep_condition(text: str) -> Document:
    pattern = Regex(re.escape(text).replace("\0", "\\x00"), "i")
    return {"$or": [{"error.code": pattern}, {"error.message": pattern}]}


def _ids_among(values: Sequence[Scalar]) -> list[ObjectId]:
    return [ObjectId(one) for one in values if isinstance(one, str) and re.fullmatch("[0-9a-fA-F]{24}", one)]


def _is_name(part: str) -> bool:
    return part != "" and "." not in part and "\0" not in part and not part.startswith("$")


def _by_name(name: str, values: Sequence[Any]) -> Document:
    # `null` in a query also matches a field that is missing.
    there = {name: {"$in": [one for one in values if one is not None]}}
    return {"$or": [there, {name: {"$type": "null"}}]} if None in values else there


def _by_expression(path: Sequence[str], values: Sequence[Any]) -> Document:
    found = reduce(_step, path, ["$$ROOT"])  # type: ignore[arg-type]
    items = {"$cond": [{"$isArray": "$$this"}, "$$this", []]}
    all_found = _collected(found, {"$concatArrays": [["$$this"], items]})
    wanted = {"$literal": list(values)}
    return {"$expr": {"$ne": [{"$setIntersection": [all_found, wanted]}, []]}}


def _step(found: Any, part: str) -> Document:
    """Everything that one part of a path leads to, from each of what was found (`conditions.values_at`)."""
    own = _if_there({"$getField": {"field": {"$literal": part}, "input": "$$this"}})
    of_object = {"$cond": [{"$eq": [{"$type": "$$this"}, "object"]}, own, []]}
    of_items: Any = _collected("$$this", of_object)
    number = index_of(part)
    if number is not None:
        of_items = {"$concatArrays": [_if_there({"$arrayElemAt": ["$$this", number]}), of_items]}
    return _collected(found, {"$cond": [{"$isArray": "$$this"}, of_items, of_object]})


def _collected(each: Any, items: Any) -> Document:
    return {"$reduce": {"input": each, "initialValue": [], "in": {"$concatArrays": ["$$value", items]}}}


def _if_there(value: Any) -> Document:
    return {"$cond": [{"$eq": [{"$type": value}, "missing"]}, [], [value]]}
