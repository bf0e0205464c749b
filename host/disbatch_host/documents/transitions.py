"""Every change of a task's status, each naming the status that it leaves. Pure.

Responsible for: what claims, runs, time, the end of another task and people make of a task document. Must not know:
processes, stores, the event loop.

Rules:
1. The `status` of a task that exists is set by these changes and by the steps of `steps`, and by nothing else; a step
   that `disbatch_protocol.status.TRANSITIONS` does not have raises ImpossibleStepError.
2. `disbatch_protocol.outcome.conclude` decides what becomes of a run that ended or was lost; this module writes its
   conclusion down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from disbatch_host import suggested
from disbatch_host.documents import earlier_outputs
from disbatch_host.documents.causes import with_group
from disbatch_host.documents.changes import RunChange, RunKey, TaskChange
from disbatch_host.documents.new_parameters import NewParameters, fields_of_retry
from disbatch_host.documents.records import KEEP_ATTEMPTS, NOBODY, Document, Task
from disbatch_host.documents.requests import cancelled_in_words, with_cancel
from disbatch_host.documents.run_record import attempts_with, is_among_attempts
from disbatch_host.documents.steps import entering
from disbatch_protocol.outcome import Conclusion, ExitRule, Outcome, Reason, RetryPolicy, RunEnd, conclude
from disbatch_protocol.status import WAITING, Status, is_finished, may_become
from disbatch_protocol.status import name as status_name

# Removed when a new attempt begins; `log` continues across attempts.
_OF_ONE_ATTEMPT = ("result", "error", "progress", "not_before")
_EXPIRED = "it was not started before it expired"


def start_change(
    task: Task, key: RunKey, run: Mapping[str, Any], *, now: datetime, keep_attempts: int = KEEP_ATTEMPTS
) -> RunChange:
    """Claimed → Running: durable before the process starts (promise 2). The outputs of the last attempts, so many
    together with this one, are kept."""
    is_first = not task.document.get("run")
    earlier = earlier_outputs.NONE if is_first else earlier_outputs.when_another_begins(task, keep_attempts)
    return RunChange(
        key=key,
        statuses=(Status.CLAIMED,),
        set={**entering(Status.RUNNING, now), "run": dict(run), "stdout": "", "stderr": "", **earlier.fields},
        unset=_OF_ONE_ATTEMPT,
        keeps=earlier.keeps,
        forgets=earlier.forgets,
    )


def progress_change(key: RunKey, fields: Mapping[str, Any]) -> RunChange:
    """The news of a task that is running: output, the pid."""
    return RunChange(key=key, statuses=(Status.RUNNING,), set=fields)


def afterword_change(key: RunKey, fields: Mapping[str, Any]) -> RunChange:
    """The news of a run after it succeeded: something of it is left on its machine."""
    return RunChange(key=key, statuses=(Status.CONCLUDED,), set=fields)


def unclaim_change(key: RunKey, *, now: datetime) -> RunChange:
    """Claimed → Created: never started."""
    return RunChange(
        key=key,
        statuses=(Status.CLAIMED,),
        set={**entering(Status.CREATED, now), "node": NOBODY},
        unset=("claim",),
    )


def undo_start_change(task: Task, key: RunKey, *, now: datetime) -> RunChange:
    """Running → Created, if it is certain that nothing was started: as if it had never begun. `task` as it was
    claimed."""
    fields: Document = {**entering(Status.CREATED, now), "node": NOBODY}
    if task.run:
        fields["run"] = dict(task.run)
    unset = ("claim",) if task.run else ("claim", "run")
    return RunChange(key=key, statuses=(Status.RUNNING,), set=fields, unset=unset)


def end_change(
    task: Task,
    key: RunKey,
    *,
    left: Status,
    run: Mapping[str, Any],
    conclusion: Conclusion,
    error: Mapping[str, Any] | None,
    fields: Mapping[str, Any],
    not_before: datetime | None,
    now: datetime,
    creates: Sequence[Document] = (),
    held_until: datetime | None = None,
    keep_attempts: int = KEEP_ATTEMPTS,
) -> RunChange:
    """The end of a run: final, or back to the queue. `left` is the status it had (Running, or Claimed if it was
    concluded without being started); `fields` are the output and the fields that the plugin set; `not_before` applies
    if the conclusion names a delay; `creates` are its follow-up tasks. `held_until`: something of it could not be
    ended, and another attempt would begin beside it. `keep_attempts`: see `start_change`; an attempt that was not
    started begins with its end."""
    earlier = earlier_outputs.NONE
    if left == Status.CLAIMED:
        earlier = earlier_outputs.when_another_begins(task, keep_attempts)
        task = earlier_outputs.with_attempts(task, earlier.fields)
    status = conclusion.status
    if held_until is not None and status in WAITING:
        status, not_before = Status.BLOCKED, max(held_until, not_before or held_until)
    changes: Document = {**fields, **earlier.fields, **entering(status, now), "run": dict(run)}
    unset = []
    if error is not None:
        # A cancellation is not a failure, and so has no cause to be counted.
        error = dict(error) if conclusion.outcome is Outcome.CANCELLED else with_group(error, task, run)
        changes["error"] = error
    if conclusion.status in WAITING:
        changes["node"] = NOBODY
        changes["attempts"] = attempts_with(task, run, error, status)
        unset.append("claim")
    if not_before is not None:
        changes["not_before"] = not_before
    if conclusion.status == Status.CANCELLED:
        unset.append("cancel")  # carried out; after any other end that goes back to waiting, it is still pending
    return RunChange(
        key=key, statuses=(left,), set=changes, unset=tuple(unset), creates=tuple(creates), keeps=earlier.keeps,
        forgets=earlier.forgets,
    )  # fmt: skip


def host_error_change(task: Task, key: RunKey, message: str, *, now: datetime) -> RunChange:
    """Claimed or Running → failed for good: the node cannot run it, nor even say more of its run."""
    conclusion = conclude(RunEnd(reason=Reason.HOST_ERROR), _RecordedRules(idempotent=False), attempt=1, chance=0.0)
    run = {
        "token": key.token,
        "attempt": task.next_attempt,
        "node": key.node,
        "ended": now,
        "reason": str(Reason.HOST_ERROR),
        "outcome": str(conclusion.outcome),
        "attempt_used": conclusion.attempt_used,
    }
    return RunChange(
        key=key,
        statuses=(Status.CLAIMED, Status.RUNNING),
        set={
            **entering(conclusion.status, now),
            "run": run,
            "error": with_group({"code": str(Reason.HOST_ERROR), "message": f"disbatch-host: {message}"}),
        },
    )


def lost_claim_change(task: Task, key: RunKey, *, now: datetime) -> RunChange:
    """Running → Created, if the store's answer to the claim was lost: the node does not know that it holds the task,
    and started nothing. The record of an earlier attempt is gone from the document; its number stays."""
    message = "disbatch-host: the store's answer to the claim was lost; nothing was started"
    return _change_of_lost(task, key, Reason.START_FAILED, {Outcome.RETURNED: message}, now=now)


def unread_start_change(task: Task, *, node: str, now: datetime) -> RunChange:
    """Running → Created: the node ended before it had its program started, and so it is in the hands of nobody."""
    message = f"disbatch-host: node {node} ended before it had it started"
    key = RunKey(task.id, node, task.token)
    return _change_of_lost(task, key, Reason.START_FAILED, {Outcome.RETURNED: message}, now=now)


def lost_change(task: Task, *, node: str, now: datetime, unended: str | None = None) -> RunChange:
    """The change of a task that a node left behind (design, "Lost runs").

    Claimed: certainly not started, back to Created. Running: perhaps started; run again if the plugin says that this
    does no harm, else Orphaned, for a person to decide. `unended`: what of it could not be ended, in words: then two
    runs might be at work at once, which no plugin has said to be harmless, and it is Orphaned.
    """
    key = RunKey(task.id, node, task.token)
    if task.status == Status.CLAIMED:
        return unclaim_change(key, now=now)
    lost = f"node {node} was lost while this task ran"
    messages = {outcome: lost_in_words(lost, outcome) for outcome in (Outcome.RETURNED, Outcome.ORPHANED)}
    if unended is not None:
        messages[Outcome.ORPHANED] = f"disbatch-host: {lost}; {unended} could not be ended, and may still work on it"
    return _change_of_lost(task, key, Reason.LOST, messages, now=now, may_run_again=unended is None)


def lost_in_words(what: str, outcome: Outcome) -> str:
    """The error of a run that was lost: what was lost, and what that means."""
    if outcome is Outcome.RETURNED:
        return f"disbatch-host: {what}; it will be run again"
    return (
        f"disbatch-host: {what}; it is not known whether it did its work, and its plugin does not say that running it "
        "twice does no harm"
    )


def _change_of_lost(
    task: Task,
    key: RunKey,
    reason: Reason,
    messages: Mapping[Outcome, str],
    *,
    now: datetime,
    may_run_again: bool = True,
) -> RunChange:
    """The end of a run that nobody saw end, as `conclude` decides it; `messages` has the sentence for each outcome."""
    rules = _RecordedRules(idempotent=may_run_again and task.run.get("idempotent") is True)
    # For these reasons, neither the number of the attempt nor chance counts.
    conclusion = conclude(RunEnd(reason=reason), rules, attempt=1, chance=0.0)
    run = {
        **{name: value for name, value in task.run.items() if name != "pending"},
        "ended": now,
        "reason": str(reason),
        "outcome": str(conclusion.outcome),
        "attempt_used": conclusion.attempt_used,
    }
    started = run.get("started")
    if reason is Reason.LOST and isinstance(started, datetime):
        run["seconds"] = max(0.0, (now - started).total_seconds())
    return end_change(
        task,
        key,
        left=Status.RUNNING,
        run=run,
        conclusion=conclusion,
        error={"code": str(reason), "message": messages[conclusion.outcome]},
        fields={},
        not_before=None,
        now=now,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecordedRules:
    """The rules of its plugin's manifest that a run recorded: all that decides about a lost run."""

    idempotent: bool
    exit_codes: Mapping[int, ExitRule] = field(default_factory=dict)
    retry: RetryPolicy = field(default_factory=RetryPolicy)


def cancel_change(task: Task, request: Mapping[str, Any], *, now: datetime) -> TaskChange | None:
    """The change that `task cancel` makes to a task as it was read; None if it has ended.

    Not started, or orphaned: Cancelled at once. Running: the request is recorded, for the node that runs it.
    """
    if task.status == Status.RUNNING:
        return TaskChange(task_id=task.id, statuses=frozenset({int(Status.RUNNING)}), set={"cancel": dict(request)})
    if not may_become(task.status, Status.CANCELLED):
        return None
    return _unstarted_end_change(
        task,
        code="cancelled",
        message=cancelled_in_words(request),
        more={"run": with_cancel(task.run, request)},
        now=now,
    )


def expire_change(task: Task, *, now: datetime) -> TaskChange:
    """A waiting task whose `expires` has passed: Cancelled, by nobody; unless it has changed since it was read."""
    message = "it expired while it waited for its next attempt" if task.run.get("attempt") else _EXPIRED
    change = _unstarted_end_change(task, code="expired", message=message, more={}, now=now)
    return replace(change, mtime=_mtime_of(task), set={**change.set, "error": with_group(change.set["error"])})


def _unstarted_end_change(task: Task, *, code: str, message: str, more: Mapping[str, Any], now: datetime) -> TaskChange:
    """Waiting, Claimed or Orphaned → Cancelled."""
    error = {"code": code, "message": f"disbatch-host: {message}"}
    return TaskChange(
        task_id=task.id,
        statuses=frozenset({int(task.status)}),
        set={**entering(Status.CANCELLED, now), "node": NOBODY, "error": error, **more},
        unset=("claim", "cancel", "not_before"),
    )


def cancelled_claim_change(task: Task, key: RunKey, request: Mapping[str, Any], *, now: datetime) -> RunChange:
    """Claimed → Cancelled: somebody asked for it while an earlier attempt was running."""
    error = {"code": "cancelled", "message": f"disbatch-host: {cancelled_in_words(request)}"}
    fields = {**entering(Status.CANCELLED, now), "node": NOBODY, "error": error, "run": with_cancel(task.run, request)}
    return RunChange(key=key, statuses=(Status.CLAIMED,), set=fields, unset=("claim", "cancel"))


def expired_claim_change(key: RunKey, *, now: datetime) -> RunChange:
    """Claimed → Cancelled: it expired before anybody could start it."""
    error = with_group({"code": "expired", "message": f"disbatch-host: {_EXPIRED}"})
    fields = {**entering(Status.CANCELLED, now), "node": NOBODY, "error": error}
    return RunChange(key=key, statuses=(Status.CLAIMED,), set=fields, unset=("claim",))


def retry_change(
    task: Task, request: Mapping[str, Any], *, now: datetime, new: NewParameters | None = None
) -> TaskChange | None:
    """The change that `task retry` makes to a task as it was read: Created again, with all the attempts that its
    plugin's `retry` grants a new task; None if it has not ended. Its last attempt goes into `attempts`. `new`: its
    parameters from now on."""
    if not is_finished(task.status) or not may_become(task.status, Status.CREATED):
        return None
    retried: Document = {**request, "attempts": task.last_attempt}
    fields: Document = {**entering(Status.CREATED, now), "node": NOBODY, "retried": retried}
    if task.run.get("attempt") and not is_among_attempts(task):
        error = task.document.get("error")
        fields["attempts"] = attempts_with(task, task.run, error if isinstance(error, Mapping) else None, task.status)
    elif isinstance(task.run.get("cancelled"), Mapping):  # `attempts` has only what was started, and each once
        retried["cancelled"] = task.run["cancelled"]
    if new is not None:
        fields |= fields_of_retry(new, task, fields)
    if "cancelled" in task.run:  # it is kept in one of these
        fields["run"] = {name: value for name, value in task.run.items() if name != "cancelled"}
    return TaskChange(
        task_id=task.id,
        statuses=frozenset({int(task.status)}),
        mtime=_mtime_of(task),
        set=fields,
        unset=("claim", "cancel", "not_before", "error", "result", "progress", "expires"),
    )


def hold_change(task: Task, until: datetime) -> TaskChange | None:
    """The change that keeps a task, as it was read, from another attempt until then, or lets it go on from then; None
    if it does not wait for a time."""
    if task.status != Status.BLOCKED or not isinstance(task.document.get("not_before"), datetime):
        return None
    return TaskChange(
        task_id=task.id,
        statuses=frozenset({int(Status.BLOCKED)}),
        mtime=_mtime_of(task),
        set={"not_before": until},
    )


def release_change(task: Task, *, now: datetime) -> TaskChange | None:
    """The change that `task release` makes to a task as it was read: Created, whatever it waits for; None if it is not
    Blocked."""
    if task.status != Status.BLOCKED:
        return None
    error = task.document.get("error")
    is_waiting_error = isinstance(error, Mapping) and error.get("code") == "after_failed"
    return TaskChange(
        task_id=task.id,
        statuses=frozenset({int(Status.BLOCKED)}),
        mtime=_mtime_of(task),
        set={**entering(Status.CREATED, now), "node": NOBODY},
        unset=("after", "after_any", "not_before", *(("error",) if is_waiting_error else ())),
    )


def follow_change(follower: Task, ended: Task, *, now: datetime) -> TaskChange | None:
    """The change that the end of a task makes to one that waits for it; None if nothing changes.

    It no longer waits if the other concluded, or if any end will do (`after_any`). Otherwise it stays Blocked, with the
    reason, until the other is run again and concludes, or a person cancels or releases it.
    """
    after = follower.document.get("after")
    waits_for = list(after) if isinstance(after, (list, tuple)) else []
    error = follower.document.get("error")
    is_about_ended = isinstance(error, Mapping) and error.get("task") == str(ended.id)
    unset: list[str] = []
    if ended.status == Status.CONCLUDED or (follower.document.get("after_any") and ended.status != Status.ORPHANED):
        left = [one for one in waits_for if one != ended.id]
        fields: Document = {"mtime": now}
        if left:
            fields["after"] = left
        else:
            unset.append("after")
            if "not_before" not in follower.document:
                fields |= entering(Status.CREATED, now)
        if is_about_ended or not left:
            unset.append("error")
    elif is_about_ended:
        return None
    else:
        message = (
            f"disbatch-host: task {ended.id}, which it waits for, ended as {status_name(ended.status)}; it waits until "
            f"that one is run again and concludes ({suggested.plain_hint('task retry', ended.id)})"
        )
        fields = {"mtime": now, "error": {"code": "after_failed", "message": message, "task": str(ended.id)}}
    return TaskChange(
        task_id=follower.id,
        statuses=frozenset({int(Status.BLOCKED)}),
        mtime=_mtime_of(follower),
        set=fields,
        unset=tuple(unset),
    )


def followers_told_change(ended: Task) -> TaskChange:
    """All tasks that wait for this one have been told how it ended."""
    return TaskChange(task_id=ended.id, statuses=frozenset({int(ended.status)}), set={"awaited": False})


def _mtime_of(task: Task) -> datetime | None:
    """Its `mtime` as it was read: the guard of a change that must not overwrite another one."""
    mtime = task.document.get("mtime")
    return mtime if isinstance(mtime, datetime) else None
