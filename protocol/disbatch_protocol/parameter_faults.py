"""The errors of a schema's validator as faults in plain words.

Responsible for: the words, which never quote a secret. Must not know: where the schema or the parameters come from,
which values are secret.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from disbatch_protocol.faults import Fault, kind_of, near_name, plain_kind_of, pointer_to


def leaves(validator: Any, value: Any) -> list[Any]:
    """The errors that matter: for `anyOf` and `oneOf`, those of the branch that came closest."""
    from jsonschema.exceptions import best_match  # noqa: PLC0415

    leaves = []
    for error in validator.iter_errors(value):
        leaves.append(best_match([error]) if error.context else error)
    return leaves


def fault_of(error: Any, secrets: Collection[str]) -> Fault:
    pointer = pointer_to(error.absolute_path)
    secret = next((one for one in secrets if pointer == one or pointer.startswith(f"{one}/")), None)
    if secret is not None:
        # Names inside a secret may be secret as well, and so may be the only value that its schema allows.
        inside = "in it " if pointer != secret else ""
        words = _SECRET_WORDS.get(error.validator) or _expected(error)[0]
        return Fault(pointer=secret, message=f"expected {inside}{words}, found {plain_kind_of(error.instance)}")
    expected, hint = _expected(error)
    if error.validator in ("required", "dependentRequired"):
        return Fault(pointer=pointer, message=f"expected {expected}, found nothing", hint=hint)
    if error.validator in ("additionalProperties", "unevaluatedProperties") and not isinstance(error.instance, str):
        return Fault(pointer=pointer, message=expected, hint=hint)
    if error.validator == "minLength" and error.validator_value == 1:
        return Fault(pointer=pointer, message="must not be empty", hint=hint)
    return Fault(pointer=pointer, message=f"expected {expected}, found {_found(error)}", hint=hint)


_SECRET_WORDS = {
    "const": "the value that its schema names",
    "enum": "one of the values that its schema names",
    "additionalProperties": "only names that its schema has",
    "unevaluatedProperties": "only names that its schema has",
}
_BOUNDS = {
    "minimum": "at least {}", "maximum": "at most {}", "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}", "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters", "maxLength": "at most {} characters",
    "minItems": "at least {} elements", "maxItems": "at most {} elements",
    "minProperties": "at least {} names", "maxProperties": "at most {} names",
    "minContains": "at least {} elements that fit `contains`", "maxContains": "at most {} that fit `contains`",
    "pattern": 'a string that matches "{}"', "format": "a string of the format {}",
}  # fmt: skip
_OTHER = {
    "uniqueItems": "elements that are all different",
    "contains": "an element that fits `contains`",
    "unevaluatedItems": "no further elements",
    "items": "no further elements",
    "not": "a value that its `not` does not describe",
    "anyOf": "what one of its `anyOf` describes",
    "oneOf": "what exactly one of its `oneOf` describes",
    "propertyNames": "other names",
}


def _expected(error: Any) -> tuple[str, str]:
    """What the schema expects, and a hint; from the schema alone, except for names that it does not know."""
    wanted = error.validator_value
    match error.validator:
        case "required":
            return _quoted([name for name in wanted if name not in error.instance]), ""
        case "dependentRequired":
            missing = [one for name, needed in wanted.items() if name in error.instance for one in needed]
            return _quoted([one for one in missing if one not in error.instance]), ""
        case "type":
            kinds = [wanted] if isinstance(wanted, str) else wanted
            return " or ".join(_KINDS.get(kind, kind) for kind in kinds), ""
        case "enum":
            return f"one of {_quoted(wanted)}", ""
        case "const":
            return f"{_quoted([wanted]):.80}", ""
        case "additionalProperties" | "unevaluatedProperties":
            known = error.schema.get("properties")
            known = known if isinstance(known, Mapping) else {}
            unknown = [name for name in error.instance if name not in known]
            near = near_name(unknown[0], known) if unknown else None
            hint = f'did you mean "{near}"?' if near else f"known are {_quoted(sorted(known))}" if known else ""
            return f"unknown {_quoted(unknown)}", hint
        case None:  # the schema `false`
            return "nothing at this place", ""
    if error.validator in _BOUNDS:
        words = _BOUNDS[error.validator].format(wanted)
        return (_of_one(words) if wanted == 1 else words), ""
    return _OTHER.get(error.validator, f"what its `{error.validator}` describes"), ""


def _of_one(words: str) -> str:
    """`at least 1 characters` as people say it."""
    for noun in ("character", "element", "name"):
        words = words.replace(f" 1 {noun}s", f" 1 {noun}")
    return words


def _found(error: Any) -> str:
    if error.validator is None:  # for the schema `false` the library gives no place: this may be a secret
        return plain_kind_of(error.instance)
    value, is_size = error.instance, error.validator.startswith(("min", "max"))
    if isinstance(value, str) and is_size:
        return f"{len(value) or 'none'}"
    return f"{len(value)} names" if isinstance(value, Mapping) and is_size else kind_of(value)


_KINDS = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def _quoted(names: Any) -> str:
    return ", ".join(f'"{name}"' if isinstance(name, str) else str(name) for name in names)
