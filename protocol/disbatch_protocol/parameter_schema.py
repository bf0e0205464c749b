"""Checks that a value can serve as the JSON Schema (2020-12) of parameters.

Responsible for: the schema by itself: whether it is valid, its references, its patterns. Must not know: parameters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from disbatch_protocol.faults import Fault, Severity, near_name, pointer_to
from disbatch_protocol.references import parts_of, reference_faults

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_faults(schema: Any) -> list[Fault]:
    """The faults of `schema` as a schema of parameters: not valid under 2020-12, or a reference that leads nowhere.
    Pointers are relative to the schema. Time grows with its size alone."""
    import jsonschema  # noqa: PLC0415

    faults = [
        Fault(
            pointer=pointer_to(error.absolute_path),
            message=f"not a valid JSON Schema: {_schema_error_in_words(error)}",
            hint=_schema_hint(error),
        )
        for error in jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA).iter_errors(schema)
    ]
    faults = list(dict.fromkeys(faults))  # each vocabulary of 2020-12 repeats the errors of nested ones
    return faults or _part_faults(schema) or reference_faults(schema)


def schema_warnings(schema: Any) -> list[Fault]:
    """What a valid schema says that is certainly not meant: names of parameters where its keywords belong."""
    if not isinstance(schema, Mapping) or not schema or any(word in schema for word in _KEYWORDS):
        return []
    names = [name for name in schema if not name.startswith(("$", "x-"))]
    if not names:
        return []
    name = json.dumps(names[0], ensure_ascii=False)
    message = f"it has no keyword of JSON Schema (type, properties, required, ...), so anything fits; found {name}"
    hint = f'write {{"type": "object", "properties": {{{name}: {{"type": "string"}}}}}}'
    return [Fault(pointer="", message=message, hint=hint, severity=Severity.WARNING)]


_KEYWORDS = frozenset({
    "$ref", "$dynamicRef", "$defs", "$schema", "$comment", "$id", "allOf", "anyOf", "oneOf", "not", "if", "then",
    "else", "dependentSchemas", "properties", "patternProperties", "additionalProperties", "propertyNames",
    "unevaluatedProperties", "required", "minProperties", "maxProperties", "dependentRequired", "type", "enum",
    "const", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "items",
    "prefixItems", "contains", "unevaluatedItems", "minItems", "maxItems", "uniqueItems", "minContains",
    "maxContains", "pattern", "format", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf",
})  # fmt: skip


def _schema_error_in_words(error: Any) -> str:
    # "anyOf" itself does not show what was meant: report the first of its choices.
    plainest = error.context[0] if error.context else error
    return f"{plainest.message:.200}"


def _schema_hint(error: Any) -> str:
    types = ("string", "integer", "number", "boolean", "object", "array", "null")
    near = near_name(error.instance, types) if isinstance(error.instance, str) else None
    see = "see json-schema.org, draft 2020-12"
    return f'did you mean "{near}"? ({see})' if near and error.absolute_path[-1] == "type" else see


def _part_faults(schema: Any) -> list[Fault]:
    faults = []
    for path, part in parts_of(schema):
        dialect = part.get("$schema")
        if isinstance(dialect, str) and dialect.rstrip("#") != _DIALECT:
            message = f"expected {_DIALECT}, found {dialect:.80}"
            faults.append(Fault(pointer=pointer_to((*path, "$schema")), message=message, hint="remove it"))
        patterns = [((*path, "pattern"), part.get("pattern"))]
        if isinstance(part.get("patternProperties"), Mapping):
            patterns += [((*path, "patternProperties", name), name) for name in part["patternProperties"]]
        for where, pattern in patterns:
            try:
                re.compile(pattern if isinstance(pattern, str) else "")
            except (re.error, RecursionError, OverflowError) as error:
                message = f"expected a valid Python regular expression: {error}"
                faults.append(Fault(pointer=pointer_to(where), message=message))
    return faults
