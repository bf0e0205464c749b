"""What a node leaves behind, in words; and what its runs came to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from disbatch_host.decide.left import left_blocked
from disbatch_host.documents.records import Task
from disbatch_host.node.tally import Tally
from disbatch_host.run.report import RunReport, RunResult
from disbatch_protocol.outcome import Conclusion, Outcome
from disbatch_protocol.status import Status


def task(task_id: Any, status: int = Status.BLOCKED, **fields: Any) -> Task:
    return Task.from_document({"_id": task_id, "queue": "q", "status": int(status), **fields})


def words(blocked: list[Task], *others: Task) -> list[str]:
    found = {str(one.id): one for one in (*blocked, *others)}
    left = left_blocked(blocked, found)
    assert sum(one.count for one in left) == len(blocked)
    return [f"{one.queue}: {one.words}" for one in left]


def test_a_task_waits_for_the_same_as_the_one_that_it_waits_for() -> None:
    failed = task("a", Status.TERMINATED)
    chain = [task("b", after=["a"]), task("c", after=["b"]), task("d", after=["c"])]
    assert words(chain[::-1], failed) == ["q: 3 wait for a task that has failed"]
    assert words(chain[:1], task("a", 7)) == ["q: 1 waits for a task that has failed"]


def test_each_cause_is_named_and_counted() -> None:
    never = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    blocked = [
        task("1", after=["cancelled"]),
        task("2", after=["gone"]),
        task("3", after=["orphaned"], after_any=True),
        task("4", after=["waiting"]),
        task("5", not_before=never),
        task("6"),
        task("7", after=["8"]),
        task("8", after=["7"]),
        task("9", queue="p", after=["cancelled"], after_any=True),
        task({"an": "id"}, queue=["of", "any"], after=[{"type": 1}]),
    ]
    others = [
        task("cancelled", Status.CANCELLED), task("orphaned", Status.ORPHANED), task("waiting", Status.CREATED)
    ]  # fmt: skip
    said = words(blocked, *others)
    assert said[:2] == [
        "['of', 'any']: 1 waits for a task that no longer exists",
        "p: 1 waits for a task that has not ended",
    ]
    assert said[2:6] == [
        "q: 1 waits for a task that was cancelled",
        "q: 1 waits for a task that is orphaned",
        "q: 1 waits for a task that no longer exists",
        "q: 3 wait for a task that has not ended",
    ]
    assert said[6].startswith("q: 1 waits for a later time: 9999-12-31 ")
    assert said[7:] == ["q: 1 waits although nothing says for what"]


def report(status: int, code: str | None = None, result: RunResult = RunResult.ENDED) -> RunReport:
    outcome = Outcome.SUCCESS if status == Status.CONCLUDED else Outcome.PERMANENT
    conclusion = Conclusion(outcome=outcome, status=status, delay_seconds=None, attempt_used=True)
    return RunReport(result=result, conclusion=conclusion, error_code=code, how="exit code 3")


def test_a_tally_says_what_the_runs_came_to() -> None:
    tally = Tally()
    assert str(tally) == "ran nothing"
    for count, one in (
        (986, report(Status.CONCLUDED)),
        (11, report(Status.FAILED, "exit_3")),
        (1, report(9, "exit_3")),
        (2, report(Status.TERMINATED, "timeout")),
    ):
        for _ in range(count):
            tally.count(one)
    assert str(tally) == "ran 1,000: 986 concluded, 14 failed (exit_3 12, timeout 2)"
    tally.count(report(Status.CANCELLED))
    tally.count(RunReport(result=RunResult.WITHDRAWN))
    tally.count(RunReport(result=RunResult.GIVEN_BACK))
    tally.count(report(Status.BLOCKED, "exit_75"))
    assert str(tally) == (
        "ran 1,003: 986 concluded, 14 failed (exit_3 12, timeout 2), 2 cancelled, 1 given back; "
        "1 attempt was tried again"
    )
