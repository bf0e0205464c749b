"""A standstill is noticed after a while without an end, and its cause is told once."""

from __future__ import annotations

from itertools import chain, repeat

from client.documents import NEVER_ALIVE, put_node, put_task
from disbatch_host.client.output import Piece, follow_output
from disbatch_host.client.standstill import Standstill, Still
from disbatch_host.decide.why import Code
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status


def test_it_is_told_once_for_each_cause_and_only_if_nothing_ends(store: Store) -> None:
    store.insert_queue({"_id": "q", "class": "mail"})
    task_id = put_task(store)
    told: list[Still] = []
    moments = chain([0.0, 1.9, 2.1, 5.0, 12.2, 30.0, 31.9, 32.1], repeat(60.0))
    standstill = Standstill(store, lambda: task_id, told.append, lambda: next(moments))
    standstill.look(0)  # 1.9 s: too early
    assert told == []
    standstill.look(0)  # 2.1 s
    assert [(one.task_id, one.why.code) for one in told] == [(task_id, Code.NO_NODE)]
    standstill.look(0)
    standstill.look(0)  # 12.2 s: looked again, and the cause is the same
    assert len(told) == 1
    standstill.look(7)  # some have ended
    standstill.look(7)
    put_node(store, "n1", queuetypes=[])
    standstill.look(7)  # 32.1 s: another cause
    assert [one.why.code for one in told] == [Code.NO_NODE, Code.NO_PLUGIN]


def test_nobody_is_told_of_a_task_that_is_gone_or_of_none(store: Store) -> None:
    gone = put_task(store)
    store.delete_tasks([gone])
    told: list[Still] = []
    Standstill(store, lambda: gone, told.append).say()
    Standstill(store, lambda: None, told.append).say()
    Standstill(store, lambda: gone, None).say()
    assert told == []


def test_somebody_who_follows_the_output_of_a_task_that_does_not_run_is_told(store: Store) -> None:
    """Incident: `task output --follow` of a task whose node was killed said nothing."""
    put_node(store, "n1", settings=NEVER_ALIVE)
    task_id = put_task(store, status=Status.RUNNING, node="n1", claim={"token": "t"}, stdout="half")
    told: list[Still] = []
    pieces = []
    for piece in follow_output(store, task_id, "stdout", told.append):
        pieces.append(piece)
        if told:
            break
    assert pieces[0] == Piece(data=b"half", is_first=True) and set(pieces[1:]) == {None}
    assert [(one.task_id, one.why.code) for one in told] == [(task_id, Code.LOST_NODE)]
