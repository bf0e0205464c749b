"""The screen of a task without a script: its attempts, its output in all states, what would help, running again."""

from __future__ import annotations

import contextlib
import html
import itertools
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from disbatch_host.client import Client
from disbatch_host.decide.why import Code
from disbatch_host.documents.records import new_task
from disbatch_host.web import filling
from disbatch_host.web.pages import ansi, assets, retry
from disbatch_host.web.pages.remedies import remedy_for
from disbatch_protocol.encodings import Encoding
from disbatch_protocol.status import Status
from helpers.browsing import Page, Visitor
from helpers.printing import Printing
from helpers.web import Web

_names = (f"shown{n}" for n in itertools.count())
SECRET = "planted-5ecret"


@pytest.fixture(scope="module")
def admin(server: Web) -> Visitor:
    return _signed_in(server, "admin")


def _signed_in(server: Web, role: str) -> Visitor:
    visitor = Visitor(server)
    assert visitor.sign_in(role).status == 200
    return visitor


def run_of(client: Client, parameters: Any = None, **more: Any) -> Printing:
    queue = next(_names)
    client.queues.create(queue, "Greet")
    return Printing(client, client.push(queue, parameters or {"user": "ann"}).id, **more)


def text_of(visitor: Visitor, address: str) -> str:
    reply = visitor.follow(visitor.get(address))
    assert reply.status == 200, (address, reply.status, reply.text[-500:])
    return reply.text


def lines_of(text: str) -> list[str]:
    """Of the output that a page shows."""
    found = re.findall(r'<li id="std(?:out|err)@\d+"><a [^>]*>\d+</a><span[^>]*>(.*?)</span></li>', text)
    return [html.unescape(re.sub("<[^>]+>", "", one)) for one in found]


def current(text: str) -> str:
    """The tab that is open."""
    found = re.search(r'<a [^>]*aria-current="page">(\w[\w-]*)\s*(?:<small|</a>)', text.partition('id="t-tabs"')[2])
    assert found is not None
    return found[1]


def test_stderr_is_first_where_it_failed_and_has_something(admin: Visitor, client: Client) -> None:
    for status, stderr, expected in (
        (Status.FAILED, b"it broke\n", "stderr"), (Status.FAILED, b"", "stdout"), (Status.CONCLUDED, b"hm\n", "stdout"),
    ):  # fmt: skip
        run = run_of(client).begin()
        run.prints(b"began\n")
        if stderr:
            run.prints(stderr, "stderr")
        run.ends(status)
        assert current(text_of(admin, f"/tasks/{run.id}")) == expected
        assert current(text_of(admin, f"/tasks/{run.id}?stream=stdout")) == "stdout"


def test_the_output_of_each_attempt_is_there_or_it_is_said_that_it_is_not(admin: Visitor, client: Client) -> None:
    run = run_of(client).begin()
    run.prints(b"first\n")
    run.ends(Status.FAILED)
    run.is_to_run_again()
    run.begin(keep_attempts=1).prints(b"second\n")
    run.prints(b"second fault\n", "stderr")
    run.ends(Status.FAILED)
    run.is_to_run_again()
    run.begin(keep_attempts=2).prints(b"third\n")
    text = text_of(admin, f"/tasks/{run.id}")
    assert lines_of(text) == ["third"]
    rows = dict(re.findall(r'<tr><th scope="row" class="k">(\d)(.*?)</tr>', text, re.DOTALL))
    assert "replaced by the next attempt" in rows["1"] and "attempt=2&amp;stream=stderr" in rows["2"]
    second = f"/tasks/{run.id}?attempt=2"
    assert lines_of(text_of(admin, f"{second}&stream=stdout")) == ["second"]
    shown = text_of(admin, f"{second}&stream=stderr")
    assert (
        lines_of(shown) == ["second fault"]
        and "of attempt 2" in shown
        and "data-live" not in shown.split("<live-log")[1]
    )
    gone = text_of(admin, f"/tasks/{run.id}?attempt=1")
    assert "is not kept any more: its output was replaced by the next attempt" in gone
    assert lines_of(text_of(admin, f"/tasks/{run.id}?attempt=7")) == ["third"]


def test_an_output_that_is_not_there_says_why(admin: Visitor, client: Client) -> None:
    silent = run_of(client).begin()
    assert "has printed nothing yet" in text_of(admin, f"/tasks/{silent.id}")
    silent.ends()
    assert "stdout of attempt 1: printed nothing." in text_of(admin, f"/tasks/{silent.id}")
    binary = run_of(client, encoding=Encoding.BINARY).begin()
    binary.prints(bytes(range(256)) * 5)
    binary.ends()
    assert "stdout is not text: 1.2 KiB." in text_of(admin, f"/tasks/{binary.id}")
    waits = run_of(client)
    text = text_of(admin, f"/tasks/{waits.id}")
    assert "It has not run yet" in text and "<live-log" not in text


def test_the_line_about_what_max_output_left_out_is_marked(admin: Visitor, client: Client) -> None:
    run = run_of(client).begin()
    line = "disbatch-host: 4000 bytes of output are left out here (max_output is 2.0 KiB)"
    run.prints(f"head\n{line}\ntail\n".encode())
    run.ends()
    text = text_of(admin, f"/tasks/{run.id}")
    assert f'<span class="cut">{line}</span>' in text and lines_of(text) == ["head", line, "tail"]


def test_parts_of_a_long_output_are_linked_and_all_of_it_is_searched(admin: Visitor, client: Client) -> None:
    run = run_of(client).begin()
    run.prints(b"".join(b"line %d\n" % n for n in range(30_000)))
    run.ends()
    address: str | None = f"/tasks/{run.id}?stream=stdout"
    seen: list[list[str]] = []
    while address is not None and len(seen) < 9:
        text = text_of(admin, address)
        seen.insert(0, lines_of(text))
        found = re.search(r'<a href="([^"#]+)#output">Show older</a>', text)
        address = None if found is None else html.unescape(found[1])
    assert address is None and seen[0][0] == "line 0" and seen[-1][-1] == "line 29999"
    assert sum(map(len, seen)) >= 30_000
    text = text_of(admin, f"/tasks/{run.id}?stream=stdout&find=LINE+2999")
    assert "11 of 11" in text and "<mark>line 2999</mark>9" in text
    found = re.search(r'href="([^"]+)" aria-label="Previous hit"', text)
    assert found is not None
    before = html.unescape(found[1])
    text = text_of(admin, before.partition("#")[0])
    assert "10 of 11" in text and f'id="{before.partition("#")[2]}"' in text
    assert "not found" in text_of(admin, f"/tasks/{run.id}?stream=stdout&find=no+such+text")
    assert "200+" in text_of(admin, f"/tasks/{run.id}?stream=stdout&find=line")


def test_what_would_help_is_said(server: Web, admin: Visitor, client: Client) -> None:
    queue = next(_names)
    client.queues.create(queue, "Greet")
    task = client.push(queue, {"user": "ann"}).id
    client.queues.pause(queue, why="the mail server is down")
    text = text_of(admin, f"/tasks/{task}")
    assert (
        "is paused" in text
        and "Resume the queue when its reason is gone." in text
        and f'href="/queues/{queue}"' in text
    )
    client.queues.delete(queue, leaves_unfinished=True)
    assert "Create a queue" in text_of(admin, f"/tasks/{task}")
    reader = text_of(_signed_in(server, "read"), f"/tasks/{task}")
    assert "Create queue" in reader and "Create a queue" not in reader


def test_each_reason_to_wait_has_words_or_needs_none() -> None:
    silent = {Code.ENDED, Code.RUNNING, Code.CLAIMED, Code.DAMAGED, Code.EXPIRED, Code.TURN}
    for code in Code:
        for may in (True, False):
            found = remedy_for(code, "mail", lambda _, may=may: may)
            assert (found is None) == (code in silent), code
            assert found is None or (found.words.endswith(".") and bool(found.link) == bool(found.label))


def test_a_silent_node_is_said_with_what_becomes_of_the_task(server: Web, admin: Visitor, client: Client) -> None:
    run = run_of(client).begin()
    why = server.get(f"/tasks/{run.id}").json["why"]
    assert why["code"] == "lost_node" and "is not in the store" in why["sentence"]
    text = text_of(admin, f"/tasks/{run.id}")
    assert "It was running on node printer, which is not in the store" in text and "it becomes orphaned" in text


# The rest of what can be wrong is made wrong by hand, in a file.
sqlite_only = pytest.mark.parametrize("living_url", ["sqlite"], indirect=True, scope="module")


def by_hand(url: str, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite://"))
    with contextlib.closing(connection), connection:
        assert connection.execute(statement, values).rowcount > 0


@sqlite_only
def test_a_damaged_document_is_shown_as_it_is(admin: Visitor, client: Client, living_url: str) -> None:
    run = run_of(client).begin()
    by_hand(living_url, "UPDATE tasks SET parameters = '{bad' WHERE id = ?", run.id)
    text = text_of(admin, f"/tasks/{run.id}")
    assert "Its document cannot be used" in text
    assert "&#34;created_by&#34;: &#34;me@here&#34;" in text
    assert "Push a copy" not in text and "Cancel" not in text and "<live-log" not in text


@sqlite_only
def test_an_output_that_was_lost_is_said_to_be_gone(admin: Visitor, client: Client, living_url: str) -> None:
    run = run_of(client, encoding=Encoding.BINARY).begin()
    run.prints(b"x" * 3_000)
    run.ends()
    by_hand(living_url, "DELETE FROM output WHERE task = ?", run.id)
    assert "stdout of attempt 1 is not kept any more." in text_of(admin, f"/tasks/{run.id}")


def test_others_that_failed_for_the_same_reason_are_counted(admin: Visitor, client: Client) -> None:
    queue, now = next(_names), datetime.now(UTC) - timedelta(minutes=1)
    client.queues.create(queue, "Greet")
    key = f"{abs(hash(queue)) % 2**32:08x}"
    error = {"code": "exit_3", "message": "cannot connect", "group": {"text": "exit_3: cannot connect", "key": key}}
    made = [
        client.store.insert_tasks([{**new_task(queue, {"user": "x"}, now=now), "status": 2, "error": error}])[0]
        for _ in range(4)
    ]
    ids = [str(getattr(one, "id", one)) for one in made]
    assert f'<a href="/tasks?failure={key}">3 other tasks with this reason</a>' in text_of(admin, f"/tasks/{ids[0]}")
    client.delete(ids[1:])
    assert "with this reason" not in text_of(admin, f"/tasks/{ids[0]}")


def test_actions_and_commands_fit_the_state_and_the_role(server: Web, admin: Visitor, client: Client) -> None:
    run = run_of(client)
    operate, read = _signed_in(server, "operate"), _signed_in(server, "read")

    def said(visitor: Visitor) -> tuple[list[str], list[str]]:
        text = text_of(visitor, f"/tasks/{run.id}")
        acts = re.findall(r'<summary class="btn[^"]*">(\w+)…</summary>', text)
        return acts, re.findall(r'<code class="cmd">disbatch-host task (\w+)', text)

    assert said(admin) == (["Cancel"], ["show", "output", "why", "cancel", "bundle"])
    assert said(read) == ([], ["show", "output", "why"])
    run.begin()
    run.ends(Status.FAILED)
    assert said(admin) == (["Retry", "Delete"], ["show", "output", "retry", "bundle"])
    assert said(operate) == (["Retry"], ["show", "output", "retry", "bundle"])
    assert f'href="/api/v1/tasks/{run.id}/bundle" download' in text_of(operate, f"/tasks/{run.id}")
    assert "bundle" not in text_of(read, f"/tasks/{run.id}")


def _failed(client: Client) -> Printing:
    run = run_of(client, {"user": "ann", "password": SECRET, "tries": 1}).begin()
    run.ends(Status.FAILED)
    return run


def test_a_task_runs_again_with_other_parameters_and_keeps_its_secrets(admin: Visitor, client: Client) -> None:
    run = _failed(client)
    address = f"/tasks/{run.id}/retry"
    page = admin.get(address)
    assert page.status == 200 and SECRET not in page.text
    (form,) = [one for one in Page(page.text).forms if one.action == address]
    assert (dict(form.fields)["/user"], dict(form.fields)["/tries"], dict(form.fields)["/password"]) == ("ann", "1", "")
    wrong = admin.send(address, "/retry", **{"/tries": "-3"})
    assert wrong.status == 422 and 'href="#f/tries"' in wrong.text and client.get(run.id).status == Status.FAILED
    done = admin.send(address, "/retry", **{"/user": "bob"}, reason="another user")
    task = client.get(run.id)
    assert done.status == 200 and task.status == Status.CREATED and SECRET not in done.text
    assert task.parameters == {"user": "bob", "password": SECRET, "tries": 1}
    assert "other values of user" in done.text and "another user" in done.text
    assert admin.post(address, [("as", "form"), ("/user", "eve")]).status == 409


def test_a_task_runs_again_with_parameters_as_json(admin: Visitor, client: Client) -> None:
    run = _failed(client)
    address = f"/tasks/{run.id}/retry"
    text = admin.get(f"{address}?as=json").text
    assert SECRET not in text and "********" not in text
    for given in ("{", "[]", '{"password": "********"}', '{"user": 3}'):
        refused = admin.post(address, [("as", "json"), ("json", given)])
        assert refused.status == 422 and client.get(run.id).status == Status.FAILED, given
    switched = admin.post(address, [("as", "json"), ("json", '{"user": "eve"}'), ("switch", "form")])
    assert switched.status == 200 and 'value="eve"' in switched.text
    assert admin.post(address, [("as", "json"), ("json", '{"password": "n3w"}')]).status == 303
    assert client.get(run.id).parameters == {"user": "ann", "password": "n3w", "tries": 1}


def test_secrets_within_a_value_that_was_changed_stay() -> None:
    real = {"auth": {"user": "ann", "password": SECRET}, "n": 1, "same": [1]}
    masked = {"auth": {"user": "ann", "password": "********"}, "n": 1, "same": [1]}
    given = {"auth": {"user": "bob"}, "n": True, "same": [1]}
    assert retry.changed(real, masked, given) == {"auth": {"user": "bob", "password": SECRET}, "n": True}
    assert retry.changed(real, masked, {"auth": {"user": "ann"}}) == {}
    other = {"auth": {"user": "ann", "password": "n3w"}}
    assert retry.changed(real, masked, other) == other


def test_secrets_within_a_list_stay_with_the_item_that_has_them() -> None:
    """A form whose list was not touched ran the task again without the passwords in it."""
    real = {"accounts": [{"user": "ann", "password": "a"}, {"user": "bob", "password": "b"}], "keys": ["k", "l"]}
    masked = {
        "accounts": [{"user": "ann", "password": "********"}, {"user": "bob", "password": "********"}],
        "keys": ["********", "********"],
    }
    assert retry.changed(real, masked, filling.without_masks(masked)) == {}

    def accounts(*given: dict[str, str]) -> Any:
        return retry.changed(real, masked, {"accounts": [*given]})["accounts"]

    ann, bob = real["accounts"]
    assert accounts({"user": "bob"}, {"user": "ann"}) == [bob, ann]
    assert accounts({"user": "eve"}, {"user": "bob"}) == [{"user": "eve", "password": "a"}, bob]
    assert accounts({"user": "bob"}) == [bob]
    assert accounts({"user": "eve"}, {"user": "ann"}, {"user": "bob"}) == [{"user": "eve"}, ann, {"user": "bob"}]
    real["accounts"][0], masked["accounts"][0] = {"user": "ann"}, {"user": "ann"}
    assert accounts({"user": "bob"}, {"user": "ann"}) == [{"user": "bob"}, {"user": "ann"}], "nothing would mask it"
    assert retry.changed(real, masked, {"keys": ["m"]}) == {"keys": ["m"]}


def test_a_number_that_is_none_shows_the_task_all_the_same(admin: Visitor, client: Client) -> None:
    run = _failed(client)
    for query in ("at=%C2%B2", "hit=%C2%B2&find=xx", f"at={'9' * 5000}"):
        assert admin.get(f"/tasks/{run.id}?tab=stdout&{query}").status == 200, query
    (line,) = ansi.lines_of(b"\x1b[31m\x1b[" + b"0" * 5000 + b"mplain", start=0, number=1)
    assert [(one.text, one.classes) for one in line.spans] == [("plain", "")]


def test_the_api_runs_a_task_again_with_other_parameters(server: Web, client: Client) -> None:
    run = _failed(client)
    path = f"/tasks/{run.id}/retry"
    for values, pointer in (({"tries": -1}, "/parameters/tries"), ({"password": "********"}, "/parameters/password")):
        refused = server.post(path, {"parameters": values})
        assert (refused.status, refused.code) == (422, "faults")
        assert [one["pointer"] for one in refused.json["faults"]] == [pointer]
    assert client.get(run.id).status == Status.FAILED
    done = server.post(path, {"parameters": {"user": "bob"}, "reason": "server is back"})
    assert done.status == 200 and done.json["task"]["parameters"] == {"user": "bob", "password": "********", "tries": 1}
    assert client.get(run.id).parameters["password"] == SECRET
    assert server.post(path, {"parameters": {"user": "eve"}}).code == "not_ended"


def test_modules_import_each_other_by_the_names_that_they_are_served_under(server: Web, admin: Visitor) -> None:
    scripts = {one.data.decode() for one in assets.assets().values() if one.kind.startswith("text/javascript")}
    imported = {name for text in scripts for name in re.findall(r'(?:from|import) "\./([^"]+)"', text)}
    assert len(imported) >= 4 and all(re.fullmatch(r"[a-z]+-[0-9a-f]{10}\.js", one) for one in imported)
    for name in imported:
        assert server.get(f"/static/{name}", base="", role=None).status == 200


def test_a_running_task_says_how_long_in_a_way_that_can_go_on_and_a_cancelled_one_is_no_failure(
    admin: Visitor, client: Client
) -> None:
    run = run_of(client)
    run.begin()
    text = text_of(admin, f"/tasks/{run.id}")
    assert re.search(r'for <span data-seconds="[0-9.]+">[^<]+</span>', text)
    waits = client.push(client.get(run.id).queue, {"user": "ann"}).id
    client.cancel(waits)
    text = text_of(admin, f"/tasks/{waits}")
    assert "data-seconds" not in text and 'class="note bad"' not in text and "st cancelled" in text
    assert "from its first attempt" not in text and "It runs again." in text
