"""Fields of a form from a JSON Schema. Pure.

Responsible for: which field a part of a schema becomes. Must not know: HTML, tasks, what is filled in (`filling`).

Rules:
1. Never guess: what has no simple form is a field of JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from disbatch_protocol.references import part_at

LEVELS_MAX = 3  # of objects in objects
RADIO_MAX = 7  # choices that are all seen at once
_LONG_TEXT = 200
_REFERENCES_MAX = 20
_SCALARS = ("string", "integer", "number")
_INPUTS = {"date": "date", "email": "email", "uri": "url"}
# Beside these, whatever a part says is left to the check of the parameters: fields need not know of it.
_PLAIN = frozenset({
    "type", "title", "description", "examples", "default", "enum", "const", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "format", "writeOnly", "readOnly",
    "$comment", "deprecated", "items", "minItems", "maxItems", "uniqueItems", "properties", "required",
    "additionalProperties", "$ref", "$id", "$anchor", "$defs", "definitions", "$schema",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field. `name` is its JSON pointer, which the form uses too."""

    name: str
    key: str  # of its object
    label: str
    kind: str  # text, textarea, password, radio, select, number, boolean, lines, group, variants, json; or of an input
    is_required: bool = False
    is_secret: bool = False
    has_null: bool = False
    hint: str = ""
    choices: Sequence[tuple[str, str]] = ()  # value as JSON, and its words
    attributes: Mapping[str, str] = field(default_factory=dict)  # of the input
    item: str = "string"  # of lines
    fields: Sequence[Field] = ()  # of a group
    variants: Sequence[Field] = ()  # groups, of which one is chosen
    schema: Any = None  # of a field of JSON, for people
    text: str = ""  # what is filled in
    is_whole: bool = False  # of a number
    takes_empty: bool = False  # a text: an empty one fits, which only JSON can say


def fields_of(schema: Any) -> tuple[Field, ...] | None:
    """The fields of the parameters, required ones first. None: the schema says nothing that a form could be made of."""
    top = _complete(schema, schema)
    properties = top.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return None
    return tuple(_properties(schema, top, "", 1, frozenset({"#"})))


def _properties(whole: Any, part: Mapping[str, Any], path: str, level: int, inside: frozenset[str]) -> Iterator[Field]:
    """`inside`: the references that led here; one of them again is a circle."""
    required = part.get("required")
    names = [one for one in required if isinstance(one, str)] if isinstance(required, list) else []
    found = [
        _field(whole, inner, f"{path}/{escaped(name)}", name, name in names, level, inside)
        for name, inner in part["properties"].items()
        if isinstance(name, str)
    ]
    yield from (one for one in found if one.is_required)
    yield from (one for one in found if not one.is_required)


def _field(whole: Any, given: Any, name: str, key: str, is_required: bool, level: int, inside: frozenset[str]) -> Field:
    part = _complete(whole, given)
    label = part.get("title")
    base = Field(
        name=name, key=key, label=label if isinstance(label, str) and label.strip() else key, kind="json",
        is_required=is_required, is_secret=part.get("writeOnly") is True, hint=_hint(part), schema=given,
    )  # fmt: skip
    references = _references(whole, given)
    if not inside.isdisjoint(references):
        return base
    inside |= references
    if variants := _variants(whole, part, name, level, inside):
        return replace(base, kind="variants", variants=variants)
    if not _PLAIN.issuperset(part) or (part.get("$ref") is not None and "type" not in part and "enum" not in part):
        return base
    choices = _choices(part)
    if choices is not None and not base.is_secret:
        kind = "radio" if len(choices) <= RADIO_MAX else "select"
        return replace(base, kind=kind, choices=choices, text=_default(part))
    kind, has_null = _type_of(part)
    base = replace(base, has_null=has_null)
    match kind:
        case "string":
            return _text_field(base, part)
        case "integer" | "number":
            return replace(base, kind="number", is_whole=kind == "integer", attributes=_bounds(part, kind))
        case "boolean":
            return replace(base, kind="boolean", text=_default(part))
        case "array" if not base.is_secret and (item := _item_of(whole, part)) is not None:
            return replace(base, kind="lines", item=item)
        case "object" if _is_group(part, level) and not base.is_secret:
            return replace(base, kind="group", fields=tuple(_properties(whole, part, name, level + 1, inside)))
    return base


def _text_field(base: Field, part: Mapping[str, Any]) -> Field:
    if base.is_secret:
        return replace(base, kind="password")
    longest = part.get("maxLength")
    form = part.get("format")
    if form in (None, "x-text") and not part.get("minLength") and "pattern" not in part:
        base = replace(base, takes_empty=True)
    if (isinstance(longest, int) and longest > _LONG_TEXT) or form == "x-text":
        return replace(base, kind="textarea")
    return replace(base, kind=_INPUTS.get(form, "text") if isinstance(form, str) else "text")


def _variants(whole: Any, part: Mapping[str, Any], name: str, level: int, inside: frozenset[str]) -> tuple[Field, ...]:
    """Objects of which one is chosen by a constant that each has; empty if it is not that simple."""
    given = part.get("oneOf") or part.get("anyOf")
    others = {"type", "title", "description", "oneOf", "anyOf", "default", "examples"}
    if not isinstance(given, list) or len(given) < 2 or not others.issuperset(part) or level > LEVELS_MAX:
        return ()
    if any(not inside.isdisjoint(_references(whole, one)) for one in given):
        return ()
    inside = inside.union(*(_references(whole, one) for one in given))
    parts = [_complete(whole, one) for one in given]
    if not all(_is_group(one, level) and _constants(one) for one in parts):
        return ()
    return tuple(
        Field(
            name=f"{name}?{number}", key=str(number), kind="group", hint=_hint(one), is_required=True,
            label=str(one.get("title") or ", ".join(f"{key} {value}" for key, value in _constants(one).items())),
            fields=tuple(_properties(whole, one, f"{name}?{number}", level + 1, inside)),
        )
        for number, one in enumerate(parts)
    )  # fmt: skip


def _constants(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: one["const"] for key, one in part["properties"].items()
        if isinstance(one, Mapping) and isinstance(one.get("const"), str)
    }  # fmt: skip


def _is_group(part: Mapping[str, Any], level: int) -> bool:
    properties = part.get("properties")
    return level <= LEVELS_MAX and isinstance(properties, Mapping) and bool(properties) and _PLAIN.issuperset(part)


def _choices(part: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
    values = [part["const"]] if "const" in part else part.get("enum")
    if not isinstance(values, list) or not values:
        return None
    if any(isinstance(one, (dict, list)) for one in values):
        return None
    return tuple((json_of(one), one if isinstance(one, str) and one else json_of(one)) for one in values)


def _default(part: Mapping[str, Any]) -> str:
    return json_of(part["default"]) if "default" in part else ""


def _type_of(part: Mapping[str, Any]) -> tuple[str, bool]:
    """The one type, beside null; empty if there are several."""
    given = part.get("type")
    types = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    others = [one for one in types if one != "null"]
    return (others[0] if len(others) == 1 and isinstance(others[0], str) else ""), "null" in types


def _item_of(whole: Any, part: Mapping[str, Any]) -> str | None:
    item = _complete(whole, part.get("items"))
    kind, has_null = _type_of(item)
    is_plain = kind in _SCALARS and not has_null and _PLAIN.issuperset(item) and item.get("writeOnly") is not True
    return kind if is_plain else None


def _bounds(part: Mapping[str, Any], kind: str) -> dict[str, str]:
    found = {}
    for key, attribute in (("minimum", "min"), ("maximum", "max")):
        if is_number(part.get(key)):
            found[attribute] = str(part[key])
    step = part.get("multipleOf")
    found["step"] = str(step) if is_number(step) and "min" not in found else "1" if kind == "integer" else "any"
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _hint(part: Mapping[str, Any]) -> str:
    """What a person should know who fills it in, on one line."""
    words = [" ".join(str(part["description"]).split())] if isinstance(part.get("description"), str) else []
    low, high = part.get("minimum"), part.get("maximum")
    if is_number(low) and is_number(high):
        words.append(f"{low} to {high}")
    elif is_number(low) or is_number(high):
        words.append(f"at least {low}" if is_number(low) else f"at most {high}")
    if isinstance(part.get("maxLength"), int):
        words.append(f"at most {part['maxLength']} letters")
    if part.get("format") == "date-time":
        words.append("with its zone, as 2026-11-28T15:22:00Z")
    if part.get("type") == "array":
        words.append("one a line")
    examples = part.get("examples")
    if part.get("writeOnly") is True:
        words.append("secret: stored for the run, shown nowhere")
    elif isinstance(examples, list) and examples:
        words.append(f"as {_shown(examples[0])}")
    if "default" in part and part.get("writeOnly") is not True:
        words.append(f"{_shown(part['default'])} if not given")
    return " · ".join(words)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json_of(value)


def _references(whole: Any, part: Any) -> frozenset[str]:
    """Those that are followed from a part to what it says."""
    found: set[str] = set()
    while isinstance(part, Mapping) and isinstance(part.get("$ref"), str) and part["$ref"] not in found:
        found.add(part["$ref"])
        part = part_at(whole, part["$ref"])
    return frozenset(found)


def _complete(whole: Any, part: Any) -> Mapping[str, Any]:
    """A part with what it refers to; one that never ends keeps its `$ref`."""
    found: dict[str, Any] = {}
    for _ in range(_REFERENCES_MAX):
        if not isinstance(part, Mapping):
            return found
        found = {**part, **found}
        if not isinstance(part.get("$ref"), str):
            found.pop("$ref", None)
            return found
        part = part_at(whole, part["$ref"])
    return {**found, "allOf": []}  # a circle: no simple form


def json_of(value: Any, *, is_pretty: bool = False) -> str:
    options = orjson.OPT_INDENT_2 if is_pretty else orjson.OPT_SORT_KEYS
    try:
        return orjson.dumps(value, option=options).decode()
    except TypeError:  # an integer above 64 bits
        import json  # noqa: PLC0415

        return json.dumps(value)


def escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1").replace("?", "~2")
