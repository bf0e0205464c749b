"""Checks that a value can serve as the JSON Schema (2020-12) of parameters.

Responsible for: the schema by itself: whether it is valid, its references, its patterns. Must not know: parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from disbatch_protocol.faults import Fault, near_name, pointer_to

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_faults(schema: Any) -> list[Fault]:
    """The faults of `schema` as a schema of parameters: not valid under 2020-12, or a reference that leads out of
    it. Pointers are relative to the schema."""
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
    return faults or _part_faults(schema, schema, ())


def _schema_error_in_words(error: Any) -> str:
    # "anyOf" itself does not show what was meant: report the first of its choices.
    plainest = error.context[0] if error.context else error
    return f"{plainest.message:.200}"


def _schema_hint(error: Any) -> str:
    types = ("string", "integer", "number", "boolean", "object", "array", "null")
    near = near_name(error.instance, types) if isinstance(error.instance, str) else None
    see = "see json-schema.org, draft 2020-12"
    return f'did you mean "{near}"? ({see})' if near and error.absolute_path[-1] == "type" else see


def _part_faults(whole: Any, part: Any, path: tuple[str | int, ...]) -> list[Fault]:
    faults = []
    if isinstance(part, Mapping):
        dialect = part.get("$schema")
        if isinstance(dialect, str) and dialect.rstrip("#") != _DIALECT:
            message = f"expected {_DIALECT}, found {dialect:.80}"
            faults.append(Fault(pointer=pointer_to((*path, "$schema")), message=message, hint="remove it"))
        for word in ("$ref", "$dynamicRef"):
            reference = part.get(word)
            if isinstance(reference, str) and not reference.startswith("#"):
                message = f'expected a reference into this schema ("#/$defs/..."), found "{reference:.80}"'
                hint = "nothing is fetched; copy its target into $defs"
                faults.append(Fault(pointer=pointer_to((*path, word)), message=message, hint=hint))
            elif isinstance(reference, str) and not _leads_somewhere(whole, reference):
                message = f'the reference "{reference:.80}" leads nowhere in this schema'
                faults.append(Fault(pointer=pointer_to((*path, word)), message=message))
        patterns = [((*path, "pattern"), part.get("pattern"))]
        if isinstance(part.get("patternProperties"), Mapping):
            patterns += [((*path, "patternProperties", name), name) for name in part["patternProperties"]]
        for where, pattern in patterns:
            try:
                re.compile(pattern if isinstance(pattern, str) else "")
            except (re.error, RecursionError, OverflowError) as error:
                message = f"expected a valid Python regular expression: {error}"
                faults.append(Fault(pointer=pointer_to(where), message=message))
        for name, value in part.items():
            if name not in ("default", "const", "enum", "examples"):  # data, not schema
                faults.extend(_part_faults(whole, value, (*path, name)))
    elif isinstance(part, list):
        for index, value in enumerate(part):
            faults.extend(_part_faults(whole, value, (*path, index)))
    return faults


def _leads_somewhere(whole: Any, reference: str) -> bool:
    if not reference.startswith("#/"):
        return True  # "#" is the whole; anchors are the validator's business
    found = whole
    for step in reference[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            return False
    return True
