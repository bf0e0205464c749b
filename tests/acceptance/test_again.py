"""Again, with a difference: other parameters for the same task, a copy of a task, and what earlier attempts printed."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acceptance.conftest import Terminal
from client.documents import put_node
from disbatch_host.clock import SystemClock
from disbatch_host.store.open import open_store

Plugin = Callable[..., Path]

SECRET = "hunter2-topsecret"
SCHEMA = {
    "type": "object",
    "required": ["user"],
    "properties": {
        "user": {"type": "string", "maxLength": 20},
        "password": {"type": "string", "writeOnly": True},
        "tries": {"type": "integer"},
    },
}
# It says on stdin of which attempt, and fails for everybody but matt2.
PROGRAM = """read -r line
echo "out of $DISBATCH_ATTEMPT"
echo "err of $DISBATCH_ATTEMPT" >&2
echo "$line" > "$DISBATCH_ATTEMPT.line"
case $line in *'"user":"matt2"'*) exit 0 ;; esac
exit 3"""


@pytest.fixture
def mail(on_store: Terminal, plugin: Plugin) -> Terminal:
    """With a queue `q`, whose tasks fail."""
    plugin("Mail", PROGRAM, parameters=SCHEMA, cwd="plugin")
    on_store.fine("queue", "create", "q", "--class", "Mail")
    return on_store


def push(mail: Terminal, *more: str) -> str:
    words = ("-p", "user=matt", "-p", f"password={SECRET}", "-p", "tries=1")
    return mail.fine("task", "push", "q", *words, *more).out.strip()


def document(mail: Terminal, task_id: str) -> Any:
    (found,) = mail.fine("task", "show", task_id, "--json").json
    return found


def in_store(mail: Terminal, task_id: str) -> Any:
    """The document as it is stored, secrets and all."""
    store = open_store(mail.environment["DISBATCH_STORE"], SystemClock())
    store.open()
    try:
        task = store.get_task(store.parse_id(task_id))
        assert task is not None
        return dict(task.document)
    finally:
        store.close()


def test_a_task_runs_again_with_other_parameters_and_tells_what_it_had(mail: Terminal) -> None:
    task_id = push(mail)
    mail.fine("--until-idle")
    again = ("task", "retry", task_id, "-p", "user=matt2", "-p", "password=other", "-p", "tries=1")
    assert mail.fine(*again, "--reason", "typo").out == f"{task_id} will be run again\n"
    mail.fine("--until-idle")
    found = in_store(mail, task_id)
    assert found["status"] == 1 and found["parameters"] == {"user": "matt2", "password": "other", "tries": 1}
    assert found["attempts"][0]["parameters"] == {"user": "matt", "password": "********"}  # tries is the same
    for words in (["task", "show", task_id], ["task", "show", task_id, "--json"], ["task", "list", "--json"]):
        shown = mail.fine(*words).out
        assert SECRET not in shown and '"other"' not in shown
    story = mail.fine("task", "show", task_id).out
    assert re.search(r"^attempt 1 .*; then run again with other values of user, password$", story, re.MULTILINE)
    line = json.loads((mail.directory / "plugins" / "Mail" / "2.line").read_text())
    assert line["parameters"]["password"] == "other" and "token" not in line["attempts"][0]
    assert found["attempts"][0]["token"]


def test_parameters_that_do_not_fit_leave_the_task_as_it_is(mail: Terminal) -> None:
    first, second = push(mail), push(mail)
    mail.fine("--until-idle")
    before = in_store(mail, first), in_store(mail, second)
    line = mail.refused(2, "task", "retry", first, second, "-p", f"user={'x' * 21}")
    assert "/user: expected at most 20 characters" in line and "--no-check skips this" in line
    assert "expected task ids with -p, found --queue" in mail.refused(
        2, "task", "retry", "--failed", "--queue", "q", "-p", "user=matt2"
    )
    assert "--no-check needs -p" in mail.refused(2, "task", "retry", first, "--no-check")
    assert "expected -p key=value" in mail.refused(2, "task", "retry", first, "-p", "user")
    assert (in_store(mail, first), in_store(mail, second)) == before
    mail.fine("task", "retry", first, "-p", f"user={'x' * 21}", "--no-check")
    assert in_store(mail, first)["parameters"]["user"] == "x" * 21


def test_values_that_take_too_much_room_are_only_said_to_have_changed(mail: Terminal) -> None:
    (mail.directory / "large").write_text("x" * 70_000)
    task_id = mail.fine("task", "push", "q", "-p", "user=matt", "-p", "body=@large").out.strip()
    mail.fine("--until-idle")
    mail.fine("task", "retry", task_id, "-p", "body=small")
    found = in_store(mail, task_id)
    assert found["attempts"][0]["parameters"] == "changed" and found["parameters"]["body"] == "small"
    assert "then run again with other parameters" in mail.fine("task", "show", task_id).out


def test_the_outputs_of_the_last_three_attempts_are_there(mail: Terminal) -> None:
    task_id = push(mail)
    for _ in range(3):
        mail.fine("--until-idle")
        mail.fine("task", "retry", task_id)
    for number in (1, 2, 3):  # the fourth has not begun
        assert mail.fine("task", "output", task_id, "--attempt", str(number)).out == f"out of {number}\n"
    mail.fine("--until-idle")
    assert "of attempt 1 of task" in mail.refused(4, "task", "output", task_id, "--attempt", "1")
    for number in (2, 3, 4):
        assert mail.fine("task", "output", task_id, "--attempt", str(number)).out == f"out of {number}\n"
        said = mail.fine("task", "output", task_id, "--attempt", str(number), "--stderr", "--json").json
        assert said == [{"_id": task_id, "stream": "stderr", "text": f"err of {number}\n"}]
    both = ("task", "output", task_id, "--attempt", "3", "--stream", "both")
    assert mail.fine(*both).out == "stdout: out of 3\nstderr: err of 3\n"
    assert mail.fine(*both, "--tail", "1", "--json").json[1] == {
        "_id": task_id, "stream": "stderr", "text": "err of 3\n",
    }  # fmt: skip
    assert mail.fine("task", "output", task_id, "--attempt", "3", "--tail", "1").out == "out of 3\n"
    assert mail.fine("task", "output", task_id, "--attempt", "3", "--tail", "0").out == ""
    assert mail.fine("task", "output", task_id).out == "out of 4\n"
    line = mail.refused(4, "task", "output", task_id, "--attempt", "9")
    assert "has no attempt 9; what is known is attempts 1 to 4" in line
    assert "whole number" in mail.refused(2, "task", "output", task_id, "--attempt", "0")
    assert "either --attempt or --follow" in mail.refused(2, "task", "output", task_id, "--attempt", "1", "--follow")
    shown = mail.fine("task", "show", task_id).out
    assert (
        f"`disbatch-host task output {task_id} --attempt 3`" in shown
        and "--attempt 1`" not in shown
        and "--attempt 4" not in shown
    )
    mail.fine("task", "bundle", task_id, "b.tar.gz")
    with tarfile.open(fileobj=io.BytesIO((mail.directory / "b.tar.gz").read_bytes()), mode="r:gz") as archive:
        names = [one.name.partition("/")[2] for one in archive.getmembers()]
        third = archive.extractfile(f"task-{task_id}/attempts/3/stderr")
        assert third is not None and third.read() == b"err of 3\n"
    attempts = [f"attempts/{number}/{stream}" for number in (2, 3, 4) for stream in ("stdout", "stderr")]
    assert [one for one in names if one.startswith("attempts/")] == attempts
    given = ("-p", "password=x", "-p", "user=matt2")
    assert mail.fine("exec", "--bundle", "b.tar.gz", *given).out == "out of 1\n"


def test_a_queue_says_how_many_are_kept(mail: Terminal) -> None:
    mail.fine("queue", "set", "q", "keep_attempts=1")
    task_id = push(mail)
    mail.fine("--until-idle")
    mail.fine("task", "retry", task_id)
    mail.fine("--until-idle")
    assert "no longer kept" in mail.refused(4, "task", "output", task_id, "--attempt", "1")
    expected = "expected a whole number from 1 to 50, found"
    for value in ("0", "51", "many", "-1"):
        assert expected in mail.refused(2, "queue", "set", "q", f"keep_attempts={value}")
    assert "from 1 to 50" in mail.refused(2, "queue", "create", "x", "--class", "Mail", "--keep-attempts", "51")
    assert re.search(r"^keep_attempts +1$", mail.fine("queue", "show", "q").out, re.MULTILINE)
    (made,) = mail.fine("queue", "create", "more", "--class", "Mail", "--keep-attempts", "50", "--json").json
    assert made["keep_attempts"] == 50


def test_an_attempt_that_did_not_start_has_printed_nothing(mail: Terminal) -> None:
    task_id = push(mail)
    mail.fine("--until-idle")
    mail.fine("task", "retry", task_id, "-p", "tries=none", "--no-check")
    mail.fine("--until-idle")
    mail.fine("task", "retry", task_id, "-p", "tries=2")
    mail.fine("--until-idle")
    assert [mail.fine("task", "output", task_id, "--attempt", str(n)).out for n in (1, 2, 3)] == [
        "out of 1\n", "", "out of 3\n",
    ]  # fmt: skip


def test_a_copy_has_the_secrets_of_its_original_and_shows_none(mail: Terminal, tmp_path: Path) -> None:
    first = push(mail, "--priority", "7", "--unique-key", "k", "--delay", "1h", "--expires", "2h")
    stranger = Terminal(tmp_path / "elsewhere", mail.environment)  # who has no plugins, and nobody publishes any
    stranger.directory.mkdir()
    refused = stranger.fine("task", "push", "q", "--like", first)
    assert refused.out.strip() == first and "has the unique key 'k' already" in refused.err
    (shown,) = stranger.fine(
        "task", "push", "q", "--like", first, "-p", "user=matt2", "--unique-key", "other", "--json"
    ).json  # fmt: skip
    assert SECRET not in json.dumps(shown) and shown["parameters"]["password"] == "********"
    copy = in_store(mail, shown["_id"])
    assert copy["parameters"] == {"user": "matt2", "password": SECRET, "tries": 1}
    assert copy["secrets"] == ["/password"] and (copy["priority"], copy["unique_key"]) == (7, "other")
    assert copy["status"] == -2 and "not_before" not in copy and "expires" not in copy
    assert SECRET not in stranger.fine("task", "show", shown["_id"]).out
    mail.fine("task", "cancel", first)
    again = mail.fine("task", "push", "q", '{"tries": 2}', "--like", first, "--priority", "0").out.strip()
    found = in_store(mail, again)
    assert found["parameters"]["tries"] == 2 and not found.get("priority") and found["unique_key"] == "k"
    line = mail.refused(2, "task", "push", "q", "--like", first, "-p", "tries=many")
    assert "/tries: expected" in line and SECRET not in line
    assert "either '-' or --like" in mail.refused(2, "task", "push", "q", "-", "--like", first)
    assert "no task" in mail.refused(4, "task", "push", "q", "--like", "0" * 24)


def test_a_limit_of_failures_is_checked_and_shown(mail: Terminal) -> None:
    for value in ("50", "20%/10m", "0/10m", "many/h", "101%/9"):
        line = mail.refused(2, "queue", "set", "q", f"pause_on_failures={value}")
        assert 'expected failures in a time like "50/10m", or a share of the last tasks like "20%/100"' in line
    line = mail.refused(2, "queue", "create", "x", "--class", "Mail", "--pause-on-failures", "5")
    assert line.startswith("disbatch-host: --pause-on-failures: expected failures in a time")
    (made,) = mail.fine("queue", "create", "x", "--class", "Mail", "--pause-on-failures", "20%/100", "--json").json
    assert made["pause_on_failures"] == "20%/100"
    mail.fine("queue", "set", "x", "pause_on_failures=2/1h")
    assert re.search(r"^pause_on_failures +2/1h$", mail.fine("queue", "show", "x").out, re.MULTILINE)
    assert "paused on 2/1h failures" in mail.fine("queue", "list").out
    mail.fine("queue", "set", "x", "pause_on_failures=")
    assert re.search(r"^pause_on_failures +-$", mail.fine("queue", "show", "x").out, re.MULTILINE)


def test_a_queue_that_has_paused_itself_is_told_from_one_that_somebody_paused(mail: Terminal) -> None:
    store = open_store(mail.environment["DISBATCH_STORE"], SystemClock())
    store.open()
    why = "50 tasks failed within 10m (pause_on_failures 50/10m)"
    try:
        store.update_queue("q", {"paused": {"at": store.now(), "by": "node n1", "why": why, "failures": 50}})
        put_node(store, queuetypes=[{"class": "Mail", "version": ""}])
    finally:
        store.close()
    task_id = push(mail)
    assert re.search(rf"^state +paused by node n1: {re.escape(why)}, since", mail.fine("queue", "show", "q").out, re.M)
    goes_on = "`disbatch-host queue resume q` lets nodes run it again"
    status, told_why = mail.fine("status"), mail.fine("task", "why", task_id)
    assert why in status.out and goes_on in status.out and why in told_why.out and goes_on in told_why.err
    assert goes_on in mail.fine("queue", "show", "q").out
    (told,) = mail.fine("task", "why", task_id, "--json").json
    assert told["reason"] == "paused_on_failures"
    (state,) = [one for one in mail.fine("status", "--json").json if one.get("queue") == "q"]
    assert "paused_on_failures" in state["reasons"] and state["paused"]["failures"] == 50
    said = mail("doctor")
    assert (
        said.code == 1
        and why in said.out
        and "`disbatch-host task failures --queue q` says why tasks fail; then `disbatch-host queue resume q`"
        in said.out
    )
    assert "put the plugin on a node" not in said.out
    mail.fine("queue", "resume", "q")
    (resumed,) = [one for one in mail.fine("queue", "list", "--json").json if one["_id"] == "q"]
    assert "paused" not in resumed and resumed["resumed_at"]
