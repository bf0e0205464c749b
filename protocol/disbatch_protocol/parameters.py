"""Validation of a task's parameters by its plugin's JSON Schema (2020-12).

Responsible for: checking, filling in top-level defaults, masking secrets. Must not know: where the schema or
the parameters come from.

Rules:
1. A schema is compiled once; checking parameters that fit is one pass without messages.
2. Nothing is ever fetched: a `$ref` must lead into the schema itself.
3. The given parameters are never changed; the result is a copy if it differs.
4. Everything below a `writeOnly` is secret: no message quotes it, and it is masked wherever it is shown. A value
   that may be one (in the place of an object that would contain a secret) counts as one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from disbatch_protocol import patterns
from disbatch_protocol.faults import Fault, pointer_to
from disbatch_protocol.masks import masked_at
from disbatch_protocol.parameter_faults import fault_of, leaves
from disbatch_protocol.parameter_types import Places, resolved

_DEPTH = 32  # a schema may refer to itself


class ParameterSchema:
    """The `parameters` of a manifest. None: anything fits."""

    def __init__(self, schema: Mapping[str, Any] | bool | None) -> None:
        self._schema = schema
        self._validator: Any = None
        self._may_be_slow: bool | None = None
        self._places: Places | None = None
        self._defaults: dict[str, Any] = {}
        self._has_secrets = _mentions_secret(schema)
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if isinstance(properties, Mapping):
            self._defaults = {
                name: one["default"]
                for name, one in properties.items()
                if isinstance(one, Mapping) and "default" in one
            }

    @property
    def may_be_slow(self) -> bool:
        """Whether the time of a check can grow faster than the parameters: it has patterns, references,
        or lists whose items are compared with each other."""
        if self._may_be_slow is None:
            self._may_be_slow = _has_word(self._schema, _SLOW_WORDS)
        return self._may_be_slow

    def check(self, parameters: Any) -> tuple[Fault, ...]:
        """All faults of the parameters, after filling in defaults; none if they fit."""
        if self._schema is None:
            return ()
        validator = self._compiled()
        complete = self.with_defaults(parameters)
        try:
            if validator.is_valid(complete):
                return ()
            secrets = self.secrets(complete)
            faults = [fault_of(error, secrets) for error in leaves(validator, complete)]
        except RecursionError:
            message = "cannot be checked: the schema refers to itself without end, or they are nested too deeply"
            return (Fault(pointer="", message=message),)
        except re.error as error:
            message = f"cannot be checked: a pattern of the schema is not a valid Python regular expression ({error})"
            return (Fault(pointer="", message=message),)
        return tuple(sorted(faults, key=lambda one: one.pointer))

    def own_faults(self) -> tuple[Fault, ...]:
        """The faults that make a valid schema useless: no object fits it, or one of its own defaults does not.
        Pointers are relative to the schema."""
        types = self._schema.get("type", "object") if isinstance(self._schema, Mapping) else "object"
        if self._schema is False or "object" not in ([types] if isinstance(types, str) else types):
            message = "expected a schema that objects can fit, since parameters are an object; none can fit this"
            pointer, hint = "" if self._schema is False else "/type", 'write {"type": "object", "properties": {…}}'
            return (Fault(pointer=pointer, message=message, hint=hint),)
        faults = []
        for name, default in self._defaults.items():
            pointer = pointer_to(["properties", name, "default"])
            for reason in self._faults_of_default(name, default):
                message = f"the default does not fit its own schema: {reason}"
                hint = "correct one of them; every task that omits it would fail"
                faults.append(Fault(pointer=pointer, message=message, hint=hint))
        return tuple(faults)

    def _faults_of_default(self, name: str, default: Any) -> list[str]:
        assert isinstance(self._schema, Mapping)
        own = self._schema["properties"][name]
        secrets = self.secrets({name: default})
        try:
            # Checked in its place in the schema, so that references resolve.
            errors = list(self._compiled().descend(default, own, path=name))
            return [fault_of(error, secrets).message for error in errors]
        except (RecursionError, re.error):  # `check` reports it for each task
            return []

    def with_defaults(self, parameters: Any) -> Any:
        """The parameters with the schema's top-level defaults added; the same object if nothing
        is missing."""
        if not isinstance(parameters, Mapping):
            return parameters
        missing = {name: value for name, value in self._defaults.items() if name not in parameters}
        return {**parameters, **missing} if missing else parameters

    @property
    def is_open(self) -> bool:
        """Whether there is no schema at all: any parameters fit."""
        return self._schema is None

    @property
    def has_secrets(self) -> bool:
        """Whether any parameter can be secret."""
        return self._has_secrets

    @property
    def places(self) -> Places:
        """What the schema says about each parameter: its types, whether it is required."""
        if self._places is None:
            self._places = Places(self._schema)
        return self._places

    def secrets(self, parameters: Any) -> tuple[str, ...]:
        """The JSON pointers of the secret ones among these values, in order."""
        if not self._has_secrets:
            return ()
        found: set[str] = set()
        self._find_secrets(self._schema, parameters, "", found, _DEPTH)
        return tuple(sorted(found))

    def masked(self, parameters: Any) -> Any:
        """The parameters with every secret masked, safe to show."""
        return masked_at(parameters, self.secrets(parameters))

    def _compiled(self) -> Any:
        if self._validator is None:
            # Imported late: it takes half of the start time of a command that never needs a schema.
            from referencing import Registry  # noqa: PLC0415

            self._validator = patterns.validator(self._schema, registry=Registry())
        return self._validator

    def _find_secrets(self, schema: Any, value: Any, at: str, found: set[str], depth: int) -> None:
        if not isinstance(schema, Mapping) or depth == 0 or at in found:
            return
        if schema.get("writeOnly") is True or (at and _stands_for_secret(schema, value)):
            found.add(at)
            return
        same = [schema.get(word) for word in ("if", "then", "else", "not")]
        for word in ("allOf", "anyOf", "oneOf"):
            same += schema.get(word) or ()
        same += (schema.get("dependentSchemas") or {}).values()
        reference = schema.get("$ref")
        if isinstance(reference, str):
            same.append(resolved(self._schema, reference))
        for part in same:
            self._find_secrets(part, value, at, found, depth - 1)
        if isinstance(value, Mapping):
            for name, one in value.items():
                for part in _parts_for_name(schema, str(name)):
                    self._find_secrets(part, one, at + pointer_to([str(name)]), found, depth - 1)
        elif isinstance(value, list):
            for index, one in enumerate(value):
                for part in _parts_for_index(schema, index):
                    self._find_secrets(part, one, f"{at}/{index}", found, depth - 1)


_SLOW_WORDS = frozenset({"pattern", "patternProperties", "uniqueItems", "$ref", "$dynamicRef"})


def _has_word(value: Any, words: frozenset[str]) -> bool:
    if isinstance(value, Mapping):
        return not words.isdisjoint(value) or any(_has_word(one, words) for one in value.values())
    return isinstance(value, list) and any(_has_word(one, words) for one in value)


_IN_OBJECTS = ("properties", "patternProperties", "additionalProperties", "unevaluatedProperties")
_IN_LISTS = ("prefixItems", "items", "contains", "unevaluatedItems")


def _stands_for_secret(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether a value is in the place of an object or list that would contain a secret (rule 4)."""
    if value is None or isinstance(value, bool):
        return False
    in_objects, in_lists = (
        any(_mentions_secret(schema.get(word)) for word in words) for words in (_IN_OBJECTS, _IN_LISTS)
    )
    if isinstance(value, Mapping):
        return in_lists and not in_objects
    return in_objects and not in_lists if isinstance(value, list) else in_objects or in_lists


def _parts_for_name(schema: Mapping[str, Any], name: str) -> list[Any]:
    known = schema.get("properties")
    parts = [known[name]] if isinstance(known, Mapping) and name in known else []
    for pattern, part in (schema.get("patternProperties") or {}).items():
        try:
            if re.search(patterns.for_python(pattern), name):
                parts.append(part)
        except re.error:  # another dialect than Python's: one mask too many is safer
            parts.append(part)
    return parts or [schema.get("additionalProperties"), schema.get("unevaluatedProperties")]


def _parts_for_index(schema: Mapping[str, Any], index: int) -> list[Any]:
    first = schema.get("prefixItems") or ()
    part = first[index] if index < len(first) else schema.get("items")
    return [part, schema.get("contains"), schema.get("unevaluatedItems")]


def _mentions_secret(schema: Any) -> bool:
    """Whether it contains a `writeOnly`, at any depth."""
    if isinstance(schema, Mapping):
        return schema.get("writeOnly") is True or any(map(_mentions_secret, schema.values()))
    return isinstance(schema, list) and any(map(_mentions_secret, schema))
