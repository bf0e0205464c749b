"""What holds of the protocol for any input at all."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.documents.records import Task
from disbatch_host.run.events import EventEffects
from disbatch_protocol import schemas, templates
from disbatch_protocol.command_line import WORD_MAX, CommandLine
from disbatch_protocol.document import stdin_line
from disbatch_protocol.events import EventReader, parse_line
from disbatch_protocol.faults import Severity
from disbatch_protocol.manifest import Manifest, parse_manifest
from disbatch_protocol.outcome import Outcome, Reason, RunEnd, Said, conclude
from disbatch_protocol.parameters import ParameterSchema
from disbatch_protocol.quantities import Rate, format_duration, format_size, parse_duration
from disbatch_protocol.status import Status, may_become
from disbatch_protocol.worker import WorkerConversation, WorkerState

EVENT_LINES = [
    b'{"type":"progress","value":0.5}', b'{"type":"ready","protocol":1}', b'{"type":"done","exit":0}',
    b'{"type":"done"}', b'{"type":"log","message":"\xc3\xbc"}', b'{"type":"tasks","tasks":[{"queue":"q"}]}', b"", b"{}",
]  # fmt: skip

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(schemas.load("manifest")["properties"])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_have_a_fault(data: bytes) -> None:
    parsed = parse_manifest(data, directory_name="x")
    assert (parsed.manifest is None) == any(fault.severity is Severity.ERROR for fault in parsed.faults)


@given(st.sampled_from(FIELDS), json_values)
def test_any_value_in_any_field_is_taken_or_refused_at_its_place(name: str, value: Any) -> None:
    document = {"protocol": 2, "command": ["./x"], name: value}
    parsed = parse_manifest(json.dumps(document).encode(), directory_name="x")
    for fault in parsed.faults:
        assert fault.pointer == "" or fault.pointer.startswith("/")
        assert fault.message and "\n" not in fault.message[:1]
    if parsed.manifest is None:
        assert any(fault.pointer.split("/")[1:2] == [name] or fault.pointer == "" for fault in parsed.faults)


texts = st.text(st.characters(codec="utf-8", exclude_characters="{}\0"), max_size=8)
braced = st.lists(st.sampled_from(["{{", "}}", "{a}", "{b.c}", "{", "}", "{}", "-", "x", "ü"]), max_size=6).map("".join)
argument = st.one_of(
    braced,
    st.lists(braced, min_size=1, max_size=3),
    st.fixed_dictionaries({"if": st.just("f"), "then": st.lists(braced, max_size=2)}),
    st.fixed_dictionaries({"each": st.sampled_from(["l", "a"]), "words": st.lists(braced, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"word": braced, "dash": st.booleans()}),
)


def command_line(*arguments: Any, **fields: Any) -> CommandLine | None:
    document = {"protocol": 2, "command": ["./x"], "arguments": arguments, **fields}
    manifest = parse_manifest(json.dumps(document).encode(), directory_name="x").manifest
    return None if manifest is None else manifest.command_line


@given(st.lists(argument, max_size=3), st.dictionaries(st.sampled_from("abfl"), json_values))
def test_any_arguments_and_parameters_make_words_that_exec_takes_or_faults(
    arguments: list[Any], parameters: Any
) -> None:
    """And no parameter makes an option of a word that its manifest does not let be one."""
    line = command_line(*arguments)
    if line is None:
        return
    made = line.made_of(parameters)
    if made.faults:
        assert all(fault.pointer.startswith("/") for fault in made.faults)
        return
    for word in made.words:
        assert "\0" not in word and len(word.encode()) <= WORD_MAX
    starts = {part.value[:1] for one in arguments for part in templates.parts_of(one)}
    if "-" not in starts and not any(isinstance(one, dict) and one.get("dash") for one in arguments):
        assert not any(word.startswith("-") for word in made.words)


@given(texts, texts, texts)
def test_a_text_is_one_word_whatever_its_parameter_holds(before: str, value: str, after: str) -> None:
    line = command_line(before + "={a}" + after, {"each": "l", "words": ["x{}"]})
    assert line is not None
    made = line.made_of({"a": value, "l": [value, value]})
    assert made.words == (f"{before}={value}{after}", f"x{value}", f"x{value}")
    assert command_line(templates.source_of(line.arguments[0])) == command_line(before + "={a}" + after)  # type: ignore[arg-type]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6), st.text(max_size=20))
def test_any_object_is_parsed_without_an_exception(document: dict[str, Any], directory: str) -> None:
    parse_manifest(json.dumps(document).encode(), directory_name=directory)


exit_rules = st.dictionaries(
    st.integers(0, 255).map(str),
    st.sampled_from(["success", "failure", "permanent", "retry", "snooze"])
    | st.builds(lambda status: {"outcome": "failure", "status": status}, st.integers(2, 1000)),
    max_size=6,
)
with_exit_code = st.sampled_from([Reason.EXITED, Reason.DONE, Reason.WORKER_EXITED])
ends = st.one_of(
    st.builds(
        RunEnd,
        reason=st.sampled_from([Reason.EXITED, Reason.DONE, Reason.WORKER_EXITED]),
        exit_code=st.integers(0, 255),
    ),
    st.builds(RunEnd, reason=st.sampled_from(list(Reason)), signal=st.integers(1, 64)),
)
saids = st.builds(
    Said,
    error=st.booleans(),
    retry=st.none() | st.booleans(),
    snooze_seconds=st.none() | st.floats(0, 1e6),
    status=st.none() | st.integers(2, 100),
)


@given(exit_rules, st.integers(0, 3), st.booleans(), ends, st.integers(1, 5), saids, st.floats(0, 0.999))
def test_every_end_has_a_conclusion_that_the_table_of_statuses_allows(
    exit_codes: dict[str, Any], retries: int, idempotent: bool, end: RunEnd, attempt: int, said: Said, chance: float
) -> None:
    text = json.dumps(
        {"protocol": 1, "command": ["x"], "exit_codes": exit_codes, "retry": {"max": retries}, "idempotent": idempotent}
    )
    manifest = parse_manifest(text.encode(), directory_name="x").manifest
    assert isinstance(manifest, Manifest)
    conclusion = conclude(end, manifest, attempt=attempt, said=said, chance=chance)
    left = Status.CLAIMED if end.reason is Reason.PARAMETERS else Status.RUNNING
    assert may_become(left, conclusion.status)
    assert (conclusion.status == Status.BLOCKED) == (conclusion.delay_seconds is not None)
    assert conclusion.delay_seconds is None or conclusion.delay_seconds >= 0
    assert (conclusion.status == Status.CONCLUDED) == (conclusion.outcome is Outcome.SUCCESS)
    if conclusion.outcome is Outcome.RETRY:
        assert attempt <= retries and conclusion.attempt_used
    if said.error or said.status is not None:
        assert conclusion.outcome is not Outcome.SUCCESS


moments = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))
stored_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=9) | moments | st.uuids(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
documents = st.dictionaries(st.text(max_size=5), stored_values)


@given(documents)
def test_any_document_is_one_line_of_json(document: dict[str, Any]) -> None:
    line = stdin_line(document)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    seen = json.loads(line)
    assert set(seen) == set(document) - {"stdout", "stderr", "log", "claim"}


@given(st.text(alphabet=st.characters(categories=["Cs"]), min_size=1))
def test_half_characters_of_other_systems_do_not_break_the_line(text: str) -> None:
    json.loads(stdin_line({"a": text, text: [text]}))


@given(json_values)
def test_masking_and_defaults_leave_what_they_do_not_know(parameters: Any) -> None:
    schema = ParameterSchema({"properties": {"secret": {"writeOnly": True}}})
    masked = schema.masked(parameters)
    if not (isinstance(parameters, dict) and "secret" in parameters):
        assert masked == parameters


@given(st.integers(1, 10**9), st.floats(0.001, 10**6))
def test_a_rate_is_a_burst_and_then_no_more_than_fit_into_a_period(count: int, seconds: float) -> None:
    """A rate over less than a tenth of a second divided by zero."""
    rate = Rate(count, seconds)
    assert 1 <= rate.burst <= count
    assert rate.burst - 1 + seconds / rate.interval_seconds <= count * (1 + 1e-9)
    assert rate.interval_seconds <= 2 * seconds / count * (1 + 1e-9)  # at least half of what is allowed


@given(st.floats(0, 10**7))
def test_a_duration_for_people_can_be_read_by_them_and_by_us(seconds: float) -> None:
    text = format_duration(seconds)
    if seconds >= 60:
        assert abs(parse_duration(text) - seconds) <= max(3600, seconds * 0.05)
    assert re.fullmatch(r"[\d.e+-]+ s|(\d+[dhms]){1,2}", text)


@given(st.integers(0, 2**60))
def test_a_size_for_people_is_short(size: int) -> None:
    assert re.fullmatch(r"[\d.e+]+ ([KMGT]i)?B", format_size(size))


@given(st.lists(st.binary(max_size=300) | st.sampled_from(EVENT_LINES), max_size=20), st.data())
def test_the_same_bytes_are_the_same_events_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join(lines)
    whole = EventReader()
    expected = whole.feed(stream) + whole.finish()
    reader, found, start = EventReader(), [], 0
    while start < len(stream):
        end = data.draw(st.integers(start + 1, len(stream)))
        found += reader.feed(stream[start:end])
        start = end
    assert found + reader.finish() == expected


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    ),
    st.sampled_from(["progress", "log", "status", "set", "result", "error", "snooze", "tasks", "ready", "done"]),
)
def test_no_line_of_json_is_too_odd_to_be_heard(value: object, kind: str) -> None:
    """Whatever stands in the fields of an event, it is an event or a bad line, and its effects can be taken."""
    task = Task.from_document({"_id": "t", "queue": "q", "status": 0, "log": value})
    effects = EventEffects(task)
    fields = (
        value
        if isinstance(value, dict)
        else dict.fromkeys(("value", "message", "level", "fields", "status", "code", "seconds", "tasks", "exit"), value)
    )
    heard = parse_line(json.dumps({**fields, "type": kind}).encode())
    for _ in range(2):
        effects.take(heard, now=datetime.now(UTC))
    effects.changed_fields()
    effects.all_fields()
    assert effects.size >= 0 and effects.said is not None and isinstance(effects.run_facts(), dict)


@given(st.lists(st.binary(max_size=100) | st.sampled_from(EVENT_LINES), max_size=30))
def test_a_worker_talk_never_fails_whatever_is_said(lines: list[bytes]) -> None:
    talk = WorkerConversation()
    for line in lines:
        talk.receive(line + b"\n")
        if talk.state is WorkerState.IDLE:
            talk.hand_over(b"{}\n", task_id="t", attempt=1, deadline=None)
    talk.finish()


@given(st.integers(1, 10**9), st.floats(0.001, 864_000))
def test_a_burst_and_what_follows_in_a_period_are_never_more_than_the_rate(count: int, seconds: float) -> None:
    """A period shorter than what makes a burst gave bursts larger than the whole rate."""
    rate = Rate(count, seconds)
    assert 1 <= rate.burst <= count
    assert rate.burst + seconds / rate.interval_seconds <= (count + 1) * (1 + 1e-9)
