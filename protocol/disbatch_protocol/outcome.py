"""The outcome of a run: from exit, events and manifest to the one status that the task gets. Pure.

Responsible for: the table "How a run ends" of the protocol, as one function. Must not know: processes, documents.

Rules (SPEC, section 7):
1. The party that ended the run decides first: `RunEnd.reason` tells a time limit, a person, the node's stop and a lost
   node apart, and no exit code changes their meaning.
2. Then the exit code, by the manifest's `exit_codes`, then by the defaults: 0 success, 75 retry, all others failure.
3. Then the events: an error, or a status of the plugin's own, turns a success or a snooze into a failure; a snooze
   event turns a success into a snooze; they give a failure its status; they never turn a failure into a success.
4. Only a failure, a termination and exit 75 are retried, only while attempts are left. Whether a failure is, the
   plugin's error event says first, then its manifest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from disbatch_protocol.status import Status

EX_TEMPFAIL = 75  # sysexits.h: "temporary failure; user is invited to retry"
SNOOZE_SECONDS = 60.0  # if an exit code means snooze and no event gives a duration


class Outcome(StrEnum):
    """The kind of an outcome."""

    SUCCESS = "success"
    FAILURE = "failure"  # retried according to the plugin's `retry`
    PERMANENT = "permanent"  # a failure that is never retried
    RETRY = "retry"  # asked to be retried
    SNOOZE = "snooze"  # run again later, without using an attempt
    # A manifest cannot name these.
    TERMINATED = "terminated"
    CANCELLED = "cancelled"
    RETURNED = "returned"  # back to the queue
    ORPHANED = "orphaned"


class Reason(StrEnum):
    """Why a run ended: the closed list of `run.reason`. People's rules match on it; nothing is ever renamed."""

    EXITED = "exited"
    SIGNALED = "signaled"  # a signal that the host did not send
    TIMEOUT = "timeout"
    IDLE_TIMEOUT = "idle_timeout"
    CANCELLED = "cancelled"
    PARAMETERS = "parameters"  # they do not fit; the program was not started
    START_FAILED = "start_failed"
    SHUTDOWN = "shutdown"  # the node's own stop
    LOST = "lost"  # the node was lost, or what ran its programs
    DONE = "done"  # worker mode: the plugin said `done`
    WORKER_EXITED = "worker_exited"  # worker mode: exit without `done`
    HOST_ERROR = "host_error"  # the host could not run this task: an error of its own, or a task that cannot be run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended. `exit_code` and `signal` are set if there is one."""

    reason: Reason
    exit_code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the events of a run said about its end."""

    error: bool = False
    retry: bool | None = None  # from the error event
    snooze_seconds: float | None = None
    status: int | None = None  # the last one, 2 or above


# Stands in for the events of a success that cannot be completed, for example when its follow-up tasks cannot be stored.
FAILED_FOR_GOOD = Said(error=True, retry=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRule:
    """The meaning of an exit code. `status` only for failures."""

    outcome: Outcome
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The plugin's rules for retries after a failed attempt."""

    max: int = 0  # number of retries; 0: none
    delay_seconds: float = 10.0  # before the first retry
    backoff: float = 2.0  # factor between each delay and the one before
    max_delay_seconds: float = 3600.0
    jitter: float = 0.1  # random share of the delay, added or subtracted, so that a thousand do not come at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """The next state of the task."""

    outcome: Outcome
    status: int  # final, or BLOCKED (until the delay is over), or CREATED
    delay_seconds: float | None = None  # with BLOCKED
    attempt_used: bool = True


class EndRules(Protocol):
    """The part of a manifest that decides an outcome."""

    @property
    def exit_codes(self) -> Mapping[int, ExitRule]: ...
    @property
    def retry(self) -> RetryPolicy: ...
    @property
    def idempotent(self) -> bool: ...


_DEFAULT_EXITS: Mapping[int, ExitRule] = MappingProxyType(
    {0: ExitRule(outcome=Outcome.SUCCESS), EX_TEMPFAIL: ExitRule(outcome=Outcome.RETRY)}
)
_FAILURE = ExitRule(outcome=Outcome.FAILURE)
_NOTHING_SAID = Said()
_SUCCESS = Conclusion(outcome=Outcome.SUCCESS, status=Status.CONCLUDED)
# With no other reason has the plugin a say.
_BY_PLUGIN = frozenset(
    {Reason.EXITED, Reason.DONE, Reason.WORKER_EXITED, Reason.SIGNALED, Reason.TIMEOUT, Reason.IDLE_TIMEOUT}
)


def conclude(end: RunEnd, rules: EndRules, *, attempt: int, chance: float, said: Said = _NOTHING_SAID) -> Conclusion:
    """The next state of a task after attempt number `attempt` (from 1). `chance` in [0, 1) is for jitter."""
    if end.reason not in _BY_PLUGIN:
        return _conclude_by_host(end.reason, rules)
    if end.reason in (Reason.TIMEOUT, Reason.IDLE_TIMEOUT, Reason.SIGNALED) or end.exit_code is None:
        ended = Conclusion(outcome=Outcome.TERMINATED, status=Status.TERMINATED)
        return ended if said.retry is False else _again_or(ended, rules.retry, attempt, chance)
    rule = _rule_of(end, rules, said)
    match rule.outcome:
        case Outcome.SUCCESS:
            return _SUCCESS
        case Outcome.SNOOZE:
            delay = SNOOZE_SECONDS if said.snooze_seconds is None else said.snooze_seconds
            return Conclusion(outcome=Outcome.SNOOZE, status=Status.BLOCKED, delay_seconds=delay, attempt_used=False)
    failed = Conclusion(outcome=Outcome.FAILURE, status=said.status or rule.status or Status.FAILED)
    if rule.outcome is Outcome.PERMANENT:
        return Conclusion(outcome=Outcome.PERMANENT, status=failed.status)
    return _again_or(failed, rules.retry, attempt, chance)


def _conclude_by_host(reason: Reason, rules: EndRules) -> Conclusion:
    """Where the host has ended the run, or has lost or never begun it."""
    match reason:
        case Reason.CANCELLED:
            return Conclusion(outcome=Outcome.CANCELLED, status=Status.CANCELLED)
        case Reason.PARAMETERS | Reason.HOST_ERROR:
            return Conclusion(outcome=Outcome.PERMANENT, status=Status.FAILED)
        case Reason.START_FAILED:
            return Conclusion(outcome=Outcome.RETURNED, status=Status.CREATED, attempt_used=False)
        case Reason.SHUTDOWN if rules.idempotent:
            return Conclusion(outcome=Outcome.RETURNED, status=Status.CREATED, attempt_used=False)
        case Reason.SHUTDOWN:
            return Conclusion(outcome=Outcome.TERMINATED, status=Status.TERMINATED, attempt_used=False)
        case Reason.LOST if rules.idempotent:
            return Conclusion(outcome=Outcome.RETURNED, status=Status.CREATED)
        case _:  # it is lost
            return Conclusion(outcome=Outcome.ORPHANED, status=Status.ORPHANED)


def retry_delay(policy: RetryPolicy, attempt: int, chance: float) -> float:
    """Seconds from the end of failed attempt number `attempt` (from 1) to the next one."""
    try:
        grown = policy.delay_seconds * policy.backoff ** (attempt - 1)
    except OverflowError:  # beyond 10^308 times the first one, every delay has reached max_delay, except none at all
        grown = math.inf if policy.delay_seconds else 0.0
    delay = min(grown, policy.max_delay_seconds)
    return max(0.0, delay * (1 + policy.jitter * (2 * chance - 1)))


def is_failure_by_itself(end: RunEnd, rules: EndRules) -> bool:
    """Whether the run failed by the way it ended, apart from its events."""
    is_by_exit = end.reason in (Reason.EXITED, Reason.DONE, Reason.WORKER_EXITED) and end.exit_code is not None
    return not (is_by_exit and _exit_rule(end, rules).outcome in (Outcome.SUCCESS, Outcome.SNOOZE))


def _exit_rule(end: RunEnd, rules: EndRules) -> ExitRule:
    """The meaning of its exit code by itself."""
    assert end.exit_code is not None
    if end.reason is Reason.WORKER_EXITED and end.exit_code == 0:
        return _FAILURE  # without `done`, it has not said that the task is finished
    return rules.exit_codes.get(end.exit_code) or _DEFAULT_EXITS.get(end.exit_code, _FAILURE)


def _rule_of(end: RunEnd, rules: EndRules, said: Said) -> ExitRule:
    rule = _exit_rule(end, rules)
    if rule.outcome in (Outcome.SUCCESS, Outcome.SNOOZE) and (said.error or said.status is not None):
        rule = _FAILURE  # it reported an error, whatever its exit code
    elif rule.outcome is Outcome.SUCCESS and end.exit_code == 0 and said.snooze_seconds is not None:
        return ExitRule(outcome=Outcome.SNOOZE)
    if said.error and said.retry is not None and rule.outcome in (Outcome.FAILURE, Outcome.RETRY, Outcome.PERMANENT):
        return ExitRule(outcome=Outcome.RETRY if said.retry else Outcome.PERMANENT, status=rule.status)
    return rule


def _again_or(ended: Conclusion, policy: RetryPolicy, attempt: int, chance: float) -> Conclusion:
    """Another attempt while the policy has one left, else the end unchanged."""
    if attempt > policy.max:
        return ended
    delay = retry_delay(policy, attempt, chance)
    return Conclusion(outcome=Outcome.RETRY, status=Status.BLOCKED, delay_seconds=delay)
