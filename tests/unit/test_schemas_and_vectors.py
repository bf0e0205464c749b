"""The schemas are schemas, their examples fit, and the vectors say what this implementation does."""

from __future__ import annotations

import ast
import base64
import dataclasses
import json
import re
import signal
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from bson import json_util

from disbatch_host.store.mongo import MongoStore
from disbatch_protocol import document, events, outcome, patterns, quantities, schemas
from disbatch_protocol.manifest import parse_manifest
from disbatch_protocol.outcome import RetryPolicy, Said
from disbatch_protocol.parameters import ParameterSchema
from disbatch_protocol.worker import Broken, WorkerConversation

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "protocol" / "vectors"


def vectors(name: str) -> list[Any]:
    cases = json.loads((VECTORS / f"{name}.json").read_text())["cases"]
    assert cases
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("name", schemas.NAMES)
def test_a_schema_is_valid_and_its_examples_fit(name: str) -> None:
    schema = schemas.load(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["examples"]
    for example in schema["examples"]:
        jsonschema.Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize("case", vectors("manifests"))
def test_manifest_vector(case: dict[str, Any]) -> None:
    parsed = parse_manifest(case["input"].encode(), directory_name=case.get("directory", "plugin"))
    assert [[str(fault.severity), fault.pointer] for fault in parsed.faults] == case["faults"]
    assert (parsed.manifest is None) == any(severity == "error" for severity, _ in case["faults"])
    for name, value in case.get("values", {}).items():
        found = getattr(parsed.manifest, name)
        found = found.name if isinstance(found, signal.Signals) else found
        assert json.loads(json.dumps(found, default=_plain)) == value, name


@pytest.mark.parametrize(
    "manifest",
    [
        {"exit_codes": {"01": "success"}},
        {"exit_codes": {"300": "success"}},
        {"exit_codes": {"256": "success"}},
        {"exit_codes": {"250-256": "success"}},
        {"exit_codes": {"-1": "success"}},
        {"umask": 22},
        {"umask": "89"},
        {"stdin": None},
        {"stdin": {"parameter": ""}},
        {"encoding": "UTF-8"},
        {"arguments": [["x", ["y"]]]},
        {"arguments": [{"word": "x", "dsah": True}]},
        {"arguments": [{"if": "x", "then": [], "words": []}]},
        {"env_parameters": {"A": 1}},
        {"env_parameters": {"A B": "a"}},
        {"leave_running": "no"},
        {"protocol": 3},
    ],
    ids=str,
)
def test_the_schema_alone_refuses_what_the_host_refuses(manifest: dict[str, Any]) -> None:
    """Editors and other hosts have nothing but the schema."""
    document = {"protocol": 1, "command": ["x"], **manifest}
    assert not jsonschema.Draft202012Validator(schemas.load("manifest")).is_valid(document)
    assert parse_manifest(json.dumps(document).encode(), directory_name="x").manifest is None


def test_every_field_of_the_host_is_reserved_and_the_text_names_it() -> None:
    """Incident: a plugin could set `secrets`, and with it what commands mask."""
    assert set(schemas.load("task")["properties"]) == document.PROTECTED
    text = (VECTORS.parent / "SPEC.md").read_text()
    named = re.search(r"\*\*set\*\* cannot change `([^`]*)` \(den-1.0\) and `([^`]*)` \(the host's\)", text)
    assert named is not None
    assert {*named[1].split(), *named[2].split()} == document.PROTECTED


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value)


@pytest.mark.parametrize("case", vectors("exits"))
def test_exit_vector(case: dict[str, Any]) -> None:
    manifest = parse_manifest(
        json.dumps({"protocol": 1, "command": ["x"], **case.get("manifest", {})}).encode(), directory_name="x"
    ).manifest
    assert manifest is not None
    end = outcome.RunEnd(
        reason=outcome.Reason(case["end"]["reason"]),
        exit_code=case["end"].get("exit_code"),
        signal=case["end"].get("signal"),
    )
    conclusion = outcome.conclude(
        end, manifest, attempt=case.get("attempt", 1), said=Said(**case.get("said", {})), chance=0.5
    )
    expected = case["conclusion"]
    assert {
        "outcome": str(conclusion.outcome),
        "status": conclusion.status,
        "delay_seconds": conclusion.delay_seconds,
        "attempt_used": conclusion.attempt_used,
    } == {"delay_seconds": None, "attempt_used": True, **expected}


@pytest.mark.parametrize("case", vectors("parameters"))
def test_parameter_vector(case: dict[str, Any]) -> None:
    schema = ParameterSchema(case["schema"])
    before = json.dumps(case["parameters"])
    assert [fault.pointer for fault in schema.check(case["parameters"])] == case["faults"]
    assert schema.with_defaults(case["parameters"]) == case.get("with_defaults", case["parameters"])
    assert schema.masked(case["parameters"]) == case.get("masked", case["parameters"])
    assert json.dumps(case["parameters"]) == before


@pytest.mark.parametrize("case", vectors("stdin"))
def test_stdin_vector(case: dict[str, Any]) -> None:
    options = json_util.JSONOptions(json_mode=json_util.JSONMode.CANONICAL, tz_aware=True)
    stored = json_util.loads(json.dumps(case["document"]), json_options=options)
    extended = MongoStore("mongodb://localhost", None).extended_json  # type: ignore[arg-type]
    assert document.stdin_line(stored, other=extended).decode() == case["line"] + "\n"


@pytest.mark.parametrize("case", vectors("inputs"))
def test_input_vector(case: dict[str, Any]) -> None:
    options = json_util.JSONOptions(json_mode=json_util.JSONMode.CANONICAL, tz_aware=True)
    stored = json_util.loads(json.dumps(case["parameters"]), json_options=options)
    extended = MongoStore("mongodb://localhost", None).extended_json  # type: ignore[arg-type]
    assert document.parameter_input(stored, case["parameter"], other=extended).decode() == case["input"]


@pytest.mark.parametrize("case", vectors("arguments"))
def test_arguments_vector(case: dict[str, Any]) -> None:
    fields = {name: case[name] for name in ("arguments", "env_parameters") if name in case}
    manifest = parse_manifest(
        json.dumps({"protocol": 2, "command": ["x"], **fields}).encode(), directory_name="x"
    ).manifest
    assert manifest is not None and manifest.command_line is not None
    options = json_util.JSONOptions(json_mode=json_util.JSONMode.RELAXED, tz_aware=True)
    stored = json_util.loads(json.dumps(case["parameters"]), json_options=options)
    made = manifest.command_line.made_of(ParameterSchema(case.get("schema")).with_defaults(stored))
    assert sorted(fault.pointer for fault in made.faults) == sorted(case.get("faults", []))
    if not made.faults:
        assert list(made.words) == case["words"]
        assert made.variables == case.get("variables", {})


@pytest.mark.parametrize("case", vectors("quantities"))
def test_quantity_vector(case: dict[str, Any]) -> None:
    kinds: dict[str, Any] = {
        "duration": quantities.parse_duration,
        "size": quantities.parse_size,
        "failures": quantities.parse_failure_limit,
    }
    parse = kinds[case["kind"]]
    if case["value"] is None:
        with pytest.raises(ValueError, match="expected"):
            parse(case["input"])
    elif case["kind"] == "failures":
        assert parse(case["input"]) == quantities.FailureLimit(**case["value"])
    else:
        assert parse(case["input"]) == pytest.approx(case["value"], rel=1e-12)


def test_retry_delays_grow_to_their_limit_and_chance_moves_them_within_the_jitter() -> None:
    policy = RetryPolicy(max=9, delay_seconds=10, backoff=3, max_delay_seconds=100, jitter=0.2)
    assert [outcome.retry_delay(policy, attempt, 0.5) for attempt in (1, 2, 3, 4, 500)] == [10, 30, 90, 100, 100]
    assert outcome.retry_delay(policy, 1, 0.0) == pytest.approx(8)
    assert outcome.retry_delay(policy, 1, 0.999999) == pytest.approx(12, rel=1e-3)


def bytes_of(case: dict[str, Any]) -> bytes:
    if "input_base64" in case:
        return base64.b64decode(case["input_base64"])
    if "input_repeat" in case:
        before, what, times, after = case["input_repeat"]
        return (before + what * times + after).encode()
    return str(case["input"]).encode()


def event_document(heard: Any) -> dict[str, Any]:
    """An event in the form of the vectors."""
    names = {
        events.OwnStatus: "status", events.SetFields: "set", events.ErrorSaid: "error", events.FollowUps: "tasks",
        events.BadLine: "bad",
    }  # fmt: skip
    document = {"type": names.get(type(heard), type(heard).__name__.lower()), **dataclasses.asdict(heard)}
    if "exit_code" in document:
        document["exit"] = document.pop("exit_code")
    if "tasks" in document:
        document["tasks"] = list(document["tasks"])
    if "faults" in document:
        document["faults"] = len(document["faults"])
    return document


def assert_heard(heard: list[Any], expected: list[dict[str, Any]]) -> None:
    found = [event_document(one) for one in heard]
    assert [one["type"] for one in found] == [one["type"] for one in expected]
    for one, wanted in zip(found, expected, strict=True):
        assert {name: one[name] for name in wanted} == wanted


@pytest.mark.parametrize("case", vectors("events"))
def test_event_vector_however_it_is_cut(case: dict[str, Any]) -> None:
    data = bytes_of(case)
    smallest = 1 if len(data) <= 10_000 else 999  # byte by byte would say no more and take seconds
    for size in (smallest, 7, 2**16, 2**22):
        reader = events.EventReader()
        heard = [one for start in range(0, len(data), size) for one in reader.feed(data[start : start + size])]
        assert_heard(heard + reader.finish(), case["events"])


@pytest.mark.parametrize("case", vectors("events"))
def test_event_vector_with_trailing_bytes(case: dict[str, Any]) -> None:
    reader = events.EventReader()
    heard = reader.feed(bytes_of(case) + b'\n{"type":"status","status":99}\n{"ty')
    assert_heard(heard, [*case["events"], {"type": "status", "status": 99}])
    assert [type(one) for one in reader.finish()] == [events.BadLine]


@pytest.mark.parametrize("case", vectors("events"))
def test_what_is_an_event_fits_the_schema_and_what_is_bad_does_not(case: dict[str, Any]) -> None:
    """The schema says what can be said of one line; nesting, bytes and numbers above 64 bits it cannot say."""
    validator = jsonschema.Draft202012Validator(schemas.load("event"))
    lines = [line for line in bytes_of(case).split(b"\n") if line.strip()]
    for line, expected in zip(lines, case["events"], strict=True):
        try:
            value = orjson.loads(line)
        except ValueError:
            continue
        is_odd = expected["type"] == "bad" or (expected["type"] == "error" and expected.get("faults"))
        if is_odd and len(line) <= events.LINE_MAX and case["name"] not in _BEYOND_SCHEMA:
            assert not validator.is_valid(value), line
        elif expected["type"] != "bad" and case["name"] not in _ODD_DONES:
            validator.validate(value)


_BEYOND_SCHEMA = {
    "2^63 in a log",
    "an integer below -2^63 in a result",
    "an integer beyond 64 bits in a follow-up task",
    "an integer beyond 64 bits in a log",
    "an integer beyond 64 bits in a result",
}
# They are heard, since they say that plugin and host are out of step.
_ODD_DONES = {
    "done without an exit code",
    "done with an exit code that is none",
    "done with an exit code that is text",
    "done with an exit code below 0",
}


@pytest.mark.parametrize("case", vectors("workers"))
def test_the_lines_of_worker_mode_fit_their_schema(case: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(schemas.load("worker"))
    for step in case["talk"]:
        line = step.get("host") or step.get("plugin", {})
        if "host" in step or (line.get("type") in ("ready", "done") and case["state"] != "broken"):
            validator.validate({name: "t" if value == "…" else value for name, value in line.items()})


@pytest.mark.parametrize("line", [{"type": "hello"}, {"type": "task", "task": {}}, {"type": "done"}, {"type": "set"}])
def test_other_lines_do_not_fit_the_schema_of_worker_mode(line: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(schemas.load("worker")).is_valid(line)


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("^a$", "a", True),
        ("^a$", "a\n", False),
        ("a$|b$", "b\n", False),
        (r"^\$$", "$", True),
        (r"^\$$", "$\n", False),
        ("^[$]$", "$", True),
        ("^[$]$", "$\n", False),
        ("^[]$]$", "$", True),
        ("^[^]$]$", "$", False),
        (r"^[\]$]$", "$", True),
        (r"\\$", "\\", True),
        (r"\\$", "\\\n", False),
        ("^a", "a\n", True),
    ],
)
def test_the_end_in_a_pattern_is_the_end_of_the_text(pattern: str, text: str, fits: bool) -> None:
    """Python's `$` is also the place before a line feed at the end: a class could be named "A\n"."""
    assert ParameterSchema({"properties": {"p": {"pattern": pattern}}}).check({"p": text}) == () or not fits
    assert bool(ParameterSchema({"properties": {"p": {"pattern": pattern}}}).check({"p": text})) is not fits
    names = ParameterSchema({"patternProperties": {pattern: True}, "additionalProperties": False})
    assert bool(names.check({text: 1})) is not fits
    again = ParameterSchema({"$schema": schemas.load("manifest")["$schema"], "pattern": pattern,
                             "properties": {"p": {"$ref": "#"}}})  # fmt: skip
    assert bool(again.check({"p": text})) is not fits


def test_no_pattern_of_this_program_ends_before_a_line_feed() -> None:
    """`\\Z` is the end; `$` in Python is also the place before a line feed there."""
    found = []
    for path in [*(ROOT / "host").rglob("*.py"), *(ROOT / "protocol").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.") and node.args):
                continue
            text = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if isinstance(text, str) and patterns.for_python(text) != text:
                found.append(f"{path}:{node.lineno}")
    assert found == []


def test_a_pattern_that_does_not_fit_is_quoted_as_it_was_written() -> None:
    (fault,) = ParameterSchema({"properties": {"p": {"pattern": "^a$"}}}).check({"p": "b"})
    assert '"^a$"' in fault.message


def test_what_was_expected_of_a_type_is_what_the_mode_has() -> None:
    for worker_mode in (False, True):
        (bad,) = events.EventReader(worker_mode=worker_mode).feed(b'{"type":"dance"}\n')
        assert isinstance(bad, events.BadLine)
        assert ("ready, done" in bad.message) is worker_mode and "snooze, tasks" in bad.message


def test_a_status_that_is_too_large_is_told_the_limit() -> None:
    for kind in ("status", "result"):
        bad = events.parse_line(json.dumps({"type": kind, "value": 1, "status": 2**40}).encode())
        assert isinstance(bad, events.BadLine)
        assert "to 2147483647, found the number 1099511627776" in bad.message


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, "none"),
        ({"exit": "0"}, 'the string "0"'),
        ({"exit": 256}, "the number 256"),
        ({"exit": -9}, "the number -9"),
        ({"exit": 0.5}, "the number 0.5"),
        ({"exit": None}, "null"),
    ],
)
def test_a_done_that_cannot_be_understood_says_what_it_has(fields: dict[str, Any], found: str) -> None:
    talk = WorkerConversation()
    talk.receive(b'{"type":"ready","protocol":1}\n')
    talk.hand_over(b"{}\n", task_id="t", attempt=1, deadline=None)
    (broken,) = talk.receive(json.dumps({"type": "done", **fields}).encode() + b"\n")
    assert isinstance(broken, Broken) and broken.message.endswith(f"from 0 to 255, found {found}")


@pytest.mark.parametrize("case", vectors("workers"))
@pytest.mark.parametrize("at_once", [False, True])
def test_worker_vector_from_the_hosts_side(case: dict[str, Any], at_once: bool) -> None:
    is_read = True
    talk = WorkerConversation(has_read_task=lambda: is_read)
    heard: list[Any] = []
    waiting = b""
    for step in case["talk"]:
        if "plugin" in step:
            is_read = not step.get("unread", False)
            waiting += json.dumps(step["plugin"]).encode() + b"\n"
            if at_once and len([one for one in case["talk"] if "host" in one]) == 1:
                continue
            heard += [one for byte in waiting for one in talk.receive(bytes([byte]))]
            waiting = b""
        elif step.get("host", {}).get("type") == "hello":
            assert json.loads(talk.hello(host=step["host"]["host"], number=1)) == step["host"]
        elif "host" in step:
            message = step["host"]
            line = talk.hand_over(
                json.dumps(message["task"]).encode() + b"\n",
                task_id=message["task"]["_id"],
                attempt=message["attempt"],
                deadline=message.get("deadline"),
            )
            assert line.endswith(b"\n") and json.loads(line) == message
    heard += talk.receive(waiting) + talk.finish()
    names = ["broken" if isinstance(one, Broken) else event_document(one)["type"] for one in heard]
    assert (str(talk.state), names) == (case["state"], case["heard"])
