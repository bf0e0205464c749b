"""The manifest of a plugin: `plugin.json` as a record, and all of its faults at once.

Responsible for: parsing and checking the content of the file. Must not know: the file system (whether the program
exists), how a plugin is run.

Rules:
1. `schemas/manifest.json` is the only definition of the values that a field may hold, and of the messages about values
   that do not fit (`manifest_structure`). Checks beyond a schema are code, one function per topic (`manifest_checks`).
2. All faults are returned at once, each with its JSON pointer, sorted by it.
3. Unknown fields are a warning that suggests a similar name, so that a manifest for a later host still runs here.
4. Any bytes can be parsed; nothing here raises.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from disbatch_protocol.command_line import CommandLine
from disbatch_protocol.command_line_faults import command_line_of
from disbatch_protocol.encodings import Encoding
from disbatch_protocol.exit_codes import exit_rules
from disbatch_protocol.faults import Fault, Severity, error_at, value_at
from disbatch_protocol.manifest_checks import ParametersCheck, beyond_the_schema, parameters_faults
from disbatch_protocol.manifest_json import parse_json
from disbatch_protocol.manifest_structure import structure_faults
from disbatch_protocol.outcome import ExitRule, RetryPolicy
from disbatch_protocol.quantities import parse_duration, parse_size

NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}", re.ASCII)
MAX_OUTPUT_DEFAULT = 64 * 2**20
UMASK_DEFAULT = 0o022


class Mode(StrEnum):
    """The way a plugin's program takes its tasks."""

    ONESHOT = "oneshot"  # one process per task
    WORKER = "worker"  # one process for many tasks


class Cwd(StrEnum):
    """The directory in which a run's program starts."""

    PLUGIN = "plugin"
    WORK = "work"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputEncodings:
    """The encoding of each output stream."""

    stdout: Encoding = Encoding.UTF_8
    stderr: Encoding = Encoding.UTF_8


class StdinKind(StrEnum):
    """What a oneshot program reads."""

    TASK = "task"  # the task document
    NULL = "null"  # nothing: its stdin is /dev/null
    PARAMETER = "parameter"  # one of the task's parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdin:
    """The input of a oneshot program."""

    kind: StdinKind = StdinKind.TASK
    parameter: str | None = None  # its name


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
    """The rules for starting and retiring worker processes."""

    start_timeout_seconds: float = 10.0
    max_tasks: int = 1000
    max_age_seconds: float | None = None
    idle_exit_seconds: float = 60.0
    max_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAs:
    """The account that a run switches to."""

    user: str
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Parameters, and the expected outcome of a run with them."""

    name: str
    parameters: Any
    exit_code: int | None = None
    status: int | None = None
    stdout_contains: str | None = None
    stderr_contains: str | None = None
    has_result: bool = False  # distinguishes an expected null from none
    result: Any = None
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest without faults, with defaults filled in. Durations in seconds, sizes in bytes."""

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
    umask: int = UMASK_DEFAULT
    stdin: Stdin = field(default_factory=Stdin)
    command_line: CommandLine | None = None  # `arguments` and `env_parameters`
    leave_running: bool = False
    encoding: OutputEncodings = field(default_factory=OutputEncodings)
    limits: Limits = field(default_factory=Limits)
    run_as: RunAs | None = None
    requires: tuple[str, ...] = ()
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedManifest:
    """The result of parsing. `manifest` is None if any fault is an error."""

    manifest: Manifest | None
    faults: tuple[Fault, ...]


def parse_manifest(
    data: bytes, *, directory_name: str, check_parameters: ParametersCheck = parameters_faults
) -> ParsedManifest:
    """Parse and check a `plugin.json`. `directory_name` is the plugin's name if the manifest has none.
    `check_parameters`: finds the faults of `parameters` and of the examples as its values; the only check whose time
    the size of the file does not bound."""
    document, faults = parse_json(data)
    if not faults or isinstance(document, dict):  # further checks need an object
        faults = [*faults, *structure_faults(document)]
    if isinstance(document, dict):
        faults += beyond_the_schema(document, {fault.pointer for fault in faults}, check_parameters)
        if "name" not in document and NAME_PATTERN.fullmatch(directory_name) is None:
            message = f'expected a "name", because its directory\'s name {directory_name!r} cannot be one'
            faults.append(error_at("/name", message, 'add "name": "..." or rename the directory'))
    faults.sort(key=lambda fault: (fault.pointer, fault.message))
    if any(fault.severity is Severity.ERROR for fault in faults):
        return ParsedManifest(manifest=None, faults=tuple(faults))
    assert isinstance(document, dict)
    return ParsedManifest(manifest=_manifest_of(document, directory_name), faults=tuple(faults))


def _manifest_of(document: dict[str, Any], directory_name: str) -> Manifest:
    """The record for a document without faults. Missing fields get the record's own defaults."""

    def given(*path: str, **readers: Callable[[Any], Any]) -> dict[str, Any]:
        """The record's fields that the document has below `path`, each read by its reader."""
        values = {}
        for name, read in readers.items():
            value = value_at(document, (*path, _DOCUMENT_NAMES.get(name, name)))
            if value is not None:
                values[name] = read(value)
        return values

    texts = dict.fromkeys(("version", "description", "homepage", "license"), str)
    return Manifest(
        name=document.get("name", directory_name),
        command=tuple(document["command"]),
        command_line=command_line_of(document),
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
            **texts, mode=Mode, exit_codes=exit_rules, timeout_seconds=parse_duration,
            idle_timeout_seconds=parse_duration, kill_grace_seconds=parse_duration, stop_signal=_signal_of,
            idempotent=bool, concurrency=int, max_output_bytes=parse_size, env=dict, env_pass=tuple, cwd=Cwd,
            umask=_mask, stdin=_stdin, leave_running=bool, encoding=_encodings, run_as=_run_as, requires=tuple,
            parameters=lambda schema: schema,
        ),
    )  # fmt: skip


# Record fields that have another name in the document, where names do not include units.
_DOCUMENT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        **{f"{name}_seconds": name for name in ("timeout", "idle_timeout", "kill_grace", "delay", "max_delay", "cpu")},
        **{f"{name}_seconds": name for name in ("start_timeout", "max_age", "idle_exit")},
        **{f"{name}_bytes": name for name in ("max_output", "memory", "file_size", "max_memory")},
        "open_files": "files",
    }
)


def _whole_seconds(value: float | str) -> int:
    return math.ceil(parse_duration(value))  # rlimits count whole seconds, and 0 would kill at once


def _signal_of(name: str) -> signal.Signals:
    return signal.Signals[f"SIG{name}"]


def _mask(value: str) -> int:
    return int(value, 8)


def _stdin(value: str | dict[str, str]) -> Stdin:
    if isinstance(value, str):
        return Stdin(kind=StdinKind(value))
    return Stdin(kind=StdinKind.PARAMETER, parameter=value["parameter"])


def _encodings(value: str | dict[str, str]) -> OutputEncodings:
    if isinstance(value, str):
        return OutputEncodings(stdout=Encoding(value), stderr=Encoding(value))
    return OutputEncodings(**{stream: Encoding(name) for stream, name in value.items()})


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
    """JSON Schema accepts 3.0 as an integer, and so does this."""
    return None if value is None else int(value)
