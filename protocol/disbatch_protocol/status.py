"""The life of a task: its status values, and a table of the allowed changes of status.

Rules:
1. Status values live here and nowhere else; a bare -2 in other code is a mistake.
2. A change of status that is not in TRANSITIONS cannot be expressed: `check_step` and `Step` raise, and every change
   that the host constructs goes through one of them. Stores write such a change, or one derived from a `Step`.
3. Every status of 2 and above is "concluded with errors"; 2 is the plain failure, the others are the plugin's own.

Source: den-1.0, "tasks".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType


class Status(IntEnum):
    """The status values of the contract. A plugin's own failures (3 and up) stay plain integers."""

    ORPHANED = -6  # the node was lost while the task ran, and running it again may not be safe
    CANCELLED = -5  # a person cancelled it
    BLOCKED = -4  # cannot be claimed yet: delayed, waiting for a retry or for another task
    TERMINATED = -3  # stopped from outside: time limit, signal, out of memory
    CREATED = -2  # waiting to be claimed
    CLAIMED = -1  # a node has it, its process has not started
    RUNNING = 0  # its process may have started
    CONCLUDED = 1  # succeeded
    FAILED = 2  # concluded with errors; the plain failure


# The final statuses of a run. Orphaned is not one of them: a person decides about the task.
ENDED = frozenset({Status.CONCLUDED, Status.FAILED, Status.TERMINATED, Status.CANCELLED})

# The statuses that may follow each status. FAILED stands for every status of 2 and above.
TRANSITIONS: Mapping[Status, frozenset[Status]] = MappingProxyType(
    {
        Status.CREATED: frozenset({Status.CLAIMED, Status.RUNNING, Status.BLOCKED, Status.CANCELLED}),
        Status.BLOCKED: frozenset({Status.CREATED, Status.CANCELLED}),
        # Claimed but never started: released, or concluded without a start (parameters that do not fit).
        Status.CLAIMED: frozenset({Status.RUNNING, Status.CREATED, Status.FAILED, Status.CANCELLED}),
        Status.RUNNING: ENDED | {Status.BLOCKED, Status.CREATED, Status.ORPHANED},
        # A person may retry anything that has ended.
        Status.CONCLUDED: frozenset({Status.CREATED}),
        Status.FAILED: frozenset({Status.CREATED}),
        Status.TERMINATED: frozenset({Status.CREATED}),
        Status.CANCELLED: frozenset({Status.CREATED}),
        Status.ORPHANED: frozenset({Status.CREATED, Status.CANCELLED}),
    }
)

# What counts as a failure, and beside it what nobody knows. FAILED stands for every status of 2 and above.
FAILURES = frozenset({Status.FAILED, Status.TERMINATED, Status.ORPHANED})

WAITING = frozenset({Status.BLOCKED, Status.CREATED})
IN_HAND = frozenset({Status.CLAIMED, Status.RUNNING})  # of a node
UNFINISHED = WAITING | IN_HAND

# The words for `task list --status`, each a test over one status value.
_GROUPS: Mapping[str, frozenset[Status]] = MappingProxyType(
    {
        "waiting": WAITING,
        "unfinished": UNFINISHED,
        "finished": ENDED | {Status.ORPHANED},
        # The meaning of "failed" in every command. Orphaned is not among them: nobody knows whether those have failed.
        "failed": frozenset({Status.FAILED, Status.TERMINATED}),
        "2+": frozenset({Status.FAILED}),  # the narrow form: the program itself reported it
    }
)


def kind(status: int) -> Status:
    """The named status that a value counts as: itself, or FAILED for everything above 2.

    Raises ValueError for a negative value that the contract does not name.
    """
    return Status.FAILED if status >= Status.FAILED else Status(status)


def may_become(old: int, new: int) -> bool:
    """Whether a task of status `old` may change to `new`."""
    try:
        return kind(new) in TRANSITIONS[kind(old)]
    except ValueError:
        return False


_STEPS = frozenset((old, new) for old, follows in TRANSITIONS.items() for new in follows)


class ImpossibleStepError(ValueError):
    """A change of status that TRANSITIONS does not allow: a bug in the program that requested it."""


def check_step(left: Iterable[int], new: int) -> None:
    """Raise ImpossibleStepError if a task of any status in `left` may not become `new`."""
    for old in left:
        # Each change of each task is checked: a set lookup costs a third of asking for both kinds.
        if (old, new) not in _STEPS and not may_become(old, new):
            raise ImpossibleStepError(
                f"expected a change of status that TRANSITIONS allows, found one from {name(old)} to {name(new)}"
            )


@dataclass(frozen=True, slots=True)
class Step:
    """One change of status, by name. Raises ImpossibleStepError if TRANSITIONS does not have it."""

    left: Status
    new: Status

    def __post_init__(self) -> None:
        check_step((self.left,), self.new)


def is_finished(status: int) -> bool:
    """Whether a run of the task has ended for good: nothing more happens unless a person asks for it.

    An unnamed value counts as finished: den-1.0 lets any unused negative value keep a task from
    being claimed, and no node will touch it.
    """
    try:
        return kind(status) not in UNFINISHED
    except ValueError:
        return True


def is_failed(status: int) -> bool:
    """Whether the task failed, as every command counts it: the program reported a failure, or it was terminated."""
    return status >= Status.FAILED or status == Status.TERMINATED


def name(status: int) -> str:
    """The status in a word for people: `running`, `failed`, `failed (7)`; unknown values as `status -9`."""
    try:
        known = kind(status)
    except ValueError:
        return f"status {status}"
    return f"failed ({status})" if status > Status.FAILED else known.name.lower()


def names() -> tuple[str, ...]:
    """Every word that `parse` takes, single statuses first."""
    return tuple(dict.fromkeys([*(member.name.lower() for member in reversed(Status)), *_GROUPS]))


def parse(word: str) -> tuple[frozenset[int], bool]:
    """The meaning of a word or number from the command line: the exact values, and whether all above 2 count too.

    Takes `created`, `running`, `failed` (terminated tasks as well), `waiting`, … (see `names`) and plain integers.
    Raises ValueError for anything else.
    """
    lowered = word.strip().lower()
    if lowered in _GROUPS:
        members = _GROUPS[lowered]
        return frozenset(int(member) for member in members), Status.FAILED in members
    if lowered.upper() in Status.__members__:
        member = Status[lowered.upper()]
        return frozenset({int(member)}), member is Status.FAILED
    try:
        return frozenset({int(lowered)}), False
    except ValueError:
        from disbatch_protocol.faults import near_name  # noqa: PLC0415  (only for a mistake)

        near = near_name(lowered, names())
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"expected one of {', '.join(names())} or a number, found {word!r}{hint}") from None
