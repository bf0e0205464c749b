"""The pages of imports: who may see and do what, what is refused, what goes on when a browser or a server is gone."""

from __future__ import annotations

import contextlib
import errno
import html
import http.client
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from disbatch_host.client import Client, Selection
from disbatch_host.client.importing import task_maker
from disbatch_host.web import bad_rows, imports
from helpers import web, web_process
from helpers.browsing import Page, Visitor
from helpers.importing import begin_import, check, checked, choose, people, seen_until, text_of, through
from helpers.processes import wait_until
from helpers.web import Reply, Web

SECRET = "planted-5ecret"
NAME = "<img src=x onerror=alert(1)>"


def signed(server: Web, role: str) -> Visitor:
    visitor = Visitor(server)
    assert visitor.sign_in(role).status == 200
    return visitor


@pytest.fixture(scope="module")
def visitor(server: Web) -> Visitor:
    return signed(server, "operate")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def alone(living_url: str, client: Client, plugins: Path, spool: Path) -> Iterator[Web]:
    """A server with a spool of its own, which takes no more than 1 MiB."""
    with web.serving(living_url, [plugins], spool=spool, upload_max=2**20, bound_to={"mail_only": ["mail"]}) as one:
        yield one


def made(client: Client, name: str) -> str:
    if client.store.find_queue(name) is None:
        client.queues.create(name, "Greet")
    return name


def test_who_only_reads_sees_imports_and_begins_none(server: Web, visitor: Visitor, client: Client) -> None:
    done = through(visitor, check(visitor, made(client, "read"), people(3), {}))
    reader = signed(server, "read")
    assert "Import</a>" not in reader.get("/queues/read").text
    assert reader.get("/queues/read/import").status == 403
    assert reader.send_file("/queues/read/import", people(2), "people.csv").status == 403
    listed = reader.get("/imports")
    assert "people.csv" in listed.text and "Sent by you" not in listed.text
    (address,) = re.findall(r'href="(/imports/\w+)"[^>]*>people.csv', listed.text)[:1]
    shown = reader.get(address)
    assert shown.status == 200 and "Mend" not in shown.text and 'aria-label="Steps"' not in shown.text
    assert reader.post(f"{address}/stop", []).status == 403 and done.status == 200
    assert visitor.get("/imports/0123456789abcdef01234567").status == 404


def test_a_file_of_somebody_else_is_not_there(alone: Web, client: Client, spool: Path) -> None:
    made(client, "mail")
    made(client, "others")
    theirs, mine = signed(alone, "mail_only"), signed(alone, "operate")
    sent = theirs.send_file("/queues/mail/import", people(3), "theirs.csv")
    address = sent.headers["location"]
    upload = re.search("upload=(\\w+)", address)
    assert upload is not None and theirs.get(address).status == 200
    for step in ("file", "map", "check"):
        assert mine.get(address.replace("step=file", f"step={step}")).status == 404
    for action in ("map", "run", "discard"):
        assert mine.post(f"/queues/mail/import/{action}", [("upload", upload[1])]).status == 404
    assert mine.get(f"/api/v1/uploads/{upload[1]}/faults.csv").status == 404
    for path in ("/imports", "/queues/mail/import"):
        assert "theirs.csv" in theirs.get(path).text and "theirs.csv" not in mine.get(path).text
    for wrong in ("../x", "0" * 32, f"{upload[1]}.json"):
        assert theirs.get(f"/queues/mail/import?upload={wrong}&step=file").status == 404
    assert theirs.send_file("/queues/others/import", people(3), "a.csv").status == 404, "a queue that they do not see"
    assert sum(path.suffix == ".upload" for path in spool.iterdir()) == 1
    found = checked(theirs, theirs.post("/queues/mail/import/map", choose_of(theirs, address)))
    through(theirs, found)
    through(mine, check(mine, "others", people(2), {}, "mine.csv"))
    assert "mine.csv" not in theirs.get("/imports").text and "theirs.csv" in mine.get("/imports").text
    kept = mine.get("/imports").text
    (other,) = re.findall(r'href="(/imports/\w+)"[^>]*>mine.csv', kept)[:1]
    assert theirs.get(other).status == 404


def choose_of(visitor: Visitor, address: str) -> list[tuple[str, str]]:
    return choose(visitor.get(address.replace("step=file", "step=map"))).fields


def test_a_form_of_another_site_sends_no_file(alone: Web, client: Client, spool: Path) -> None:
    made(client, "mail")
    visitor = signed(alone, "operate")
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {},
    ):
        reply = visitor.send_file("/queues/mail/import", people(3), "people.csv", headers)
        assert reply.status == 403 and "page of this server" in reply.text, headers
        for action in ("map", "run", "discard"):
            assert visitor.post(f"/queues/mail/import/{action}", [], headers).status == 403
    assert list(spool.iterdir()) == []
    assert (
        visitor.send_file(
            "/queues/mail/import", people(3), "p.csv", {"Origin": f"http://127.0.0.1:{alone.port}"}
        ).status
        == 303
    )


def test_what_is_too_large_is_said_on_the_page_and_nothing_of_it_is_left(
    alone: Web, client: Client, spool: Path
) -> None:
    """The whole body is read first: a browser that is still sending would show no answer."""
    made(client, "mail")
    visitor = signed(alone, "operate")
    for size in (2**20 + 1, 2**24):
        reply = visitor.send_file("/queues/mail/import", b"user\n" + b"x" * size, "people.csv")
        assert reply.status == 413 and "at most 1,048,576 bytes" in reply.text and 'type="file"' in reply.text
    assert list(spool.iterdir()) == []


def test_a_form_without_end_is_read_as_far_as_a_file_may_be_large(alone: Web, client: Client, spool: Path) -> None:
    """A part that is no file is kept nowhere, and its length is told by nobody."""
    made(client, "mail")
    cookies = "; ".join(f"{name}={value}" for name, value in signed(alone, "operate").cookies.items())
    headers = {
        "Cookie": cookies, "Sec-Fetch-Site": "same-origin", "Transfer-Encoding": "chunked",
        "Content-Type": "multipart/form-data; boundary=b0",
    }  # fmt: skip
    head = b'--b0\r\nContent-Disposition: form-data; name="note"\r\n\r\n'
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", alone.port, timeout=60)) as connection:
        connection.request(
            "POST", "/queues/mail/import", iter([head, *[b"x" * 2**16] * 64]), headers, encode_chunked=True
        )
        reply = connection.getresponse()
        assert (reply.status, b"at most 1,048,576 bytes" in reply.read()) == (413, True)
    assert list(spool.iterdir()) == []


def test_a_directory_that_takes_nothing_is_said(alone: Web, client: Client, spool: Path) -> None:
    made(client, "mail")
    visitor = signed(alone, "operate")
    spool.rename(spool.with_name("gone"))
    reply = visitor.send_file("/queues/mail/import", people(3), "people.csv")
    assert reply.status == 507 and "cannot be kept" in reply.text and 'type="file"' in reply.text
    spool.with_name("gone").rename(spool)


def test_a_server_without_such_a_directory_says_how_else(living_url: str, client: Client, plugins: Path) -> None:
    made(client, "mail")
    with web.serving(living_url, [plugins], spool=None) as one:
        visitor = signed(one, "operate")
        reply = visitor.get("/queues/mail/import")
        assert reply.status == 200 and "takes no files" in reply.text and "task import mail FILE" in reply.text
        assert visitor.send_file("/queues/mail/import", people(3), "people.csv").status == 507
        assert visitor.get("/imports").status == 200


def test_somebody_who_goes_away_while_he_sends_leaves_nothing(
    alone: Web, client: Client, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(client, "mail")
    visitor = signed(alone, "operate")
    (cookie,) = visitor.cookies.items()
    head = (
        f"POST /queues/mail/import HTTP/1.1\r\nHost: 127.0.0.1:{alone.port}\r\nCookie: {cookie[0]}={cookie[1]}\r\n"
        "Sec-Fetch-Site: same-origin\r\nContent-Type: multipart/form-data; boundary=b0\r\n"
        "Content-Length: 500000\r\n\r\n"
        '--b0\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", alone.port)) as connection:
        connection.sendall(head.encode() + b"user\n" * 1000)
        wait_until(lambda: list(spool.iterdir()), 10, "nothing has come")
    wait_until(lambda: not list(spool.iterdir()), 10, "something is left")
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


def test_names_are_text_wherever_they_are_shown(visitor: Visitor, client: Client) -> None:
    client.store.insert_queue({"_id": NAME, "class": "Greet", "ctime": client.store.now()})
    quoted = "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E"
    table = f"user,{NAME},=cmd()\n{NAME},1,2\nann,{NAME},3\nbob,3,4\n"
    sent = visitor.send_file(f"/queues/{quoted}/import", table, f"{NAME}.csv")
    pages = [
        visitor.get(sent.headers["location"]),
        visitor.get(sent.headers["location"].replace("step=file", "step=map")),
    ]
    form = choose(pages[1])
    taken = [(name, "tries" if name == "to.1" else value) for name, value in form.fields]
    pages.append(visitor.post(form.action, [*form.fields, ("to.2", NAME), ("others", "{"), ("priority", NAME)]))
    pages.append(checked(visitor, visitor.post(form.action, taken)))
    pages.append(through(visitor, pages[-1]))
    pages.append(visitor.get("/imports"))
    for one in pages:
        assert "img" not in Page(one.text).tags and Page(one.text).inline == [], text_of(one)
        assert "img src=x" in html.unescape(one.text)
    assert client.count(Selection(queue=NAME)) == 1


def test_one_file_is_imported_once_however_often_somebody_says_so(visitor: Visitor, client: Client) -> None:
    found = check(visitor, made(client, "once"), people(30), {})
    begun = [begin_import(visitor, found).headers["location"] for _ in range(3)]
    assert len({*begun}) == 1
    upload = re.search("upload=(\\w+)", html.unescape(found.text))
    seen_until(visitor, begun[0], lambda one: "hx-get" not in one.text)
    assert client.count(Selection(queue="once")) == 30
    assert (
        upload is None
        or visitor.get(f"/queues/once/import?upload={upload[1]}&step=map").headers["location"] == begun[0]
    )
    (field,) = [one for one in Page(found.text).forms if one.action.endswith("/import/run")]
    assert visitor.post(field.action, field.fields).headers["location"] == begun[0], "gone, and still known"


def test_rows_that_do_not_fit_stop_an_import_unless_somebody_skips_them(visitor: Visitor, client: Client) -> None:
    found = check(visitor, made(client, "stopped"), people(20, every=5), {})
    (form,) = [one for one in Page(found.text).forms if one.action.endswith("/import/run")]
    assert dict(form.fields)["on_error"] == "skip" and "Skip them, import 16" in found.text
    refused = visitor.post(form.action, [("upload", dict(form.fields)["upload"]), ("on_error", "stop")])
    assert refused.status == 409 and "mend them, or choose to skip them" in refused.text
    assert client.count(Selection(queue="stopped")) == 0
    none = check(visitor, "stopped", f"user\n{'x' * 30}\n", {})
    assert "<b>None</b> fit" in none.text
    assert not [one for one in Page(none.text).forms if one.action.endswith("/import/run")]
    assert "<dd>4</dd>" in through(visitor, found).text and client.count(Selection(queue="stopped")) == 16


def test_a_file_that_is_thrown_away_is_gone(alone: Web, client: Client, spool: Path) -> None:
    visitor = signed(alone, "operate")
    made(client, "thrown")
    found = check(visitor, "thrown", people(9, every=3), {"/password": SECRET})
    address = next(one for one in Page(found.text).links if "step=map" in one)
    file = html.unescape(address).replace("step=map", "step=file")
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in spool.iterdir()}
    assert modes == dict.fromkeys((".upload", ".json", ".plan", ".trial", ".faults"), 0o600)
    assert visitor.send(file, "/discard").status == 200
    assert list(spool.iterdir()) == [] and visitor.get(file).status == 404


def test_a_trial_goes_on_when_nobody_looks_and_says_how_far_it_is(
    alone: Web, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = signed(alone, "operate")
    made(client, "slow")
    held, real = threading.Event(), task_maker.TaskMaker.made

    def slow(self: task_maker.TaskMaker, row: object, size: int, *, is_checked: bool) -> object:
        if row == ["u3000", "3000"]:
            assert held.wait(60)
        return real(self, row, size, is_checked=is_checked)

    monkeypatch.setattr(task_maker.TaskMaker, "made", slow)
    sent = visitor.send_file("/queues/slow/import", people(6000), "people.csv").headers["location"]
    began = visitor.post("/queues/slow/import/map", choose_of(visitor, sent)).headers["location"]
    shown = seen_until(visitor, began, lambda one: "<b>2000</b>" in one.text)
    assert "rows of people.csv checked" in text_of(shown) and "<noscript>" in shown.text and "hx-get" in shown.text
    share = re.search(r'<progress class="big" value="([\d.]+)"', shown.text)
    assert share is not None and 0 < float(share[1]) <= 1
    assert "Go on" in visitor.get("/imports").text
    early = visitor.post("/queues/slow/import/run", [("upload", upload_in(sent)), ("on_error", "stop")])
    assert early.headers["location"].endswith("step=check"), "not before all rows were tried"
    held.set()
    found = seen_until(visitor, began, lambda one: "hx-get" not in one.text)
    assert "6000</b> fit" in found.text.replace("\u202f", "")


def test_an_import_whose_rows_that_do_not_fit_cannot_be_kept_says_so(
    visitor: Visitor, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check(visitor, made(client, "full"), people(3), {})

    def refused(self: bad_rows.BadRows, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bad_rows.BadRows, "__init__", refused)
    shown = through(visitor, found)
    assert ">failed</span>" in shown.text and "cannot be kept: " in text_of(shown)
    assert client.count(Selection(queue="full")) == 0


def test_an_import_is_stopped_and_keeps_what_it_has_created(
    visitor: Visitor, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check(visitor, made(client, "halted"), people(7000), {})
    reached, goes_on, real = threading.Event(), threading.Event(), task_maker.TaskMaker.made

    def held(self: task_maker.TaskMaker, row: object, size: int, *, is_checked: bool) -> object:
        if is_checked and row == ["u4000", "4000"]:  # the first of the third batch, between two commits
            reached.set()
            assert goes_on.wait(60)
        return real(self, row, size, is_checked=is_checked)

    monkeypatch.setattr(task_maker.TaskMaker, "made", held)
    monkeypatch.setattr(imports._Keeper, "told_seconds", 0.0)
    address = begin_import(visitor, found).headers["location"]
    assert reached.wait(60)
    shown = visitor.get(address).text
    for words in ("<b>4000</b>", "of 7000 rows done", ">Stop</button>", "Its batch"):
        assert words in shown, words
    assert ">running</span>" in visitor.get("/imports").text
    assert visitor.send(address, "/stop").status == 200
    goes_on.set()
    done = seen_until(visitor, address, lambda one: "hx-get" not in one.text)
    assert ">stopped</span>" in done.text and ">6000</a></dd>" in done.text and "Go on to its batch" in done.text
    assert client.count(Selection(queue="halted")) == 6000
    assert client.batches.get(address.rpartition("/")[2]).state == "closed"


def upload_in(address: str) -> str:
    found = re.search("upload=(\\w+)", html.unescape(address))
    assert found is not None
    return found[1]


def test_nobody_keeps_all_others_from_trying_theirs(
    alone: Web, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = signed(alone, "operate")
    made(client, "many")
    held, real = threading.Event(), task_maker.TaskMaker.made

    def slow(self: task_maker.TaskMaker, row: object, size: int, *, is_checked: bool) -> object:
        assert held.wait(60)
        return real(self, row, size, is_checked=is_checked)

    monkeypatch.setattr(task_maker.TaskMaker, "made", slow)
    replies = []
    for number in range(5):
        sent = visitor.send_file("/queues/many/import", people(2), f"{number}.csv").headers["location"]
        replies.append(visitor.post("/queues/many/import/map", choose_of(visitor, sent)))
    assert [one.status for one in replies] == [303] * 4 + [422] and "no more may be at once" in replies[-1].text
    assert "Waits for its turn" in visitor.get(replies[3].headers["location"]).text
    held.set()
    for one in replies[:4]:
        assert (
            "<b>2</b> fit" in seen_until(visitor, one.headers["location"], lambda page: "hx-get" not in page.text).text
        )


@pytest.mark.parametrize("lonely_url", ["sqlite"], indirect=True)
def test_a_server_that_is_killed_takes_no_step_back(
    lonely_url: str, lonely_client: Client, plugins: Path, tmp_path: Path
) -> None:
    """While rows are created; what was sent, chosen and begun is there for the next server, and no row comes twice."""
    lonely_client.queues.create("killed", "Greet")
    count = 3 * web_process.BATCH + 10
    with web_process.serving(lonely_url, plugins, tmp_path, dies="while rows are created") as first:
        visitor = signed(first.web, "operate")
        later = check(visitor, "killed", people(5), {}, "later.csv")
        begun = begin_import(visitor, check(visitor, "killed", people(count), {})).headers["location"]
        first.wait_for_death()
    assert web_process.BATCH <= lonely_client.count(Selection(queue="killed")) < count
    for path in (tmp_path / "spool").glob("*.trial"):
        path.unlink()  # as if it had been killed in the middle of these as well
    with web_process.serving(lonely_url, plugins, tmp_path) as second:
        visitor = signed(second.web, "operate")
        done = seen_until(visitor, begun, lambda one: "hx-get" not in one.text)
        assert f">{count}</a></dd>" in done.text and "done" in done.text
        assert "later.csv" in visitor.get("/imports").text
        check_address = f"/queues/killed/import?upload={upload_in(later.text)}&step=check"
        seen_until(visitor, check_address, lambda one: "<b>5</b> fit" in one.text)
    users = [one.document["parameters"]["user"] for one in lonely_client.find(Selection(queue="killed"))]
    assert users == [f"u{n}" for n in range(count)]


def test_the_list_says_what_came_of_each(visitor: Visitor, client: Client) -> None:
    queue = made(client, "listed")
    good = through(visitor, check(visitor, queue, people(3), {}, "good.csv"))
    sent = visitor.send_file(f"/queues/{queue}/import", people(4), "broken.csv").headers["location"]
    found = checked(visitor, visitor.post(f"/queues/{queue}/import/map", choose_of(visitor, sent)))
    client.queues.delete(queue, leaves_unfinished=True)
    lost = begin_without(visitor, found)
    assert lost.status == 404, "the queue is gone"
    client.queues.create(queue, "Greet")
    text = visitor.get("/imports").text
    assert "good.csv" in text and ">done</span>" in text and "broken.csv" in text and "Go on" in text
    assert good.status == 200


def begin_without(visitor: Visitor, found: Reply) -> Reply:
    (form,) = [one for one in Page(found.text).forms if one.action.endswith("/import/run")]
    return visitor.post(form.action, form.fields)


@pytest.mark.parametrize("lonely_url", ["sqlite"], indirect=True)
def test_nothing_was_imported_yet(lonely_url: str, lonely_client: Client, plugins: Path) -> None:
    with web.serving(lonely_url, [plugins]) as one:
        assert "Nothing has been imported yet" in signed(one, "admin").get("/imports").text
