"""Files that are sent, and the imports of them: tried, carried out in the background, seen through after a kill."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.client import Client, Selection
from disbatch_protocol.status import Status
from helpers import web, web_process
from helpers.processes import wait_until
from helpers.web import Reply, Web

CSV = {"Content-Type": "text/csv"}


def send(server: Web, data: str | bytes, name: str = "people.csv", **more: Any) -> Reply:
    """A file, as a program sends it."""
    headers = {**CSV, "Content-Disposition": f'attachment; filename="{name}"'}
    return server.post("/uploads", data.encode() if isinstance(data, str) else data, headers=headers, **more)


def people(count: int, **bad: int) -> str:
    """A table; `bad`: every so many rows has a user that is too long."""
    every = bad.get("every", count + 1)
    lines = (f"u{n}{'x' * 30 * (n % every == every - 1)},{n}" for n in range(count))
    return "user,tries\n" + "".join(f"{one}\n" for one in lines)


def ended(server: Web, begun: Reply) -> dict[str, Any]:
    assert begun.status == 202, begun.text
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        found.update(server.get(begun.headers["location"], base="").json)
        return found["state"] != "running"

    wait_until(has_ended, 60, "the import did not end")
    return found


def test_a_file_is_kept_and_looked_at(server: Web) -> None:
    reply = send(server, people(3), role="operate")
    found = reply.json
    assert (reply.status, found["format"], found["delimiter"], found["encoding"]) == (201, "csv", ",", "utf-8")
    assert (found["columns"], found["rows_seen"], found["is_all"]) == (["user", "tries"], 3, True)
    assert (found["name"], found["bytes"], len(found["sha256"])) == ("people.csv", len(people(3)), 64)
    other = send(server, "user;tries\na;1\nb;2\n").json
    assert (other["delimiter"], other["columns"]) == (";", ["user", "tries"]) and other["notices"]
    lines = send(server, '{"user": "a"}\n{"user": "b"}\n{"end": 2}\n', "people.ndjson").json
    assert (lines["format"], lines["delimiter"], lines["columns"], lines["rows_seen"]) == ("ndjson", None, ["user"], 2)
    packed = send(server, gzip.compress(people(3).encode()), "people.csv.gz").json
    assert (packed["columns"], packed["rows_seen"]) == (["user", "tries"], 3)


def test_a_form_brings_a_file(server: Web) -> None:
    parts = (
        '--b0\r\nContent-Disposition: form-data; name="note"\r\n\r\nnot this\r\n'
        '--b0\r\nContent-Disposition: form-data; name="file"; filename="C:\\\\x\\\\people.csv"\r\n'
        f"Content-Type: text/csv\r\n\r\n{people(2)}\r\n--b0--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b0"}
    found = server.post("/uploads", parts.encode(), headers=headers).json
    assert (found["name"], found["rows_seen"], found["bytes"]) == ("people.csv", 2, len(people(2)))
    for body in (
        parts.partition("--b0--")[0],
        parts.partition('--b0\r\nContent-Disposition: form-data; name="file"')[0],
    ):
        reply = server.post("/uploads", body.encode(), headers=headers)
        assert (reply.status, reply.code) == (400, "body"), reply.text


@pytest.fixture(scope="module")
def small(
    living_url: str, client: Client, plugins: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Web, Path]]:
    """A server that takes no more than 1 MiB, and its spool."""
    spool = tmp_path_factory.mktemp("spool")
    with web.serving(living_url, [plugins], spool=spool, upload_max=2**20) as one:
        yield one, spool


def test_what_cannot_be_kept_is_refused_and_nothing_of_it_is_left(small: tuple[Web, Path]) -> None:
    server, spool = small
    for data, status, code in (
        ("x" * (2**20 + 1), 413, "too_large"),
        (gzip.compress(b"0" * 2**27), 413, "too_large"),
        (gzip.compress(people(100).encode())[:-12], 422, "faults"),
        ("", 422, "faults"),
        ("user,tries\n".encode("utf-16"), 422, "faults"),
    ):
        reply = send(server, data)
        assert (reply.status, reply.code) == (status, code), reply.text
    assert list(spool.iterdir()) == []
    reply = server.post("/uploads", b"x", headers={"Content-Type": "image/png"})
    assert (reply.status, reply.code) == (415, "media_type")
    upload = send(server, people(1)).json["upload"]
    modes = {path.name.partition(".")[2]: path.stat().st_mode & 0o777 for path in spool.iterdir()}
    assert modes == {"upload": 0o600, "json": 0o600}
    for name in ("../" + upload, upload + ".json", "x", "0" * 32):
        assert server.post("/imports", {"upload": name, "queue": "q"}).status == 404


def test_rows_are_tried_and_nothing_is_created(server: Web, client: Client) -> None:
    client.queues.create("trial", "Greet")
    table = "Name,password\nann,open-sesame\n,geheim\nbob,********\n" + "x" * 40 + ",1\n"
    upload = send(server, table).json["upload"]
    body = {"upload": upload, "queue": "trial", "map": {"Name": "user", "password": "password"}, "dry_run": True}
    reply = server.post("/imports", body, role="admin")
    found = reply.json
    assert (reply.status, found["rows"], found["fit"]) == (200, 4, 2)
    assert [(one["line"], one["column"]) for one in found["faults"]] == [(4, "password"), (5, "Name")]
    assert found["secret_columns"] == ["password"] and found["faults"][1]["row"]["password"] == "********"
    assert [one["parameters"]["password"] for one in found["sample"]] == ["********"] * 2
    assert "open-sesame" not in reply.text and "geheim" not in reply.text
    assert client.count(Selection(queue="trial")) == 0
    kept = server.get(f"/uploads/{upload}/faults.csv")
    rows = list(csv.DictReader(io.StringIO(kept.data.decode("utf-8-sig"), newline="")))
    assert [one["line"] for one in rows] == ["4", "5"] and "geheim" not in kept.text
    assert server.get(f"/uploads/{upload}/faults.csv", role="operate").code == "upload"
    refused = server.post("/imports", {**body, "dry_run": False})
    assert (refused.status, refused.code) == (422, "faults")
    assert [one["pointer"] for one in refused.json["faults"]] == ["line 4", "line 5"]
    assert client.count(Selection(queue="trial")) == 0
    for wrong, status in (
        ({"map": {"Nam": "user"}}, 422), ({"set": {"password": "********"}}, 422), ({"queue": "no_such"}, 404),
        ({"expires": "yesterdayy"}, 422),
    ):  # fmt: skip
        assert server.post("/imports", {**body, **wrong}).status == status, wrong


def test_an_import_is_a_batch_that_everybody_can_watch(server: Web, client: Client) -> None:
    client.queues.create("imported", "Greet")
    upload = send(server, people(50), role="operate").json["upload"]
    body = {"upload": upload, "queue": "imported", "set": {"password": "s3cret-word"}, "priority": 3}
    assert server.post("/imports", body, role="read").code == "role"
    begun = server.post("/imports", body, role="operate")
    found = ended(server, begun)
    assert (found["state"], found["rows"], found["created"], found["faults"]) == ("done", 50, 50, 0)
    assert "s3cret-word" not in begun.text + json.dumps(found)
    tasks = list(client.find(Selection(batch=found["batch"])))
    assert [one.document["parameters"]["user"] for one in tasks] == [f"u{n}" for n in range(50)]
    assert {one.document["priority"] for one in tasks} == {3} and tasks[0].document["created_by"] == "operate@web"
    batch = server.get(f"/batches/{found['batch']}").json
    assert (batch["state"], batch["source"]["name"], batch["by"]) == ("closed", "people.csv", "operate@web")
    assert found["id"] in [one["id"] for one in server.get("/imports", role="read").json["items"]]
    assert server.post("/imports", body, role="operate").code == "upload", "it is gone once it is imported"


def test_rows_that_do_not_fit_are_left_out_and_come_back_to_be_mended(server: Web, client: Client) -> None:
    client.queues.create("skipped", "Greet")
    table = "user,password\nann,a\n=cmd|' /C calc'!A0 is too long,geheim\nbob,b\nmuch,too,wide\n"
    upload = send(server, table).json["upload"]
    found = ended(server, server.post("/imports", {"upload": upload, "queue": "skipped", "on_error": "skip"}))
    assert (found["created"], found["skipped"], found["faults"]) == (2, 2, 2)
    reply = server.get(f"/imports/{found['id']}/faults.csv")
    assert reply.headers["content-type"] == "text/csv; charset=utf-8" and "geheim" not in reply.text
    rows = list(csv.DictReader(io.StringIO(reply.data.decode("utf-8-sig"), newline="")))
    assert [row["line"] for row in rows] == ["3", "5"] and rows[0]["user"].startswith("'=cmd")
    assert rows[0]["password"] == "********" and "20" in rows[0]["reason"]
    mended = reply.text.replace(rows[0]["user"], "carl").replace("********", "c")
    mended = "".join(mended.splitlines(keepends=True)[:2])  # the other one cannot be read, so nothing of it is shown
    again = server.post("/imports", {"upload": send(server, mended).json["upload"], "queue": "skipped"})
    assert ended(server, again)["created"] == 1
    users = {one.document["parameters"]["user"] for one in client.find(Selection(queue="skipped"))}
    assert users == {"ann", "bob", "carl"}


def test_unique_keys_are_counted(server: Web, client: Client) -> None:
    client.queues.create("unique", "Greet")
    client.push("unique", {"user": "u1"}, unique_key="u1")
    upload = send(server, people(4)).json["upload"]
    found = ended(server, server.post("/imports", {"upload": upload, "queue": "unique", "unique_key_from": "user"}))
    assert (found["created"], found["existing"]) == (3, 1)


def test_somebody_bound_to_a_queue_sees_imports_of_that_alone(server: Web, client: Client) -> None:
    for name in ("mail", "unseen"):
        if client.store.find_queue(name) is None:
            client.queues.create(name, "Greet")
    theirs = send(server, people(1)).json["upload"]
    assert server.post("/imports", {"upload": theirs, "queue": "mail"}, role="mail_only").code == "upload"
    other = ended(server, server.post("/imports", {"upload": theirs, "queue": "unseen"}))
    mine = send(server, people(1), role="mail_only").json["upload"]
    assert server.post("/imports", {"upload": mine, "queue": "unseen"}, role="mail_only").code == "queue"
    found = ended(server, server.post("/imports", {"upload": mine, "queue": "mail"}, role="mail_only"))
    shown = {one["id"] for one in server.get("/imports", role="mail_only").json["items"]}
    assert found["id"] in shown and other["id"] not in shown
    assert server.get(f"/imports/{other['id']}", role="mail_only").code == "import"
    assert server.get(f"/imports/{other['id']}/faults.csv", role="mail_only").code == "import"


@pytest.mark.parametrize(
    ("lonely_url", "dies"),
    [
        ("sqlite", "while rows are created"),
        pytest.param("mongodb", "once all rows are created", marks=pytest.mark.mongodb),
    ],
    indirect=["lonely_url"],
)
def test_an_import_goes_on_where_its_server_was_killed_and_no_row_comes_twice(
    lonely_url: str, lonely_client: Client, plugins: Path, tmp_path: Path, dies: str
) -> None:
    lonely_client.queues.create("killed", "Greet")
    count = 3 * web_process.BATCH + 10
    with web_process.serving(lonely_url, plugins, tmp_path, dies=dies) as first:
        upload = send(first.web, people(count)).json["upload"]
        begun = first.web.post("/imports", {"upload": upload, "queue": "killed"}, headers={"Idempotency-Key": "i1"})
        assert begun.status == 202, begun.text
        first.wait_for_death()
    there = lonely_client.count(Selection(queue="killed"))
    assert there == count if dies.startswith("once") else web_process.BATCH <= there < count
    with web_process.serving(lonely_url, plugins, tmp_path) as second:
        again = second.web.post("/imports", {"upload": upload, "queue": "killed"}, headers={"Idempotency-Key": "i1"})
        assert again.json["id"] == begun.json["id"], "the same request, of which somebody did not hear"
        found = ended(second.web, begun)
        wait_until(lambda: not list((tmp_path / "spool").glob("*.upload")), 30)
    assert (found["state"], found["created"]) == ("done", count)
    tasks = list(lonely_client.find(Selection(queue="killed")))
    assert [one.document["parameters"]["user"] for one in tasks] == [f"u{n}" for n in range(count)]
    assert {one.document["batch"] for one in tasks} == {found["batch"]} and {one.status for one in tasks} == {
        Status.CREATED
    }


@pytest.mark.parametrize("lonely_url", ["sqlite"], indirect=True)
def test_an_import_that_is_stopped_keeps_what_it_has_created(
    lonely_url: str, lonely_client: Client, plugins: Path, tmp_path: Path
) -> None:
    """Its server was killed, and nobody wants the rest."""
    lonely_client.queues.create("halted", "Greet")
    with web_process.serving(lonely_url, plugins, tmp_path, dies="while rows are created") as first:
        upload = send(first.web, people(2 * web_process.BATCH)).json["upload"]
        begun = first.web.post("/imports", {"upload": upload, "queue": "halted"})
        first.wait_for_death()
    (tmp_path / "spool" / f"{upload}.upload").unlink()
    (tmp_path / "spool" / f"{upload}.json").unlink()
    with web_process.serving(lonely_url, plugins, tmp_path) as second:
        path = begun.headers["location"].removeprefix(second.web.base)
        assert second.web.get(path).json["state"] == "running", "nobody has its file"
        assert second.web.post(f"{path}/stop").status == 200
        found = ended(second.web, begun)
    assert found["state"] == "stopped" and found["created"] == lonely_client.count(Selection(queue="halted"))
