"""The list of tasks: its columns, what is done with some of them or with all that fit, and what it says of itself."""

from __future__ import annotations

import html
import itertools
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from disbatch_host.client import Client, Selection
from disbatch_host.client.importing.importer import Rules
from helpers.browsing import Page, Visitor
from helpers.nodes import write_plugin
from helpers.processes import wait_until
from helpers.web import Web

SECRET = "planted-5ecret"
_names = (f"listed{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plugins")
    properties: dict[str, Any] = {name: {"type": "string"} for name in ("note", "host", "user", "target")}
    properties |= {"password": {"type": "string", "writeOnly": True}, "size": {"type": "integer"}}
    required = ["password", "user", "host", "target"]
    schema = {"type": "object", "required": required, "properties": properties}
    write_plugin(directory, "Move", "true", parameters=schema)
    return directory


@pytest.fixture
def queue(client: Client) -> str:
    name = next(_names)
    client.queues.create(name, "Move")
    return name


@pytest.fixture(scope="module")
def admin(server: Web) -> Visitor:
    visitor = Visitor(server)
    visitor.sign_in("admin")
    return visitor


def fill(client: Client, queue: str, count: int, **more: Any) -> list[str]:
    rows = [{"note": "n", "password": SECRET, "user": f"u{n}", "host": f"h{n}", "target": f"t{n}", "size": n, **more}
            for n in range(count)]  # fmt: skip
    return [str(one.id) for one in client.push_many(queue, rows)]


def columns_of(text: str) -> list[str]:
    head = re.search(r"<thead>(.*?)</thead>", text, re.DOTALL)
    assert head is not None
    return re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', head[1])


def test_the_columns_are_the_first_two_required_parameters_that_are_not_secret(
    admin: Visitor, client: Client, queue: str
) -> None:
    fill(client, queue, 2)
    text = admin.get(f"/tasks?queue={queue}").text
    assert columns_of(text)[1:4] == ["Status", "user", "host"]
    offered = re.findall(r'name="columns" value="p\.(\w+)"( checked)?', text)
    assert ("user", " checked") in offered and ("size", "") in offered and "password" not in dict(offered)
    assert "Parameters of Move" in text


def test_columns_are_in_the_address_and_numbers_stand_right(admin: Visitor, client: Client, queue: str) -> None:
    fill(client, queue, 2)
    text = admin.get(f"/tasks?queue={queue}&columns=-&columns=p.size&columns=p.note").text
    assert columns_of(text)[1:4] == ["Status", "size", "note"] and '<td class="cell n"' in text
    menu = text.partition('id="columns"')[2].partition("</details>")[0]
    (form,) = Page(menu).forms
    assert form.fields == [("queue", queue), ("columns", "-"), ("columns", "p.size"), ("columns", "p.note")]
    assert columns_of(admin.get(f"/tasks?queue={queue}&columns=-").text)[1:3] == ["Status", "Attempts"]
    hidden = admin.get(f"/tasks?queue={queue}&columns=p.password").text
    assert SECRET not in hidden and "********" in hidden


def test_the_rows_that_are_shown_are_got_alone_with_the_same_cells(admin: Visitor, client: Client, queue: str) -> None:
    ids = fill(client, queue, 3)
    client.cancel(ids[0])
    text = admin.get(f"/tasks?queue={queue}&status=cancelled&columns=-&columns=p.size").text
    alone = re.search(r'data-rows="([^"]+)"', text)
    assert alone is not None
    client.retry(ids[0])  # it fits no longer
    row = admin.get(f"{html.unescape(alone[1])}&id={ids[0]}").text
    assert f'id="t-{ids[0]}"' in row and columns_of(row) == columns_of(text) and ">created<" in row
    assert f'id="t-{ids[0]}"' not in admin.get(f"/tasks?queue={queue}&status=cancelled").text


def asked(admin: Visitor, *fields: tuple[str, str], count: int) -> str:
    """The question that a selection leads to, once it is about so many tasks: what another process has changed just now
    may be later by this one's knowledge of the store's clock."""
    shown: list[str] = []

    def is_shown() -> bool:
        reply = admin.follow(admin.post("/tasks/act", fields))
        assert reply.status == 200, reply.text
        shown.append(reply.text)
        return f'name="expect" value="{count}"' in reply.text

    wait_until(is_shown, within_seconds=30)
    return shown[-1]


def done(admin: Visitor, text: str, **filled: str) -> str:
    """Answer it; the page of the operation when it has ended."""
    (form,) = [one for one in Page(text).forms if one.action.endswith("/operations")]
    fields = [(name, value) for name, value in form.fields if name not in filled]
    begun = admin.post(form.action, [*fields, *filled.items()])
    assert begun.status == 303, begun.text
    shown: list[str] = []

    def has_ended() -> bool:
        shown.append(admin.get(begun.headers["location"]).text)
        return ">running</span>" not in shown[-1]

    wait_until(has_ended, within_seconds=60)
    return shown[-1]


def test_a_number_that_is_none_or_too_large_is_refused(admin: Visitor, client: Client, queue: str) -> None:
    """Of a long one only the beginning was compared with what there may be."""
    fill(client, queue, 1)
    (form,) = [
        one
        for one in Page(asked(admin, ("action", "cancel"), ("all", "all"), ("fits.queue", queue), count=1)).forms
        if one.action.endswith("/operations")
    ]
    kept = [one for one in form.fields if one[0] not in ("expect", "typed")]
    for wrong in ("²", "9" * 5000):
        reply = admin.post(form.action, [*kept, ("expect", wrong)])
        assert reply.status < 500 and "to go on" in reply.text, (wrong[:5], reply.status)
    for wrong in (f"{1:020}999999", "9" * 5000, "²", "--5"):
        reply = admin.post(f"/queues/{queue}/push", [("as", "json"), ("json", "{}"), ("copies", wrong)])
        assert reply.status in (400, 422) and "expected a whole number" in reply.text, (wrong[:30], reply.status)
    assert client.count(Selection(queue=queue)) == 1


def test_some_of_a_list_are_cancelled_once_it_is_said_what_becomes_of_them(
    admin: Visitor, client: Client, queue: str
) -> None:
    ids = fill(client, queue, 4)
    client.cancel(ids[0])
    back = f"/tasks?queue={queue}&columns=p.size"
    text = asked(admin, *(("id", one) for one in ids[:3]), ("action", "cancel"), ("back", back), count=2)
    assert "<b>2</b> will be cancelled" in text and "1: they have ended" in text and "As of " in text
    assert f'href="{html.escape(back)}"' in text and client.get(ids[1]).status == -2
    assert "cancelled" in done(admin, text, reason="enough")
    assert [client.get(one).status for one in ids] == [-5, -5, -5, -2]
    assert client.get(ids[1]).document["error"]["message"] and "enough" in str(client.get(ids[1]).document)


def test_all_that_fit_are_meant_where_that_was_chosen(admin: Visitor, client: Client, queue: str) -> None:
    ids = fill(client, queue, 53)
    client.cancel(ids[:52])
    page = admin.get(f"/tasks?queue={queue}&status=cancelled")
    assert 'data-all-fit="52"' in page.text
    (form,) = [one for one in Page(page.text).forms if one.action.endswith("/tasks/act")]
    assert ("fits.queue", queue) in form.fields and ("fits.status", "cancelled") in form.fields
    chosen = [(name, "all" if name == "all" else value) for name, value in form.fields]
    text = asked(admin, *chosen, ("action", "retry"), count=52)
    assert "Run 52 again" in text and text.count("/tasks/") >= 5
    done(admin, text)
    assert client.count(Selection(queue=queue, status=("created",))) == 53


def test_deleting_some_needs_their_number_typed(admin: Visitor, client: Client, queue: str) -> None:
    ids = fill(client, queue, 3)
    client.cancel(ids)
    text = asked(admin, ("id", ids[0]), ("id", ids[1]), ("action", "delete"), count=2)
    (form,) = [one for one in Page(text).forms if one.action.endswith("/operations")]
    wrong = admin.post(form.action, [*form.fields, ("typed", "3")])
    assert wrong.status == 400 and "type the number 2" in wrong.text and client.count(Selection(queue=queue)) == 3
    assert "deleted" in done(admin, text, typed="2") and client.count(Selection(queue=queue)) == 1


@pytest.mark.parametrize(("action", "count"), [("cancel", 0), ("burn", 1), ("cancel", 201)])
def test_a_selection_that_cannot_be_is_refused(admin: Visitor, action: str, count: int) -> None:
    fields = [("action", action), *(("id", f"{n:024}") for n in range(count))]
    assert admin.post("/tasks/act", fields).status == 400


def test_a_question_leads_back_to_this_site_alone(admin: Visitor, client: Client, queue: str) -> None:
    (one,) = fill(client, queue, 1)
    for there in ("https://evil.example/tasks", "//evil.example/tasks", "javascript:alert(1)"):
        text = asked(admin, ("id", one), ("action", "cancel"), ("back", there), count=1)
        assert f'href="/tasks?id={one}" data-back' in text and f'href="{there}' not in text


def test_only_actions_that_fit_a_shown_status_are_there(server: Web, client: Client, queue: str) -> None:
    operator, reader = Visitor(server), Visitor(server)
    operator.sign_in("operate")
    reader.sign_in("read")
    ids = fill(client, queue, 2)
    client.push(queue, {"password": "x", "user": "u", "host": "h", "target": "t"}, delay="2h")
    client.cancel(ids[0])

    def actions(visitor: Visitor, status: str) -> list[str]:
        return re.findall(r'name="action" value="(\w+)"', visitor.get(f"/tasks?queue={queue}&status={status}").text)

    assert actions(operator, "created") == ["cancel"] and actions(operator, "blocked") == ["cancel", "release"]
    assert actions(operator, "cancelled") == ["retry"] and actions(reader, "waiting,cancelled") == []
    whole = Visitor(server)
    whole.sign_in("admin")
    assert actions(whole, "cancelled") == ["retry", "delete"]


def test_a_filter_and_its_opposite_are_chips_that_can_be_taken_away(admin: Visitor, client: Client, queue: str) -> None:
    ids = fill(client, queue, 3)
    client.cancel(ids[0], why="x")
    text = html.unescape(admin.get(f"/tasks?queue={queue}&status=!cancelled&p.user=!u1&columns=p.size").text)
    assert "<b>1</b> fits (exact)" in text and f'id="t-{ids[2]}"' in text
    assert "status <b>not cancelled</b>" in text and "user <b>≠ u1</b>" in text
    assert f'href="/tasks?queue={queue}&status=%21cancelled&columns=p.size" aria-label="Without user ≠ u1"' in text
    empty = html.unescape(admin.get(f"/tasks?queue={queue}&status=created&p.user=u0").text)
    assert re.search(r'Without <b>status created</b>: <a href="[^"]*p.user=u0">1</a>', empty)
    assert re.search(r'Without <b>user = u0</b>: <a href="[^"]*status=created">2</a>', empty)


def test_a_search_that_ran_out_of_time_says_how_far_it_looked(
    admin: Visitor, client: Client, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(client, queue, 130)
    whole = Client.page
    monkeypatch.setattr(Client, "page", lambda *given, **more: whole(*given, **{**more, "budget_seconds": -1.0}))
    text = admin.get(f"/tasks?queue={queue}&p.user=u0").text
    assert re.search(r"Looked at the newest \d+ tasks; nothing yet\.", text) and "No task fits" not in text
    for _ in range(10):
        address = re.search(r'href="([^"]+)">Go on</a>', text)
        assert address is not None and "cursor=" in address[1]
        text = admin.get(html.unescape(address[1])).text
        if '<tr id="t-' in text:
            break
        assert re.search(r"Looked at \d+ tasks; nothing yet\.", text)
    assert text.count('<tr id="t-') == 1 and ">u0<" in text


def test_a_link_to_the_next_page_has_the_filter_as_it_is_read(server: Web, client: Client, queue: str) -> None:
    """`failed=False` was refused."""
    ids = fill(client, queue, 2)
    first = server.get(f"/tasks?queue={queue}&failed=no&limit=1")
    address = re.match(r'<(\S+)>; rel="next"', first.headers["link"])
    assert address is not None and "failed=false" in address[1]
    following = server.ask("GET", address[1], base="")
    assert following.status == 200 and [one["_id"] for one in following.json["items"]] == [ids[0]]


def test_the_oldest_come_first_where_that_was_asked_for(admin: Visitor, client: Client, queue: str) -> None:
    ids = fill(client, queue, 3)
    text = admin.get(f"/tasks?queue={queue}&order=oldest").text
    assert re.findall(r'<tr id="t-(\w+)"', text) == ids
    assert f'href="/tasks?queue={queue}">newest first' in html.unescape(text)
    assert quote(queue) in text


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("status=fialed", "status=failed"), ("stauts=failed", "status=failed"), ("user=ann", "p.user=ann")],
)
def test_a_filter_that_is_wrong_stands_in_its_form_and_what_was_meant_is_a_link(
    admin: Visitor, client: Client, queue: str, wrong: str, meant: str
) -> None:
    ids = fill(client, queue, 1)
    reply = admin.get(f"/tasks?queue={queue}&{wrong}")
    assert reply.status == 400 and "<h1>Tasks</h1>" in reply.text and ids[0] not in reply.text
    assert f"/tasks?queue={queue}&{meant}" in Page(reply.text).links and "action=delete" not in reply.text
    form = reply.text.partition('id="add-filter" open')[2].partition("</form>")[0]
    name, _, value = wrong.partition("=")
    assert f'value="{value}"' in form and f'name="{name}"' not in form and f'value="{queue}"' in form


def test_a_status_is_one_click_away_and_other_filters_stay(admin: Visitor, client: Client, queue: str) -> None:
    fill(client, queue, 1)
    text = admin.get(f"/tasks?queue={queue}&status=waiting&p.user=u0").text
    tabs = text.partition('<nav class="tabs" aria-label="Status">')[2].partition("</nav>")[0]
    assert re.findall(r'aria-current="page">(\w+)<', tabs) == ["waiting"]
    assert f"/tasks?queue={queue}&p.user=u0&status=concluded" in Page(tabs).links
    added = admin.get(f"/tasks?queue={queue}&add=status&word=failed&value=&parameter=")
    assert added.headers["location"] == f"/tasks?queue={queue}&status=failed"


def test_an_id_is_found_by_the_form_that_lists_show_and_by_its_end(admin: Visitor, client: Client, queue: str) -> None:
    one, other = fill(client, queue, 2)
    short = f"{one[8:15]}…{one[-3:]}"
    for text in (short, short.replace("…", "...")):
        found = admin.get(f"/search?q={quote(text)}").headers["location"]
        assert one in found and other not in found
    if one[-16:] != other[-16:]:
        assert admin.get(f"/search?q={one[-16:]}").headers["location"] == f"/tasks/{one}"
    shared = admin.get(f"/search?q={one[:10]}").headers["location"]
    assert f"id={one}" in shared or shared == f"/tasks/{one}"


def test_the_files_of_a_list_have_its_filters_and_its_columns(admin: Visitor, client: Client, queue: str) -> None:
    fill(client, queue, 2)
    text = admin.get(f"/tasks?queue={queue}&status=waiting&p.user=u1&columns=-&columns=p.size&live=off").text
    csv, lines = (one for one in Page(text).links if "/tasks/export" in one)
    head, *rows = admin.get(csv).text.splitlines()
    assert head.endswith('"task","status","size"') and len(rows) == 1
    assert '"u1"' in admin.get(lines).text and '"u0"' not in admin.get(lines).text


def test_a_batch_that_is_misspelt_is_mended_by_a_link(admin: Visitor, client: Client, queue: str) -> None:
    batch = f"november-of-{queue}"
    client.push_many(queue, [{"user": "u", "host": "h", "target": "t", "password": SECRET}], batch=batch)
    reply = admin.get(f"/tasks?queue={queue}&batch={batch[1:]}")
    assert reply.status == 404 and f"/tasks?queue={queue}&batch={batch}" in Page(reply.text).links


def test_batches_name_the_queue_and_the_file_that_they_are_of(
    admin: Visitor, client: Client, queue: str, tmp_path: Path
) -> None:
    file = tmp_path / f"{queue}.csv"
    file.write_text("user,host,target,password\na,h,t,x\n")
    made = client.import_file(queue, file, Rules())
    row = admin.get("/batches").text.partition(f'id="b-{made.batch}"')[2].partition("</tr>")[0]
    assert f"/queues/{queue}" in Page(row).links and f">{file.name}<" in row


def test_a_file_is_named_after_its_queue(admin: Visitor, client: Client, queue: str) -> None:
    fill(client, queue, 1)
    reply = admin.get(f"/api/v1/tasks/export?format=csv&queue={queue}")
    assert f'filename="{queue}.csv"' in reply.headers["content-disposition"]


def test_what_is_not_there_leads_to_its_list_and_tells_nothing_of_the_server(
    server: Web, admin: Visitor, living_url: str
) -> None:
    for address, listed in (("/tasks/0123456789abcdef01234567", "/tasks"), ("/queues/no_such", "/queues")):
        reply = admin.get(address)
        assert reply.status == 404 and f'class="btn primary" href="{listed}"' in reply.text
        assert living_url not in reply.text and "disbatch-host" not in reply.text.partition("<main")[2]


def test_a_class_that_no_node_has_is_said_with_its_queues_and_the_way_out(admin: Visitor, client: Client) -> None:
    name = next(_names)
    client.queues.create(name, "Nowhere")
    text = admin.get("/plugins/Nowhere").text
    assert f"/queues/{name}" in Page(text).links and f"/queues/{name}/change" in Page(text).links
    assert admin.get("/plugins/Nobody").status == 404
