"""What a run says again to a node that goes on with it: the same document comes of it, whatever the first node has
written, and bytes that nobody has kept are counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.documents.records import Task
from disbatch_host.plugin import kept_plugin
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.process.interface import Stream
from disbatch_host.run import notes
from disbatch_host.run.events import EventEffects, pending_bytes
from disbatch_host.run.execution import HeardSoFar
from disbatch_host.run.output import OutputStream
from disbatch_protocol.events import (
    BadLine,
    ErrorSaid,
    FollowUp,
    FollowUps,
    Log,
    LogLevel,
    OwnStatus,
    Progress,
    Result,
    Snooze,
)
from helpers.nodes import write_plugin

KIB = 2**10
BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EARLIER = {"time": BEGAN - timedelta(hours=1), "level": "info", "message": "of an earlier attempt"}


def a_log(message: str) -> Log:
    return Log(level=LogLevel.INFO, message=message, fields={})


def task_with(**fields: Any) -> Task:
    return Task.from_document({"_id": "t", "queue": "q", "status": 0, **fields})


def test_entries_of_the_log_keep_the_time_at_which_they_came_first_and_none_comes_twice() -> None:
    first = EventEffects(task_with(log=[EARLIER]))
    for number in range(3):
        first.take(a_log(f"message {number}"), now=BEGAN + timedelta(seconds=number))
    first.take(Progress(value=0.5, message=None), now=BEGAN)
    written = first.changed_fields()

    again = EventEffects(task_with(**written), began=BEGAN)
    later = BEGAN + timedelta(hours=1)
    for number in range(4):
        again.take(a_log(f"message {number}"), now=later)
    log = again.all_fields()["log"]
    assert log == [*written["log"], {"time": later, "level": "info", "message": "message 3"}]
    assert "log_dropped" not in again.run_facts()


def test_entries_that_were_dropped_are_not_taken_for_those_that_are_there() -> None:
    first = EventEffects(task_with())
    for number in range(1005):
        first.take(a_log(f"message {number}"), now=BEGAN + timedelta(seconds=number))
    written = first.changed_fields()
    again = EventEffects(task_with(**written, run=first.run_facts()), began=BEGAN)
    for number in range(1005):
        again.take(a_log(f"message {number}"), now=BEGAN + timedelta(hours=1))
    assert again.all_fields()["log"] == written["log"] and again.run_facts() == first.run_facts()


def test_entries_that_are_not_said_again_stay() -> None:
    """Of very many events the supervisor keeps only the last."""
    first = EventEffects(task_with(log=[EARLIER]))
    first.take(a_log("lost"), now=BEGAN)
    written = first.changed_fields()
    again = EventEffects(task_with(**written), began=BEGAN)
    again.miss()
    again.take(a_log("new"), now=BEGAN + timedelta(hours=1))
    assert [entry["message"] for entry in again.all_fields()["log"]] == ["of an earlier attempt", "lost", "new"]


def test_what_events_do_at_the_end_is_known_from_the_document_where_they_are_not_said_again() -> None:
    first = EventEffects(task_with())
    events = [
        a_log("one"),
        FollowUps(tasks=(FollowUp(queue="q", parameters={"n": 1}),), faults=("a fault",)),
        ErrorSaid(code="odd", message="it is odd", detail=None, retry=False),
        Snooze(seconds=5.0, message="tired"),
        OwnStatus(status=12),
        Result(value=1, status=13),
        BadLine(start=b"x", message="no event"),
    ]
    for event in events:
        first.take(event, now=BEGAN)
    written, pending = first.changed_fields(), first.pending(1000)
    again = EventEffects(task_with(**written, run=first.run_facts()), began=BEGAN)
    again.restore(pending)
    assert (again.said, again.error, again.follow_ups) == (first.said, first.error, first.follow_ups)
    assert again.run_facts() == first.run_facts() and again.pending(1000) == pending
    assert pending_bytes({"pending": pending}) == 1000
    assert again.all_fields()["log"] == written["log"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_what_somebody_else_wrote_there_is_left_out(value: Any) -> None:
    names = EventEffects(task_with()).pending(0)
    again = EventEffects(task_with(), began=BEGAN)
    again.restore(dict.fromkeys(names, value))
    again.restore({name: dict.fromkeys(("seconds", "code", "own", "queue"), value) for name in names})
    again.restore({name: [{"queue": value, "parameters": value}] for name in names})
    again.take(a_log("new"), now=BEGAN)
    assert again.all_fields()["log"] and isinstance(again.said.error, bool)
    again.run_facts()


@given(st.binary(max_size=4 * KIB), st.integers(0, 4 * KIB), st.integers(0, 4 * KIB))
def test_a_gap_that_somebody_else_has_made_is_counted_like_one_of_its_own(whole: bytes, start: int, size: int) -> None:
    """Of a stream longer than `max_output` its first and its last half are kept, by whoever keeps them."""
    most = KIB
    live, late = OutputStream(max_bytes=most), OutputStream(max_bytes=most)
    live.feed(whole)
    if len(whole) <= most:
        late.feed(whole)
    else:
        late.feed(whole[: most // 2])
        late.skip(len(whole) - most)
        late.feed(whole[-(most // 2) :])
    for one in (live, late):
        one.finish()
    assert (late.inline_text(), late.summary()) == (live.inline_text(), live.summary())
    # Any other gap costs what is in it, and perhaps what was kept of the tail before it, and says how much that is.
    other = OutputStream(max_bytes=most)
    start = min(start, len(whole))
    size = min(size, len(whole) - start)
    other.feed(whole[:start])
    other.skip(size)
    other.feed(whole[start + size :])
    other.finish()
    assert other.bytes_seen == len(whole) and other.dropped_bytes >= size
    if other.dropped_bytes:
        assert f"disbatch-host: {other.dropped_bytes} bytes of output are left out here (" in other.inline_text()


def test_what_could_not_be_kept_is_not_said_to_exceed_a_limit() -> None:
    stream = OutputStream(max_bytes=KIB)
    stream.feed(b"begun\n")
    stream.skip(100)
    stream.feed(b"ended\n")
    stream.finish()
    assert stream.inline_text() == (
        "begun\ndisbatch-host: 100 bytes of output are left out here (they could not be kept until the host could read "
        "them)\nended\n"
    )


def test_an_offset_beyond_what_was_heard_tells_of_missing_bytes() -> None:
    heard = HeardSoFar()
    assert heard.new_part(Stream.STDOUT, 0, b"abc") == (0, b"abc")
    assert heard.new_part(Stream.STDOUT, 2, b"cd") == (0, b"d")
    assert heard.new_part(Stream.STDOUT, 10, b"k") == (6, b"k")
    assert heard.new_part(Stream.STDOUT, 12, b"") == (1, b"")


@pytest.mark.parametrize("task_id", ["6b058eedf877b2b7ef6748ad", 7, 1.5, b"\x00\xff", "ä" * 400, "\x01" * 1000])
def test_a_note_says_which_task_it_is(task_id: Any, tmp_path: Path) -> None:
    task = Task.from_document({"_id": task_id, "queue": "q", "status": 0, "claim": {"token": "abc"}})
    note = notes.note_of(task, {"attempt": 2, "started": BEGAN})
    assert len(note) < 4096 - len(str(tmp_path))
    read = notes.read(notes.with_facts(note, work_directory=str(tmp_path), line_bytes=7))
    assert read is not None
    assert (read.token, read.task, read.work_directory) == ("abc", notes.name_of(task_id), tmp_path)
    assert read.line_bytes == 7
    is_long = task_id == "\x01" * 1000  # six bytes each
    assert notes.task_id_of(read, lambda text: text) == (None if is_long else task_id)


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"{}", b'{"token":1,"task":"t"}', b'{"token":"abc"}'])
def test_anything_else_is_not_a_note(note: bytes) -> None:
    assert notes.read(note) is None


def test_a_plugin_is_made_again_from_its_note_whatever_has_become_of_its_directory(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    home = write_plugin(
        tmp_path, "P", "exit 0", exit_codes={"7": "permanent"}, kill_grace="3s", parameters=schema, idempotent=True
    )
    plugin = load_plugins([tmp_path]).plugins["P"]
    note = kept_plugin.note_of(plugin)
    assert b"properties" not in note
    (home / "plugin.json").unlink()
    again = kept_plugin.plugin_of(note)
    assert again is not None
    assert (again.name, again.directory, again.argv) == ("P", plugin.directory, plugin.argv)
    assert again.manifest.exit_codes == plugin.manifest.exit_codes and again.manifest.kill_grace_seconds == 3
    assert again.manifest.idempotent and again.manifest.parameters is None


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"{}", b'{"directory":"/","manifest":{},"path":"/","program":"/"}'])
def test_nothing_is_made_of_a_note_that_another_version_has_written(note: bytes) -> None:
    assert kept_plugin.plugin_of(note) is None
