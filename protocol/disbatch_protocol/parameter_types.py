"""The JSON types that a schema allows for one parameter, so that a text that somebody typed can be read as it is meant.

Responsible for: looking through `type`, `enum`, `const`, `allOf`, `anyOf`, `oneOf`, `$ref`, `properties` and
`additionalProperties`. Must not know: how texts are read, validation.

Rules:
1. What is found is never narrower than the schema: a part that this module does not understand allows everything.
2. Each part of a schema is looked at once for a place, whatever refers to it how often: a schema that refers to itself,
   or fans out, costs no more than its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from disbatch_protocol.faults import near_name
from disbatch_protocol.references import part_at

_MISSPELT = 0.75  # how alike two names must be: `page` and `pages` are, `user` and `users_file` are not
ALL_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_KINDS: Mapping[type, str] = {
    bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object", type(None): "null",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The values that fit one place, as far as their types and their list say."""

    types: frozenset[str] = ALL_TYPES  # where numbers are allowed, integers are as well
    texts: frozenset[str] | None = None  # the only strings among them; None: any

    @property
    def is_known(self) -> bool:
        """Whether the schema says anything that some value could fit."""
        return bool(self.types) and self.types != ALL_TYPES

    @property
    def takes_any_text(self) -> bool:
        """Whether the schema says that a string may be here, whatever it says."""
        return self.is_known and "string" in self.types and self.texts is None

    def takes(self, text: str) -> bool:
        """Whether the schema says that this very string may be here."""
        return self.is_known and "string" in self.types and (self.texts is None or text in self.texts)

    def has_type_of(self, value: Any) -> bool:
        """Whether values of its type may be here."""
        is_whole = isinstance(value, float) and value.is_integer() and "integer" in self.types  # 1.0 is 1
        return is_whole or _KINDS.get(type(value), "object") in self.types

    def in_words(self) -> str:
        """`integer or null`."""
        return " or ".join(sorted(self.types - {"integer"} if "number" in self.types else self.types))

    def both(self, other: Expected) -> Expected:
        """The values that fit both."""
        texts = other.texts if self.texts is None else self.texts
        if self.texts is not None and other.texts is not None:
            texts = self.texts & other.texts
        return Expected(types=self.types & other.types, texts=texts)

    def either(self, other: Expected) -> Expected:
        """The values that fit one of them."""
        listed = [one.texts for one in (self, other) if "string" in one.types]
        texts = None if None in listed else frozenset().union(*(one for one in listed if one is not None))
        return Expected(types=self.types | other.types, texts=texts)


_ANYTHING = Expected()
_NOTHING = Expected(types=frozenset())


class Places:
    """What a schema says about each place in the parameters."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._found: dict[tuple[int, tuple[str, ...]], Expected] = {}

    def expected_at(self, path: Sequence[str]) -> Expected:
        """What fits the parameter of this name, or at this path of names."""
        try:
            return self._at(self._schema, tuple(path))
        except RecursionError:  # a chain of a thousand references
            return _ANYTHING

    def requires(self, path: Sequence[str]) -> bool:
        """Whether the parameter is required wherever the object that holds it is present."""
        return any(path[-1] in _list(part.get("required")) for part in self._parts_at(path[:-1]))

    @property
    def is_closed(self) -> bool:
        """Whether parameters that the schema does not name are refused."""
        words = ("additionalProperties", "unevaluatedProperties")
        return any(part.get(word) is False for part in self._parts_at(()) for word in words)

    def names(self) -> list[str]:
        """The top-level parameters that the schema names, in its order."""
        named = (_mapping(part.get("properties")) for part in self._parts_at(()))
        return list(dict.fromkeys(str(name) for properties in named for name in properties))

    def misspelt(self, given: Iterable[str]) -> dict[str, str]:
        """Of the top-level parameters that are given, those that are taken although the schema does not name them, and
        are probably misspelt: each with the name that was meant, which is not given. Empty where a required one is
        missing: that is a fault, with advice of its own."""
        given = dict.fromkeys(given)
        names = self.names()
        unknown = [name for name in given if name not in names]
        if not unknown or self.is_closed:  # refused anyway
            return {}
        patterns = [part for part in self._parts_at(()) if part.get("patternProperties")]
        left = [name for name in names if name not in given]
        if any(self.requires((name,)) for name in left):
            return {}
        near = {name: near_name(name, left, likeness=_MISSPELT) for name in unknown} if not patterns else {}
        return {name: meant for name, meant in near.items() if meant is not None}

    def _at(self, schema: Any, path: tuple[str, ...]) -> Expected:
        if schema is False:
            return _NOTHING
        if not isinstance(schema, Mapping):
            return _ANYTHING
        key = (id(schema), path)
        if key not in self._found:
            self._found[key] = _ANYTHING  # for a part that refers to itself
            self._found[key] = self._look(schema, path)
        return self._found[key]

    def _look(self, schema: Mapping[str, Any], path: tuple[str, ...]) -> Expected:
        found = _own_of(schema)
        if path:
            if "object" not in found.types:
                return _NOTHING
            found = self._inside(schema, path)
        for part in self._parts_beside(schema):
            found = found.both(self._at(part, path))
        for word in ("anyOf", "oneOf"):
            if parts := _list(schema.get(word)):
                found = found.both(reduce(Expected.either, (self._at(part, path) for part in parts)))
        return found

    def _inside(self, schema: Mapping[str, Any], path: tuple[str, ...]) -> Expected:
        properties = _mapping(schema.get("properties"))
        if path[0] in properties:
            return self._at(properties[path[0]], path[1:])
        others = schema.get("additionalProperties")
        if isinstance(others, Mapping) and not schema.get("patternProperties"):
            return self._at(others, path[1:])
        return _ANYTHING

    def _parts_beside(self, schema: Mapping[str, Any]) -> Iterable[Any]:
        """The parts that hold for the same place, all of them."""
        yield from _list(schema.get("allOf"))
        if isinstance(schema.get("$ref"), str):
            yield part_at(self._schema, schema["$ref"])

    def _parts_at(self, path: Sequence[str]) -> list[Mapping[str, Any]]:
        """The parts of the schema that hold for a place whatever the values are."""
        parts = self._with_parts_beside([self._schema])
        for name in path:
            parts = self._with_parts_beside([_mapping(part.get("properties")).get(name) for part in parts])
        return parts

    def _with_parts_beside(self, schemas: Iterable[Any]) -> list[Mapping[str, Any]]:
        found: dict[int, Mapping[str, Any]] = {}
        left = list(schemas)
        while left:
            schema = left.pop(0)
            if isinstance(schema, Mapping) and id(schema) not in found:
                found[id(schema)] = schema
                left += self._parts_beside(schema)
        return list(found.values())


def _own_of(schema: Mapping[str, Any]) -> Expected:
    """What its own words say, without those of other parts."""
    found = _ANYTHING
    types = schema.get("type")
    named = [types] if isinstance(types, str) else [one for one in _list(types) if isinstance(one, str)]
    if named:
        found = Expected(types=frozenset({*named, "integer"} if "number" in named else named))
    if isinstance(schema.get("enum"), list):
        found = found.both(_one_of(schema["enum"]))
    if "const" in schema:
        found = found.both(_one_of([schema["const"]]))
    return found


def _one_of(values: Sequence[Any]) -> Expected:
    types = {_KINDS.get(type(one), "object") for one in values}
    types |= {"integer"} if any(isinstance(one, float) and one.is_integer() for one in values) else set()
    return Expected(types=frozenset(types), texts=frozenset(one for one in values if isinstance(one, str)))


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
