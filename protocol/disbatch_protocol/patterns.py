"""Regular expressions of JSON Schemas, with the meaning that they have there. Pure.

Responsible for: `$`, which in JSON Schema (ECMA-262) is the end of the text; in Python it is also the place before a
line feed at the end, so that "A\\n" would pass for a name. Must not know: any schema.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any


@functools.lru_cache(maxsize=1024)
def for_python(pattern: str) -> str:
    """The pattern for Python's `re`: each `$` that is an anchor becomes `\\Z`."""
    if "$" not in pattern:
        return pattern
    written: list[str] = []
    class_began = -1  # position after the "[" of the character class that the scan is in
    at = 0
    while at < len(pattern):
        one = pattern[at]
        if one == "\\":
            written.append(pattern[at : at + 2])
            at += 2
            continue
        if class_began < 0:
            if one == "[":
                class_began = at + (2 if pattern[at + 1 : at + 2] == "^" else 1)
        elif one == "]" and at > class_began:  # directly after "[" or "[^" it is an ordinary character
            class_began = -1
        written.append(r"\Z" if one == "$" and class_began < 0 else one)
        at += 1
    return "".join(written)


def validator(schema: Any, **more: Any) -> Any:
    """A validator for a schema (JSON Schema 2020-12) whose patterns mean what they mean there. `more` goes to
    jsonschema's own."""
    return validator_class()(without_dialect(schema), **more)


def without_dialect(schema: Any) -> Any:
    """The schema without its `$schema`: where a reference leads back to a schema that names its dialect, jsonschema
    would take its own class for it."""
    if isinstance(schema, Mapping) and "$schema" in schema:
        return {name: part for name, part in schema.items() if name != "$schema"}
    return schema


@functools.lru_cache(maxsize=1)
def validator_class() -> Any:
    """The class of such validators, to be extended."""
    import jsonschema  # noqa: PLC0415  (imported late: it takes half of the start time of a small command)

    known = jsonschema.Draft202012Validator.VALIDATORS

    def pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Any:
        return known["pattern"](validator, for_python(pattern), instance, schema)

    def pattern_properties(validator: Any, parts: Any, instance: Any, schema: Any) -> Any:
        return known["patternProperties"](validator, _for_python(parts), instance, schema)

    def beside_patterns(word: str) -> Any:
        def check(validator: Any, part: Any, instance: Any, schema: Any) -> Any:
            if "patternProperties" in schema:
                schema = {**schema, "patternProperties": _for_python(schema["patternProperties"])}
            return known[word](validator, part, instance, schema)

        return check

    changed = {word: beside_patterns(word) for word in ("additionalProperties", "unevaluatedProperties")}
    changed |= {"pattern": pattern, "patternProperties": pattern_properties}
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, changed)


def _for_python(parts: Any) -> dict[str, Any]:
    return {for_python(pattern): part for pattern, part in parts.items()}
