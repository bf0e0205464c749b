"""Which parameters are secret, by the `writeOnly` of their JSON Schema. Pure.

Must not know: whether parameters fit the schema, how secrets are masked.

Rules:
1. Everything below a `writeOnly` is secret. A value that may be one (in the place of an object that would contain a
   secret) counts as one.
2. Each part of the schema looks at each value once, so a schema that refers to itself takes no longer than its size
   and that of the values allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from disbatch_protocol.faults import pointer_to
from disbatch_protocol.parameter_validator import search
from disbatch_protocol.references import part_at

_IN_OBJECTS = ("properties", "patternProperties", "additionalProperties", "unevaluatedProperties")
_IN_LISTS = ("prefixItems", "items", "contains", "unevaluatedItems")


def secrets_in(schema: Any, parameters: Any) -> tuple[str, ...]:
    """The JSON pointers of the secret ones among these values, in order."""
    found: set[str] = set()
    seen: set[tuple[int, str]] = set()
    rest: list[tuple[Any, Any, str]] = [(schema, parameters, "")]
    while rest:
        part, value, at = rest.pop()
        if not isinstance(part, Mapping) or at in found or (id(part), at) in seen:
            continue
        seen.add((id(part), at))
        if part.get("writeOnly") is True or (at and _stands_for_secret(part, value)):
            found.add(at)
            continue
        rest.extend((one, value, at) for one in _same_place(schema, part))
        if isinstance(value, Mapping):
            for name, one in value.items():
                inner = at + pointer_to([str(name)])
                rest.extend((applied, one, inner) for applied in _parts_for_name(part, str(name)))
        elif isinstance(value, list):
            for index, one in enumerate(value):
                rest.extend((applied, one, f"{at}/{index}") for applied in _parts_for_index(part, index))
    return tuple(sorted(found))


def may_be_secret(schema: Any, path: Sequence[str]) -> bool:
    """Whether a parameter at this path of names can be secret, or hold one, whatever the values are."""
    parts = _with_same_place(schema, [schema])
    for name in path:
        parts = _with_same_place(schema, [one for part in parts for one in _parts_for_name(part, name)])
        if any(part.get("writeOnly") is True for part in parts):
            return True
    items = [one for part in parts for one in (*(part.get("prefixItems") or ()), *map(part.get, _IN_LISTS[1:]))]
    return any(map(mentions_secret, (*parts, *_with_same_place(schema, items))))


def _with_same_place(whole: Any, parts: Iterable[Any]) -> list[Mapping[str, Any]]:
    found: dict[int, Mapping[str, Any]] = {}
    rest = list(parts)
    while rest:
        part = rest.pop()
        if isinstance(part, Mapping) and id(part) not in found:
            found[id(part)] = part
            rest += _same_place(whole, part)
    return list(found.values())


def mentions_secret(schema: Any) -> bool:
    """Whether it contains a `writeOnly`, at any depth."""
    if isinstance(schema, Mapping):
        return schema.get("writeOnly") is True or any(map(mentions_secret, schema.values()))
    return isinstance(schema, list) and any(map(mentions_secret, schema))


def _same_place(whole: Any, part: Mapping[str, Any]) -> list[Any]:
    same = [part.get(word) for word in ("if", "then", "else", "not")]
    for word in ("allOf", "anyOf", "oneOf"):
        same += part.get(word) or ()
    same += (part.get("dependentSchemas") or {}).values()
    if isinstance(part.get("$ref"), str):
        same.append(part_at(whole, part["$ref"]))
    return same


def _stands_for_secret(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether a value is in the place of an object or list that would contain a secret (rule 1)."""
    if value is None or isinstance(value, bool):
        return False
    in_objects, in_lists = (
        any(mentions_secret(schema.get(word)) for word in words) for words in (_IN_OBJECTS, _IN_LISTS)
    )
    if isinstance(value, Mapping):
        return in_lists and not in_objects
    return in_objects and not in_lists if isinstance(value, list) else in_objects or in_lists


def _parts_for_name(schema: Mapping[str, Any], name: str) -> list[Any]:
    known = schema.get("properties")
    parts = [known[name]] if isinstance(known, Mapping) and name in known else []
    for pattern, part in (schema.get("patternProperties") or {}).items():
        try:
            if search(pattern, name):
                parts.append(part)
        except re.error:  # another dialect than Python's: one mask too many is safer
            parts.append(part)
    return parts or [schema.get("additionalProperties"), schema.get("unevaluatedProperties")]


def _parts_for_index(schema: Mapping[str, Any], index: int) -> list[Any]:
    first = schema.get("prefixItems") or ()
    part = first[index] if index < len(first) else schema.get("items")
    return [part, schema.get("contains"), schema.get("unevaluatedItems")]
