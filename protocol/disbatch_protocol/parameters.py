"""Validation of a task's parameters by its plugin's JSON Schema (2020-12).

Responsible for: checking, filling in top-level defaults, masking secrets. Must not know: where the schema or
the parameters come from.

Rules:
1. A schema is compiled once; checking parameters that fit is one pass without messages. Nothing here limits the time
   of a check: `is_quick_for` says where it is bounded, and a signal handler may raise CheckInterruptedError into it.
2. Nothing is ever fetched: a `$ref` must lead into the schema itself.
3. The given parameters are never changed; the result is a copy if it differs.
4. Everything below a `writeOnly` is secret: no message quotes it, and it is masked wherever it is shown. A value
   that may be one (in the place of an object that would contain a secret) counts as one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from disbatch_protocol.faults import Fault, pointer_to
from disbatch_protocol.masks import masked_at
from disbatch_protocol.parameter_faults import fault_of, leaves
from disbatch_protocol.parameter_secrets import mentions_secret, secrets_in
from disbatch_protocol.parameter_validator import CheckInterruptedError, compiled
from disbatch_protocol.references import parts_of

if TYPE_CHECKING:  # imported late, like jsonschema: most plugins of most hosts have no schema
    from disbatch_protocol.check_cost import SchemaCost
    from disbatch_protocol.parameter_types import Places


class ParameterSchema:
    """The `parameters` of a manifest. None: anything fits."""

    def __init__(self, schema: Mapping[str, Any] | bool | None) -> None:
        self._schema = schema
        self._validator: Any = None
        self._cost: SchemaCost | None = None
        self._is_weighed = False
        self._places: Places | None = None
        self._defaults: dict[str, Any] = {}
        self._has_secrets = mentions_secret(schema)
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if isinstance(properties, Mapping):
            self._defaults = {
                name: one["default"]
                for name, one in properties.items()
                if isinstance(one, Mapping) and "default" in one
            }

    def is_quick_for(self, parameters: Any) -> bool:
        """Whether these parameters can certainly be checked, and their secrets found, in a moment. False says nothing:
        it has patterns that may try many ways, say, or refers to itself."""
        if self._schema is None:
            return True
        return self.is_ever_quick and self._cost is not None and self._cost.is_quick_for(parameters)

    @property
    def is_ever_quick(self) -> bool:
        """Whether that can be true of any parameters."""
        if self._schema is None:
            return True
        if not self._is_weighed:
            from disbatch_protocol.check_cost import cost_of  # noqa: PLC0415

            cost = cost_of(self._schema)
            self._cost = cost if cost is not None and cost.is_quick_for(self._defaults) else None
            self._is_weighed = True
        return self._cost is not None

    def place_of_pattern(self, pattern: str) -> str | None:
        """The JSON pointer, relative to the schema, of the part that has this pattern."""
        for path, part in parts_of(self._schema):
            if part.get("pattern") == pattern:
                return pointer_to(path)
            if isinstance(part.get("patternProperties"), Mapping) and pattern in part["patternProperties"]:
                return pointer_to((*path, "patternProperties"))
        return None

    def check(self, parameters: Any) -> tuple[Fault, ...]:
        """All faults of the parameters, after filling in defaults; none if they fit."""
        if self._schema is None:
            return ()
        validator = self._compiled()
        complete = self.with_defaults(parameters)
        try:
            if validator.is_valid(complete):
                return ()
            secrets = secrets_in(self._schema, complete) if self._has_secrets else ()
            faults = [fault_of(error, secrets) for error in leaves(validator, complete)]
        except CheckInterruptedError:
            raise
        except Exception as error:  # whatever the library makes of a value: the check has failed, not its caller
            return (Fault(pointer="", message=f"cannot be checked: {_reason_of(error)}"),)
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
        try:
            secrets = secrets_in(self._schema, {name: default}) if self._has_secrets else ()
            # Checked in its place in the schema, so that references resolve.
            errors = list(self._compiled().descend(default, own, path=name))
            return [fault_of(error, secrets).message for error in errors]
        except CheckInterruptedError:
            raise
        except Exception as error:  # as in `check`
            return [f"it cannot be checked: {_reason_of(error)}"]

    def with_defaults(self, parameters: Any) -> Any:
        """The parameters with the schema's top-level defaults added; the same object if nothing
        is missing."""
        if not self._defaults or not isinstance(parameters, Mapping):
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
            from disbatch_protocol.parameter_types import Places  # noqa: PLC0415

            self._places = Places(self._schema)
        return self._places

    def secrets(self, parameters: Any) -> tuple[str, ...]:
        """The JSON pointers of the secret ones among these values, in order."""
        return secrets_in(self._schema, parameters) if self._has_secrets else ()

    def masked(self, parameters: Any) -> Any:
        """The parameters with every secret masked, safe to show."""
        return masked_at(parameters, self.secrets(parameters))

    def _compiled(self) -> Any:
        if self._validator is None:
            self._validator = compiled(self._schema)
        return self._validator


def _reason_of(error: Exception) -> str:
    """Why a check could not be made; never quotes a value, which may be a secret."""
    if isinstance(error, RecursionError):
        return "the schema refers to itself without end, or they are nested too deeply"
    if isinstance(error, re.error):
        return f"a pattern of the schema is not a valid Python regular expression ({error})"
    if isinstance(error, MemoryError):
        return "that takes too much memory"
    if hasattr(error, "ref"):  # the library's own, for a reference that leads nowhere
        return f'the schema refers to "{error.ref:.80}", which is nowhere in it'
    return f"its schema cannot be applied to them ({type(error).__name__})"
