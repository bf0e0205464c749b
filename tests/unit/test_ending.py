"""What the end of a run makes of its task, without a process, a store or a clock."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.documents.changes import RunKey
from disbatch_host.documents.records import NOBODY, Task
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.run.ending import Ending, ending_of, ending_without_start, in_short, without_what_it_said
from disbatch_host.run.execution import ExecutionEnd
from disbatch_host.run.state import RunState
from disbatch_protocol.events import ErrorSaid, FollowUp, FollowUps, Progress, Result, Snooze
from disbatch_protocol.outcome import Outcome, Reason, RunEnd
from disbatch_protocol.status import Status
from helpers.errors import plain
from helpers.nodes import write_plugin

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
WHEN = {"now": NOW, "seconds": 1.5, "chance": 0.5}
WELL = RunEnd(reason=Reason.EXITED, exit_code=0)


def a_state(directory: Path, *, attempts: int = 0, **manifest: Any) -> RunState:
    write_plugin(directory, "P", "exit 0", **manifest)
    run = {"attempt": attempts} if attempts else {}
    task = Task.from_document(
        {"_id": "t", "queue": "q", "status": -1, "node": "n1", "claim": {"token": "abc"}, "run": run}
    )
    now = {"token": "abc", "attempt": task.next_attempt, "started": NOW - timedelta(seconds=1.5), "pid": 7}
    plugin = load_plugins([directory]).plugins["P"]
    return RunState(task, plugin, RunKey("t", "n1", "abc"), now, spool_directory=directory)


def finished(state: RunState, out: bytes = b"", err: bytes = b"") -> None:
    state.stdout.feed(out)
    state.stderr.feed(err)
    for _, output in state.streams:
        output.finish()


def ended(end: RunEnd, **more: Any) -> ExecutionEnd:
    return ExecutionEnd(end=end, facts={"cpu_seconds": 0.25}, **more)


def test_a_success_is_concluded_with_output_facts_and_what_it_said(tmp_path: Path) -> None:
    state = a_state(tmp_path)
    state.events.take(Progress(value=1.0, message="done"), now=NOW)
    finished(state, b"out", b"err")
    change = ending_of(state, ended(WELL), work_directory="/work", **WHEN).change
    assert change.key == state.key and change.statuses == (Status.RUNNING,) and change.creates == ()
    assert change.set["status"] == Status.CONCLUDED and "error" not in change.set
    assert (change.set["stdout"], change.set["stderr"]) == ("out", "err")
    assert change.set["progress"] == {"value": 1.0, "message": "done"}
    assert change.set["run"] == {
        "token": "abc", "attempt": 1, "pid": 7, "started": NOW - timedelta(seconds=1.5), "ended": NOW, "seconds": 1.5,
        "reason": "exited", "exit_code": 0, "outcome": "success", "attempt_used": True, "cpu_seconds": 0.25,
        "output": {"stdout": {"bytes": 3, "in_file": False}, "stderr": {"bytes": 3, "in_file": False}},
    }  # fmt: skip


def test_an_end_changes_nothing_of_the_state_that_it_is_made_of(tmp_path: Path) -> None:
    """It may have to be made a second time, where the store refuses the first."""
    state = a_state(tmp_path)
    state.events.take(Result(value=5, status=None), now=NOW)
    finished(state, b"out")
    before = dict(state.run)
    first = ending_of(state, ended(WELL), **WHEN)
    assert state.run == before
    assert ending_of(state, ended(WELL), **WHEN) == first


def test_a_failure_keeps_its_work_directory_and_tells_the_last_lines_of_stderr(tmp_path: Path) -> None:
    state = a_state(tmp_path)
    finished(state, b"", b"first\nlast words\n")
    found = ending_of(state, ended(RunEnd(reason=Reason.EXITED, exit_code=3)), work_directory="/work", **WHEN)
    assert found.run["work_directory"] == "/work" and found.conclusion.status == Status.FAILED
    said = {"code": "exit_3", "message": "last words", "detail": "first\nlast words"}
    assert plain(found.change.set["error"]) == said
    assert found.change.set["error"]["group"]["text"] == "exit_3: last words" and found.error_group is not None


def test_a_retry_goes_back_to_its_queue_after_the_delay(tmp_path: Path) -> None:
    state = a_state(tmp_path, retry={"max": 3, "delay": "10s"})
    finished(state)
    change = ending_of(state, ended(RunEnd(reason=Reason.EXITED, exit_code=1)), **WHEN).change
    assert change.set["status"] == Status.BLOCKED and change.set["node"] == NOBODY
    assert change.set["not_before"] == NOW + timedelta(seconds=10)
    assert [one["attempt"] for one in change.set["attempts"]] == [1]


def test_what_the_plugin_said_of_an_error_is_why_unless_the_host_ended_it(tmp_path: Path) -> None:
    state = a_state(tmp_path)
    state.events.take(ErrorSaid(code="quota", message="the disk is full", detail=None, retry=None), now=NOW)
    finished(state)
    said = {"code": "quota", "message": "the disk is full"}
    assert ending_of(state, ended(RunEnd(reason=Reason.EXITED, exit_code=1)), **WHEN).error_texts == (
        "quota",
        "the disk is full",
    )
    by_signal = RunEnd(reason=Reason.TIMEOUT, signal=signal.SIGTERM)
    error = ending_of(state, ended(by_signal), **WHEN).change.set["error"]
    assert error["code"] == "timeout" and error["said"] == said


def test_who_cancelled_it_stands_in_the_run_only_where_that_ended_it(tmp_path: Path) -> None:
    state = a_state(tmp_path)
    state.cancel = {"by": "kim@desk", "why": "wrong list"}
    finished(state)
    assert "cancelled" not in ending_of(state, ended(WELL), **WHEN).run
    found = ending_of(state, ended(RunEnd(reason=Reason.CANCELLED, signal=signal.SIGTERM)), **WHEN)
    assert found.run["cancelled"] == {"by": "kim@desk", "why": "wrong list"} and found.run["signal"] == "TERM"
    assert found.change.set["error"]["message"].endswith("kim@desk: wrong list")
    assert "group" not in found.change.set["error"], "nobody failed"


@pytest.mark.parametrize(
    ("after_seconds", "words"),
    [
        (0.0, ", and killed without being asked to stop first"),
        (9.995, ", and killed 10 s after it was asked to stop"),
        (9.9, ", and killed 9.9 s after it was asked to stop, before its kill_grace of 10 s was over"),
        (10.2, ", and killed 10 s after it was asked to stop"),
        (75.0, ", and killed 1m15s after it was asked to stop"),
        (2.04, ", and killed 2 s after it was asked to stop, before its kill_grace of 10 s was over"),
        (0.01, ", and killed 0.1 s after it was asked to stop, before its kill_grace of 10 s was over"),
    ],
)
def test_when_it_was_killed_is_said_as_it_was(tmp_path: Path, after_seconds: float, words: str) -> None:
    """A person may force it sooner than the grace; a node that stood still does it later."""
    state = a_state(tmp_path, kill_grace="10s")
    finished(state)
    killed = ended(RunEnd(reason=Reason.SHUTDOWN, signal=signal.SIGKILL), killed_after_seconds=after_seconds)
    message = ending_of(state, killed, **WHEN).change.set["error"]["message"]
    assert message == f"disbatch-host: its node stopped while it ran{words}"


def test_a_snooze_is_no_error(tmp_path: Path) -> None:
    state = a_state(tmp_path)
    state.events.take(Snooze(seconds=60.0, message="later"), now=NOW)
    finished(state)
    found = ending_of(state, ended(WELL), **WHEN)
    assert found.conclusion.outcome is Outcome.SNOOZE and "error" not in found.change.set
    assert found.change.set["not_before"] == NOW + timedelta(seconds=60)


def with_follow_up(directory: Path) -> tuple[RunState, Ending]:
    state = a_state(directory)
    state.events.take(FollowUps(tasks=(FollowUp(queue="next", parameters={"n": 1}),), faults=()), now=NOW)
    finished(state, b"out")
    return state, ending_of(state, ended(WELL), work_directory="/work", **WHEN)


def test_follow_ups_are_created_with_a_success_alone(tmp_path: Path) -> None:
    state, found = with_follow_up(tmp_path)
    (created,) = found.change.creates
    assert (created["queue"], created["parent"], created["parameters"]) == ("next", "t", {"n": 1})
    assert ending_of(state, ended(RunEnd(reason=Reason.EXITED, exit_code=1)), **WHEN).change.creates == ()


def test_an_end_that_the_store_refuses_is_recorded_without_what_it_said(tmp_path: Path) -> None:
    state = a_state(tmp_path)
    finished(state, b"out")
    found = without_what_it_said(state, ending_of(state, ended(WELL), **WHEN), "too large")
    change = found.change
    assert change.set["status"] == Status.CONCLUDED and "stdout" not in change.set
    assert change.set["error"]["code"] == "not_stored" and "too large" in change.set["error"]["message"]


def test_a_success_whose_follow_ups_the_store_refuses_has_failed(tmp_path: Path) -> None:
    """Its work directory was removed for the success that it was, so the document must not name it as kept: once, it
    did."""
    state, found = with_follow_up(tmp_path)
    refused = without_what_it_said(state, found, "too large")
    change = refused.change
    assert change.creates == () and change.set["status"] == Status.FAILED
    assert change.set["run"]["outcome"] == "permanent" == str(refused.conclusion.outcome)
    assert "work_directory" not in change.set["run"]
    assert found.conclusion.outcome is Outcome.SUCCESS  # the first one is as it was


@pytest.mark.parametrize(
    ("reason", "left", "status", "code"),
    [
        (Reason.PARAMETERS, Status.CLAIMED, Status.FAILED, "parameters"),
        (Reason.START_FAILED, Status.CLAIMED, Status.CREATED, "start_failed"),
        (Reason.START_FAILED, Status.RUNNING, Status.CREATED, "start_failed"),
    ],
)
def test_an_end_without_a_start_says_why_and_has_no_output(
    tmp_path: Path, reason: Reason, left: Status, status: Status, code: str
) -> None:
    state = a_state(tmp_path)
    change = ending_without_start(state, reason, "no such file", left=left, **WHEN).change
    assert change.statuses == (left,) and change.set["status"] == status
    assert plain(change.set["error"]) == {"code": code, "message": "disbatch-host: no such file"}
    assert (change.set["stdout"], change.set["stderr"], change.set["run"]["reason"]) == ("", "", str(reason))


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (WELL, "exit code 0"),
        (RunEnd(reason=Reason.DONE, exit_code=4), "exit code 4"),
        (RunEnd(reason=Reason.SIGNALED, signal=9), "signal KILL"),
        (RunEnd(reason=Reason.IDLE_TIMEOUT, signal=15), "idle timeout"),
    ],
)
def test_an_end_in_short(end: RunEnd, words: str) -> None:
    assert in_short(end) == words


@pytest.mark.parametrize(
    ("end", "err"),
    [
        (RunEnd(reason=Reason.SIGNALED, signal=signal.SIGTRAP), b""),
        (RunEnd(reason=Reason.SIGNALED, signal=signal.SIGABRT), b"terminate called after throwing std::bad_alloc\n"),
        (RunEnd(reason=Reason.EXITED, exit_code=1), b"Could not reserve enough space for 251904KB object heap\n"),
        (RunEnd(reason=Reason.EXITED, exit_code=2), b"fatal error: failed to reserve page summary memory\n"),
        (RunEnd(reason=Reason.EXITED, exit_code=1), b"RuntimeError: can't start new thread\n"),
        (RunEnd(reason=Reason.EXITED, exit_code=1), b"MemoryError\n"),
    ],
)
def test_an_end_for_want_of_memory_names_the_limit(tmp_path: Path, end: RunEnd, err: bytes) -> None:
    """Node ended with "signal TRAP" and nothing else: nobody thought of the limit in the manifest."""
    limited = a_state(tmp_path / "limited", limits={"memory": "512M"})
    finished(limited, b"", err)
    error = ending_of(limited, ended(end), **WHEN).change.set["error"]
    assert error["message"].endswith("disbatch-host: limits.memory is 512 MiB of address space, which may be why")
    free = a_state(tmp_path / "free")
    finished(free, b"", err)
    assert "limits.memory" not in str(ending_of(free, ended(end), **WHEN).change.set["error"])


@pytest.mark.parametrize("has_said", [False, True])
def test_an_end_by_the_limit_of_its_group_says_so(tmp_path: Path, has_said: bool) -> None:
    """What the plugin reported before is not why the kernel ended it."""
    state = a_state(tmp_path, limits={"memory": "512M"})
    if has_said:
        state.events.take(ErrorSaid(code="full", message="no room", detail=None, retry=None), now=NOW)
    finished(state, b"", b"bad_alloc\n")
    end = ExecutionEnd(
        end=RunEnd(reason=Reason.SIGNALED, signal=signal.SIGKILL),
        facts={"memory_limit": "cgroup"},
        hit_memory_limit=True,
    )
    found = ending_of(state, end, **WHEN)
    error = found.change.set["error"]
    sentence = "its processes used more than limits.memory (512 MiB), and the kernel ended them"
    assert (error["code"], error["message"]) == ("memory_limit", f"disbatch-host: {sentence}")
    assert found.run["memory_limit"] == "cgroup"
    assert error.get("said", {}).get("code") == ("full" if has_said else None)


def test_which_limit_of_memory_a_run_had_is_recorded_with_its_end(tmp_path: Path) -> None:
    limited, free = a_state(tmp_path / "limited", limits={"memory": "512M"}), a_state(tmp_path / "free")
    end = RunEnd(reason=Reason.EXITED, exit_code=0)
    assert ending_of(limited, ended(end), **WHEN).run["memory_limit"] == "address_space"
    assert "memory_limit" not in ending_of(free, ended(end), **WHEN).run
    # Of a worker process that lives on it is not known.
    assert "memory_limit" not in ending_of(limited, ended(RunEnd(reason=Reason.DONE)), **WHEN).run


def test_an_ordinary_failure_does_not_name_the_limit(tmp_path: Path) -> None:
    state = a_state(tmp_path, limits={"memory": "512M"})
    finished(state, b"", b"no such user\n")
    for end in (RunEnd(reason=Reason.EXITED, exit_code=1), RunEnd(reason=Reason.TIMEOUT, signal=signal.SIGTERM)):
        assert "limits.memory" not in str(ending_of(state, ended(end), **WHEN).change.set["error"])
