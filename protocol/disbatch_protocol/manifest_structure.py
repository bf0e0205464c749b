"""The faults that the schema of manifests finds, in the schema's own words.

Responsible for: faults by `schemas/manifest.json`, in the words of its `x-expected`, `x-fix` and `x-name`. Must not
know: the meaning of a field.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from disbatch_protocol import patterns, schemas
from disbatch_protocol.faults import Fault, Severity, error_at, kind_of, near_name, pointer_to


@functools.lru_cache(maxsize=1)
def _validator() -> Any:
    return patterns.validator(schemas.load("manifest"))


def structure_faults(document: Any) -> Iterator[Fault]:
    for error in _validator().iter_errors(document):
        yield from _faults_of(error)


def _faults_of(error: Any) -> Iterator[Fault]:
    path = list(error.absolute_path)
    schema = error.schema
    if error.validator == "required":
        for name in error.validator_value:
            if name not in error.instance:
                field_schema = schema["properties"].get(name, {})
                expected = field_schema.get("x-expected", "a value")
                message = f'expected "{name}" ({expected}), found nothing'
                fault = error_at(pointer_to(path), message, field_schema.get("x-fix", ""))
                if str(error.message).startswith(repr(name)):  # one error per missing name: report each once
                    yield fault
        return
    if error.validator == "additionalProperties":
        known_forms = [re.compile(patterns.for_python(one)) for one in schema.get("patternProperties", ())]
        known = schema.get("properties", {})
        for name in error.instance:
            if name in known or any(form.search(name) for form in known_forms):
                continue
            if "x-name" in schema:  # its names mean something: a wrong one is more than an unknown field
                yield error_at(
                    pointer_to([*path, name]), f'expected {schema["x-name"]}, found "{name}"', schema["x-name-fix"]
                )
                continue
            near = near_name(name, known)
            hint = f'did you mean "{near}"?' if near else 'remove it, or begin its name with "x-" to keep it'
            message = f'unknown field "{name}"'
            yield Fault(pointer=pointer_to([*path, name]), message=message, hint=hint, severity=Severity.WARNING)
        return
    if "propertyNames" in error.absolute_schema_path and isinstance(error.instance, str):
        yield error_at(
            pointer_to([*path, error.instance]), f'expected {schema["x-expected"]}, found "{error.instance}"'
        )
        return
    expected = schema.get("x-expected") or str(error.message)
    yield error_at(pointer_to(path), f"expected {expected}, found {kind_of(error.instance)}", schema.get("x-fix", ""))
