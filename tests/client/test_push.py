"""Pushing: one task or many, checked as the commands check them, durable when the call returns."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client, Selection
from disbatch_host.client.pushing import BATCH, PRIORITY_MAX, ParametersError
from disbatch_host.documents.records import Document
from disbatch_host.errors import FieldError, NotFoundError, UsageError
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.store.contract import Store
from disbatch_protocol.masks import MASK
from disbatch_protocol.status import Status
from helpers.nodes import write_plugin

SCHEMA = {
    "type": "object",
    "required": ["user"],
    "properties": {"user": {"type": "string"}, "pin": {"type": "string", "writeOnly": True}},
}


@pytest.fixture(autouse=True)
def queue(store: Store) -> None:
    store.insert_queue({"_id": "mail", "class": "mail"})


def knowing(store: Store, directory: Path) -> Client:
    """A client that knows the plugin of the queue."""
    write_plugin(directory, "mail", "exit 0", parameters=SCHEMA)
    return Client(store, load_plugins([directory]), "me@here")


def document(client: Client, task_id: Any) -> Document:
    return dict(client.get(task_id).document)


def test_a_pushed_task_is_in_the_store_as_it_was_meant(client: Client) -> None:
    pushed = client.push("mail", {"user": "matt", "tries": (1, 2.5, None, True)})
    found = document(client, pushed.id)
    assert pushed.is_new and found["parameters"] == {"user": "matt", "tries": [1, 2.5, None, True]}
    assert (found["queue"], found["status"], found["node"]) == ("mail", Status.CREATED, -1)
    assert document(client, str(pushed.id)) == found  # ids are taken as text as well


def test_a_queue_that_is_not_there_is_named_with_a_near_one(client: Client) -> None:
    with pytest.raises(NotFoundError, match=r"no queue 'mali' in .*; did you mean 'mail'"):
        client.push("mali", {})


def test_a_thousand_rows_and_more_come_from_a_generator_and_keep_their_order(client: Client) -> None:
    told: list[int] = []
    rows = ({"number": number} for number in range(BATCH + 500))
    pushed = client.push_many("mail", rows, on_progress=told.append)
    assert told == [BATCH, BATCH + 500]
    tasks = list(client.find(Selection(queue="mail")))
    assert [one.id for one in tasks] == [one.id for one in pushed]
    assert [one.parameters["number"] for one in tasks] == list(range(BATCH + 500))


def test_a_row_that_does_not_fit_leaves_the_batches_before_it_created(store: Store, tmp_path: Path) -> None:
    client = knowing(store, tmp_path)

    def rows() -> Iterator[dict[str, Any]]:
        yield from ({"user": str(number)} for number in range(BATCH + 1))
        yield {"user": 7}

    with pytest.raises(ParametersError, match="the parameters do not fit plugin mail: /user"):
        client.push_many("mail", rows())
    assert client.count(Selection()) == BATCH


def test_parameters_that_do_not_fit_are_refused_unless_nothing_is_checked(store: Store, tmp_path: Path) -> None:
    client = knowing(store, tmp_path)
    with pytest.raises(ParametersError, match="the parameters do not fit plugin mail: "):
        client.push("mail", {"pin": "1"})
    assert client.count(Selection()) == 0
    assert client.push("mail", {"pin": "1"}, checks=False).is_new


def test_secrets_are_noted_in_the_document_and_masked_in_what_is_shown(store: Store, tmp_path: Path) -> None:
    pushed = knowing(store, tmp_path).push("mail", {"user": "matt", "pin": "1234"})
    assert pushed.document["secrets"] == ["/pin"]
    assert pushed.masked["parameters"] == {"user": "matt", "pin": MASK}
    assert pushed.masked["_id"] == pushed.id
    assert "1234" not in repr(pushed)


def test_a_unique_key_gives_the_unfinished_task_that_has_it(client: Client) -> None:
    first = client.push("mail", {"user": "matt"}, unique_key="matt")
    again = client.push("mail", {"user": "other"}, unique_key="matt")
    assert (first.is_new, again.is_new, again.id) == (True, False, first.id)
    client.cancel(first.id)
    assert client.push("mail", {}, unique_key="matt").is_new


def test_each_row_may_have_a_unique_key_of_its_own(client: Client) -> None:
    rows = [{"user": "ann"}, {"user": "bob"}, {"user": "ann"}]
    pushed = client.push_many("mail", rows, key_of=lambda row: str(row["user"]))
    assert [one.is_new for one in pushed] == [True, True, False]
    assert pushed[2].id == pushed[0].id
    with pytest.raises(UsageError, match="unique_key: expected a text, found int"):
        client.push_many("mail", [{"user": 7}], key_of=lambda row: row["user"])
    with pytest.raises(UsageError, match="expected a unique key, found an empty text"):
        client.push("mail", {}, unique_key=" ")


def test_what_is_due_later_is_blocked_until_then(client: Client, store: Store) -> None:
    now = store.now()
    for delay in ("1h", 3600, timedelta(hours=1)):
        found = document(client, client.push("mail", {}, delay=delay).id)
        assert found["status"] == Status.BLOCKED
        assert timedelta(minutes=59) < found["not_before"] - now < timedelta(minutes=61)
    moment = datetime(2100, 1, 1, tzinfo=UTC)
    for at in (moment, "2100-01-01T00:00:00Z"):
        assert document(client, client.push("mail", {}, at=at).id)["not_before"] == moment
    assert "not_before" not in document(client, client.push("mail", {}, at="2020-01-01").id)  # is due already


def test_what_waits_for_others_names_them_once(client: Client) -> None:
    first, second = client.push("mail", {}).id, client.push("mail", {}).id
    found = document(client, client.push("mail", {}, after=[first, str(second), first], after_any=True).id)
    assert (found["status"], found["after"], found["after_any"]) == (Status.BLOCKED, [first, second], True)
    assert document(client, client.push("mail", {}, after=str(first)).id)["after"] == [first]
    with pytest.raises(NotFoundError, match="no task 'nope'"):
        client.push("mail", {}, after=["nope"])


def test_priority_and_expiry_are_in_the_document(client: Client, store: Store) -> None:
    found = document(client, client.push("mail", {}, priority=-5, expires="2h").id)
    assert found["priority"] == -5
    assert timedelta(minutes=119) < found["expires"] - store.now() < timedelta(minutes=121)


@pytest.mark.parametrize(
    ("field", "plan", "reason"),
    [
        ("delay", {"delay": "soon"}, 'expected a duration like "90s"'),
        ("delay", {"delay": "90"}, 'expected a duration with its unit, such as "90s"'),
        ("expires", {"expires": "90"}, 'expected a duration with its unit, such as "90s", .*, or a time like'),
        ("delay", {"delay": timedelta(seconds=-1)}, "from 0 to ten years"),
        ("at", {"at": "tomorrow"}, "expected a time like"),
        ("expires", {"expires": "2020-01-01"}, "expected a time in the future, found 2020-01-01 .*, which has passed"),
        ("expires", {"expires": "1h", "delay": "2h"}, "expected a time after .*, when the task is due, "),
        ("expires", {"expires": "never"}, "expected a duration"),
        ("priority", {"priority": PRIORITY_MAX + 1}, f"expected a whole number of at most {PRIORITY_MAX}, found "),
        ("priority", {"priority": "high"}, "expected a whole number of at most"),
    ],
)
def test_a_value_that_cannot_be_is_an_error_that_names_its_field(
    client: Client, field: str, plan: Any, reason: str
) -> None:
    with pytest.raises(FieldError, match=reason) as caught:
        client.push("mail", {}, **plan)
    assert caught.value.field == field and str(caught.value) == f"{field}: {caught.value.reason}"
    assert client.count(Selection()) == 0


def test_what_contradicts_itself_is_refused(client: Client) -> None:
    with pytest.raises(UsageError, match="either delay or at, found both"):
        client.push("mail", {}, delay=1, at="14:00")
    with pytest.raises(UsageError, match="after_any needs after"):
        client.push("mail", {}, after_any=True)


class Kind(StrEnum):
    FULL = "full"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "expected a mapping of parameters, found list"),
        ({1: 2}, "expected strings as parameter names, found int"),
        ({"a": {"b": {1: 2}}}, "expected strings as parameter names, found int in parameter a.b"),
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, "parameter when: expected a value that JSON can hold, found date"),
        ({"a": [b"bytes"]}, "parameter a: expected a value that JSON can hold, found bytes"),
        ({"a": 2**63}, "parameter a: expected a whole number of at most 64 bits"),
        ({"a": float("nan")}, "parameter a: expected a finite number, found nan"),
        ({"a": "\ud800"}, "expected values that JSON can hold"),
        ({"a": "x" * (8 * 2**20)}, "expected parameters of at most 8388608 bytes"),
    ],
)
def test_values_that_json_cannot_hold_are_refused(client: Client, values: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        client.push("mail", values)
    with pytest.raises(UsageError, match=reason):
        client.push_many("mail", [values])
    assert client.count(Selection()) == 0


def test_a_member_of_an_enumeration_is_its_value(client: Client) -> None:
    pushed = client.push("mail", {"kind": Kind.FULL, "status": Status.CONCLUDED})
    parameters = document(client, pushed.id)["parameters"]
    assert parameters == {"kind": "full", "status": 1}
    assert {type(one) for one in parameters.values()} == {str, int}


def test_a_plan_with_a_name_that_is_not_one_is_a_type_error(client: Client) -> None:
    with pytest.raises(TypeError):
        client.push("mail", {}, prioritiy=5)  # type: ignore[call-arg]


def test_tasks_are_found_by_what_people_say_of_them(client: Client, store: Store) -> None:
    old = put_task(store, "mail", age_seconds=7200, status=Status.CONCLUDED, node="n1")
    failed = put_task(store, "mail", status=7, error={"code": "exit_3"}, node="n2")
    stopped = put_task(store, "gone", status=Status.TERMINATED, unique_key="k")

    def found(**which: Any) -> list[Any]:
        return [one.id for one in client.find(Selection(**which))]

    assert found() == sorted([old, failed, stopped], key=str) == [one.id for one in client.find(Selection())]
    assert found(queue="mail") == [old, failed]
    assert found(queue="gone") == [stopped]  # a queue that is not there any more
    assert found(status="failed") == [failed, stopped] and found(status="2+") == [failed]
    assert found(status=("2+", 1)) == [old, failed]
    assert found(status="concluded,terminated") == [old, stopped]
    assert found(status=Status.TERMINATED) == [stopped]
    assert (found(node="n1"), found(error="exit_3"), found(unique_key="k")) == ([old], [failed], [stopped])
    assert found(before="1h") == [old]
    assert found(since=timedelta(hours=1)) == found(since=store.now() - timedelta(hours=1)) == [failed, stopped]
    assert client.count(Selection(queue="mail", status="finished")) == 2
    with pytest.raises(NotFoundError, match="no queue 'nope'"):
        client.find(Selection(queue="nope"))
    with pytest.raises(FieldError, match=r"status: expected one of failed, .*, found 'lost'"):
        client.find(Selection(status="lost"))
    with pytest.raises(FieldError, match="since: expected a duration"):
        client.count(Selection(since="yesterday"))
