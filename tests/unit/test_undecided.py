"""Runs of an earlier node: what its successor keeps of those that it does not go on with."""

from __future__ import annotations

import pytest

from disbatch_host.process.frames import Ack, Acknowledged, End, Frame, Run, State
from disbatch_host.process.framing import Left, packed_processes
from disbatch_host.process.undecided import Undecided

LEFT = [Left(4711, 65534, "sleep")]


def run_of(number: int, state: State) -> Run:
    return Run(
        run=number, plugin=1, pid=4710, pid_started=1, state=state, age=1, task=0, task_age=0, stored_stdout=0,
        stored_stderr=0, stored_events=0, task_stdout=0, task_stderr=0, task_events=0, stdin_left=0,
        note=b"the note", task_note=b"",
    )  # fmt: skip


def end_of(number: int, left: list[Left]) -> End:
    return End(
        run=number, pid=4710, pid_started=1, status=0, stopped=0, flags=0, killed_after=-1, cpu=0, peak=0, stdin_left=0,
        seconds=1, age=1, left_running=0, stdout_at=0, stdout_end=0, stderr_at=0, stderr_end=0, events_at=0,
        events_end=0, stdout=b"", stderr=b"", events=b"", left_over=packed_processes(left), ended=packed_processes([]),
    )  # fmt: skip


@pytest.mark.parametrize("is_told_before", [True, False])
def test_what_a_run_has_left_is_known_although_only_its_end_was_still_to_be_acknowledged(is_told_before: bool) -> None:
    """The node was killed between the record of an end and its acknowledgment: the next one recorded nothing, and let
    another attempt begin a minute later beside the process that could not be ended."""
    said: list[Frame] = []
    undecided = Undecided(said.append, lambda _: b"")
    undecided.take(run_of(7, State.ENDED))
    undecided.take(run_of(8, State.ENDED))
    if is_told_before:
        undecided.take(end_of(7, LEFT))
    undecided.leave_alone(7)
    undecided.leave_alone(8)
    if not is_told_before:
        undecided.take(end_of(7, LEFT))
    undecided.take(end_of(8, []))
    assert [one for one in said if isinstance(one, Ack)] == [
        Ack(number, 0, 0, 0, Acknowledged.END) for number in (7, 8)
    ]
    assert undecided.left_over == {7: b"the note"}
    assert not undecided.is_over, "GONE follows"
    del undecided.left_over[7]
    assert undecided.is_over
