"""Tasks as files: whole or seen to be cut, safe in a spreadsheet, without secrets, in pieces."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client, Selection, exporting
from disbatch_host.client.finding import filter_of
from disbatch_host.client.paged_export import PAGE, STEP_BYTES, PagedExport
from disbatch_host.documents.records import Task
from disbatch_protocol.status import Status
from helpers.web import Web

FORMULA = '=HYPERLINK("http://evil.example","look")'


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def rows_of(data: bytes) -> list[dict[str, str]]:
    assert data.startswith(b"\xef\xbb\xbf")
    csv.field_size_limit(STEP_BYTES)
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_lines_are_the_tasks_in_order_and_say_where_they_end(server: Web, client: Client) -> None:
    client.queues.create("lines", "Greet")
    count = PAGE + 7
    client.push_many("lines", ({"user": f"u{n}", "password": "open-sesame"} for n in range(count)))
    reply = server.get("/tasks/export?queue=lines", role="read")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/x-ndjson")
    assert reply.headers["content-disposition"] == 'attachment; filename="lines.ndjson"'
    *tasks, last = lines_of(reply.text)
    assert last == {"end": count}
    assert [one["parameters"]["user"] for one in tasks] == [f"u{n}" for n in range(count)]
    assert {one["parameters"]["password"] for one in tasks} == {"********"} and "open-sesame" not in reply.text
    assert lines_of(server.get("/tasks/export?queue=lines&where=user=none").text) == [{"end": 0}]
    columns = lines_of(server.get("/tasks/export?queue=lines&columns=task,user&where=user=u3").text)
    assert columns == [{"task": tasks[3]["_id"], "user": "u3"}, {"end": 1}]


def test_the_tokens_of_attempts_stay_here(server: Web, client: Client) -> None:
    client.queues.create("tokens", "Greet")
    run = {"attempt": 2, "token": "t0ken-of-the-run", "plugin": {"class": "Greet"}}
    attempts = [{"attempt": 1, "token": "t0ken-of-before"}]
    claim = {"token": "t0ken-of-the-claim"}
    put_task(client.store, "tokens", status=int(Status.CONCLUDED), run=run, attempts=attempts, claim=claim)
    for query in ("", "&format=csv", "&output=yes", "&columns=run.token"):
        assert "t0ken" not in server.get(f"/tasks/export?queue=tokens{query}").text


def test_no_cell_of_a_table_is_a_formula(server: Web, client: Client) -> None:
    client.queues.create("cells", "Greet")
    for user in (FORMULA, "+1", "-3", "@a", "\tx", "plain", "ü,;\"'", "0123"):
        client.push("cells", {"user": user}, checks=False)
    reply = server.get("/tasks/export?queue=cells&format=csv")
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    found = [row["parameters.user"] for row in rows_of(reply.data)]
    assert found == [f"'{FORMULA}", "'+1", "-3", "'@a", "'\tx", "plain", "ü,;\"'", "0123"]
    assert not any(cell[:1] in ("=", "+", "@") for row in rows_of(reply.data) for cell in row.values())
    some = server.get("/tasks/export?queue=cells&format=csv&columns=user,status")
    assert [row["user"] for row in rows_of(some.data)] == found
    empty = server.get("/tasks/export?queue=cells&format=csv&columns=user,status&where=user=none")
    assert empty.data.decode("utf-8-sig").strip() == '"user","status"'


@pytest.mark.parametrize(
    "query", ["format=xml", "columns=", "output=yes&format=csv", "format=csv&limit=3", "colums=user"]
)
def test_a_shape_that_cannot_be_is_refused(server: Web, query: str) -> None:
    reply = server.get(f"/tasks/export?{query}")
    assert (reply.status, reply.code) == (400, "query"), reply.text


def test_a_batch_is_a_file(server: Web, client: Client) -> None:
    client.queues.create("batched", "Greet")
    client.push_many("batched", ({"user": f"u{n}"} for n in range(3)), batch="märz 2")
    reply = server.get("/batches/m%C3%A4rz%202/export")
    assert lines_of(reply.text)[-1] == {"end": 3}
    assert reply.headers["content-disposition"] == 'attachment; filename="m_rz_2.ndjson"'
    assert server.get("/batches/m%C3%A4rz%202/export", role="mail_only").code == "role"


def test_somebody_bound_to_a_queue_gets_no_others(server: Web, client: Client) -> None:
    for name in ("mail", "not_mail"):
        if client.store.find_queue(name) is None:
            client.queues.create(name, "Greet")
        client.push(name, {"user": name})
    found = lines_of(server.get("/tasks/export", role="mail_only").text)[:-1]
    assert found and {one["queue"] for one in found} == {"mail"}
    assert server.get("/tasks/export?queue=not_mail", role="mail_only").code == "queue"


def test_a_bundle_has_everything_but_secrets(server: Web, client: Client) -> None:
    client.queues.create("bundled", "Greet")
    task = client.push("bundled", {"user": "ann", "password": "open-sesame"}).id
    reply = server.get(f"/tasks/{task}/bundle", role="operate")
    assert reply.headers["content-disposition"] == f'attachment; filename="task-{task}.tar.gz"'
    with tarfile.open(fileobj=io.BytesIO(reply.data)) as archive:
        names = archive.getnames()
        texts = [file.read() for one in names if (file := archive.extractfile(one)) is not None]
    assert f"task-{task}/task.json" in names and not any(b"open-sesame" in one for one in texts)
    assert server.get(f"/tasks/{task}/bundle", role="read").code == "role"


def pieces(client: Client, selection: Selection, **shape: Any) -> Iterator[bytes]:
    """An export, each step of it."""
    export = PagedExport(filter_of(client.store, selection), exporting.shape_of(None, **shape))
    masked = client.masker().document

    def shown(task: Task) -> Mapping[str, Any]:
        return masked(task)

    while (piece := export.next(client.store, shown)) is not None:
        yield piece
    export.close()


def test_a_step_stays_small_however_large_tasks_are(client: Client) -> None:
    client.queues.create("large", "Greet")
    text = "x" * (STEP_BYTES // 2)
    client.push_many("large", ({"user": text} for _ in range(7)), checks=False)
    found = list(pieces(client, Selection(queue="large")))
    assert max(map(len, found)) < 2 * STEP_BYTES and len(found) >= 3
    assert lines_of(b"".join(found).decode())[-1] == {"end": 7}
    table = list(pieces(client, Selection(queue="large"), form="csv", columns="user"))
    assert max(map(len, table)) < 2 * STEP_BYTES
    assert len(rows_of(b"".join(table))) == 7


def test_tasks_that_come_and_go_meanwhile_cost_nobody_else_a_line(client: Client) -> None:
    client.queues.create("busy", "Greet")
    made = [one.id for one in client.push_many("busy", ({"user": f"u{n}"} for n in range(2 * PAGE + 10)))]
    steps = pieces(client, Selection(queue="busy"))
    data = next(steps)
    client.cancel(made[PAGE + 1])
    client.delete(made[PAGE + 1])
    client.push("busy", {"user": "late"})
    *tasks, last = lines_of((data + b"".join(steps)).decode())
    ids = [one["_id"] for one in tasks]
    expected = [str(one) for number, one in enumerate(made) if number != PAGE + 1]
    assert ids[: len(expected)] == expected and len(ids) == len(set(ids)) and last == {"end": len(ids)}
