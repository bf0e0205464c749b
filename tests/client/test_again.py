"""Tasks again, with a difference, from Python: other parameters, copies, and what earlier attempts printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client, Selection
from disbatch_host.client.outputs import STREAMS, outputs_of_attempt
from disbatch_host.client.pushing import ParametersError
from disbatch_host.documents.changes import OUTPUT_CHUNK_SIZE, OutputChunk, RunKey
from disbatch_host.errors import FieldError, NotFoundError, UsageError
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.nodes import write_plugin

SCHEMA = {"properties": {"user": {"type": "string"}, "pin": {"type": "string", "writeOnly": True}}}
RUN = {"attempt": 1, "token": "t1", "exit_code": 3, "output": {"stdout": {"bytes": 3, "in_file": False}}}


@pytest.fixture
def knowing(store: Store, tmp_path: Path) -> Client:
    """It knows the plugin of the queue `q`."""
    store.insert_queue({"_id": "q", "class": "mail"})
    write_plugin(tmp_path, "mail", "exit 0", parameters=SCHEMA)
    return Client(store, load_plugins([tmp_path]), "me@here")


def failed(store: Store, **fields: Any) -> Any:
    parameters = {"user": "matt", "pin": "1234"}
    return put_task(store, **{"status": int(Status.FAILED), "parameters": parameters, "run": RUN, **fields})


def test_a_retry_with_values_changes_these_alone(knowing: Client, store: Store) -> None:
    task_id = failed(store, secrets=["/pin"])
    changes = knowing.retry(task_id, values={"user": "matt2", "pin": "9999"}, why="typo")
    assert changes.done == 1
    task = knowing.get(task_id)
    assert task.status == Status.CREATED and task.parameters == {"user": "matt2", "pin": "9999"}
    assert task.attempts[-1]["parameters"] == {"user": "matt", "pin": "********"}
    assert knowing.masked(task)["parameters"] == {"user": "matt2", "pin": "********"}


def test_values_that_do_not_fit_change_nothing(knowing: Client, store: Store) -> None:
    ids = [failed(store), failed(store)]
    with pytest.raises(ParametersError, match="/user: expected"):
        knowing.retry(ids, values={"user": 5})
    assert [knowing.get(one).status for one in ids] == [Status.FAILED] * 2
    with pytest.raises(UsageError, match="found a selection"):
        knowing.retry(Selection(queue="q"), values={"user": "x"})
    assert knowing.retry(ids[0], values={"user": 5}, checks=False).done == 1


def test_secrets_of_before_are_masked_even_if_only_the_plugin_of_now_knows_them(knowing: Client, store: Store) -> None:
    attempt = {"attempt": 1, "status": 2, "parameters": {"pin": "1234", "user": "matt"}}  # as another program left it
    task_id = failed(store, attempts=[attempt])
    (shown,) = knowing.masked(task_id)["attempts"]
    assert shown["parameters"] == {"pin": "********", "user": "matt"}


@pytest.mark.parametrize("parameters", [None, [1], "text"])
def test_a_task_of_another_program_with_odd_parameters_is_refused_in_words(
    knowing: Client, store: Store, parameters: Any
) -> None:
    task_id = failed(store, parameters=parameters)
    if parameters is None:  # counts as none
        assert knowing.retry(task_id, values={"user": "x"}).done == 1
        return
    with pytest.raises(UsageError, match="whose parameters are a JSON object"):
        knowing.retry(task_id, values={"user": "x"})
    with pytest.raises(UsageError, match="whose parameters are a JSON object"):
        knowing.push("q", {}, like=task_id)


def test_a_copy_takes_over_what_is_not_given(knowing: Client, store: Store) -> None:
    task_id = failed(store, priority=3, unique_key="k", batch="b", created_by="ann@desk")
    pushed = knowing.push("q", {"user": "matt2"}, like=task_id)
    copy = knowing.get(pushed.id).document
    assert copy["parameters"] == {"user": "matt2", "pin": "1234"} and copy["secrets"] == ["/pin"]
    assert (copy["priority"], copy["unique_key"], copy["created_by"]) == (3, "k", "me@here") and "batch" not in copy
    assert pushed.masked["parameters"]["pin"] == "********"
    assert not knowing.push("q", {}, like=task_id).is_new  # an unfinished one has the key
    assert knowing.push("q", {}, like=task_id, unique_key="other", priority=1).is_new


def test_the_output_of_an_attempt_is_read_by_its_number(client: Client, store: Store) -> None:
    facts = {"stdout": {"bytes": 3, "in_file": False}, "stderr": {"bytes": 0, "in_file": False}}
    attempts = [
        {"attempt": 1, "token": "t0", "status": -2, "attempt_used": False, "output": facts},
        {"attempt": 1, "token": "t1", "status": 2, "output": facts},
        {"attempt": 2, "token": "t2", "status": 2},
        {"attempt": 3, "status": 2, "reason": "parameters"},
    ]
    task_id = put_task(store, attempts=attempts, run={**RUN, "attempt": 4, "token": "t4"}, stdout="last", status=2)
    store.commit([], [OutputChunk(key=RunKey(task_id, "n1", "t1"), stream="stdout", number=0, data=b"one")])

    def read(attempt: int, stream: str = "stdout", **more: Any) -> bytes:
        return b"".join(client.output(task_id, stream, attempt=attempt, **more))

    assert read(1) == b"one" and read(1, start=2) == b"e" and read(1, "stderr") == b""
    assert read(3) == b"" and read(4) == b"last"
    for attempt, words in ((2, "no longer kept"), (9, "has no attempt 9; what is known is attempts 1 to 4")):
        with pytest.raises(NotFoundError, match=words):
            read(attempt)
    unstarted = put_task(store)
    with pytest.raises(NotFoundError, match="it has not been started"):
        client.output(unstarted, attempt=1)


def test_an_output_that_was_lost_with_its_node_is_not_called_deleted(client: Client, store: Store) -> None:
    attempts = [
        {"attempt": 1, "token": "t1", "status": 0, "reason": "lost", "node": "n7"},
        {"attempt": 2, "token": "t2", "status": 2, "reason": "host_error", "started": None, "pid": 7},
    ]
    task_id = put_task(store, attempts=attempts, run={**RUN, "attempt": 3, "token": "t3"}, status=2)
    for attempt, words in ((1, "was lost: node n7 was lost while it ran"), (2, "recorded nothing that it had printed")):
        with pytest.raises(NotFoundError, match=words):
            client.output(task_id, attempt=attempt)


def test_both_streams_and_the_last_lines_of_an_earlier_attempt_are_read(client: Client, store: Store) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(50_000))
    facts = {"stdout": {"bytes": len(lines), "in_file": True}, "stderr": {"bytes": 4, "in_file": False}}
    binary = {"stdout": {"bytes": 3000, "encoding": "binary"}, "stderr": {"bytes": 0}}
    attempts = [
        {"attempt": 1, "token": "t1", "status": 2, "output": facts},
        {"attempt": 2, "token": "t2", "status": 2, "output": binary},
    ]
    run = {**RUN, "attempt": 3, "token": "t3"}
    task_id = put_task(store, attempts=attempts, run=run, stdout="last\nof all\n", stderr="why\n", status=2)
    key = RunKey(task_id, "n1", "t1")
    pieces = [lines[at : at + OUTPUT_CHUNK_SIZE] for at in range(0, len(lines), OUTPUT_CHUNK_SIZE)]
    chunks = [OutputChunk(key=key, stream="stdout", number=n, data=one) for n, one in enumerate(pieces)]
    store.commit([], [*chunks, OutputChunk(key=key, stream="stderr", number=0, data=b"a\nb\n")])
    task = client.get(task_id)

    def said(attempt: int, tail: int | None) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for one in outputs_of_attempt(store, task, attempt, STREAMS, tail=tail):
            assert one.is_first is (one.stream not in found)
            found[one.stream] = found.get(one.stream, b"") + one.data
        return found

    assert len(pieces) > 1 and said(1, None) == {"stdout": lines, "stderr": b"a\nb\n"}
    assert said(1, 2) == {"stdout": b"line 49998\nline 49999\n", "stderr": b"a\nb\n"} and said(1, 0) == {}
    assert said(1, 10**6)["stdout"] == lines
    assert b"".join(client.output(task_id, attempt=1, tail=1)) == b"line 49999\n"
    assert b"".join(client.output(task_id, tail=1)) == b"of all\n"
    assert said(2, None) == {"stdout": b"disbatch-host: 3,000 bytes, not text\n"} and said(2, 0) == {}
    assert said(3, 1) == {"stdout": b"of all\n", "stderr": b"why\n"}
    with pytest.raises(NotFoundError, match="no attempt 4"):
        outputs_of_attempt(store, task, 4, STREAMS)


def test_an_output_that_an_earlier_version_has_deleted_is_not_taken_for_none(client: Client, store: Store) -> None:
    facts = {"stdout": {"bytes": 3, "in_file": False}}
    task_id = put_task(
        store, attempts=[{"attempt": 1, "token": "t1", "status": 2, "output": facts}], run={"attempt": 2}
    )
    with pytest.raises(NotFoundError, match="no longer kept"):
        client.output(task_id, attempt=1)


def test_fields_of_a_queue_that_no_node_could_use_are_refused(client: Client) -> None:
    for fields, words in (
        ({"keep_attempts": 0}, "from 1 to 50, found 0"),
        ({"keep_attempts": True}, "from 1 to 50, found True"),
        ({"pause_on_failures": "often"}, 'found "often"'),
        ({"pause_on_failures": 50}, "found int"),
    ):
        with pytest.raises(FieldError, match=words):
            client.queues.create("x", "Mail", **fields)  # type: ignore[arg-type]
    made = client.queues.create("x", "Mail", keep_attempts=50, pause_on_failures="20%/100")
    assert made.keep_attempts == 50 and made.pause_on_failures is not None and made.pause_on_failures.count == 20
    changed = client.queues.set("x", keep_attempts=None, pause_on_failures=None)
    assert changed.keep_attempts == 3 and changed.pause_on_failures is None
