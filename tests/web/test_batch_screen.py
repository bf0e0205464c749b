"""The screen of a batch: how far it is, its causes and their retry, its story, the table that is downloaded; and what
the overview shows of it."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest

from disbatch_host.client import Client
from disbatch_host.client.importing.importer import Rules
from disbatch_host.documents.causes import with_group
from disbatch_protocol.status import Status
from helpers.browsing import Visitor
from helpers.processes import wait_until
from helpers.steps import walk
from helpers.web import Web

SECRET = "planted-5ecret"


def words_of(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


@pytest.fixture(scope="module")
def wave(client: Client) -> Client:
    """Ten tasks: 4 concluded, 2 failed for one cause and 1 for another, 3 wait."""
    store = client.store
    client.queues.create("waved", "Greet")
    client.queues.create("then", "Nobody::Has")
    client.batches.create("wave", on_done="then", on_done_parameters={"user": "all"})
    rows = [{"user": f"u{n}", "password": SECRET, "tries": n} for n in range(10)]
    ids = [one.id for one in client.push_many("waved", rows, batch="wave")]
    for number, one in enumerate(ids[:7]):
        run = {"attempt": 1, "node": "n1", "started": store.now(), "ended": store.now(), "seconds": 1.0 + number,
               "plugin": {"class": "Greet", "version": "1"}}  # fmt: skip
        if number < 4:
            walk(store, one, Status.CONCLUDED, run=run, result={"moved": number})
        else:
            message = f"cannot connect to mx0{number}.example.org" if number < 6 else "no room"
            walk(
                store, one, Status.FAILED, run=run, node="n1", error=with_group({"code": "exit_3", "message": message})
            )
    return client


@pytest.fixture(scope="module")
def admin(server: Web, wave: Client) -> Visitor:
    visitor = Visitor(server)
    visitor.sign_in("admin")
    return visitor


def test_it_says_how_far_it_is_and_why_tasks_failed(admin: Visitor) -> None:
    text = admin.get("/batches/wave").text
    said = words_of(text)
    assert "70.0 % 7 of 10 ended" in said and "10 tasks" in said
    assert re.search(r'id="s-failed">.*?status=2%2B.*?>3<', text, re.DOTALL)
    assert "3 of 3 failed" in said and "pushes 1 task to then" in said and "waits for 3 tasks" in said
    causes = re.findall(r'<tr id="c-(\w+)">.*?</tr>', text, re.DOTALL)
    assert len(causes) == 2
    for key in causes:
        retry = re.search(rf'href="([^"]*action=retry[^"]*failure={key}[^"]*)"', text)
        assert retry is not None
        question = admin.get(html.unescape(retry[1])).text
        assert re.search(r"Run [12] again", question) and 'href="/batches/wave"' in question


def test_it_hears_by_a_stream_as_long_as_it_goes_on(admin: Visitor) -> None:
    text = admin.get("/batches/wave").text
    assert 'data-news="/api/v1/batches/wave/events"' in text and text.count("data-news") == 1
    assert "data-news" not in admin.get("/batches/wave?live=off").text


def test_its_table_has_the_rows_and_columns_that_were_chosen(admin: Visitor) -> None:
    (form,) = [one for one in admin.page("/batches/wave").forms if one.action.endswith("/tasks/export")]
    chosen = [value for name, value in form.fields if name == "columns"]
    assert {"task", "status", "parameters.user", "error", "message", "result.moved"} <= set(chosen)
    for status, count in (("unfinished,finished", 10), ("failed", 3), ("finished", 7)):
        fields = [(name, status if name == "status" else value) for name, value in form.fields]
        reply = admin.get(f"{form.action}?{urlencode(fields)}")
        assert reply.status == 200 and reply.headers["content-disposition"].startswith("attachment")
        rows = list(csv.DictReader(io.StringIO(reply.data.decode("utf-8-sig"))))
        assert len(rows) == count and list(rows[0]) == chosen and SECRET not in reply.text
    fields = [(name, "ndjson" if name == "format" else value) for name, value in form.fields]
    lines = admin.get(f"{form.action}?{urlencode(fields)}").text.splitlines()
    assert len(lines) == 11 and lines[-1] == '{"end":10}'


def test_its_story_tells_who_did_what(admin: Visitor, wave: Client) -> None:
    key = next(one.key for one in wave.failures().reasons if "room" in one.text)
    address = f"/operations/new?action=retry&batch=wave&failure={key}"
    (form,) = [one for one in admin.page(address).forms if one.action.endswith("/operations")]
    fields = [(name, "there is room" if name == "reason" else value) for name, value in form.fields]
    assert admin.post(form.action, fields).status == 303

    def is_told() -> bool:
        said = words_of(admin.get("/batches/wave").text)
        return "admin@web retried tasks of one cause (there is room): 1 retried" in said

    wait_until(is_told, within_seconds=60)
    said = words_of(admin.get("/batches/wave").text)
    assert "created by me@here" in said
    closed = admin.send("/batches/wave", "/close")
    assert closed.status == 200 and "closed by admin@web: no more tasks are added" in words_of(closed.text)


def test_once_done_its_failures_can_be_run_again_and_told_again(admin: Visitor, client: Client) -> None:
    client.queues.create("short", "Greet")
    client.batches.create("brief", on_done="then")
    (one,) = client.push_many("short", [{"user": "u"}], batch="brief")
    walk(client.store, one.id, Status.FAILED, error=with_group({"code": "exit_1", "message": "no"}))

    def posts() -> list[str]:
        return [form.action for form in admin.page("/batches/brief").forms if form.method == "POST"]

    assert "/batches/brief/retry" not in posts()
    client.batches.close("brief")
    said = words_of(admin.get("/batches/brief").text)
    told = client.batches.get("brief").on_done
    assert "done: all of its tasks have ended" in said and told is not None and "was pushed to then" in said
    assert admin.send("/batches/brief", "/batches/brief/retry", reason="again").status == 200
    wait_until(lambda: client.batches.get("brief").is_armed, within_seconds=60)
    assert client.get(one.id).status == Status.CREATED


def test_batches_that_go_on_are_on_the_overview(admin: Visitor, wave: Client) -> None:
    def is_there() -> bool:
        return 'id="b-wave"' in admin.get("/").text

    wait_until(is_there, within_seconds=30)
    row = re.search(r'<tr id="b-wave">.*?</tr>', admin.get("/").text, re.DOTALL)
    assert row is not None and "then 1 task to then" in words_of(row[0])


@pytest.mark.parametrize(
    ("status", "looks", "words"),
    [
        (Status.CONCLUDED, "concluded", "done, all concluded"), (Status.FAILED, "failed", "done, 1 failed"),
        (Status.CANCELLED, "cancelled", "done, 1 cancelled"),
    ],
)  # fmt: skip
def test_only_a_batch_whose_tasks_all_concluded_ended_well(
    admin: Visitor, client: Client, status: Status, looks: str, words: str
) -> None:
    name = f"ended-{looks}"
    client.batches.create(name)
    (one,) = client.push_many("waved", [{"user": "u"}], batch=name)
    walk(client.store, one.id, status)
    client.batches.close(name)
    for path in ("/batches", f"/batches/{name}"):
        text = admin.get(path).text
        part = text[text.index(f'id="b-{name}"') :] if path == "/batches" else text
        found = re.search(r'class="st (\w+)">(done[^<]*)<', part)
        assert found is not None and found.groups() == (looks, words), path


def test_it_says_which_rows_of_its_file_became_no_task(admin: Visitor, wave: Client, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user,tries\ndouble,1\ndouble,2\nbad,many\n")
    rules = Rules(stops=False, key_column="user")
    made = wave.import_file("waved", tmp_path / "rows.csv", rules)
    assert (made.created, made.existing, made.skipped) == (1, 1, 1)
    said = words_of(admin.get(f"/batches/{made.batch}").text)
    assert "1 row did not fit" in said and "1 not created: an unfinished task had the unique key" in said
    assert "did not fit" not in words_of(admin.get("/batches/wave").text)
