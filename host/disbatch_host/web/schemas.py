"""Schemas of the API: what bodies may be, checked, and the parts that several routes share.

Responsible for: finding what is wrong in a body, in words that repeat no value. Must not know: routes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jsonschema
import orjson

from disbatch_host.web.problems import Fault
from disbatch_protocol.faults import near_name

Schema = Mapping[str, Any]

FAULTS_MAX = 100  # that are told

REASON: Schema = {"type": "string", "maxLength": 500, "description": "Why, for those who read the story of a task."}
ID: Schema = {"type": "string", "minLength": 1, "maxLength": 1024}
COUNT: Schema = {"type": "integer", "minimum": 0}


def object_of(required: Iterable[str] = (), **properties: Schema) -> Schema:
    """An object with these members and no others."""
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": list(required)} if required else {}),
    }


WITH_REASON = object_of(reason=REASON)


def faults_of(schema: Schema, value: Any) -> list[Fault]:
    """What does not fit, the first `FAULTS_MAX`. A value is never repeated: it may be a secret."""
    found = sorted(
        _validator(orjson.dumps(schema)).iter_errors(value), key=lambda one: [str(part) for part in one.path]
    )
    return [fault for error in found[:FAULTS_MAX] for fault in _faults_of(error)]


@functools.lru_cache(maxsize=200)
def _validator(schema: bytes) -> Any:
    return jsonschema.Draft202012Validator(orjson.loads(schema))


def _faults_of(error: Any) -> Iterable[Fault]:
    if error.validator == "oneOf" and error.context:
        yield from _of_best(error)
        return
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in error.absolute_path)
    wanted = error.validator_value
    match error.validator:
        case "additionalProperties":
            known = error.schema.get("properties", {})
            for name in error.instance.keys() - known.keys():
                near = near_name(name, known)
                hint = f"did you mean {near}?" if near else f"known ones: {', '.join(sorted(known))}"
                yield Fault(pointer=f"{pointer}/{name:.80}", message="not a known member", hint=hint)
        case "required":
            for name in wanted:
                if name not in error.instance:
                    yield Fault(pointer=f"{pointer}/{name}", message="expected, and missing")
            return
        case "type":
            kinds = wanted if isinstance(wanted, str) else " or ".join(wanted)
            yield Fault(pointer=pointer, message=f"expected {kinds}, found {_kind_of(error.instance)}")
        case "enum":
            yield Fault(pointer=pointer, message=f"expected one of {', '.join(map(str, wanted))}")
        case "minimum" | "maximum" | "minLength" | "maxLength" | "minItems" | "maxItems":
            yield Fault(pointer=pointer, message=f"expected a {error.validator} of {wanted}")
        case "pattern":
            yield Fault(pointer=pointer, message=f"expected a text that matches {wanted}")
        case _:
            yield Fault(pointer=pointer, message=f"does not fit ({error.validator})")


def _of_best(error: Any) -> Iterable[Fault]:
    """What is wrong with the alternative that was most likely meant: the one with the fewest unknown or missing
    members at its top, then the fewest faults."""
    by_choice: dict[int, list[Any]] = {}
    for one in error.context:
        by_choice.setdefault(one.schema_path[0], []).append(one)

    def rank(choice: list[Any]) -> tuple[int, int]:
        names = ("required", "additionalProperties", "type")
        return sum(len(one.path) == 0 and one.validator in names for one in choice), len(choice)

    for one in min(by_choice.values(), key=rank):
        yield from _faults_of(one)


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), type(value).__name__)
