"""The parameters of a plugin as a table, for people who fill them in.

Responsible for: a row for each parameter that the schema names, inner ones with the path to them. Must not know: how
the table is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disbatch_protocol.masks import MASK
from disbatch_protocol.parameter_types import Expected
from disbatch_protocol.parameters import ParameterSchema
from disbatch_protocol.references import part_at

LEVELS_MAX = 3  # of objects in objects
ROWS_MAX = 500
_TEXTS_MAX = 10  # of a closed list that a cell names
_REFERENCES_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRow:
    """One parameter."""

    name: str  # with dots: user.name
    types: str  # in words
    is_required: bool
    is_secret: bool
    has_default: bool = False
    default: Any = None  # masked, if it is a secret's
    description: str = ""
    examples: tuple[Any, ...] = ()  # none of a secret

    @property
    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "name": self.name,
            "types": self.types,
            "required": self.is_required,
            "secret": self.is_secret,
            **({"default": self.default} if self.has_default else {}),
            **({"description": self.description} if self.description else {}),
            **({"examples": list(self.examples)} if self.examples else {}),
        }


def rows_of(whole: Any, schema: ParameterSchema) -> tuple[ParameterRow, ...]:
    """The rows, in the order of the schema, required ones first. `whole`: the schema as the manifest has it."""
    rows: list[ParameterRow] = []
    for row in _rows(whole, schema, ()):
        rows.append(row)
        if len(rows) == ROWS_MAX:
            break
    tops = [row.name.partition(".")[0] if "." in row.name else row.name for row in rows]
    required = {row.name for row in rows if row.is_required}
    return tuple(row for _, row in sorted(zip(tops, rows, strict=True), key=lambda pair: pair[0] not in required))


def _rows(whole: Any, schema: ParameterSchema, path: tuple[str, ...]) -> Iterator[ParameterRow]:
    names = schema.places.names() if not path else list(_properties(_part(whole, path)))
    for name in names:
        inner = (*path, name)
        part = _part(whole, inner)
        expected = schema.places.expected_at(inner)
        is_secret = bool(schema.secrets(_with(inner, _some_value(expected))))
        examples = part.get("examples")
        yield ParameterRow(
            name=".".join(inner),
            types=_types(expected),
            is_required=schema.places.requires(inner),
            is_secret=is_secret,
            has_default="default" in part,
            default=MASK if is_secret and "default" in part else part.get("default"),
            description=" ".join(str(part.get("description") or part.get("title") or "").split()),
            examples=() if is_secret or not isinstance(examples, list) else tuple(examples),
        )
        if len(inner) < LEVELS_MAX and not is_secret:
            yield from _rows(whole, schema, inner)


def _types(expected: Expected) -> str:
    if expected.texts is not None and expected.types == {"string"}:
        texts = sorted(expected.texts)
        more = f", … ({len(texts)})" if len(texts) > _TEXTS_MAX else ""
        return f"one of {', '.join(texts[:_TEXTS_MAX])}{more}"
    return expected.in_words() if expected.is_known else "any"


def _some_value(expected: Expected) -> Any:
    """A value of a type that fits: where an object is expected, a text would count as a secret one inside it."""
    if "object" in expected.types and "string" not in expected.types:
        return {}
    return [] if "array" in expected.types and "string" not in expected.types else "x"


def _with(path: Sequence[str], value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def _part(whole: Any, path: Sequence[str]) -> Mapping[str, Any]:
    """The part of the schema at a path of names, with what it refers to."""
    part = _complete(whole, whole)
    for name in path:
        part = _complete(whole, _properties(part).get(name))
    return part


def _properties(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of the part, and of those that hold beside it."""
    found: dict[str, Any] = {}
    for one in (*(part.get("allOf") or ()), part):
        properties = one.get("properties") if isinstance(one, Mapping) else None
        if isinstance(properties, Mapping):
            found |= properties
    return found


def _complete(whole: Any, part: Any) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(_REFERENCES_MAX):
        if not isinstance(part, Mapping):
            break
        found = {**part, **found}
        if not isinstance(part.get("$ref"), str):
            break
        part = part_at(whole, part["$ref"])
    return found
