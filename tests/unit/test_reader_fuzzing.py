"""The readers of what foreign programs and people write (manifests, events, lines of workers), held against input of
the kinds that break readers: nesting without end, numbers beyond every type, NULs, halves of characters, damaged text,
and cuts at every byte. Each is taken or answered with a fault; nothing is raised."""

from __future__ import annotations

import itertools
import json
import re
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disbatch_host.documents.records import Task
from disbatch_host.run.events import EventEffects
from disbatch_protocol import schemas
from disbatch_protocol.event_values import DEPTH_MAX
from disbatch_protocol.events import LINE_KEPT, LINE_MAX, BadLine, EventReader, parse_line
from disbatch_protocol.faults import Severity
from disbatch_protocol.manifest import parse_manifest
from disbatch_protocol.parameters import ParameterSchema
from disbatch_protocol.worker import Heard, WorkerConversation, WorkerState

# As they stand in the text, since no writer of JSON makes them.
ODD = {
    "more than a float": "1e999",
    "less than a float": "-1e999",
    "nearly nothing": "1e-999",
    "not a number": "NaN",
    "infinity": "Infinity",
    "too many digits": "9" * 5000,
    "beyond 64 bits": str(2**64),
    "many decimals": "0." + "1" * 5000,
    "minus zero": "-0",
    "a NUL": '"a\\u0000b"',
    "half a character": '"\\ud800"',
    "a raw line feed": '"a\nb"',
    "a raw NUL": '"a\0b"',
    "not even UTF-8": "\udcff",
    "deep lists": "[" * 300 + "]" * 300,
    "deeper lists": "[" * 100_000 + "]" * 100_000,
    "lists without end": "[" * 100_000,
    "deep objects": '{"a":' * 300 + "1" + "}" * 300,
    "deeper objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "a name twice": '{"a":1,"a":2}',
    "a name with a NUL": '{"a\\u0000":1}',
    "an empty name": '{"":1}',
    "long text": '"' + "x" * 2**20 + '"',
    "a comment": "1 /* one */",
    "an open string": '"x',
}
MANIFEST_FIELDS = sorted(schemas.load("manifest")["properties"])
EVENT_FIELDS = {
    "progress": ("value", "message"), "log": ("message", "level", "fields"), "status": ("status",), "set": ("fields",),
    "result": ("value", "status"), "error": ("message", "code", "detail", "retry"), "snooze": ("seconds", "message"),
    "tasks": ("tasks",), "ready": ("protocol",), "done": ("exit", "task"),
}  # fmt: skip
WHOLE = {
    "progress": {"value": 0.5}, "log": {"message": "m"}, "status": {"status": 5}, "set": {"fields": {"a": 1}},
    "result": {"value": 1}, "error": {"message": "m"}, "snooze": {"seconds": 1}, "tasks": {"tasks": [{"queue": "q"}]},
    "ready": {"protocol": 1}, "done": {"exit": 0},
}  # fmt: skip
MANIFEST = json.dumps(
    {
        "protocol": 1, "command": ["./run.sh", "ü"], "name": "A::B", "env": {"A": "b"}, "timeout": "1h30m",
        "parameters": {"properties": {"a": {"type": "string"}}}, "exit_codes": {"10-19": "permanent"},
        "retry": {"max": 3, "delay": "1m"}, "limits": {"memory": "1G", "files": 99}, "run_as": "nobody:nogroup",
        "examples": [{"name": "e", "parameters": {}}],
    },
    ensure_ascii=False,
).encode()  # fmt: skip
TALK = b"\n".join(
    [
        b'{"type":"ready","protocol":1}', b'{"type":"progress","value":0.5}', b'{"type":"log","message":"\xc3\xbc"}',
        b"no", b'{"type":"done","exit":0}', b"", b'{"type":"result","value":[1,2]}',
        b'{"type":"done","exit":3,"task":"t"}', b'{"type"',
    ]
)  # fmt: skip


def placed(text: str, depth: int) -> str:
    return f"[{text}]" if depth == 1 else f'{{"a":{text}}}' if depth == 2 else text


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("odd", ODD)
def test_odd_values_anywhere_in_a_manifest_are_taken_or_have_a_fault(odd: str) -> None:
    for name, depth in itertools.product(MANIFEST_FIELDS, range(3)):
        others = {"protocol": "1", "command": '["./x"]', name: placed(ODD[odd], depth)}
        text = ",".join(f'"{one}":{value}' for one, value in others.items())
        parsed = parse_manifest(as_bytes(f"{{{text}}}"), directory_name="x")
        has_error = any(fault.severity is Severity.ERROR for fault in parsed.faults)
        assert (parsed.manifest is None) is has_error
        assert all(len(str(fault)) < 2000 for fault in parsed.faults)
        if parsed.manifest is not None:
            schema = ParameterSchema(parsed.manifest.parameters)
            for parameters in ({}, {"a": 1}, [], None, "x"):
                schema.check(parameters)
                schema.masked(parameters)


@pytest.mark.parametrize("odd", ODD)
def test_odd_values_anywhere_in_an_event_are_taken_or_a_bad_line(odd: str) -> None:
    for kind, fields in EVENT_FIELDS.items():
        for name, depth in itertools.product(fields, range(3)):
            whole = {one: json.dumps(value) for one, value in WHOLE[kind].items()}
            text = ",".join(f'"{one}":{value}' for one, value in {**whole, name: placed(ODD[odd], depth)}.items())
            stream = as_bytes(f'{{"type":"{kind}",{text}}}\n')
            effects = EventEffects(Task.from_document({"_id": "t", "queue": "q", "status": 0}))
            for heard in EventReader().feed(stream):
                if isinstance(heard, BadLine):
                    assert len(heard.start) <= LINE_KEPT and len(heard.message) < 1000
                effects.take(heard, now=datetime.now(UTC))
            stored = orjson.dumps({**effects.changed_fields(), **effects.run_facts()}, default=str)
            assert b'\\u0000":' not in stored and len(stored) < 2 * LINE_MAX
            assert deepest(orjson.loads(stored)) <= DEPTH_MAX + 5


def deepest(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((deepest(one) for one in inner), default=0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_manifest_is_taken_or_has_a_fault(data: st.DataObject) -> None:
    text = bytearray(MANIFEST)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 20)))
        text[start:end] = data.draw(
            st.binary(max_size=6) | st.sampled_from([as_bytes(one[:40]) for one in ODD.values()])
        )
    parsed = parse_manifest(bytes(text), directory_name="x")
    assert (parsed.manifest is None) is any(fault.severity is Severity.ERROR for fault in parsed.faults)


def talk(blocks: list[bytes]) -> tuple[list[Heard], WorkerState]:
    """A conversation in which a task is handed over whenever that is possible."""
    conversation = WorkerConversation()
    heard: list[Heard] = []
    for block in blocks:
        for start in range(len(block)):  # a turn after each byte, as a task is handed over in its own time
            heard += conversation.receive(block[start : start + 1])
            if conversation.state is WorkerState.IDLE:
                conversation.hand_over(b"{}\n", task_id="t", attempt=1, deadline=None)
    return heard + conversation.finish(), conversation.state


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from(TALK.split(b"\n")), max_size=12))
def test_a_worker_is_heard_the_same_however_its_bytes_are_cut(lines: list[bytes]) -> None:
    stream = b"\n".join([b'{"type":"ready","protocol":1}', *lines])
    bytewise = talk([stream])
    by_lines = WorkerConversation()
    heard: list[Heard] = []
    for line in stream.split(b"\n")[:-1]:
        heard += by_lines.receive(line + b"\n")
        if by_lines.state is WorkerState.IDLE:
            by_lines.hand_over(b"{}\n", task_id="t", attempt=1, deadline=None)
    heard += by_lines.receive(stream.split(b"\n")[-1])
    heard += by_lines.finish()
    assert (heard, by_lines.state) == bytewise


def test_events_are_the_same_cut_at_every_byte() -> None:
    whole = EventReader()
    expected = whole.feed(TALK) + whole.finish()
    for cut in range(len(TALK)):
        reader = EventReader()
        assert reader.feed(TALK[:cut]) + reader.feed(TALK[cut:]) + reader.finish() == expected


@pytest.mark.parametrize("size", [LINE_MAX - 1, LINE_MAX, LINE_MAX + 1, 3 * LINE_MAX])
@pytest.mark.parametrize("block", [1000, 2**16, 2**16 + 1, 4 * LINE_MAX])
def test_a_line_is_too_long_at_one_byte_more_however_it_is_cut(size: int, block: int) -> None:
    head, tail = b'{"type":"log","message":"', b'"}'
    line = head + b"x" * (size - len(head) - len(tail)) + tail
    stream = line + b"\n" + b'{"type":"progress","value":1}\n'
    reader = EventReader()
    heard = list(itertools.chain(*(reader.feed(stream[at : at + block]) for at in range(0, len(stream), block))))
    assert [type(one).__name__ for one in heard] == ["BadLine" if size > LINE_MAX else "Log", "Progress"]
    if isinstance(heard[0], BadLine):
        assert str(size) in heard[0].message and len(heard[0].start) == LINE_KEPT


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_an_event_or_a_bad_line(data: bytes) -> None:
    heard = parse_line(data)
    assert not isinstance(heard, BadLine) or len(heard.start) <= LINE_KEPT


LOOPS: dict[str, Any] = {
    "to itself": {"$ref": "#"},
    "a property to itself": {"properties": {"a": {"$ref": "#/properties/a"}}},
    "in a circle": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "twice to itself": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "dynamically": {"$dynamicRef": "#"},
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_schema_that_refers_to_itself_without_end_is_a_fault_of_its_parameters(name: str) -> None:
    """Before, the check raised: a node's run ended in the host itself, and its task stayed Claimed."""
    (fault,) = ParameterSchema(LOOPS[name]).check({"a": 1})
    assert "refers to itself without end" in fault.message


def test_a_pattern_that_is_none_is_a_fault_of_the_manifest_and_no_exception_later() -> None:
    for schema, pointer in (
        ({"properties": {"a": {"pattern": "("}}}, "/parameters/properties/a/pattern"),
        ({"patternProperties": {"*": {}}}, "/parameters/patternProperties/*"),
    ):
        text = json.dumps({"protocol": 1, "command": ["./x"], "parameters": schema})
        parsed = parse_manifest(text.encode(), directory_name="x")
        assert parsed.manifest is None
        assert [fault.pointer for fault in parsed.faults] == [pointer]
        assert re.search("regular expression", parsed.faults[0].message)
    (fault,) = ParameterSchema({"properties": {"a": {"pattern": "("}}}).check({"a": "x"})
    assert "not a valid Python regular expression" in fault.message


def test_no_secret_is_in_a_fault() -> None:
    secret = "hunter2"
    for rule in (
        {"type": "integer"}, {"minLength": 99}, {"enum": ["a"]}, {"const": "a"}, {"pattern": "^x"}, {"not": {}},
        {"anyOf": [{"type": "integer"}, {"pattern": "x"}]}, {"oneOf": [{}, {}]}, {"$ref": "#/$defs/s"},
        {"allOf": [{"maxLength": 1}]},
    ):  # fmt: skip
        schema = {"properties": {"a": {**rule, "writeOnly": True}}, "$defs": {"s": {"type": "null"}}}
        faults = ParameterSchema(schema).check({"a": secret})
        assert faults and not any(secret in str(fault) for fault in faults)
    for whole in ({"maxProperties": 0}, {"not": {"required": ["a"]}}, {"type": "array"}, {"enum": [1]}):
        faults = ParameterSchema({"properties": {"a": {"writeOnly": True}}, **whole}).check({"a": secret})
        assert faults and not any(secret in str(fault) for fault in faults)
