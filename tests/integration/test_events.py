"""Events of real programs: what the task document says of them, while they run and afterwards. On both stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.documents.records import Task
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.run.events import EventEffects
from disbatch_host.trial.local_host import MemoryRecorder, run_once
from disbatch_protocol.events import parse_line
from disbatch_protocol.status import Status
from helpers.errors import plain
from helpers.languages import EVENT_PROGRAMS, write_sayer
from helpers.nodes import Living, write_plugin
from helpers.processes import wait_until
from helpers.stores import living_on_sqlite, one_store_each


@one_store_each("living", "language", EVENT_PROGRAMS)
def test_every_event_from_every_language_by_the_contract_alone(
    living: Living, language: str, require: Callable[[str], None]
) -> None:
    name = write_sayer(living.plugins, language, require).name
    living.look_at_plugins()
    queue = living.queue(name)
    if living.store.find_queue("next") is None:
        living.queue("Nobody", "next")
    cases = ("tell", "status", "error", "snooze", "tasks")
    told, status, error, snoozed, parent = living.push(queue, *({"case": case} for case in cases))
    for task_id, final in ((told, 1), (status, 7), (error, 2), (snoozed, -4), (parent, 1)):
        living.wait_for_status(task_id, final)

    document = living.task(told).document
    assert document["progress"] == {"value": 0.5, "message": "half"}
    (entry,) = document["log"]
    assert isinstance(entry.pop("time"), datetime)
    assert entry == {"level": "warning", "message": "slow", "fields": {"ms": 120}}
    assert (document["mailbox"], document["result"]) == ("x", {"answer": 42})
    assert "error" not in document and "event_errors" not in document["run"]

    assert living.task(status).run["own_status"] == 7
    assert plain(living.task(error).document["error"]) == {
        "code": "auth_failed",
        "message": "no such user",
        "retry": False,
    }
    assert living.task(error).run["outcome"] == "permanent"

    asleep = living.task(snoozed)
    assert (asleep.run["outcome"], asleep.run["attempt_used"], asleep.next_attempt) == ("snooze", False, 1)
    assert asleep.run["snooze"] == {"seconds": 3600, "message": "quota"}
    assert 3500 < (asleep.document["not_before"] - asleep.run["ended"]).total_seconds() <= 3600
    assert "error" not in asleep.document

    # On MongoDB they come a moment after the end that has them created.
    wait_until(lambda: "follow_ups" not in living.task(parent).document, 20, "the follow-ups were not created")
    first, second = (one for one in living.tasks(queue="next") if one.document["parent"] == str(parent))
    assert (first.document["parameters"], second.document["parameters"]) == ({"n": 1}, {})
    assert {first.status, second.status} == {Status.CREATED} and first.document["parent"] == str(parent)
    assert "follow_ups" not in living.task(parent).document


def test_events_show_in_the_document_while_the_task_runs(living: Living) -> None:
    program = """
        echo '{"type":"progress","value":0.1}' >&3; echo '{"type":"set","fields":{"phase":"one"}}' >&3
        echo '{"type":"status","status":5}' >&3; echo '{"type":"result","value":1}' >&3
        echo '{"type":"error","message":"so far"}' >&3; echo '{"type":"log","message":"begun"}' >&3
        exec sleep 60"""
    living.plugin("Slow", program)
    (task_id,) = living.push(living.queue("Slow"), {})

    def is_shown() -> bool:
        document = living.task(task_id).document
        return (
            document["status"] == 0
            and document.get("progress") == {"value": 0.1}
            and document.get("phase") == "one"
            and document.get("result") == 1
            and plain(document.get("error")) == {"code": "error", "message": "so far"}
            and [entry["message"] for entry in document.get("log", ())] == ["begun"]
            and document["run"].get("own_status") == 5
        )

    wait_until(is_shown, 20, "the events never showed while the task ran")


@living_on_sqlite
def test_lines_that_are_no_events_are_counted_and_kept_but_fail_nothing(living: Living) -> None:
    program = """
        echo 'hello' >&3; echo '{"type":"dance"}' >&3; echo '[1]' >&3; echo '{"type":"progress","value":2}' >&3
        head -c 2000000 /dev/zero | tr '\\0' x >&3; echo >&3
        echo '{"type":"set","fields":{"status":1,"node":"x","good":1,"a.b":2,"$c":3}}' >&3
        echo '{"type":"done","exit":3}' >&3
        printf '{"type":"result","value":"last line without a line feed"}' >&3"""
    living.plugin("Clumsy", program)
    task = living.run_one(living.queue("Clumsy"))
    assert (task.status, task.document["result"], task.document["good"]) == (1, "last line without a line feed", 1)
    errors = task.run["event_errors"]
    assert errors["count"] == 10
    assert [one.get("line", "")[:20] for one in errors["first"]] == [
        "hello", '{"type":"dance"}', "[1]", '{"type":"progress","', "x" * 20, "", "", "", "", "",
    ]  # fmt: skip
    assert len(errors["first"][4]["line"]) == 200 and "2000000" in errors["first"][4]["message"]
    assert 'field "status" belongs to the host' in errors["first"][5]["message"]


@living_on_sqlite
@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_very_many_events_are_bounded(living: Living, count: int) -> None:
    program = f"""#!/usr/bin/env python3
import os
block = b"".join(b'{{"type":"progress","value":%f}}\\n{{"type":"log","message":"line %d"}}\\n' % (n / 1e3, n)
                 for n in range(1000))
for _ in range({count // 2000}):
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(3, rest):]
"""
    name = living.own_name("Talkative")
    living.plugin(name, program, file="run.py")
    task = living.run_one(living.queue(name))
    assert (task.status, task.document["progress"]) == (1, {"value": 0.999})
    log = task.document["log"]
    assert len(log) == 1000 and log[-1]["message"] == "line 999"
    assert task.run["log_dropped"] == count / 2 - 1000


@living_on_sqlite
@pytest.mark.parametrize(
    "events, code, status, outcome",
    [
        (['{"type":"error","message":"m"}'], 0, 2, "failure"),
        (['{"type":"error"}'], 0, 2, "failure"),
        (['{"type":"error","message":["m"],"retry":"no"}'], 0, 2, "failure"),
        (['{"type":"error","message":"m","retry":false}'], 75, 2, "permanent"),
        (['{"type":"error","message":"m","retry":true}'], 9, -4, "retry"),
        (['{"type":"status","status":7}'], 0, 7, "failure"),
        (['{"type":"status","status":7}', '{"type":"status","status":0}'], 0, 1, "success"),
        (['{"type":"result","value":1,"status":8}'], 0, 8, "failure"),
        (['{"type":"result","value":1}'], 3, 2, "failure"),
        (['{"type":"result","value":1,"status":1}'], 0, 1, "success"),
        (['{"type":"snooze","seconds":900}'], 4, 2, "failure"),
        (['{"type":"snooze","seconds":900}', '{"type":"error","message":"m"}'], 0, 2, "failure"),
    ],
)
def test_events_and_exit_codes_that_disagree_end_as_the_contract_says(
    living: Living, events: list[str], code: int, status: int, outcome: str
) -> None:
    says = "".join(f"echo '{event}' >&3\n" for event in events)
    retry = {"max": 1, "delay": 900} if outcome == "retry" else {}
    name = living.own_name("Mixed")
    living.plugin(name, f"{says}exit {code}", **({"retry": retry} if retry else {}))
    (task_id,) = living.push(living.queue(name), {})
    task = living.wait_for_status(task_id, status)
    assert (task.run["exit_code"], task.run["outcome"]) == (code, outcome)
    if "result" in events[0]:
        assert task.document["result"] == 1
    if status == 7:
        assert task.run["own_status"] == 7
    else:
        assert "own_status" not in task.run


SAYS_WHY = [  # what is said, what is on stderr, the exit code; and the task's error
    ('{"type":"status","status":5}', "", 0, ("status_5", "disbatch-host: the plugin reported status 5")),
    ('{"type":"result","value":1,"status":7}', "", 0, ("status_7", "disbatch-host: the plugin reported status 7")),
    ('{"type":"status","status":5}', "disk full", 0, ("status_5", "disk full")),
    (
        '{"type":"status","status":5}', "", 3,
        ("exit_3", "disbatch-host: it ended with exit code 3 and nothing on stderr"),
    ),
    ('{"type":"error"}', "disk full", 0, ("error", "disk full")),
    ('{"type":"error","code":"full"}', "disk full", 0, ("full", "disk full")),
    ('{"type":"error","code":"full"}', "disk full", 4, ("full", "disk full")),
    ('{"type":"error"}', "disk full", 4, ("exit_4", "disk full")),
    (
        '{"type":"error","message":5}', "", 0,
        ("error", "disbatch-host: the plugin reported an error without saying which, and nothing on stderr"),
    ),
]  # fmt: skip


@living_on_sqlite
def test_the_error_says_what_made_a_failure_of_the_run(living: Living) -> None:
    """A run with a status of its own and exit 0 failed because "it ended with exit code 0"; an error event without a
    message was no error at all."""
    queue = living.queue("Says")
    says = [
        {"says": f"printf '%s' '{stderr}' >&2; echo '{event}' >&3; exit {code}"} for event, stderr, code, _ in SAYS_WHY
    ]
    ids = living.push(queue, *says)
    living.plugin("Says", """#!/usr/bin/env python3
import json, os, sys
os.execv("/bin/sh", ["sh", "-c", json.load(sys.stdin)["parameters"]["says"]])
""", file="run.py")  # fmt: skip
    living.finish(*ids)
    found = [living.task(one).document["error"] for one in ids]
    assert [(one["code"], one["message"]) for one in found] == [said for _, _, _, said in SAYS_WHY]


def test_a_status_that_is_taken_back_while_it_runs_is_gone(living: Living) -> None:
    """The last write of `run` kept what the one before it had said."""
    program = """
        echo '{"type":"status","status":5}' >&3
        until [ -e "$DISBATCH_PLUGIN_DIR/go" ]; do sleep 0.05; done
        echo '{"type":"status","status":0}' >&3"""
    directory = living.plugin("Changes", program)
    (task_id,) = living.push(living.queue("Changes"), {})
    wait_until(lambda: living.task(task_id).run.get("own_status") == 5, 20, "its status never showed")
    (directory / "go").touch()
    assert "own_status" not in living.wait_for_status(task_id, 1).run


@living_on_sqlite
def test_what_is_left_out_of_an_event_is_noted(living: Living) -> None:
    program = r"""
        echo '{"type":"error","code":5,"message":"m"}' >&3
        printf '%s\n' '{"type":"set","fields":{"a\u0000":1,"good":2,"a.b":3}}' >&3
        echo '{"type":"tasks","tasks":[{"queue":"x","priority":5},{"queue":"x","delay":3}]}' >&3"""
    living.plugin("Clumsy2", program)
    task = living.run_one(living.queue("Clumsy2"))
    assert (task.status, task.document["good"]) == (2, 2)
    assert plain(task.document["error"]) == {"code": "error", "message": "m"}
    messages = [one["message"] for one in task.run["event_errors"]["first"]]
    assert messages[0] == 'expected "code" of error to be a string, found the number 5; it is left out'
    assert "expected a field name" in messages[1] and "U+0000" in messages[2]
    assert 'found "delay", "priority" too; they are left out' in messages[3]
    assert task.run["event_errors"]["count"] == 4


def test_a_text_that_is_cut_says_so() -> None:
    effects = EventEffects(Task.from_document({"_id": "t", "queue": "q", "status": 0}))
    now = datetime.now(UTC)
    for kind in ("log", "progress", "error"):
        effects.take(parse_line(json.dumps({"type": kind, "message": "x" * 20_000}).encode()), now=now)
    fields = effects.changed_fields()
    for text in (fields["log"][0]["message"], fields["progress"]["message"], fields["error"]["message"]):
        assert text == "x" * 16_384 + "… (disbatch-host: 3616 more characters)"


@living_on_sqlite
def test_an_error_that_was_said_before_the_time_limit_is_not_why_it_ended(living: Living) -> None:
    living.plugin("Late", """echo '{"type":"error","code":"x","message":"soon"}' >&3; exec sleep 60""", timeout=0.3)
    task = living.run_one(living.queue("Late"))
    assert (task.status, task.document["error"]["code"]) == (Status.TERMINATED, "timeout")
    assert task.document["error"]["said"] == {"code": "x", "message": "soon"}


def test_follow_up_tasks_are_created_only_by_success_and_run(living: Living) -> None:
    says = """echo '{"type":"tasks","tasks":[{"queue":"Step","parameters":{"n":1}}]}' >&3"""
    living.plugin("Fails", f"{says}; exit 1")
    living.plugin("Works", f"{says}; exit 0")
    living.plugin("Step", "cat")
    living.queue("Step")
    (failed,) = living.push(living.queue("Fails"), {})
    (worked,) = living.push(living.queue("Works"), {})
    living.finish(failed, worked)
    assert living.task(failed).status == Status.FAILED
    wait_until(lambda: [one.status for one in living.tasks(queue="Step")] == [Status.CONCLUDED], 20, "no step")
    (step,) = living.tasks(queue="Step")
    assert (step.status, step.document["parent"]) == (Status.CONCLUDED, str(worked))


def test_more_follow_up_tasks_than_a_run_may_create_is_a_failure_and_creates_none(living: Living) -> None:
    program = """#!/usr/bin/env python3
import json, os
line = json.dumps({"type": "tasks", "tasks": [{"queue": "q"}] * 1000}).encode() + b"\\n"
with os.fdopen(3, "wb") as events:
    for _ in range(11):
        events.write(line)
"""
    living.plugin("Flood", program, file="run.py", retry={"max": 3})
    task = living.run_one(living.queue("Flood"))
    assert (task.status, task.document["error"]["code"]) == (Status.FAILED, "follow_ups")
    assert living.tasks(queue="q") == []


def test_a_log_that_another_program_has_begun_goes_on(living: Living) -> None:
    living.plugin("Logs", """echo '{"type":"log","message":"mine"}' >&3""")
    queue = living.queue("Logs")
    entries: list[Any] = ["by hand", {"at": 1}]
    with_list, with_text, empty = (living.push(queue, {}, log=log)[0] for log in (entries, "by hand", []))
    living.finish(with_list, with_text, empty)
    for task_id, before in ((with_list, entries), (with_text, ["by hand"]), (empty, [])):
        log = living.task(task_id).document["log"]
        assert (log[:-1], log[-1]["message"]) == (before, "mine")


def test_events_without_end_cost_a_write_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """#!/usr/bin/env python3
import os, time
end = time.monotonic() + 2.2
while time.monotonic() < end:
    os.write(3, b'{"type":"progress","value":0.5}\\n' * 1000)
"""
    home = write_plugin(tmp_path, "Endless", program, file="run.py")
    (plugin,) = load_plugins([home]).plugins.values()
    records = []
    record = MemoryRecorder.record

    def count(self: Any, change: Any, chunks: Any = (), **more: Any) -> Any:
        records.append(change)
        return record(self, change, chunks, **more)

    monkeypatch.setattr(MemoryRecorder, "record", count)
    result = run_once(plugin, {})
    assert result.succeeded and result.document["progress"] == {"value": 0.5}
    # Running, the first news, one a second, the end.
    assert 4 <= len(records) <= 2 + 1 + result.run["seconds"] + 1


def test_a_hundred_thousand_fields_in_a_line_cost_no_more_than_others(tmp_path: Path) -> None:
    """Each field copied the sizes of all before it: one line stopped the host for minutes."""
    program = """#!/usr/bin/env python3
import json, os
line = json.dumps({"type": "set", "fields": {f"f{n}": n for n in range(60_000)}}).encode() + b"\\n"
with os.fdopen(3, "wb") as events:
    events.write(line)
"""
    home = write_plugin(tmp_path, "Wide", program, file="run.py")
    (plugin,) = load_plugins([home]).plugins.values()
    result = run_once(plugin, {})
    assert result.succeeded and result.document["f59999"] == 59_999 and result.run["seconds"] < 10
