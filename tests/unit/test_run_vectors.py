"""The vectors about what a run leaves behind: the text of its streams, and the document of its task. They are played
against the parts of the host that make it, without a process."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.documents.changes import RunKey
from disbatch_host.documents.records import Task
from disbatch_host.plugin.catalog import Plugin, load_plugins
from disbatch_host.run.ending import ending_of, ending_without_start
from disbatch_host.run.execution import ExecutionEnd
from disbatch_host.run.output import OutputStream
from disbatch_host.run.state import RunState
from disbatch_protocol.encodings import Encoding
from disbatch_protocol.events import EventReader
from disbatch_protocol.manifest import MAX_OUTPUT_DEFAULT
from disbatch_protocol.outcome import Reason, RunEnd
from disbatch_protocol.status import Status
from helpers.nodes import write_plugin

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def vectors(name: str) -> list[Any]:
    cases = json.loads((VECTORS / f"{name}.json").read_text())["cases"]
    assert cases
    return [pytest.param(case, id=case["name"]) for case in cases]


def repeated(parts: list[Any]) -> str:
    before, what, times, after = parts
    return str(before + what * times + after)


def bytes_of(case: dict[str, Any], name: str) -> bytes:
    if f"{name}_base64" in case:
        return base64.b64decode(case[f"{name}_base64"])
    if f"{name}_repeat" in case:
        return repeated(case[f"{name}_repeat"]).encode()
    return str(case.get(name, "")).encode()


@pytest.mark.parametrize("block_size", [1, 3, 2**16, 2**22])
@pytest.mark.parametrize("case", vectors("output"))
def test_output_vector_however_it_is_cut(case: dict[str, Any], block_size: int) -> None:
    data = bytes_of(case, "input")
    if len(data) > 10_000:
        block_size = max(block_size, 999)
    stream = OutputStream(
        max_bytes=case.get("max_output", MAX_OUTPUT_DEFAULT), encoding=Encoding(case.get("encoding", "utf-8"))
    )
    for start in range(0, len(data), block_size):
        stream.feed(data[start : start + block_size])
        assert stream.delivered_bytes <= start + block_size
    stream.finish()
    pieces = []
    while chunks := stream.take_chunks(2**20):
        pieces += [piece for _, piece in chunks]
    beside = b"".join(pieces)
    text = repeated(case["text_repeat"]) if "text_repeat" in case else case["text"]
    assert stream.summary() == case["output"]
    if "beside_base64" in case or case.get("encoding") == "binary":
        assert beside == bytes_of(case, "beside") and stream.inline_text() == text
    else:
        assert (beside.decode() if stream.is_in_file else stream.inline_text()) == text
        assert text.startswith(stream.inline_text())
        assert len(stream.inline_text().encode()) == case.get("document_bytes", len(text.encode()))
    stream.close()


def plugin_of(directory: Path, manifest: dict[str, Any]) -> Plugin:
    write_plugin(directory, "P", "exit 0", **manifest)
    return load_plugins([directory]).plugins["P"]


def assert_like(found: Any, wanted: Any, where: str) -> None:
    if isinstance(wanted, dict) and list(wanted) == ["repeat"]:
        assert found == repeated(wanted["repeat"]), where
    elif isinstance(wanted, dict):
        for name, value in wanted.items():
            assert name in found, f"{where}.{name}"
            assert_like(found[name], value, f"{where}.{name}")
    elif isinstance(wanted, list):
        assert len(found) >= len(wanted), where
        for index, value in enumerate(wanted):
            assert_like(found[index], value, f"{where}.{index}")
    elif wanted in ("…", "disbatch-host: …"):
        assert isinstance(found, str) and found.startswith(wanted[:-1]), where
    else:
        assert found == wanted and isinstance(found, bool) is isinstance(wanted, bool), where


def at(value: Any, path: str) -> Any:
    """The value at a path; None where it leads to nothing."""
    for step in path.split("."):
        if isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


@pytest.mark.parametrize("case", vectors("documents"))
def test_document_vector(tmp_path: Path, case: dict[str, Any]) -> None:
    attempt = case.get("attempt", 1)
    before = {
        "_id": "t", "queue": "q", "ctime": NOW, "status": 0, "node": "n1", "parameters": {"a": 1},
        "claim": {"token": "abc"}, "run": {}, **case.get("before", {}),
    }  # fmt: skip
    run = {"token": "abc", "attempt": attempt, "started": NOW - timedelta(seconds=1)}
    plugin = plugin_of(tmp_path, case.get("manifest", {}))
    state = RunState(Task.from_document(before), plugin, RunKey("t", "n1", "abc"), run, spool_directory=tmp_path)
    reader = EventReader(worker_mode=plugin.manifest.mode == "worker")
    for heard in [*reader.feed(bytes_of(case, "events")), *reader.finish()]:
        state.events.take(heard, now=NOW)
    state.stdout.feed(bytes_of(case, "stdout"))
    state.stderr.feed(bytes_of(case, "stderr"))
    for _, output in state.streams:
        output.finish()
    end = RunEnd(
        reason=Reason(case["end"]["reason"]), exit_code=case["end"].get("exit_code"), signal=case["end"].get("signal")
    )
    when: dict[str, Any] = {"now": NOW, "seconds": 1.0, "chance": 0.5}
    if end.reason in (Reason.START_FAILED, Reason.PARAMETERS):
        left = Status.RUNNING if end.reason is Reason.START_FAILED else Status.CLAIMED
        change = ending_without_start(state, end.reason, "why", left=left, **when).change
    else:
        ended = ExecutionEnd(end=end, facts={}, fault=case["end"].get("fault"))
        change = ending_of(state, ended, **when).change
    state.close()
    document = {name: value for name, value in {**before, **change.set}.items() if name not in change.unset}
    assert_like(document, case["document"], "")
    for path in case.get("absent", ()):
        assert at(document, path) is None, path
    for name in case.get("unchanged", ()):
        wanted = {"mtime": NOW, "node": document["node"]}.get(name, before.get(name))
        if name in ("claim", "attempts"):  # the end itself changes them
            assert at(document, name) != "x"
        elif name in ("stdout", "stderr"):
            assert document[name] == ""
        else:
            assert document.get(name) == wanted, name
    for path, length in case.get("lengths", {}).items():
        assert len(at(document, path)) == length, path
    if "delay_seconds" in case:
        assert document["not_before"] == NOW + timedelta(seconds=case["delay_seconds"])
    if "creates" in case:
        created = [{name: one[name] for name in ("queue", "parameters")} for one in change.creates]
        assert created == case["creates"]
