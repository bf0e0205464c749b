"""A task's parameters against its plugin's JSON Schema (2020-12).

Responsible for: checking, filling in the defaults of the top level, masking secrets. Must not know: where the schema or
the parameters come from.

Rules:
1. A schema is compiled once; a check of fitting parameters is one pass without messages.
2. Nothing is ever fetched: a `$ref` must lead into the schema itself.
3. Given parameters are never changed; what differs is a copy.
4. What is below a `writeOnly` is secret: no message quotes it, and it is masked for whoever only looks. Where a value
   may be one (it stands where an object with a secret in it was expected), it counts as one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from disbatch_protocol.faults import Fault, kind_of, near_name, plain_kind_of, pointer_to

MASK = "********"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEPTH = 32  # a schema may refer to itself


class ParameterSchema:
    """The `parameters` of a manifest. None: anything fits."""

    def __init__(self, schema: Mapping[str, Any] | bool | None) -> None:
        self._schema = schema
        self._validator: Any = None
        self._may_be_slow: bool | None = None
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
            secrets = self.secrets(complete)
            faults = [_fault_of(error, secrets) for error in _leaves(validator, complete)]
        except RecursionError:
            message = "cannot be checked: the schema refers to itself without end, or they are nested too deeply"
            return (Fault(pointer="", message=message),)
        except re.error as error:
            message = f"cannot be checked: a pattern of the schema is no regular expression of Python ({error})"
            return (Fault(pointer="", message=message),)
        return tuple(sorted(faults, key=lambda one: one.pointer))

    def own_faults(self) -> tuple[Fault, ...]:
        """What makes a valid schema useless: no object fits it, or one of its own defaults does not. Pointers are
        relative to the schema."""
        types = self._schema.get("type", "object") if isinstance(self._schema, Mapping) else "object"
        if self._schema is False or "object" not in ([types] if isinstance(types, str) else types):
            message = "expected a schema that an object can fit, since parameters are one; none fits this"
            pointer, hint = "" if self._schema is False else "/type", 'write {"type": "object", "properties": {…}}'
            return (Fault(pointer=pointer, message=message, hint=hint),)
        faults = []
        for name, default in self._defaults.items():
            pointer = pointer_to(["properties", name, "default"])
            for reason in self._faults_of_default(name, default):
                message = f"the default does not fit its own schema: {reason}"
                hint = "correct one of them; every task that leaves it out would fail"
                faults.append(Fault(pointer=pointer, message=message, hint=hint))
        return tuple(faults)

    def _faults_of_default(self, name: str, default: Any) -> list[str]:
        assert isinstance(self._schema, Mapping)
        own = self._schema["properties"][name]
        secrets = self.secrets({name: default})
        try:
            # In the place where it stands, so that references find their way.
            errors = list(self._compiled().descend(default, own, path=name))
            return [_fault_of(error, secrets).message for error in errors]
        except (RecursionError, re.error):  # as `check` says it of each task
            return []

    def with_defaults(self, parameters: Any) -> Any:
        """The parameters with the schema's top-level defaults where they have nothing; the same object where nothing
        is missing."""
        if not isinstance(parameters, Mapping):
            return parameters
        missing = {name: value for name, value in self._defaults.items() if name not in parameters}
        return {**parameters, **missing} if missing else parameters

    @property
    def is_open(self) -> bool:
        """Whether there is no schema at all: then nothing is known of any parameter."""
        return self._schema is None

    @property
    def has_secrets(self) -> bool:
        """Whether any parameter can be secret."""
        return self._has_secrets

    def types_at(self, path: Sequence[str]) -> frozenset[str]:
        """The JSON types that the schema names for a parameter (`path`: its name, or the names that lead to it below
        another one); empty where it names none."""
        found: set[str] = set()
        for part in self._parts_at(path):
            types = part.get("type")
            found.update([types] if isinstance(types, str) else types if isinstance(types, list) else ())
        return frozenset(found)

    def requires(self, path: Sequence[str]) -> bool:
        """Whether the schema says that a parameter has to be there, wherever what it stands in is there."""
        return any(path[-1] in (part.get("required") or ()) for part in self._parts_at(path[:-1]))

    def _parts_at(self, path: Sequence[str]) -> list[Mapping[str, Any]]:
        """The parts of the schema that speak of what is at this place."""
        parts = self._same_place(self._schema, _DEPTH)
        for name in path:
            inside = [part["properties"].get(name) for part in parts if isinstance(part.get("properties"), Mapping)]
            parts = [one for part in inside for one in self._same_place(part, _DEPTH)]
        return parts

    def _same_place(self, schema: Any, depth: int) -> list[Mapping[str, Any]]:
        """A part of the schema, and those that it takes in for the same place."""
        if not isinstance(schema, Mapping) or depth == 0:
            return []
        others = [*(schema.get("allOf") or ())]
        if isinstance(schema.get("$ref"), str):
            others.append(self._resolve(schema["$ref"]))
        return [schema, *(one for other in others for one in self._same_place(other, depth - 1))]

    def secrets(self, parameters: Any) -> tuple[str, ...]:
        """The JSON pointers of those of these values that are secret, in order."""
        if not self._has_secrets:
            return ()
        found: set[str] = set()
        self._find_secrets(self._schema, parameters, "", found, _DEPTH)
        return tuple(sorted(found))

    def masked(self, parameters: Any) -> Any:
        """The parameters with every secret replaced, for whoever only looks."""
        return masked_at(parameters, self.secrets(parameters))

    def _compiled(self) -> Any:
        if self._validator is None:
            # Imported late: half of the start time of a command that never looks at a schema.
            import jsonschema  # noqa: PLC0415
            from referencing import Registry  # noqa: PLC0415

            self._validator = jsonschema.Draft202012Validator(self._schema, registry=Registry())
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
            same.append(self._resolve(reference))
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

    def _resolve(self, reference: str) -> Any:
        """The part of the schema that a local `$ref` leads to; None where it is not a pointer into it."""
        if not reference.startswith("#"):
            return None
        found: Any = self._schema
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                found = found.get(name) if isinstance(found, Mapping) else None
        return found


_SLOW_WORDS = frozenset({"pattern", "patternProperties", "uniqueItems", "$ref", "$dynamicRef"})


def _has_word(value: Any, words: frozenset[str]) -> bool:
    if isinstance(value, Mapping):
        return not words.isdisjoint(value) or any(_has_word(one, words) for one in value.values())
    return isinstance(value, list) and any(_has_word(one, words) for one in value)


_IN_OBJECTS = ("properties", "patternProperties", "additionalProperties", "unevaluatedProperties")
_IN_LISTS = ("prefixItems", "items", "contains", "unevaluatedItems")


def _stands_for_secret(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether a value is where an object, or a list, with a secret in it was expected (rule 4)."""
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
            if re.search(pattern, name):
                parts.append(part)
        except re.error:  # of another dialect than Python's: better one mask too many
            parts.append(part)
    return parts or [schema.get("additionalProperties"), schema.get("unevaluatedProperties")]


def _parts_for_index(schema: Mapping[str, Any], index: int) -> list[Any]:
    first = schema.get("prefixItems") or ()
    part = first[index] if index < len(first) else schema.get("items")
    return [part, schema.get("contains"), schema.get("unevaluatedItems")]


def _mentions_secret(schema: Any) -> bool:
    """Whether there is a `writeOnly` in it, at any depth."""
    if isinstance(schema, Mapping):
        return schema.get("writeOnly") is True or any(map(_mentions_secret, schema.values()))
    return isinstance(schema, list) and any(map(_mentions_secret, schema))


def masked_at(value: Any, pointers: Collection[str]) -> Any:
    """The value with what these JSON pointers name replaced by the mask; one that leads nowhere is passed over."""
    return _masked_at(value, frozenset(pointers), "") if pointers else value


def _masked_at(value: Any, pointers: frozenset[str], at: str) -> Any:
    if at in pointers:
        return MASK
    if isinstance(value, Mapping):
        return {name: _masked_at(one, pointers, at + pointer_to([str(name)])) for name, one in value.items()}
    if isinstance(value, list):
        return [_masked_at(one, pointers, f"{at}/{index}") for index, one in enumerate(value)]
    return value


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
    faults = list(dict.fromkeys(faults))  # each vocabulary of 2020-12 says it again of what is below another one
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


def _fault_of(error: Any, secrets: Collection[str]) -> Fault:
    pointer = pointer_to(error.absolute_path)
    secret = next((one for one in secrets if pointer == one or pointer.startswith(f"{one}/")), None)
    if secret is not None:
        # Names inside a secret may be secret as well, and so may be the one value that its schema lets through.
        inside = "in it " if pointer != secret else ""
        words = _SECRET_WORDS.get(error.validator) or _expected(error)[0]
        return Fault(pointer=secret, message=f"expected {inside}{words}, found {plain_kind_of(error.instance)}")
    expected, hint = _expected(error)
    if error.validator in ("required", "dependentRequired"):
        return Fault(pointer=pointer, message=f"expected {expected}, found nothing", hint=hint)
    if error.validator in ("additionalProperties", "unevaluatedProperties") and not isinstance(error.instance, str):
        return Fault(pointer=pointer, message=expected, hint=hint)
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
    """What the schema wants, and what to do; from the schema alone but for names that it does not know."""
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
        return _BOUNDS[error.validator].format(wanted), ""
    return _OTHER.get(error.validator, f"what its `{error.validator}` describes"), ""


def _found(error: Any) -> str:
    if error.validator is None:  # of the schema `false` the library says no place: this may be a secret
        return plain_kind_of(error.instance)
    value, is_size = error.instance, error.validator.startswith(("min", "max"))
    if isinstance(value, str) and is_size:
        return f"{len(value)}"
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
