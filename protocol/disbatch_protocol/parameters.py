"""A task's parameters against its plugin's JSON Schema (2020-12).

Responsible for: checking, filling in the defaults of the top level, masking secrets. Must not know: where the schema or
the parameters come from.

Rules:
1. A schema is compiled once; a check of fitting parameters is one pass without messages.
2. Nothing is ever fetched: a `$ref` must lead into the schema itself.
3. Given parameters are never changed; what differs is a copy.
4. A fault shows no value that the schema marks as `writeOnly`, nor one that holds such a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from disbatch_protocol.faults import Fault, kind_of, near_name, pointer_to

MASK = "********"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_MASK_DEPTH = 32  # a schema may refer to itself


class ParameterSchema:
    """The `parameters` of a manifest. None: anything fits."""

    def __init__(self, schema: Mapping[str, Any] | bool | None) -> None:
        self._schema = schema
        self._validator: Any = None
        self._may_be_slow: bool | None = None
        self._defaults: dict[str, Any] = {}
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if isinstance(properties, Mapping):
            self._defaults = {
                name: one["default"]
                for name, one in properties.items()
                if isinstance(one, Mapping) and "default" in one
            }

    @property
    def may_be_slow(self) -> bool:
        """Whether the time of a check can grow faster than the parameters: patterns, lists whose items are compared
        with each other, references."""
        if self._may_be_slow is None:
            self._may_be_slow = _has_word(self._schema, _SLOW_WORDS)
        return self._may_be_slow

    def check(self, parameters: Any) -> tuple[Fault, ...]:
        """Every fault of the parameters, defaults filled in before; none where they fit."""
        if self._schema is None:
            return ()
        validator = self._compiled()
        complete = self.with_defaults(parameters)
        try:
            if validator.is_valid(complete):
                return ()
            shown = self.masked(complete)
            faults = [_fault_of(error, complete, shown) for error in _leaves(validator, complete)]
        except RecursionError:
            message = "cannot be checked: the schema refers to itself without end, or they are nested too deeply"
            return (Fault(pointer="", message=message),)
        except re.error as error:
            message = f"cannot be checked: a pattern of the schema is no regular expression of Python ({error})"
            return (Fault(pointer="", message=message),)
        return tuple(sorted(faults, key=lambda one: one.pointer))

    def with_defaults(self, parameters: Any) -> Any:
        """The parameters with the schema's top-level defaults where they have nothing; the same object where nothing
        is missing."""
        if not isinstance(parameters, Mapping):
            return parameters
        missing = {name: value for name, value in self._defaults.items() if name not in parameters}
        return {**parameters, **missing} if missing else parameters

    def masked(self, parameters: Any) -> Any:
        """The parameters with every `writeOnly` value replaced, for whoever only looks."""
        return self._mask(self._schema, parameters, _MASK_DEPTH)

    def _compiled(self) -> Any:
        if self._validator is None:
            # Imported late: half of the start time of a command that never looks at a schema.
            import jsonschema  # noqa: PLC0415
            from referencing import Registry  # noqa: PLC0415

            self._validator = jsonschema.Draft202012Validator(self._schema, registry=Registry())
        return self._validator

    def _mask(self, schema: Any, value: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth == 0:
            return value
        if schema.get("writeOnly") is True:
            return MASK
        reference = schema.get("$ref")
        if isinstance(reference, str):
            value = self._mask(self._resolve(reference), value, depth - 1)
        for word in ("allOf", "anyOf", "oneOf"):
            for part in schema.get(word) or ():
                value = self._mask(part, value, depth - 1)
        for word in ("if", "then", "else"):
            value = self._mask(schema.get(word), value, depth - 1)
        if isinstance(value, Mapping):
            properties = schema.get("properties")
            known = properties if isinstance(properties, Mapping) else {}
            rest = schema.get("additionalProperties")
            return {name: self._mask(known.get(name, rest), one, depth - 1) for name, one in value.items()}
        if isinstance(value, list):
            first = schema.get("prefixItems") or ()
            return [
                self._mask(first[index] if index < len(first) else schema.get("items"), one, depth - 1)
                for index, one in enumerate(value)
            ]
        return value

    def _resolve(self, reference: str) -> Any:
        """The part of the schema that a local `$ref` leads to; None where it is not a pointer into it."""
        if not reference.startswith("#"):
            return None
        found: Any = self._schema
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


_SLOW_WORDS = frozenset({"pattern", "patternProperties", "uniqueItems", "$ref", "$dynamicRef"})


def _has_word(value: Any, words: frozenset[str]) -> bool:
    if isinstance(value, Mapping):
        return not words.isdisjoint(value) or any(_has_word(one, words) for one in value.values())
    return isinstance(value, list) and any(_has_word(one, words) for one in value)


def _schema_error_in_words(error: Any) -> str:
    # Of "anyOf" itself nobody can tell what is meant: say the first of what it allows.
    plainest = error.context[0] if error.context else error
    return f"{plainest.message:.200}"


def _schema_hint(error: Any) -> str:
    types = ("string", "integer", "number", "boolean", "object", "array", "null")
    near = near_name(error.instance, types) if isinstance(error.instance, str) else None
    see = "see json-schema.org, draft 2020-12"
    return f'did you mean "{near}"? ({see})' if near and error.absolute_path[-1] == "type" else see


def schema_faults(schema: Any) -> list[Fault]:
    """What keeps `schema` from being a schema of parameters: not valid under 2020-12, or a reference that leads out of
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
    return faults or _part_faults(schema, schema, ())


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
                hint = "nothing is fetched; copy what it names into $defs"
                faults.append(Fault(pointer=pointer_to((*path, word)), message=message, hint=hint))
            elif isinstance(reference, str) and not _leads_somewhere(whole, reference):
                message = f'the reference "{reference:.80}" leads to nothing in this schema'
                faults.append(Fault(pointer=pointer_to((*path, word)), message=message))
        patterns = [((*path, "pattern"), part.get("pattern"))]
        if isinstance(part.get("patternProperties"), Mapping):
            patterns += [((*path, "patternProperties", name), name) for name in part["patternProperties"]]
        for where, pattern in patterns:
            try:
                re.compile(pattern if isinstance(pattern, str) else "")
            except (re.error, RecursionError, OverflowError) as error:
                message = f"expected a regular expression that Python knows: {error}"
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
        return True  # "#" is the whole; an anchor is found by the validator
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


def _leaves(validator: Any, value: Any) -> list[Any]:
    """The errors that say something: of `anyOf` and `oneOf` those of the branch that came nearest."""
    from jsonschema.exceptions import best_match  # noqa: PLC0415

    leaves = []
    for error in validator.iter_errors(value):
        leaves.append(best_match([error]) if error.context else error)
    return leaves


def _fault_of(error: Any, parameters: Any, shown: Any) -> Fault:
    """`shown`: the parameters as they may be shown."""
    pointer = pointer_to(error.absolute_path)
    expected = error.validator_value
    is_secret = _at(parameters, error.absolute_path) != _at(shown, error.absolute_path)
    found = "something else (not shown: writeOnly)" if is_secret else kind_of(error.instance)
    match error.validator:
        case "required":
            missing = [name for name in expected if name not in error.instance]
            return Fault(pointer=pointer, message=f"expected {_quoted(missing)}, found nothing")
        case "type":
            kinds = [expected] if isinstance(expected, str) else expected
            return Fault(
                pointer=pointer, message=f"expected {' or '.join(_KINDS.get(k, k) for k in kinds)}, found {found}"
            )
        case "enum":
            return Fault(pointer=pointer, message=f"expected one of {_quoted(expected)}, found {found}")
        case "additionalProperties" if isinstance(error.schema.get("properties"), Mapping):
            known = error.schema["properties"]
            unknown = [name for name in error.instance if name not in known]
            near = near_name(unknown[0], known) if unknown else None
            hint = f'did you mean "{near}"?' if near else f"known are {_quoted(sorted(known))}"
            return Fault(pointer=pointer, message=f"unknown {_quoted(unknown)}", hint=hint)
        case "writeOnly" | "const":
            return Fault(pointer=pointer, message=f"expected {expected!r:.80}, found {found}")
        case "pattern":
            return Fault(pointer=pointer, message=f'expected a string that matches "{expected}", found {found}')
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            words = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than"}
            return Fault(
                pointer=pointer, message=f"expected {words.get(error.validator, 'less than')} {expected}, found {found}"
            )
    if is_secret:
        return Fault(
            pointer=pointer, message=f'expected what fits "{error.validator}": {expected!r:.80}, found {found}'
        )
    return Fault(pointer=pointer, message=f"{error.message:.200}")


def _at(value: Any, path: Iterable[str | int]) -> Any:
    """What is at the end of the path; where something else is on the way, that."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return value
    return value


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
