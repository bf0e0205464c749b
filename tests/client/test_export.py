"""Exports and output without a terminal: whole documents as lines, a file that is there whole or not at all, and a
stream that is followed."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from client.documents import put_task
from disbatch_host.client import Client, Selection
from disbatch_host.client.complete_file import complete_file
from disbatch_host.client.exporting import Shape, export
from disbatch_host.client.output import Piece, follow_output, output_pieces
from disbatch_host.documents.changes import OUTPUT_CHUNK_SIZE, OutputChunk, RunKey, TaskChange, TaskFilter, Want
from disbatch_host.documents.records import Task
from disbatch_host.errors import NotFoundError, OutputError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.masks import MASK
from disbatch_protocol.status import Status


def plain(task: Task) -> Mapping[str, Any]:
    return task.document


def exported(store: Store, which: TaskFilter, *, with_output: bool = False, **how: Any) -> list[Any]:
    out = io.BytesIO()
    count = export(store, which, plain, out, Shape(with_output=with_output), **how)
    lines = out.getvalue().splitlines()
    assert count == len(lines)
    return [orjson.loads(line) for line in lines]


def with_large_output(store: Store, text: bytes) -> Task:
    """A task in hand whose stdout is in pieces of its own."""
    store.insert_queue({"_id": "big", "class": "a"})
    put_task(store, "big")
    (task,) = store.claim("n1", [Want("big", 1)], "t1")
    size = OUTPUT_CHUNK_SIZE
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    key = RunKey(task.id, "n1", "t1")
    store.commit([], [OutputChunk(key=key, stream="stdout", number=n, data=data) for n, data in enumerate(pieces)])
    run = {"token": "t1", "output": {"stdout": {"bytes": len(text), "in_file": True}}}
    change = TaskChange(task_id=task.id, statuses=frozenset({int(Status.CLAIMED)}), set={"run": run})
    assert store.change_tasks([change]) == set()
    found = store.get_task(task.id)
    assert found is not None
    return found


def test_tasks_are_written_in_the_order_of_their_creation_as_far_as_they_fit(store: Store) -> None:
    ids = [str(put_task(store, "mail", parameters={"n": n})) for n in range(3)]
    put_task(store, "other")
    told: list[int] = []
    lines = exported(store, TaskFilter(queue="mail"), on_progress=told.append)
    assert [one["_id"] if isinstance(one["_id"], str) else one["_id"]["$oid"] for one in lines] == ids
    assert [one["parameters"] for one in lines] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert told[-1] == 3


def test_documents_are_written_as_they_may_be_seen(store: Store) -> None:
    put_task(store, parameters={"pin": "1234"})
    out = io.BytesIO()
    export(store, TaskFilter(), lambda task: {"_id": task.id, "parameters": "masked"}, out)
    assert b"1234" not in out.getvalue() and b"masked" in out.getvalue()


def test_with_output_a_stream_is_whole_also_where_it_has_outgrown_the_document(store: Store) -> None:
    text = "ä" * OUTPUT_CHUNK_SIZE  # a character crosses two pieces
    task = with_large_output(store, text.encode())
    (line,) = exported(store, TaskFilter(queue="big"), with_output=True)
    assert line["stdout"] == text and line["stderr"] == ""
    whole = b"".join(output_pieces(store, task, "stdout"))
    assert whole.decode() == text
    for start in (
        1,
        OUTPUT_CHUNK_SIZE - 1,
        OUTPUT_CHUNK_SIZE,
        OUTPUT_CHUNK_SIZE + 5,
        len(whole) - 1,
        len(whole),
        2**40,
    ):
        assert b"".join(output_pieces(store, task, "stdout", start=start)) == whole[start:]
    (short,) = exported(store, TaskFilter(queue="big"))
    assert short["stdout"] == ""


def test_a_stream_is_followed_to_the_end_of_its_task_and_from_the_start_of_a_new_attempt(store: Store) -> None:
    task_id = put_task(store, status=Status.RUNNING, node="n1", run={"token": "t1"}, stdout="one ")

    def becomes(**fields: Any) -> None:
        change = TaskChange(task_id=task_id, statuses=frozenset({int(Status.RUNNING)}), set=fields)
        assert store.change_tasks([change]) == set()

    seen: list[Piece | None] = []
    looks = 0
    for piece in follow_output(store, str(task_id), "stdout"):
        seen.append(piece)
        if piece is None:
            looks += 1
            if looks == 1:
                becomes(stdout="one two")
            elif looks == 2:
                becomes(run={"token": "t2"}, stdout="again")
            elif looks == 3:
                becomes(status=int(Status.CONCLUDED), stdout="again, done", run={"token": "t2"})
    assert [one for one in seen if one is not None] == [
        Piece(data=b"one ", is_first=True),
        Piece(data=b"two"),
        Piece(data=b"again", is_first=True),
        Piece(data=b", done"),
    ]
    assert seen[-1] is None


def test_there_is_nothing_to_follow_of_a_task_that_is_not_there(store: Store) -> None:
    with pytest.raises(NotFoundError):
        next(follow_output(store, "none", "stdout"))


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.ndjson"
    path.write_bytes(b"the one before")
    with pytest.raises(RuntimeError), complete_file(path) as out:
        out.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"the one before"
    with complete_file(path) as out:
        out.write(b"whole")
        assert path.read_bytes() == b"the one before"
    assert path.read_bytes() == b"whole"
    assert [one.name for one in tmp_path.iterdir()] == ["out.ndjson"]


def test_a_name_that_ends_in_gz_is_compressed_and_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with complete_file(tmp_path / "out.gz") as out:
        out.write(b"text")
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == b"text"
    with pytest.raises(UsageError, match="found a directory"), complete_file(tmp_path):
        pass
    with pytest.raises(OutputError, match="cannot be written: No such file"), complete_file(tmp_path / "no" / "out"):
        pass


def test_a_client_exports_a_selection_to_a_file_with_secrets_masked(client: Client, tmp_path: Path) -> None:
    put_task(client.store, "mail", parameters={"pin": "1234"}, secrets=["/pin"], stdout="said")
    put_task(client.store, "other")
    path = tmp_path / "out.ndjson"
    assert client.export(path, Selection(queue="mail"), with_output=True) == 1
    line = orjson.loads(path.read_bytes())
    assert (line["parameters"], line["stdout"]) == ({"pin": MASK}, "said")
    out = io.BytesIO()
    assert client.export(out) == 2
    assert len(out.getvalue().splitlines()) == 2


def test_a_client_reads_the_output_of_a_task(client: Client) -> None:
    task_id = put_task(client.store, status=Status.CONCLUDED, stdout="out", stderr="err")
    assert b"".join(client.output(task_id)) == b"out"
    assert b"".join(client.output(str(task_id), "stderr")) == b"err"
    with pytest.raises(NotFoundError):
        client.output("none")
