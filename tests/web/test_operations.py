"""Operations: one action on all tasks that fit, after a dry run, in the background, by whichever server is there."""

from __future__ import annotations

import html
import re
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client, Selection
from disbatch_host.client.jobs import Jobs
from disbatch_host.documents.causes import with_group
from disbatch_host.documents.records import TaskId, new_task
from disbatch_protocol.status import Status
from helpers import web_process
from helpers.browsing import Visitor
from helpers.processes import wait_until
from helpers.steps import walk
from helpers.web import Reply, Web


def put_failed(client: Client, queue: str, count: int, **more: Any) -> list[TaskId]:
    """Tasks as nodes leave them, a minute ago."""
    store = client.store
    at = store.now() - timedelta(seconds=60)
    error = with_group({"code": "exit_3", "message": "cannot connect"})
    fields = {"status": int(Status.FAILED), "error": error, "run": {"attempt": 1}, **more}
    return store.insert_tasks([{**new_task(queue, {"user": f"u{n}"}, now=at), **fields} for n in range(count)])


def body_of(action: str, tried: Reply | None = None, **more: Any) -> dict[str, Any]:
    told = {"dry_run": True} if tried is None else {"until": tried.json["until"], "expect": tried.json["eligible"]}
    return {"action": action, **told, **more}


def tried_and_begun(server: Web, action: str, *, role: str = "admin", **more: Any) -> tuple[Reply, Reply]:
    tried = server.post("/operations", body_of(action, **more), role=role)
    assert tried.status == 200, tried
    begun = server.post("/operations", body_of(action, tried, **more), role=role)
    assert begun.status == 202, begun
    return tried, begun


def ended(server: Web, begun: Reply) -> dict[str, Any]:
    """An operation, once it has ended."""
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        found.update(
            server.get(begun.headers["location"], base="", role="read" if "read" in server.tokens else "admin").json
        )
        return found["state"] != "running"

    wait_until(has_ended, 60, "the operation did not end")
    return found


def statuses(client: Client, queue: str) -> Counter[int]:
    return Counter(one.status for one in client.find(Selection(queue=queue)))


def test_what_would_be_done_is_said_before_and_is_what_is_done(server: Web, client: Client) -> None:
    client.queues.create("tried", "Greet")
    failed = put_failed(client, "tried", 12)
    held = [one for key in ("k1", "k2") for one in put_failed(client, "tried", 1, unique_key=key)]
    for key in ("k1", "k2"):
        put_task(client.store, "tried", unique_key=key, age_seconds=60)
    put_task(client.store, "tried", status=int(Status.CONCLUDED), age_seconds=60)
    tried = server.post("/operations", body_of("retry", filter={"queue": "tried"}), role="operate").json
    assert (tried["matching"], tried["eligible"], tried["is_exact"]) == (17, 12, True)
    assert tried["others"] == {"not_ended": 2, "not_named": 1, "unique_key": 2}
    assert tried["by_queue"] == {"tried": 14} and tried["by_error"] == {"exit_3": 14}
    assert tried["by_status"] == {"failed": 14, "concluded": 1, "created": 2}
    assert len(tried["samples"]) == 5 and {one["status"] for one in tried["samples"]} == {Status.FAILED}
    assert statuses(client, "tried")[Status.FAILED] == 14, "nothing was done"
    _, begun = tried_and_begun(server, "retry", filter={"queue": "tried"}, reason="server is back", role="operate")
    found = ended(server, begun)
    assert (found["state"], found["done"], found["of"]) == ("done", 14, 12)
    assert found["outcomes"] == {"retried": 12, "unique_key": 2}
    assert {one["task"] for one in found["refused"]} == {str(one) for one in held}
    assert (found["by"], found["reason"], found["action"]) == ("operate@web", "server is back", "retry")
    retried = client.get(failed[0])
    assert retried.status == Status.CREATED
    assert (retried.document["retried"]["by"], retried.document["retried"]["why"]) == ("operate@web", "server is back")
    listed = server.get("/operations", role="read").json["items"]
    assert found["id"] in [one["id"] for one in listed]


def test_what_changed_after_the_dry_run_is_left_alone(server: Web, client: Client) -> None:
    client.queues.create("later", "Greet")
    seen = put_failed(client, "later", 3)
    tried = server.post("/operations", body_of("retry", filter={"queue": "later"}))
    late = client.push("later", {"user": "late"}).id
    walk(client.store, late, Status.FAILED, mtime=client.store.now() + timedelta(milliseconds=5))
    begun = server.post("/operations", body_of("retry", tried, filter={"queue": "later"}))
    assert ended(server, begun)["outcomes"] == {"retried": 3}
    assert client.get(late).status == Status.FAILED
    assert {client.get(one).status for one in seen} == {Status.CREATED}


def test_many_more_than_expected_are_not_touched(server: Web, client: Client) -> None:
    client.queues.create("differs", "Greet")
    put_failed(client, "differs", 40)
    tried = server.post("/operations", body_of("retry", filter={"queue": "differs"}))
    body = body_of("retry", tried, filter={"queue": "differs"})
    reply = server.post("/operations", {**body, "expect": 28})
    assert (reply.status, reply.code, reply.json["eligible"]) == (409, "count_differs", 40)
    assert statuses(client, "differs") == {Status.FAILED: 40}
    assert server.post("/operations", {**body, "expect": 31}).status == 202, "ten more or less are no matter"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"until": None}, 422, "faults"),
        ({"expect": None}, 422, "faults"),
        ({"until": "tomorrow"}, 422, "faults"),
        ({"until": "2999-01-01T00:00:00.000Z"}, 422, "faults"),
        ({"filter": {"status": "failed"}}, 422, "faults"),
        ({"filter": {"queue": "no_such_queue"}}, 404, "queue"),
        ({"filter": {"queue": "refused", "status": "running"}}, 422, "action_for_status"),
        ({"action": "delete"}, 422, "action_for_status"),
        ({"action": "release", "filter": {"queue": "refused", "status": "created"}}, 422, "action_for_status"),
        ({"action": "explode"}, 400, "body"),
        ({"filter": {"queue": "refused", "colour": "red"}}, 400, "body"),
        ({"filter": {"queue": "refused", "since": "yesterdayy"}}, 422, "faults"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    server: Web, client: Client, change: dict[str, Any], status: int, code: str
) -> None:
    if client.store.find_queue("refused") is None:
        client.queues.create("refused", "Greet")
        put_failed(client, "refused", 2)
    body = {
        "action": "retry", "filter": {"queue": "refused"}, "until": "2026-01-01T00:00:00.000Z", "expect": 2, **change,
    }  # fmt: skip
    reply = server.post("/operations", {name: value for name, value in body.items() if value is not None})
    assert (reply.status, reply.code) == (status, code), reply.text
    assert statuses(client, "refused") == {Status.FAILED: 2}


def test_only_an_admin_deletes(server: Web, client: Client) -> None:
    client.queues.create("deleted", "Greet")
    put_failed(client, "deleted", 3)
    waiting = client.push("deleted", {"user": "ann"}).id
    chosen = {"queue": "deleted", "status": ["failed"]}
    assert server.post("/operations", body_of("delete", filter=chosen), role="operate").code == "role"
    _, begun = tried_and_begun(server, "delete", filter=chosen)
    assert ended(server, begun)["outcomes"] == {"deleted": 3}
    assert [one.id for one in client.find(Selection(queue="deleted"))] == [waiting]


def test_tasks_are_named_by_their_ids(server: Web, client: Client) -> None:
    client.queues.create("named", "Greet")
    waiting = [put_task(client.store, "named", age_seconds=60) for _ in range(3)]
    done = put_task(client.store, "named", status=int(Status.CONCLUDED), age_seconds=60)
    ids = [str(one) for one in (*waiting[:2], done)]
    tried, begun = tried_and_begun(server, "cancel", ids=ids, reason="wrong")
    assert (tried.json["matching"], tried.json["eligible"], tried.json["others"]) == (3, 2, {"ended": 1})
    assert ended(server, begun)["outcomes"] == {"cancelled": 2}
    assert statuses(client, "named") == {Status.CANCELLED: 2, Status.CONCLUDED: 1, Status.CREATED: 1}
    assert server.post("/operations", body_of("cancel", ids=["0" * 24])).code == "queue"
    due = client.store.now() + timedelta(hours=1)
    blocked = put_task(client.store, "named", status=int(Status.BLOCKED), not_before=due, age_seconds=60)
    _, begun = tried_and_begun(server, "release", ids=[str(blocked)])
    assert ended(server, begun)["outcomes"] == {"released": 1}
    assert client.get(blocked).status == Status.CREATED


def test_somebody_bound_to_a_queue_does_nothing_to_others(server: Web, client: Client) -> None:
    for name in ("mail", "others"):
        if client.store.find_queue(name) is None:
            client.queues.create(name, "Greet")
    (mine,), (theirs,) = put_failed(client, "mail", 1, batch="both"), put_failed(client, "others", 1, batch="both")
    _, begun = tried_and_begun(server, "retry", ids=[str(mine)], role="mail_only")
    assert ended(server, begun)["outcomes"] == {"retried": 1}
    reply = server.post("/operations", body_of("retry", ids=[str(theirs)]), role="mail_only")
    assert (reply.status, reply.code) == (404, "task")
    reply = server.post("/operations", body_of("retry", filter={"queue": "others"}), role="mail_only")
    assert (reply.status, reply.code) == (404, "queue")
    _, other = tried_and_begun(server, "retry", filter={"queue": "others"})
    assert ended(server, other)["outcomes"] == {"retried": 1}
    path = other.headers["location"].removeprefix(server.base)
    assert server.get(path, role="mail_only").code == "operation"
    assert server.post(f"{path}/stop", role="mail_only").code == "operation"
    shown = {one["id"] for one in server.get("/operations", role="mail_only").json["items"]}
    assert begun.json["id"] in shown and other.json["id"] not in shown


def test_an_operation_that_is_stopped_keeps_what_it_has_done(server: Web, client: Client) -> None:
    """Nobody works at it here until it has been told to stop."""
    client.queues.create("stopped", "Greet")
    put_failed(client, "stopped", 3)
    jobs = Jobs(client.store, "operation", owner="somebody else", lease_seconds=2)
    fields = {
        "action": "retry", "selection": {"queue": "stopped"}, "then": {}, "until": client.store.now(), "of": 3,
        "done": 0, "outcomes": {}, "refused": [], "request": {"by": "me@here", "at": client.store.now()},
        "owner": "somebody else", "lease": client.store.now() + timedelta(seconds=2),
    }  # fmt: skip
    job_id = str(client.store.new_ids(1)[0])
    jobs.create(job_id, fields)
    reply = server.post(f"/operations/{job_id}/stop", role="operate")
    assert (reply.status, reply.json["state"], reply.json["is_stopping"]) == (200, "running", True)
    found: dict[str, Any] = {}
    wait_until(lambda: found.update(server.get(f"/operations/{job_id}").json) or found["state"] == "stopped", 60)
    assert statuses(client, "stopped") == {Status.FAILED: 3}
    assert server.post(f"/operations/{job_id}/stop").json["state"] == "stopped", "once more changes nothing"


@pytest.mark.parametrize(
    ("lonely_url", "action", "dies", "outcome"),
    [
        ("sqlite", "delete", "in a batch of a deletion", "deleted"),
        pytest.param("mongodb", "retry", "in a batch of a retry", "retried", marks=pytest.mark.mongodb),
    ],
    indirect=["lonely_url"],
)
def test_an_operation_goes_on_where_its_server_was_killed(
    lonely_url: str, lonely_client: Client, plugins: Path, tmp_path: Path, action: str, dies: str, outcome: str
) -> None:
    """Of whose second batch half was done; each task has had one turn, and is counted once."""
    queue = f"killed_{action}"
    lonely_client.queues.create(queue, "Greet")
    made = put_failed(lonely_client, queue, 250)
    with web_process.serving(lonely_url, plugins, tmp_path, dies=dies) as first:
        chosen = {"queue": queue, "status": "failed"}
        _, begun = tried_and_begun(first.web, action, filter=chosen)
        first.wait_for_death()
    done = len(made) - statuses(lonely_client, queue)[Status.FAILED]
    assert done == 150
    with web_process.serving(lonely_url, plugins, tmp_path) as second:
        found = ended(second.web, begun)
    assert (found["state"], found["done"], found["outcomes"]) == ("done", 250, {outcome: 250})
    if action == "retry":
        tasks = list(lonely_client.find(Selection(queue=queue)))
        assert {one.status for one in tasks} == {Status.CREATED} and len(tasks) == 250
        assert len({str(one.document["retried"]["at"]) for one in tasks}) == 1, "one request, whoever carried it out"
    else:
        assert statuses(lonely_client, queue) == {}


@pytest.mark.parametrize("lonely_url", ["sqlite"], indirect=True)
def test_sigterm_stops_after_a_batch_and_another_server_goes_on(
    lonely_url: str, lonely_client: Client, plugins: Path, tmp_path: Path
) -> None:
    lonely_client.queues.create("terminated", "Greet")
    put_failed(lonely_client, "terminated", 3000)
    with web_process.serving(lonely_url, plugins, tmp_path) as first:
        _, begun = tried_and_begun(first.web, "retry", filter={"queue": "terminated"})
        wait_until(lambda: statuses_of_one(lonely_client, "terminated", Status.CREATED) > 0, 30)
        first.process.terminate()
        assert first.process.wait(30) == 0
    done = statuses(lonely_client, "terminated")[Status.CREATED]
    assert done % web_process.BATCH == 0
    with web_process.serving(lonely_url, plugins, tmp_path) as second:
        found = ended(second.web, begun)
    assert found["outcomes"] == {"retried": 3000}


def statuses_of_one(client: Client, queue: str, status: int) -> int:
    return client.count(Selection(queue=queue, status=int(status)))


def test_the_page_of_a_retry_says_how_its_tasks_are_now(server: Web, client: Client) -> None:
    """They have lost the cause that they were found by; what leads to them does not ask for it."""
    client.queues.create("since", "Greet")
    made = put_failed(client, "since", 4, batch="retried-wave")
    put_failed(client, "since", 2)
    cause = client.get(made[0]).document["error"]["group"]["key"]
    visitor = Visitor(server)
    visitor.sign_in("operate")
    _, begun = tried_and_begun(server, "retry", filter={"batch": "retried-wave", "failure": cause}, role="operate")
    assert ended(server, begun)["outcomes"] == {"retried": 4}
    page = f"/operations/{begun.json['id']}"

    def shown() -> str:
        return html.unescape(visitor.get(page).text)

    text = shown()
    assert "4 put back to wait" in text and ">under way<" in text and "data-every" in text
    its = re.search(r'href="(/tasks[?][^"]+)">Its tasks<', text)
    assert its is not None and "<b>4</b> fit" in visitor.get(its[1]).text and 'href="/batches/retried-wave"' in text
    for one in made[:3]:
        walk(client.store, one, Status.CONCLUDED)
    walk(client.store, made[3], Status.FAILED)
    text = shown()
    assert ">done, 3 concluded, 1 failed<" in text and "data-every" not in text
    failed = re.search(r'<dt>failed now</dt><dd><a href="([^"]+)">1<', text)
    assert failed is not None and "<b>1</b> fits" in visitor.get(failed[1]).text


def test_the_question_says_which_cause_and_that_some_have_concluded(server: Web, client: Client) -> None:
    client.queues.create("question", "Greet")
    cause = client.get(put_failed(client, "question", 2)[0]).document["error"]["group"]["key"]
    well = [put_task(client.store, "question", status=int(Status.CONCLUDED), age_seconds=60) for _ in range(3)]
    visitor = Visitor(server)
    visitor.sign_in("operate")

    def asked(action: str, query: str) -> str:
        return visitor.get(f"/operations/new?action={action}&{query}").text

    of_cause = asked("retry", f"queue=question&failure={cause}")
    assert "cause</span> <b>exit_3: cannot connect</b>" in of_cause and f"<b>{cause}</b>" not in of_cause
    assert "What fails later is left alone." in of_cause and "concluded</b>" not in of_cause
    again = asked("retry", "&".join(f"id={one}" for one in well))
    assert "<b>3 of them concluded</b>" in again and "What fails later" not in again
    assert "concluded</b>" not in asked("retry", "queue=question"), "these are left alone"
    nothing = asked("cancel", f"id={well[0]}")
    assert "There is nothing to cancel" in nothing and "1: they have ended" in nothing and "no tasks?" not in nothing
