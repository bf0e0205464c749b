"""Conditions on the content of tasks in MongoDB's query language.

Responsible for: these queries, none of which can become another one by what is in a path or a value. Must not know: who
asks; what a condition means (`documents.conditions`).

Rules:
1. A path is a name in a query where the server reads it as one. Keys with dots, dollars or nothing in them are asked
   for by an expression, which is slower and means the same.
2. A text of 24 digits may also be an id: people see both alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import reduce
from typing import Any

from bson.objectid import ObjectId
from bson.regex import Regex

from disbatch_host.documents.conditions import DATE, Condition, Order, Scalar, index_of
from disbatch_host.documents.records import Document

_OPERATORS = {Order.LESS: "$lt", Order.AT_MOST: "$lte", Order.MORE: "$gt", Order.AT_LEAST: "$gte"}


def condition_of(condition: Condition) -> Document:
    if condition.order is not None:
        return _in_order(condition.path, _OPERATORS[condition.order], condition.values[0])
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
    wanted = {"$literal": list(values)}
    return {"$expr": {"$ne": [{"$setIntersection": [_all_at(path), wanted]}, []]}}


def _in_order(path: Sequence[str], operator: str, than: Scalar) -> Document:
    if not isinstance(than, str) and all(map(_is_name, path)):
        return {".".join(path): {operator: than}}  # in a query, numbers are compared with numbers only
    if isinstance(than, str):
        is_kind = {"$cond": [{"$eq": [{"$type": "$$this"}, "string"]}, _looks_like_date("$$this"), False]}
    else:
        is_kind = {"$and": [{"$isNumber": "$$this"}, {"$ne": ["$$this", {"$literal": math.nan}]}]}
    is_met = {"$and": [is_kind, {operator: ["$$this", {"$literal": than}]}]}
    met = {"$filter": {"input": _all_at(path), "as": "this", "cond": is_met}}
    return {"$expr": {"$ne": [met, []]}}


def _looks_like_date(value: str) -> Document:
    return {"$regexMatch": {"input": value, "regex": DATE}}


def _all_at(path: Sequence[str]) -> Document:
    """An expression for all that a path leads to (`conditions.values_at`)."""
    found = reduce(_step, path, ["$$ROOT"])  # type: ignore[arg-type]
    items = {"$cond": [{"$isArray": "$$this"}, "$$this", []]}
    return _collected(found, {"$concatArrays": [["$$this"], items]})


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
