"""Checks of a manifest beyond its schema: one function per topic.

Responsible for: fields that contradict each other, quantities, names reserved for the host, parameters and examples.
Must not know: the file system, how a plugin is run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from disbatch_protocol.command_line_faults import FIELDS, command_line_faults
from disbatch_protocol.exit_codes import example_end_faults, exit_code_faults
from disbatch_protocol.faults import Fault, Severity, error_at, kind_of, near_name, pointer_to, value_at
from disbatch_protocol.parameter_schema import schema_faults, schema_warnings
from disbatch_protocol.parameters import ParameterSchema
from disbatch_protocol.quantities import parse_duration, parse_size

ParametersCheck = Callable[[Any, Any], Sequence[Fault]]  # from a schema and the manifest's examples


def beyond_the_schema(document: dict[str, Any], wrong: set[str], check_parameters: ParametersCheck) -> list[Fault]:
    """Faults of fields that fit the schema so far; `wrong` holds the pointers of those that do not."""

    def fits(*path: str) -> bool:
        return not any(pointer == "" or pointer.startswith(pointer_to(path)) for pointer in wrong if pointer)

    faults: list[Fault] = []
    if fits("command") and isinstance(document.get("command"), list):
        faults += _command_faults(document["command"])
    faults += _quantity_faults(document)
    if isinstance(document.get("exit_codes"), dict):
        faults += exit_code_faults(document["exit_codes"])
    if fits("env") and isinstance(document.get("env"), dict):
        faults += _env_faults(document["env"])
    if fits("env_pass") and isinstance(document.get("env_pass"), list):
        faults += _env_pass_faults(document["env_pass"])
    if fits("exit_codes") and fits("examples"):
        faults += example_end_faults(document)
    if fits("parameters") and isinstance(document.get("parameters"), (dict, bool)):
        faults += check_parameters(document["parameters"], document.get("examples") if fits("examples") else None)
    faults += _contradictions(document)
    if any(field in document for field in FIELDS):
        errors = {fault.pointer for fault in faults if fault.severity is Severity.ERROR}
        faults += command_line_faults(document, wrong | errors)
    return faults


def parameters_faults(schema: Any, examples: Any) -> list[Fault]:
    """The faults of a manifest's `parameters`, and of its examples as values of that schema. Takes as long as the
    patterns in the schema make it (see `ParameterSchema.is_quick_for`)."""
    faults = schema_faults_in(schema)
    if any(fault.severity is Severity.ERROR for fault in faults):
        return faults
    return [*faults, *value_faults_in(schema, examples)]


def schema_faults_in(schema: Any) -> list[Fault]:
    """The faults of `parameters` by itself, with pointers into the manifest. Time grows with its size alone."""
    return [
        dataclasses.replace(fault, pointer="/parameters" + fault.pointer)
        for fault in schema_faults(schema) or schema_warnings(schema)
    ]


def value_faults_in(schema: Any, examples: Any) -> list[Fault]:
    """The defaults and examples that a valid schema does not fit."""
    compiled = ParameterSchema(schema)
    own = compiled.own_faults()
    if own:
        return [error_at("/parameters" + fault.pointer, fault.message, fault.hint) for fault in own]
    return list(_example_faults(examples, compiled))


def example_parameters(examples: Any) -> list[Any]:
    """The parameters of each example of a manifest that may have any form."""
    every = examples if isinstance(examples, list) else ()
    return [one.get("parameters", {}) if isinstance(one, dict) else {} for one in every]


def _example_faults(examples: Any, schema: ParameterSchema) -> Iterator[Fault]:
    for index, parameters in enumerate(example_parameters(examples)):
        for fault in schema.check(parameters):
            message = f"the example does not fit the plugin's own schema: {fault.message}"
            hint = fault.hint or "correct one of them"
            yield error_at(f"/examples/{index}/parameters{fault.pointer}", message, hint)


def _command_faults(command: list[Any]) -> Iterator[Fault]:
    if command and isinstance(command[0], str) and ".." in command[0].split("/") and not command[0].startswith("/"):
        message = f'expected a program inside the plugin\'s directory, found "{command[0]}"'
        yield error_at("/command/0", message, "copy it into the directory")


# The quantities: path → how they are read, and whether zero is meaningless.
_QUANTITIES: Mapping[tuple[str, ...], tuple[Callable[[Any], float], bool]] = MappingProxyType(
    {
        ("timeout",): (parse_duration, True),
        ("idle_timeout",): (parse_duration, True),
        ("kill_grace",): (parse_duration, False),
        ("max_output",): (parse_size, False),
        ("retry", "delay"): (parse_duration, False),
        ("retry", "max_delay"): (parse_duration, False),
        ("limits", "cpu"): (parse_duration, True),
        ("limits", "memory"): (parse_size, True),
        ("limits", "file_size"): (parse_size, False),
        ("worker", "start_timeout"): (parse_duration, True),
        ("worker", "max_age"): (parse_duration, True),
        ("worker", "idle_exit"): (parse_duration, False),
        ("worker", "max_memory"): (parse_size, True),
    }
)


def _quantity_faults(document: dict[str, Any]) -> Iterator[Fault]:
    for path, (parse, is_positive) in _QUANTITIES.items():
        value = value_at(document, path)
        if value is not None:
            yield from _quantity_fault(pointer_to(path), value, parse, is_positive)
    examples = document.get("examples")
    for index, example in enumerate(examples if isinstance(examples, list) else ()):
        if isinstance(example, dict) and example.get("timeout") is not None:
            yield from _quantity_fault(f"/examples/{index}/timeout", example["timeout"], parse_duration, True)


def _quantity_fault(pointer: str, value: Any, parse: Callable[[Any], float], is_positive: bool) -> Iterator[Fault]:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return  # the schema reports it
    if isinstance(value, (int, float)) and value < 0:
        return  # likewise
    try:
        if parse(value) == 0 and is_positive:
            yield error_at(pointer, f"expected more than nothing, found {kind_of(value)}", "leave it out for no limit")
    except ValueError as error:
        yield error_at(pointer, str(error))


def _env_faults(env: dict[str, Any]) -> Iterator[Fault]:
    for name in env:
        if name.startswith("DISBATCH_"):
            message = f'expected a name that does not begin with DISBATCH_, found "{name}"'
            yield error_at(pointer_to(["env", name]), message, "those are reserved for the host; choose another name")


def _env_pass_faults(names: list[Any]) -> Iterator[Fault]:
    for index, name in enumerate(names):
        if isinstance(name, str) and name.startswith("DISBATCH_"):
            message = f'"{name}" has no effect: variables that begin with DISBATCH_ are reserved for the host'
            hint = "remove it; those of the contract are always there"
            yield Fault(pointer=f"/env_pass/{index}", message=message, hint=hint, severity=Severity.WARNING)


def _contradictions(document: dict[str, Any]) -> Iterator[Fault]:
    mode = document.get("mode", "oneshot")
    if "worker" in document and mode == "oneshot":
        message, hint = '"worker" has no effect in oneshot mode', 'add "mode": "worker" or remove it'
        yield Fault(pointer="/worker", message=message, hint=hint, severity=Severity.WARNING)
    if document.get("stdin", "task") != "task":
        if mode == "worker":
            message = 'expected "task": a worker process gets its tasks on stdin'
            yield error_at("/stdin", message, 'remove it, or write "mode": "oneshot"')
        yield from _protocol_faults(document, "stdin")
        yield from _unknown_parameter_faults(document)
    for field in FIELDS:
        if field in document:
            if mode == "worker":
                message = f'expected no "{field}": a worker process gets its tasks on stdin, one after the other'
                yield error_at(f"/{field}", message, 'remove it, or write "mode": "oneshot"')
            yield from _protocol_faults(document, field)
    if document.get("leave_running") is True:
        yield from _protocol_faults(document, "leave_running")
        if mode == "worker":
            message = "expected false: a worker process serves many tasks, and what it starts ends with it"
            yield error_at("/leave_running", message, 'remove it, or write "mode": "oneshot"')
        if document.get("cwd") == "work":
            message = 'expected false: what goes on would lose its directory, which "cwd": "work" makes for each run'
            yield error_at("/leave_running", message, 'remove it, or write "cwd": "plugin"')


def _protocol_faults(document: dict[str, Any], field: str) -> Iterator[Fault]:
    if document.get("protocol") == 1:
        message = f'expected 2, since "{field}" is more than protocol 1 has, found {kind_of(document["protocol"])}'
        yield error_at("/protocol", message, 'write "protocol": 2')


def _unknown_parameter_faults(document: dict[str, Any]) -> Iterator[Fault]:
    name = value_at(document, ("stdin", "parameter"))
    properties = value_at(document, ("parameters", "properties"))
    if isinstance(name, str) and isinstance(properties, dict) and name not in properties:
        near = near_name(name, properties)
        message = f'"parameters" describes no "{name}": without it, stdin is empty'
        hint = f'did you mean "{near}"?' if near else "describe it there"
        yield Fault(pointer="/stdin/parameter", message=message, hint=hint, severity=Severity.WARNING)
