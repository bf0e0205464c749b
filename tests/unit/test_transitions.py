"""Changes of status: which can be constructed, what each named one leaves and makes, and that nobody else makes any."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest

from disbatch_host.documents import steps, transitions
from disbatch_host.documents.changes import RunChange, RunKey, TaskChange
from disbatch_host.documents.records import Task
from disbatch_protocol.outcome import (
    FAILED_FOR_GOOD,
    Conclusion,
    ExitRule,
    Outcome,
    Reason,
    RetryPolicy,
    RunEnd,
    conclude,
)
from disbatch_protocol.status import TRANSITIONS, ImpossibleStepError, Status, Step, kind

ROOT = Path(__file__).parents[2]
HOST = ROOT / "host" / "disbatch_host"
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
KEY = RunKey("t1", "n1", "token")
REQUEST = {"at": NOW, "by": "kim@desk"}
EVERY = [*(int(status) for status in Status), 7]
UNKNOWN = -9  # another program's
PAIRS = list(product([*EVERY, UNKNOWN], repeat=2))


def is_allowed(left: int, new: int) -> bool:
    return UNKNOWN not in (left, new) and kind(new) in TRANSITIONS[kind(left)]


def task(status: int, **fields: Any) -> Task:
    return Task.from_document({"_id": "t1", "queue": "q", "status": status, "node": "n1", **fields})


@pytest.mark.parametrize(("left", "new"), PAIRS)
def test_a_change_can_be_constructed_where_the_table_allows_its_step_and_nowhere_else(left: int, new: int) -> None:
    def of_run() -> object:
        return RunChange(key=KEY, statuses=(left,), set={"status": new})  # type: ignore[arg-type]

    def of_task() -> object:
        return TaskChange(task_id="t1", statuses=frozenset({left}), set={"status": new})

    def of_end() -> object:
        conclusion = Conclusion(outcome=Outcome.FAILURE, status=new)
        return transitions.end_change(
            task(left), KEY, left=left, run={}, conclusion=conclusion, error=None, fields={}, not_before=None, now=NOW  # type: ignore[arg-type]
        )  # fmt: skip

    for construct in (of_run, of_task, of_end):
        if is_allowed(left, new):
            construct()
        else:
            with pytest.raises(ImpossibleStepError, match="change of status"):
                construct()


@pytest.mark.parametrize(("left", "new"), list(product(Status, repeat=2)))
def test_a_step_can_be_named_where_the_table_has_it_and_nowhere_else(left: Status, new: Status) -> None:
    if is_allowed(left, new):
        assert Step(left, new) == Step(left, new)
    else:
        with pytest.raises(ImpossibleStepError):
            Step(left, new)


def test_of_several_statuses_that_a_change_may_leave_each_counts() -> None:
    may_leave = (Status.BLOCKED, Status.CREATED)
    assert TaskChange(task_id="t1", statuses=frozenset(may_leave), set={"status": -5})
    with pytest.raises(ImpossibleStepError, match="from blocked to claimed"):
        RunChange(key=KEY, statuses=may_leave, set={"status": -1})
    for statuses in (may_leave, ()):
        with pytest.raises(ImpossibleStepError, match="from failed to cancelled"):
            TaskChange(task_id="t1", statuses=frozenset(statuses), or_failed=True, set={"status": -5})


def test_a_change_that_becomes_another_one_is_checked_again() -> None:
    change = RunChange(key=KEY, statuses=(Status.RUNNING,), set={"status": int(Status.CONCLUDED)})
    with pytest.raises(ImpossibleStepError, match="from created to concluded"):
        dataclasses.replace(change, statuses=(Status.CREATED,))


def test_a_change_that_sets_no_status_may_leave_any() -> None:
    for status in (*EVERY, UNKNOWN):
        TaskChange(task_id="t1", statuses=frozenset({status}), set={"priority": 1})
        RunChange(key=KEY, statuses=(status,), set={"claim": {"token": "settling"}})  # type: ignore[arg-type]


def step_of(change: RunChange | TaskChange | None) -> tuple[int, int] | None:
    """The one status that it leaves, and the one that it sets."""
    if change is None or "status" not in change.set:
        return None
    (left,) = change.statuses
    return int(left), change.set["status"]


CLAIMED, RUNNING = task(-1), task(0, run={"attempt": 1})
RUN_CHANGES: dict[str, tuple[RunChange, tuple[int, int] | None]] = {
    "start": (transitions.start_change(CLAIMED, KEY, {}, now=NOW), (-1, 0)),
    "progress": (transitions.progress_change(KEY, {"stdout": "x"}), None),
    "give back": (transitions.unclaim_change(KEY, now=NOW), (-1, -2)),
    "take back": (transitions.undo_start_change(CLAIMED, KEY, now=NOW), (0, -2)),
    "lost claim": (transitions.lost_claim_change(RUNNING, KEY, now=NOW), (0, -2)),
    "lost, claimed": (transitions.lost_change(CLAIMED, node="n1", now=NOW), (-1, -2)),
    "lost, running": (transitions.lost_change(RUNNING, node="n1", now=NOW), (0, -6)),
    "lost, idempotent": (transitions.lost_change(task(0, run={"idempotent": True}), node="n1", now=NOW), (0, -2)),
    "lost, not ended": (
        transitions.lost_change(task(0, run={"idempotent": True}), node="n1", now=NOW, unended="process 7 of it"),
        (0, -6),
    ),
    "cancelled claim": (transitions.cancelled_claim_change(CLAIMED, KEY, REQUEST, now=NOW), (-1, -5)),
    "expired claim": (transitions.expired_claim_change(KEY, now=NOW), (-1, -5)),
}


@pytest.mark.parametrize("name", RUN_CHANGES)
def test_each_change_of_a_run_makes_its_one_step_and_says_when(name: str) -> None:
    change, step = RUN_CHANGES[name]
    assert step_of(change) == step
    assert step is None or change.set["mtime"] == NOW


@pytest.mark.parametrize("status", [*EVERY, UNKNOWN])
def test_each_change_by_people_and_by_time_makes_a_step_of_the_table_or_none(status: int) -> None:
    one = task(status, after=["a"], run={"attempt": 1})
    ended = Task.from_document({"_id": "a", "status": 1})
    steps = {
        "cancel": step_of(transitions.cancel_change(one, REQUEST, now=NOW)),
        "retry": step_of(transitions.retry_change(one, REQUEST, now=NOW)),
        "release": step_of(transitions.release_change(one, now=NOW)),
    }
    if status == Status.BLOCKED:
        assert step_of(transitions.follow_change(one, ended, now=NOW)) == (-4, -2)
    may_be_cancelled = status in (-4, -2, -1, -6)
    has_ended = status in (-6, -5, -3, 1, 2, 7)
    assert steps == {
        "cancel": (status, -5) if may_be_cancelled else None,
        "retry": (status, -2) if has_ended else None,
        "release": (status, -2) if status == Status.BLOCKED else None,
    }
    assert step_of(transitions.followers_told_change(one)) is None
    if is_allowed(status, Status.CANCELLED):
        assert step_of(transitions.expire_change(one, now=NOW)) == (status, -5)
    else:
        with pytest.raises(ImpossibleStepError):
            transitions.expire_change(one, now=NOW)


def test_what_stores_write_by_themselves_is_said_here() -> None:
    at = NOW - timedelta(seconds=1)
    assert (Step(Status(-2), Status(-1)), Step(Status(-4), Status(-2))) == (steps.CLAIM, steps.PROMOTE)
    claimed = {"status": -1, "mtime": NOW, "node": "n1", "claim": {"token": "t", "at": at}}
    assert steps.claimed_fields("n1", "t", at=at, now=NOW) == claimed
    assert steps.promoted_fields(now=NOW) == {"status": -2, "mtime": NOW, "node": -1}


LOST = [
    case
    for case in json.loads((ROOT / "protocol" / "vectors" / "exits.json").read_text())["cases"]
    if case["end"]["reason"] == "lost"
]


@pytest.mark.parametrize("case", LOST, ids=lambda case: case["name"])
def test_what_becomes_of_a_lost_run_is_what_the_vectors_say(case: dict[str, Any]) -> None:
    """There were two tables, and the vectors held the one that decided nothing."""
    started = NOW - timedelta(seconds=9)
    is_idempotent = case.get("manifest", {}).get("idempotent")
    run = {"attempt": 3, "token": "token", "started": started, "idempotent": is_idempotent}
    change = transitions.lost_change(task(0, run=run, claim={"token": "token"}), node="n1", now=NOW)
    expected = case["conclusion"]
    assert change.set["status"] == expected["status"] and change.key == KEY
    assert change.set["run"] == {
        **run, "ended": NOW, "seconds": 9.0, "reason": "lost", "outcome": expected["outcome"],
        "attempt_used": expected.get("attempt_used", True),
    }  # fmt: skip
    assert change.set["error"]["code"] == "lost"
    assert ("attempts" in change.set) == ("claim" in change.unset) == (expected["status"] == Status.CREATED)


def test_there_are_vectors_of_lost_runs_that_are_run_again_and_that_are_not() -> None:
    assert {case["conclusion"]["status"] for case in LOST} == {-6, -2}


@pytest.mark.parametrize("is_idempotent", [False, True])
def test_a_task_whose_claim_was_lost_keeps_the_number_of_its_attempt(is_idempotent: bool) -> None:
    one = task(0, run={"attempt": 2, "idempotent": is_idempotent})
    change = transitions.lost_claim_change(one, KEY, now=NOW)
    assert change.set["run"] == {
        "attempt": 2, "idempotent": is_idempotent, "ended": NOW, "reason": "start_failed", "outcome": "returned",
        "attempt_used": False,
    }  # fmt: skip
    assert Task.from_document({**one.document, **change.set}).next_attempt == 2


def test_a_success_whose_follow_ups_cannot_be_stored_is_a_failure_that_is_not_tried_again() -> None:
    """As `run` concludes it: as if the plugin had said that it failed for good."""

    class Rules:
        exit_codes: ClassVar[dict[int, ExitRule]] = {3: ExitRule(outcome=Outcome.SUCCESS)}
        retry = RetryPolicy(max=5)
        idempotent = True

    for code in (0, 3):
        end = RunEnd(reason=Reason.EXITED, exit_code=code)
        conclusion = conclude(end, Rules(), attempt=1, chance=0.5, said=FAILED_FOR_GOOD)
        assert conclusion == Conclusion(outcome=Outcome.PERMANENT, status=Status.FAILED)


# Where a document gets a status that is not the one of a task in a store.
NOT_OF_A_STORED_TASK = (
    ("documents.records", "new_task"),  # it does not exist yet
    ("documents.run_record", "attempts_with"),  # how an attempt ended, in the list of them
    ("store.sqlite.records", "document_of"),  # a row that is read
    ("store.sqlite.fields", "<module>"), ("store.mongo.forms", "<module>"),  # which fields there are
    ("cli.commands.push", "of"), ("client.pushing", "*"),  # nor does one that is created waiting for something
    ("cli.selection", "with_filters"),  # which tasks are asked for
    ("run", "_document_for_plugin"),  # what a plugin is told of its task
    ("trial", "*"),  # a task that is in no store
)  # fmt: skip


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(HOST.rglob("*.py")):
        yield ".".join(path.relative_to(HOST).with_suffix("").parts), ast.parse(path.read_text())


def status_writes(module: str, tree: ast.Module) -> Iterator[str]:
    """The functions of a module that give a document a status, as far as the source shows it."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    is_store = module.startswith("store.")
    texts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if node in texts:  # a part of one that is looked at as a whole
            continue
        is_write = (
            (isinstance(node, ast.Dict) and _gives_status(node, is_store=is_store))
            or (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and _is_status(node.slice))
            or (is_store and isinstance(node, ast.Constant | ast.JoinedStr) and _sets_status_in_sql(node))
        )
        if is_write:
            around = [one for one in functions if one.lineno <= node.lineno <= (one.end_lineno or 0)]
            yield around[-1].name if around else "<module>"


def _is_status(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value == "status"


def _gives_status(node: ast.Dict, *, is_store: bool) -> bool:
    """Whether it is a document, or fields of one, with a status that is not read from another one. In a store, where
    conditions look alike, fields that are set have an `mtime`, or stand in a `$set`."""
    fields = {
        key.value: value for key, value in zip(node.keys, node.values, strict=True) if isinstance(key, ast.Constant)
    }
    if is_store and isinstance(inner := fields.get("$set"), ast.Dict):
        return any(_is_status(key) for key in inner.keys)
    if "status" not in fields:
        return False
    if is_store:
        is_kept = ast.unparse(fields["status"]) == "'$status'"  # a projection: the field as it is
        return "mtime" in fields and not isinstance(fields["mtime"], ast.Dict) and not is_kept
    return re.search(r"\bStatus\.|\.new\b|^-?[0-9]|^int\(\w+\)$", ast.unparse(fields["status"])) is not None


def _sets_status_in_sql(node: ast.Constant | ast.JoinedStr) -> bool:
    return re.search(r"\bSET\b(?:(?!\bWHERE\b)[^?])*\bstatus\s*=", ast.unparse(node)) is not None


def is_exempt(module: str, function: str) -> bool:
    return any(
        (module == room or module.startswith(f"{room}.")) and one in ("*", function)
        for room, one in NOT_OF_A_STORED_TASK
    )


def test_only_one_place_sets_the_status_of_a_task() -> None:
    found = [(module, function) for module, tree in modules() for function in status_writes(module, tree)]
    assert ("documents.steps", "entering") in found and ("documents.records", "new_task") in found
    assert [one for one in found if not is_exempt(*one)] == [("documents.steps", "entering")]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("node.x", 'change = RunChange(key=key, statuses=(Status.CLAIMED,), set={"status": int(Status.RUNNING)})'),
        ("client.x", 'fields["status"] = wanted'),
        ("store.mongo.x", 'mark = {"status": int(Status.CLAIMED), "node": node, "mtime": now}'),
        ("store.mongo.x", 'tasks.update_many(due, {"$set": {"status": -2}})'),
        ("store.sqlite.x", 'f"UPDATE tasks SET node = -1, status = {int(Status.CREATED)} WHERE seq = ?"'),
    ],
)
def test_a_status_that_is_set_elsewhere_would_be_found(module: str, source: str) -> None:
    assert list(status_writes(module, ast.parse(source))) == ["<module>"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("store.mongo.x", 'free = {"status": int(CLAIM.left), "mtime": {"$eq": 1}}'),
        ("store.sqlite.x", '"UPDATE tasks SET node = ? WHERE status = 1"'),
        ("cli.x", 'render.print_json({"status": task.status})'),
    ],
)
def test_a_condition_and_a_reading_are_no_setting(module: str, source: str) -> None:
    assert list(status_writes(module, ast.parse(source))) == []


def test_only_outcome_makes_a_conclusion() -> None:
    calls = [
        module
        for module, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Conclusion"
    ]
    assert calls == []
