"""The manifest of a plugin: `plugin.json` as a record, and everything that can be wrong with it at once.

Responsible for: parsing and checking what the file itself says. Must not know: the file system (is the program there),
how a plugin is run.

Rules:
1. `schemas/manifest.json` is the one place that says what a field may hold, and what is said of a value that does not
   fit (`x-expected`, `x-fix`). What a schema cannot say is code here, one function a topic.
2. All faults come at once, each with its JSON pointer, sorted by it.
3. Unknown fields are a warning with the near name, so that a manifest for a later host still runs here.
4. Any bytes can be parsed; nothing here raises.
"""

from __future__ import annotations

import functools
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import orjson

from disbatch_protocol import schemas
from disbatch_protocol.faults import Fault, Severity, kind_of, near_name, pointer_to
from disbatch_protocol.outcome import ExitRule, Outcome, RetryPolicy
from disbatch_protocol.parameters import ParameterSchema, schema_faults
from disbatch_protocol.quantities import parse_duration, parse_size
from disbatch_protocol.status import Status

NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}", re.ASCII)
MAX_OUTPUT_DEFAULT = 64 * 2**20
_NESTING_MAX = 100  # levels; a manifest has six


class Mode(StrEnum):
    """How a plugin's program takes its tasks."""

    ONESHOT = "oneshot"  # a process for each
    WORKER = "worker"  # a process for many


class Cwd(StrEnum):
    """Where a run's program is started."""

    PLUGIN = "plugin"
    WORK = "work"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits of a run. None: as the host has them."""

    cpu_seconds: int | None = None
    memory_bytes: int | None = None
    open_files: int | None = None
    processes: int | None = None
    file_size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """When worker processes are started and retired."""

    start_timeout_seconds: float = 10.0
    max_tasks: int = 1000
    max_age_seconds: float | None = None
    idle_exit_seconds: float = 60.0
    max_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAs:
    """The account that a run changes to."""

    user: str
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Parameters, and what a run with them must come to."""

    name: str
    parameters: Any
    exit_code: int | None = None
    status: int | None = None
    stdout_contains: str | None = None
    stderr_contains: str | None = None
    has_result: bool = False  # tells an expected null from none
    result: Any = None
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest without faults, defaults filled in. Durations in seconds, sizes in bytes."""

    name: str
    command: tuple[str, ...]
    version: str = ""
    description: str = ""
    homepage: str = ""
    license: str = ""
    mode: Mode = Mode.ONESHOT
    parameters: Mapping[str, Any] | bool | None = None  # the JSON Schema; None: anything
    exit_codes: Mapping[int, ExitRule] = field(default_factory=dict)
    timeout_seconds: float | None = None
    idle_timeout_seconds: float | None = None
    kill_grace_seconds: float = 10.0
    stop_signal: signal.Signals = signal.SIGTERM
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    idempotent: bool = False
    concurrency: int | None = None
    max_output_bytes: int = MAX_OUTPUT_DEFAULT
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    env_pass: tuple[str, ...] = ()
    cwd: Cwd = Cwd.PLUGIN
    limits: Limits = field(default_factory=Limits)
    run_as: RunAs | None = None
    requires: tuple[str, ...] = ()
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedManifest:
    """What came of parsing. `manifest` is None where any fault is an error."""

    manifest: Manifest | None
    faults: tuple[Fault, ...]


def parse_manifest(data: bytes, *, directory_name: str) -> ParsedManifest:
    """Parse and check a `plugin.json`. `directory_name` names the plugin where the manifest does not."""
    document, faults = _parse_json(data)
    if not faults or isinstance(document, dict):  # what is beyond the schema is looked at only where that is fine
        faults = [*faults, *_structure_faults(document)]
    if isinstance(document, dict):
        faults += _beyond_the_schema(document, {fault.pointer for fault in faults}, directory_name)
    faults.sort(key=lambda fault: (fault.pointer, fault.message))
    if any(fault.severity is Severity.ERROR for fault in faults):
        return ParsedManifest(manifest=None, faults=tuple(faults))
    assert isinstance(document, dict)
    return ParsedManifest(manifest=_manifest_of(document, directory_name), faults=tuple(faults))


# --- JSON


def _parse_json(data: bytes) -> tuple[Any, list[Fault]]:
    """The value, or why there is none. Strict: UTF-8, no NaN, no name twice in one object."""
    if data.startswith(b"\xef\xbb\xbf"):
        return None, [_fault("", "expected JSON, found a byte order mark", "save it as UTF-8 without one")]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None, [_fault("", "expected UTF-8, found UTF-16", _recode("UTF-16"))]
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"expected UTF-8, found byte 0x{data[error.start]:02x} at offset {error.start}"
        return None, [_fault("", message, _recode("ISO-8859-1"))]
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        near = _line_at(data, error.pos)
        hint = f"look at line {error.lineno}, column {error.colno}{near}"
        return None, [_fault("", f"not valid JSON: {error.msg}", hint)]
    duplicates: list[str] = []
    document = _with_duplicates(data.decode("utf-8"), duplicates)
    if document is _TOO_DEEP:
        return None, [_fault("", f"nested deeper than {_NESTING_MAX} levels")]
    faults = [
        _fault(
            "", f'the name "{name}" stands twice in one object', "remove one of them; readers differ in which counts"
        )
        for name in sorted(set(duplicates))
    ]
    return document, faults


def _recode(encoding: str) -> str:
    return f"save it as UTF-8, or convert it: iconv -f {encoding} -t UTF-8 plugin.json > new.json"


_TOO_DEEP = object()


def _with_duplicates(text: str, duplicates: list[str]) -> Any:
    import json  # noqa: PLC0415  (orjson is faster but cannot tell duplicates)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names: set[str] = set()
        for name, _ in items:
            if name in names:
                duplicates.append(name)
            names.add(name)
        return dict(items)

    try:
        document = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        return _TOO_DEEP
    return document if _depth(document) <= _NESTING_MAX else _TOO_DEEP


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            one
            for value in level
            for one in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
        ]
    return depth


def _line_at(data: bytes, position: int) -> str:
    start = data.rfind(b"\n", 0, position) + 1
    line = data[start : start + 60].split(b"\n")[0].decode("utf-8", "replace").strip()
    return f": {line}" if line else ""


# --- what the schema says


@functools.lru_cache(maxsize=1)
def _validator() -> Any:
    import jsonschema  # noqa: PLC0415

    return jsonschema.Draft202012Validator(schemas.load("manifest"))


def _structure_faults(document: Any) -> Iterator[Fault]:
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
                fault = _fault(pointer_to(path), message, field_schema.get("x-fix", ""))
                if str(error.message).startswith(repr(name)):  # one error a missing name: tell each once
                    yield fault
        return
    if error.validator == "additionalProperties":
        patterns = [re.compile(pattern) for pattern in schema.get("patternProperties", ())]
        known = schema.get("properties", {})
        for name in error.instance:
            if name in known or any(pattern.search(name) for pattern in patterns):
                continue
            if "x-name" in schema:  # its names mean something: a wrong one is no unknown field
                yield _fault(
                    pointer_to([*path, name]), f'expected {schema["x-name"]}, found "{name}"', schema["x-name-fix"]
                )
                continue
            near = near_name(name, known)
            hint = f'did you mean "{near}"?' if near else 'remove it, or begin its name with "x-" to keep it'
            message = f'unknown field "{name}"'
            yield Fault(pointer=pointer_to([*path, name]), message=message, hint=hint, severity=Severity.WARNING)
        return
    if "propertyNames" in error.absolute_schema_path and isinstance(error.instance, str):
        yield _fault(pointer_to([*path, error.instance]), f'expected {schema["x-expected"]}, found "{error.instance}"')
        return
    expected = schema.get("x-expected") or str(error.message)
    yield _fault(pointer_to(path), f"expected {expected}, found {kind_of(error.instance)}", schema.get("x-fix", ""))


# --- what it cannot say


def _beyond_the_schema(document: dict[str, Any], wrong: set[str], directory_name: str) -> list[Fault]:
    """Faults of fields that fit the schema so far; `wrong` are the pointers of those that do not."""

    def fits(*path: str) -> bool:
        return not any(pointer == "" or pointer.startswith(pointer_to(path)) for pointer in wrong if pointer)

    faults: list[Fault] = []
    if "name" not in document and NAME_PATTERN.fullmatch(directory_name) is None:
        message = f'expected a "name", because its directory\'s name {directory_name!r} cannot be one'
        faults.append(_fault("/name", message, 'add "name": "..." or rename the directory'))
    if fits("command") and isinstance(document.get("command"), list):
        faults += _command_faults(document["command"])
    faults += _quantity_faults(document)
    if isinstance(document.get("exit_codes"), dict):
        faults += _exit_code_faults(document["exit_codes"])
    if fits("env") and isinstance(document.get("env"), dict):
        faults += _env_faults(document["env"])
    if fits("env_pass") and isinstance(document.get("env_pass"), list):
        faults += _env_pass_faults(document["env_pass"])
    if fits("exit_codes") and fits("examples"):
        faults += _example_end_faults(document)
    if fits("parameters") and isinstance(document.get("parameters"), (dict, bool)):
        schema = document["parameters"]
        own = schema_faults(schema)
        faults += [_fault("/parameters" + fault.pointer, fault.message, fault.hint) for fault in own]
        if not own:
            own = list(ParameterSchema(schema).own_faults())
            faults += [_fault("/parameters" + fault.pointer, fault.message, fault.hint) for fault in own]
        if not own and fits("examples"):
            faults += _example_faults(document.get("examples"), ParameterSchema(schema))
    faults += _contradictions(document)
    return faults


def _command_faults(command: list[Any]) -> Iterator[Fault]:
    if command and isinstance(command[0], str) and ".." in command[0].split("/"):
        message = f'expected a program inside the plugin\'s directory, found "{command[0]}"'
        yield _fault("/command/0", message, "copy it into the directory")


# Where quantities stand: path → how they are read, and whether zero makes no sense.
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
        value = _at(document, path)
        if value is not None:
            yield from _quantity_fault(pointer_to(path), value, parse, is_positive)
    examples = document.get("examples")
    for index, example in enumerate(examples if isinstance(examples, list) else ()):
        if isinstance(example, dict) and example.get("timeout") is not None:
            yield from _quantity_fault(f"/examples/{index}/timeout", example["timeout"], parse_duration, True)


def _quantity_fault(pointer: str, value: Any, parse: Callable[[Any], float], is_positive: bool) -> Iterator[Fault]:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return  # the schema has said so
    if isinstance(value, (int, float)) and value < 0:
        return  # likewise
    try:
        if parse(value) == 0 and is_positive:
            yield _fault(pointer, f"expected more than nothing, found {kind_of(value)}", "leave it out for no limit")
    except ValueError as error:
        yield _fault(pointer, str(error))


_CODES = re.compile(r"[0-9]{1,3}(-[0-9]{1,3})?", re.ASCII)  # as the schema says it


def _exit_code_faults(exit_codes: dict[str, Any]) -> Iterator[Fault]:
    owner: dict[int, str] = {}
    for key, value in exit_codes.items():
        pointer = pointer_to(["exit_codes", key])
        if _CODES.fullmatch(key) is None:
            continue  # the schema has said so
        first, last = _code_range(key)
        plain = str(first) if "-" not in key else f"{first}-{last}"
        if key != plain:
            yield _fault(pointer, f'expected an exit code without zeros before it, found "{key}"', f'write "{plain}"')
            continue
        if last > 255 or first > last:
            yield _fault(pointer, f'expected exit codes from 0 to 255 in rising order, found "{key}"')
            continue
        twice = next((owner[code] for code in range(first, last + 1) if code in owner), None)
        if twice is not None:
            yield _fault(pointer, f'"{key}" and "{twice}" both give a meaning to one exit code', "make them disjoint")
        owner |= dict.fromkeys(range(first, last + 1), key)
        if isinstance(value, dict) and "status" in value and value.get("outcome") not in ("failure", "permanent"):
            message = f'only a failure has a status of its own, found one with "{value.get("outcome")}"'
            yield _fault(f"{pointer}/status", message, 'remove it, or write "failure" or "permanent"')


def _env_faults(env: dict[str, Any]) -> Iterator[Fault]:
    for name in env:
        if name.startswith("DISBATCH_"):
            message = f'expected a name that does not begin with DISBATCH_, found "{name}"'
            yield _fault(pointer_to(["env", name]), message, "these are the host's own; choose another name")


def _env_pass_faults(names: list[Any]) -> Iterator[Fault]:
    for index, name in enumerate(names):
        if isinstance(name, str) and name.startswith("DISBATCH_"):
            message = f'"{name}" has no effect: the variables that begin with DISBATCH_ are the host\'s own'
            hint = "remove it; those of the contract are always there"
            yield Fault(pointer=f"/env_pass/{index}", message=message, hint=hint, severity=Severity.WARNING)


def _example_end_faults(document: dict[str, Any]) -> Iterator[Fault]:
    """An example whose exit code and status cannot both come true."""
    exit_codes, examples = document.get("exit_codes", {}), document.get("examples")
    rules = _exit_rules(exit_codes) if not any(_exit_code_faults(exit_codes)) else None
    for index, example in enumerate(examples if isinstance(examples, list) and rules is not None else ()):
        if not isinstance(example, dict) or example.get("exit") is None or example.get("status") != Status.CONCLUDED:
            continue
        code = int(example["exit"])
        rule = rules.get(code) if rules is not None else None
        is_success = rule.outcome is Outcome.SUCCESS if rule is not None else code == 0
        if not is_success:
            message = f"expected an end that can be, found status 1 together with exit code {code}, which is no success"
            hint = f'remove one of them, or write {{"{code}": "success"}} in "exit_codes"'
            yield _fault(f"/examples/{index}/status", message, hint)


def _example_faults(examples: Any, schema: ParameterSchema) -> Iterator[Fault]:
    for index, example in enumerate(examples if isinstance(examples, list) else ()):
        if isinstance(example, dict):
            for fault in schema.check(example.get("parameters", {})):
                message = f"the example does not fit the plugin's own schema: {fault.message}"
                hint = fault.hint or "correct one of them"
                yield _fault(f"/examples/{index}/parameters{fault.pointer}", message, hint)


def _contradictions(document: dict[str, Any]) -> Iterator[Fault]:
    if "worker" in document and document.get("mode", "oneshot") == "oneshot":
        message, hint = '"worker" has no effect in oneshot mode', 'add "mode": "worker" or remove it'
        yield Fault(pointer="/worker", message=message, hint=hint, severity=Severity.WARNING)


# --- the record


def _manifest_of(document: dict[str, Any], directory_name: str) -> Manifest:
    """The record of a document without faults. What is not in it is left to the record's own defaults."""

    def given(*path: str, **readers: Callable[[Any], Any]) -> dict[str, Any]:
        """Those of the record's fields that the document has below `path`, each read by its reader."""
        values = {}
        for name, read in readers.items():
            value = _at(document, (*path, _DOCUMENT_NAMES.get(name, name)))
            if value is not None:
                values[name] = read(value)
        return values

    texts = dict.fromkeys(("version", "description", "homepage", "license"), str)
    return Manifest(
        name=document.get("name", directory_name),
        command=tuple(document["command"]),
        retry=RetryPolicy(
            **given(
                "retry", max=int, delay_seconds=parse_duration, backoff=float,
                max_delay_seconds=parse_duration, jitter=float,
            )
        ),
        limits=Limits(
            **given(
                "limits", cpu_seconds=_whole_seconds, memory_bytes=parse_size, open_files=int, processes=int,
                file_size_bytes=parse_size,
            )
        ),
        worker=WorkerSettings(
            **given(
                "worker", start_timeout_seconds=parse_duration, max_tasks=int, max_age_seconds=parse_duration,
                idle_exit_seconds=parse_duration, max_memory_bytes=parse_size,
            )
        ),
        examples=tuple(_example(index, example) for index, example in enumerate(document.get("examples", ()))),
        **given(
            **texts, mode=Mode, exit_codes=_exit_rules, timeout_seconds=parse_duration,
            idle_timeout_seconds=parse_duration, kill_grace_seconds=parse_duration, stop_signal=_signal_of,
            idempotent=bool, concurrency=int, max_output_bytes=parse_size, env=dict, env_pass=tuple, cwd=Cwd,
            run_as=_run_as, requires=tuple, parameters=lambda schema: schema,
        ),
    )  # fmt: skip


# Where a record's field is called otherwise in the document, which leaves out the units.
_DOCUMENT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        **{f"{name}_seconds": name for name in ("timeout", "idle_timeout", "kill_grace", "delay", "max_delay", "cpu")},
        **{f"{name}_seconds": name for name in ("start_timeout", "max_age", "idle_exit")},
        **{f"{name}_bytes": name for name in ("max_output", "memory", "file_size", "max_memory")},
        "open_files": "files",
    }
)


def _whole_seconds(value: float | str) -> int:
    return max(1, round(parse_duration(value)))  # rlimits count whole seconds, and 0 would kill at once


def _signal_of(name: str) -> signal.Signals:
    return signal.Signals[f"SIG{name}"]


def _exit_rules(exit_codes: dict[str, Any]) -> Mapping[int, ExitRule]:
    rules = {}
    for key, value in exit_codes.items():
        named = {"outcome": value} if isinstance(value, str) else value
        rule = ExitRule(outcome=Outcome(named["outcome"]), status=_whole(named.get("status")))
        first, last = _code_range(key)
        rules.update(dict.fromkeys(range(first, last + 1), rule))
    return rules


def _code_range(key: str) -> tuple[int, int]:
    first, _, last = key.partition("-")
    return int(first), int(last or first)


def _run_as(value: str) -> RunAs:
    user, _, group = value.partition(":")
    return RunAs(user=user, group=group or None)


def _example(index: int, example: dict[str, Any]) -> Example:
    timeout = example.get("timeout")
    return Example(
        name=example.get("name") or f"example {index + 1}",
        parameters=example.get("parameters", {}),
        exit_code=_whole(example.get("exit")),
        status=_whole(example.get("status")),
        stdout_contains=example.get("stdout_contains"),
        stderr_contains=example.get("stderr_contains"),
        has_result="result" in example,
        result=example.get("result"),
        timeout_seconds=None if timeout is None else parse_duration(timeout),
    )


def _whole(value: Any) -> int | None:
    """JSON Schema takes 3.0 for an integer, and so do we."""
    return None if value is None else int(value)


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document


def _fault(pointer: str, message: str, hint: str = "") -> Fault:
    return Fault(pointer=pointer, message=message, hint=hint)
