"""Several nodes at one real store, driven step by step in any order: claims, starts, news, ends, retries, crashes,
take-overs of nodes that are dead or only seem so, runs that go on without their node, answers that get lost, clocks
that are set. After each step every task is held against a model that knows only the promises (docs/guarantees.md).

The nodes here do what `node.node`, `run.attempt`, `node.adoption` and `node.store_thread` do, with their parts
(`claiming`, `transitions`, `lost_runs`, `outcome`), but one step at a time, and stop between any two steps. A
supervisor here is what a node's next life hears of one: the runs that were started there and whose end was not
acknowledged.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from disbatch_host.clock import SystemClock
from disbatch_host.decide.placement import Load
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunChange, RunKey, TaskFilter
from disbatch_host.documents.records import Task, new_task
from disbatch_host.node.adoption import was_never_started
from disbatch_host.node.claim_ledger import ClaimLedger, ClaimRequest
from disbatch_host.node.duties import lost_runs
from disbatch_host.node.duties.lost_runs import OwnTasks
from disbatch_host.node.pace import Pace
from disbatch_host.node.pieces import Pieces
from disbatch_host.run import notes
from disbatch_host.store.contract import Store
from disbatch_host.store.mongo import MongoStore
from disbatch_host.store.sqlite import SqliteStore
from disbatch_protocol import status as statuses
from disbatch_protocol.manifest import Manifest, parse_manifest
from disbatch_protocol.outcome import Outcome, Reason, RunEnd, Said, conclude
from disbatch_protocol.status import Status
from helpers.mongod import Mongod

NODES = ("n1", "n2", "n3")
MAX_PER_QUEUE = 2
RETRY_SECONDS = 30
QUEUES = {
    "once": {"retry": {"max": 0}},
    "again": {"idempotent": True},
    "retry": {"retry": {"max": 2, "delay": RETRY_SECONDS, "jitter": 0, "backoff": 1}},
}
MANIFESTS: dict[str, Manifest] = {}
for _name, _fields in QUEUES.items():
    _parsed = parse_manifest(
        json.dumps({"protocol": 1, "command": ["true"], "name": _name, **_fields}).encode(), directory_name=_name
    ).manifest
    assert _parsed is not None
    MANIFESTS[_name] = _parsed


PICK = st.integers(0, 20)  # which of those that there are
FATE = st.sampled_from(["answered", "not sent", "answer lost", "answered"])  # of what a node writes


class SharedClock(SystemClock):
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.at = datetime(2026, 4, 26, 17, 59, 33, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at


class AheadMongoStore(MongoStore):
    """The server's clock goes as it goes; this is how far the model has moved it."""

    def __init__(self, url: str, clock: SharedClock) -> None:
        super().__init__(url, SystemClock())
        self._shared, self._from = clock, clock.at

    def now(self) -> datetime:
        return super().now() + (self._shared.at - self._from)


class Cut(BaseException):
    """The node is gone, in the middle of what it did."""


class CutStore:
    """A store whose node dies right after, or right before, one of its commits."""

    def __init__(self, store: Store, *, after: int, is_carried_out: bool) -> None:
        self._store, self._left, self._is_carried_out = store, after, is_carried_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, changes: Sequence[RunChange], *rest: Any) -> set[RunKey]:
        self._left -= 1
        if self._left > 0 or self._is_carried_out:
            refused = self._store.commit(changes, *rest)
        if self._left <= 0:
            raise Cut
        return refused


@dataclass(eq=False)
class Hand:
    """A task in a node's hands, as the node knows it."""

    task: Task
    key: RunKey
    run: dict[str, Any] = field(default_factory=dict)
    stage: str = "claimed"  # then starting, running, ending: what it has handed in, or heard of, last
    said: int = 0
    is_waiting: bool = False  # for the answer to a change
    ended: tuple[int, int, bool] | None = None  # how its program has ended: exit code, follow-up tasks, snooze


@dataclass(eq=False)
class Handed:
    """A change on its way to the store, in the order in which it was handed in."""

    hand: Hand
    change: RunChange
    answer: Callable[[bool], None]


@dataclass(eq=False)
class Node:
    id: str
    store: Store
    ledger: ClaimLedger
    hands: list[Hand] = field(default_factory=list)
    handed: list[Handed] = field(default_factory=list)
    skew: timedelta = timedelta(0)
    is_up: bool = True
    supervisor: str = "first"  # the one of its runs
    kept: dict[RunKey, Hand] = field(default_factory=dict)  # what that has

    def now(self) -> datetime:
        return self.store.now() + self.skew


@dataclass
class Expected:
    """What the store must say of a task, and what has really happened to it."""

    queue: str
    status: int = int(Status.CREATED)
    node: str | None = None
    token: str | None = None
    stdout: str = ""
    not_before: datetime | None = None
    last_change: RunChange | None = None
    starts: int = 0
    run: dict[str, Any] = field(default_factory=dict)
    returns: int = 0  # ends of runs after which it was to be run again, as the plugin wanted it


Place = Callable[[SharedClock], tuple[Callable[[], Store], Callable[[], None]]]


class Nodes(RuleBasedStateMachine):
    """`place` gives a way to open the same empty store again and again, and one to end with it."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.clock = SharedClock()
        open_one, self.close = place(self.clock)
        self.eye = open_one()
        for name in QUEUES:
            self.eye.insert_queue({"_id": name, "class": name})
        self.nodes = [Node(node_id, open_one(), ClaimLedger(node_id, Pace())) for node_id in NODES]
        # Each connection has its own estimate of the server's clock, and corrects it from time to time.
        self.clock_error = timedelta(seconds=0 if isinstance(self.eye, SqliteStore) else 2)
        self.tasks: dict[Any, Expected] = {}
        self.owed: set[str] = set()  # follow-up tasks of recorded ends that have not been seen yet
        self.children: set[str] = set()
        self.names = itertools.count(1)
        self.begun: set[str | None] = set()  # the tokens with which a program was started
        self.carried_out: set[int] = set()
        self.kept: list[RunChange] = []  # so that no id is used twice
        for node in self.nodes:
            self.read_queues(node)

    @initialize()
    def begin(self) -> None:
        self.do_push("once", 2)
        self.do_push("again", 2)
        self.do_push("retry", 1)

    @precondition(lambda self: sum(one.status == Status.CREATED for one in self.tasks.values()) < 4)
    @rule(queue=st.sampled_from(sorted(QUEUES)), count=st.integers(1, 3))
    def push(self, queue: str, count: int) -> None:
        self.do_push(queue, count)

    def do_push(self, queue: str, count: int) -> None:
        for task_id in self.eye.insert_tasks([new_task(queue, {}, now=self.eye.now()) for _ in range(count)]):
            self.tasks[task_id] = Expected(queue)
        self.look()

    @precondition(lambda self: any(not node.handed for node in self.up()))
    @rule(pick=PICK, is_lost=st.sampled_from([False, False, False, True]))
    def claim(self, pick: int, is_lost: bool) -> None:
        """`is_lost`: it is carried out, and the node never hears of it."""
        # The store's thread writes what there is before it claims.
        nodes = [node for node in self.up() if not node.handed]
        self.do_claim(nodes[pick % len(nodes)], is_lost)

    def do_claim(self, node: Node, is_lost: bool) -> None:
        load = Load(max_per_queue=MAX_PER_QUEUE, max_total=None, running=Counter(h.task.queue for h in node.hands))
        room = {queue: MAX_PER_QUEUE - load.running.get(queue, 0) for queue in QUEUES}
        waiting = Counter(one.queue for one in self.tasks.values() if one.status == Status.CREATED)
        got = node.ledger.round(ClaimRequest(classes=frozenset(QUEUES), load=load), node.store).tasks
        assert Counter(task.queue for task in got) == +Counter({q: min(room[q], waiting[q]) for q in QUEUES})
        for task in got:
            expected = self.tasks[task.id]
            assert expected.status == Status.CREATED and expected.node is None, "it was somebody else's"
            expected.status, expected.node, expected.token = int(Status.CLAIMED), node.id, task.token
            expected.last_change = None
            if not is_lost:
                node.hands.append(Hand(task, RunKey(task.id, node.id, task.token)))
        self.look()

    @precondition(lambda self: any(self.strays_of(node) for node in self.up()))
    @rule(pick=PICK)
    def give_back_strays(self, pick: int) -> None:
        nodes = [node for node in self.up() if self.strays_of(node)]
        node = nodes[pick % len(nodes)]
        known = frozenset(hand.task.id for hand in node.hands)
        strays = self.strays_of(node)
        count = node.ledger.return_orphaned_claims(node.store, known=known)
        for one in strays:
            one.status, one.node, one.token = int(Status.CREATED), None, None
        assert count == len(strays)
        self.look()

    @precondition(lambda self: self.hands("claimed"))
    @rule(pick=PICK, fate=FATE)
    def start(self, pick: int, fate: str) -> None:
        node, hand = self.pick(pick, "claimed")
        self.do_start(node, hand)
        self.do_write(node, fate)

    def do_start(self, node: Node, hand: Hand) -> None:
        now = node.now()
        hand.run = {
            "token": hand.key.token,
            "attempt": hand.task.next_attempt,
            "node": node.id,
            "idempotent": MANIFESTS[hand.task.queue].idempotent,
            "started": now,
            "supervisor": node.supervisor,
        }
        hand.stage = "starting"
        change = transitions.start_change(hand.task, hand.key, hand.run, now=now)

        def answer(is_accepted: bool) -> None:
            if is_accepted:
                self.tasks[hand.task.id].starts += 1  # the program is started now, and never before
                self.begun.add(hand.key.token)
                hand.stage = "running"
                node.kept[hand.key] = hand

        self.hand_in(node, hand, change, answer)

    @precondition(lambda self: self.hands("claimed"))
    @rule(pick=PICK)
    def give_back(self, pick: int) -> None:
        node, hand = self.pick(pick, "claimed")
        hand.stage = "ending"
        self.hand_in(node, hand, transitions.unclaim_change(hand.key, now=node.now()), lambda _: None)

    @precondition(lambda self: self.hands("running"))
    @rule(pick=PICK, fate=FATE)
    def say(self, pick: int, fate: str) -> None:
        node, hand = self.pick(pick, "running")
        hand.said += 1
        change = transitions.progress_change(hand.key, {"stdout": f"{hand.key.token} {hand.said}"})
        self.hand_in(node, hand, change, lambda _: None)
        self.do_write(node, fate)

    @precondition(lambda self: self.hands("running"))
    @rule(
        pick=PICK,
        exit_code=st.sampled_from([0, 0, 1, 75]),
        children=st.integers(0, 2),
        snooze=st.booleans(),
        fate=FATE,
    )
    def end(self, pick: int, exit_code: int, children: int, snooze: bool, fate: str) -> None:
        node, hand = self.pick(pick, "running")
        self.do_end(node, hand, exit_code, children, snooze)
        self.do_write(node, fate)

    def do_end(self, node: Node, hand: Hand, exit_code: int, children: int, snooze: bool) -> None:
        hand.ended = exit_code, children, snooze
        manifest = MANIFESTS[hand.task.queue]
        end = RunEnd(reason=Reason.EXITED, exit_code=exit_code)
        said = Said(snooze_seconds=RETRY_SECONDS if snooze and exit_code == 0 else None)
        conclusion = conclude(end, manifest, attempt=hand.run["attempt"], chance=0.5, said=said)
        now = node.now()
        run = {
            **hand.run, "ended": now, "reason": str(end.reason), "exit_code": exit_code,
            "outcome": str(conclusion.outcome), "attempt_used": conclusion.attempt_used,
        }  # fmt: skip
        creates = []
        if conclusion.outcome is Outcome.SUCCESS:
            creates = [
                new_task("again", {"child": f"c{next(self.names)}"}, now=now, parent=str(hand.task.id))
                for _ in range(children)
            ]
        delay = conclusion.delay_seconds
        change = transitions.end_change(
            hand.task,
            hand.key,
            left=Status.RUNNING,
            run=run,
            conclusion=conclusion,
            error={"code": f"exit_{exit_code}", "message": "no"} if exit_code else None,
            fields={"stdout": f"{hand.key.token} whole"},
            not_before=None if delay is None else now + timedelta(seconds=delay),
            now=now,
            creates=creates,
        )
        hand.stage = "ending"
        self.hand_in(node, hand, change, lambda _: None)

    @precondition(lambda self: any(node.handed for node in self.up()))
    @rule(pick=PICK, fate=FATE)
    def write(self, pick: int, fate: str) -> None:
        nodes = [node for node in self.up() if node.handed]
        self.do_write(nodes[pick % len(nodes)], fate)

    def do_write(self, node: Node, fate: str) -> None:
        """Group commit: everything that was handed in, as one batch. Without an answer it is sent again, later."""
        if not node.is_up or not node.handed or fate == "not sent":
            return
        batch = list(node.handed)
        refused = node.store.commit([handed.change for handed in batch])
        for handed in batch:
            is_done = self.carry_out(handed.change)
            was_done = id(handed.change) in self.carried_out
            expected = self.tasks[handed.change.key.task_id]
            if is_done or (was_done and expected.last_change is handed.change):
                assert handed.change.key not in refused, "it was carried out, and nobody has touched it since"
            elif handed.change.set.get("node") is None or "run" in handed.change.set:
                # To be told that what was wanted is so already is harmless where nothing tells who has done it.
                assert handed.change.key in refused, "a dead run has spoken"
            if is_done:
                self.carried_out.add(id(handed.change))
                self.kept.append(handed.change)
        self.look(are_all_there=True)
        if fate == "answer lost":
            return
        node.handed.clear()
        for handed in batch:
            handed.hand.is_waiting = False
            is_accepted = handed.change.key not in refused
            handed.answer(is_accepted)
            if not is_accepted or handed.hand.stage == "ending":
                node.hands.remove(handed.hand)  # its process is stopped, or has ended
                node.kept.pop(handed.hand.key, None)
        self.check()

    @precondition(lambda self: sum(bool(node.hands) for node in self.up()) > 1)
    @rule(pick=PICK)
    def crash(self, pick: int) -> None:
        nodes = [node for node in self.up() if node.hands]
        self.do_crash(nodes[pick % len(nodes)])

    def do_crash(self, node: Node) -> None:
        """With its supervisor, and so with its runs."""
        self.do_fall(node)
        node.kept.clear()
        node.supervisor = f"{node.id} {next(self.names)}"

    @precondition(lambda self: sum(bool(node.hands) for node in self.up()) > 1)
    @rule(pick=PICK)
    def fall(self, pick: int) -> None:
        """Its runs go on."""
        nodes = [node for node in self.up() if node.hands]
        self.do_fall(nodes[pick % len(nodes)])

    def do_fall(self, node: Node) -> None:
        node.is_up = False
        node.hands.clear()
        node.handed.clear()

    @precondition(lambda self: self.unwatched())
    @rule(pick=PICK, exit_code=st.sampled_from([0, 0, 1, 75]), children=st.integers(0, 2), snooze=st.booleans())
    def end_meanwhile(self, pick: int, exit_code: int, children: int, snooze: bool) -> None:
        """A run ends while its node is not there."""
        runs = self.unwatched()
        runs[pick % len(runs)].ended = exit_code, children, snooze

    @precondition(lambda self: len(self.up()) < len(self.nodes))
    @rule(which=st.integers(0, 2))
    def start_again(self, which: int) -> None:
        node = self.nodes[which]
        if not node.is_up:
            self.do_start_again(node)

    def do_start_again(self, node: Node) -> None:
        told = {(hand.key.token, notes.name_of(hand.task.id)) for hand in node.kept.values()}
        adopted = self.adopt(node)
        own = OwnTasks(
            lambda task: task.id not in adopted,
            lambda task: was_never_started(task, {node.supervisor}, told),
            frozenset({node.supervisor}),
        )
        self.settle(node.store, node.id, own=own, adopted=adopted, told={token for token, _ in told})
        node.ledger = ClaimLedger(node.id, Pace())
        node.is_up = True
        self.read_queues(node)

    def adopt(self, node: Node) -> set[Any]:
        """It goes on with the runs whose tasks are still its own, and stops the others. Returns those tasks."""
        kept, node.kept = node.kept, {}
        for key, hand in kept.items():
            hand.run = {**hand.run, "adopted": [*hand.run.get("adopted", ()), {"at": node.now()}]}
            change = transitions.progress_change(key, {"run": hand.run})
            is_refused = key in node.store.commit([change])
            assert self.carry_out(change) is not is_refused
            self.kept.append(change)
            if not is_refused:
                hand.stage, hand.is_waiting = "running", False
                node.kept[key] = hand
                node.hands.append(hand)
                if hand.ended is not None:
                    self.do_end(node, hand, *hand.ended)
        self.look()
        return {key.task_id for key in node.kept}

    @precondition(lambda self: any(one.node is not None for one in self.tasks.values()))
    @rule(
        by=st.integers(0, 2),
        of=st.integers(0, 2),
        cut=st.sampled_from([None, None, (1, True), (1, False), (2, True), (2, False)]),
    )
    def take_over(self, by: int, of: int, cut: tuple[int, bool] | None) -> None:
        """A node is taken for dead, rightly or wrongly; `cut`: who settles its tasks dies in the middle of it."""
        if by == of or not self.nodes[by].is_up:
            return
        self.settle(self.nodes[by].store, self.nodes[of].id, cut)
        if cut is not None:
            self.do_crash(self.nodes[by])

    @precondition(lambda self: any(one.status == Status.BLOCKED for one in self.tasks.values()))
    @rule(seconds=st.sampled_from([1, RETRY_SECONDS, 3600]))
    def pass_time(self, seconds: int) -> None:
        self.clock.at += timedelta(seconds=seconds)

    @precondition(lambda self: self.hands("running"))
    @rule(which=st.integers(0, 2), seconds=st.sampled_from([-300, -1, 0, 1, 300]))
    def set_clock(self, which: int, seconds: int) -> None:
        """What the node takes for the store's time is wrong by so much."""
        self.nodes[which].skew = timedelta(seconds=seconds)

    @precondition(lambda self: self.owed or any(one.status == Status.BLOCKED for one in self.tasks.values()))
    @rule(which=st.integers(0, 2))
    def promote(self, which: int) -> None:
        if self.nodes[which].is_up:
            self.do_promote(self.nodes[which])

    def do_promote(self, node: Node) -> None:
        before = node.store.now()
        node.store.promote_due()
        after = node.store.now()
        found = {task.id: task.status for task in self.eye.find_tasks(TaskFilter())}
        for task_id, expected in self.tasks.items():
            if expected.status == Status.BLOCKED and expected.not_before is not None:
                must = expected.not_before <= before - self.clock_error
                may = expected.not_before <= after + self.clock_error
                if must or (may and found[task_id] == Status.CREATED):
                    expected.status, expected.node, expected.not_before = int(Status.CREATED), None, None
                    expected.last_change = None  # it does not show any more how it came to wait
        self.look(are_all_there=True)

    # Three times the same: hypothesis leaves rules out of its examples at random, and without this one little happens.

    @rule(pick=PICK)
    def go_on(self, pick: int) -> None:
        self.do_go_on(pick)

    @rule(pick=PICK)
    def go_further(self, pick: int) -> None:
        self.do_go_on(pick)

    @rule(pick=PICK)
    def go_yet_further(self, pick: int) -> None:
        self.do_go_on(pick)

    def do_go_on(self, pick: int) -> None:
        """A node does what it has to do next."""
        if not self.up():
            return
        node = self.up()[pick % len(self.up())]
        if node.handed:
            self.do_write(node, "answered")
        elif claimed := [hand for hand in node.hands if hand.stage == "claimed"]:
            for hand in claimed:
                self.do_start(node, hand)
        elif len(node.hands) > MAX_PER_QUEUE:
            self.do_end(node, node.hands[pick % len(node.hands)], 0, pick % 2, snooze=False)
        else:
            self.do_claim(node, is_lost=False)

    def read_queues(self, node: Node) -> None:
        nothing = Load(max_per_queue=0, max_total=0)
        node.ledger.round(ClaimRequest(classes=frozenset(QUEUES), load=nothing), node.store)
        node.ledger._queues = node.store.queues()  # without promoting what is due: that is a step of its own

    def hands(self, stage: str) -> list[tuple[Node, Hand]]:
        """Those that the next step of this stage may be taken with."""
        return [(n, h) for n in self.nodes if n.is_up for h in n.hands if h.stage == stage and not h.is_waiting]

    def unwatched(self) -> list[Hand]:
        """Runs that go on without their node."""
        return [hand for node in self.nodes if not node.is_up for hand in node.kept.values() if hand.ended is None]

    def strays_of(self, node: Node) -> list[Expected]:
        """Claimed by it, without its hearing of it."""
        known = {hand.task.id for hand in node.hands}
        mine = (Status.CLAIMED, node.id)
        return [one for task_id, one in self.tasks.items() if (one.status, one.node) == mine and task_id not in known]

    def up(self) -> list[Node]:
        return [node for node in self.nodes if node.is_up]

    def pick(self, pick: int, stage: str) -> tuple[Node, Hand]:
        found = self.hands(stage)
        return found[pick % len(found)]

    def hand_in(self, node: Node, hand: Hand, change: RunChange, answer: Callable[[bool], None]) -> None:
        hand.is_waiting = True  # a run hands in one change at a time
        node.handed.append(Handed(hand, change, answer))

    def carry_out(self, change: RunChange) -> bool:
        """The same in the model; whether its guard holds."""
        expected = self.tasks[change.key.task_id]
        held = (expected.node, expected.token) == (change.key.node, change.key.token)
        if not held or expected.status not in [int(one) for one in change.statuses]:
            return False
        before, expected.status = expected.status, change.set.get("status", expected.status)
        assert before == expected.status or statuses.may_become(before, expected.status)
        if change.set.get("node") is not None:
            expected.node = None
            expected.token = None
            if before == Status.RUNNING:
                expected.returns += 1
        expected.stdout = change.set.get("stdout", expected.stdout)
        expected.run = change.set.get("run", expected.run)
        expected.not_before = change.set.get("not_before")
        expected.last_change = change
        self.owed |= {one["parameters"]["child"] for one in change.creates}
        return True

    def settle(
        self,
        store: Store,
        node_id: str,
        cut: tuple[int, bool] | None = None,
        *,
        own: OwnTasks | None = None,
        adopted: Collection[Any] = (),
        told: Collection[str | None] = (),
    ) -> None:
        """`own`: of a node that was gone, and has `adopted` these of its tasks; `told`: the tokens of all its runs."""
        theirs = [
            (task_id, one)
            for task_id, one in self.tasks.items()
            if one.node == node_id and one.status in (Status.CLAIMED, Status.RUNNING) and task_id not in adopted
        ]
        supervisors = () if own is None else own.supervisor_ids
        unstarted = {
            task_id
            for task_id, one in theirs
            if one.status == Status.RUNNING
            and one.run["supervisor"] in supervisors
            and one.run["token"] == one.token
            and one.token not in told
        }
        assert not any(self.tasks[task_id].token in self.begun for task_id in unstarted)
        before = {task_id: self.eye.get_task(task_id) for task_id, _ in theirs}
        is_fenced = is_settled = True
        expected = len(theirs)
        try:
            cut_store: Any = store if cut is None else CutStore(store, after=cut[0], is_carried_out=cut[1])
            how = {} if own is None else {"own": own}
            while not lost_runs.settle(cut_store, node_id, is_on_this_machine=False, **how).is_all:
                pass
        except Cut:
            assert cut is not None
            is_fenced, is_settled = cut != (1, False), cut == (2, True)
            expected = min(expected, next(Pieces(500).sizes(0))) if is_fenced else 0  # no more than the first piece
        after = {task_id: self.eye.get_task(task_id) for task_id, _ in theirs}
        assert sum(before[task_id] != after[task_id] for task_id, _ in theirs) == expected
        for task_id, one in theirs:
            found = after[task_id]
            assert found is not None
            if found == before[task_id]:
                continue
            one.last_change = None
            one.token = found.token  # theirs is void, whatever it is now
            if not is_settled or one.status == Status.RUNNING:
                is_again = is_settled and (QUEUES[one.queue].get("idempotent") is True or task_id in unstarted)
                assert is_again or str(one.token).startswith("settling-")
            if is_settled and (
                one.status == Status.CLAIMED or QUEUES[one.queue].get("idempotent") is True or task_id in unstarted
            ):
                one.status, one.node, one.token = int(Status.CREATED), None, None
            elif is_settled:
                one.status = int(Status.ORPHANED)
        self.look()

    def look(self, *, are_all_there: bool = False) -> None:
        """Hold every task against the model. `are_all_there`: no follow-up task may be missing any more."""
        found = {task.id: task for task in self.eye.find_tasks(TaskFilter())}
        for task_id in found.keys() - self.tasks.keys():
            child = found[task_id].parameters.get("child")
            assert child in self.owed, f"a task that nobody has made, or that was made twice: {child}"
            self.owed.remove(child)
            self.children.add(child)
            self.tasks[task_id] = Expected("again")
        assert not (are_all_there and self.owed), "follow-up tasks are missing"
        assert found.keys() == self.tasks.keys(), "a task is lost"
        for task_id, expected in self.tasks.items():
            task = found[task_id]
            wanted = (expected.status, expected.node, expected.token, expected.stdout)
            assert (task.status, task.node, task.token, task.document["stdout"]) == wanted, expected
        self.check()

    def check(self) -> None:
        for task_id, expected in self.tasks.items():
            key = RunKey(task_id, str(expected.node), expected.token)
            owners = [node.id for node in self.nodes for hand in node.hands if hand.key == key]
            assert len(owners) <= 1, "in two nodes' hands"
            if QUEUES[expected.queue].get("idempotent") is not True:
                assert expected.starts <= 1 + expected.returns, "started twice"
                hands = itertools.chain.from_iterable([*node.hands, *node.kept.values()] for node in self.nodes)
                running = {hand.key for hand in hands if hand.task.id == task_id and hand.stage == "running"}
                assert len(running) <= 1, "runs twice at once"

    def teardown(self) -> None:
        """In the end everything comes to its end, whatever has happened before."""
        try:
            for node in self.nodes:
                self.do_write(node, "answered")
                self.do_crash(node)
                self.do_start_again(node)
            node = self.nodes[0]
            for _ in range(100):
                self.pass_time(3600)
                self.do_promote(node)
                self.do_claim(node, is_lost=False)
                if not node.hands:
                    break
                for hand in node.hands:
                    self.do_start(node, hand)
                self.do_write(node, "answered")
                for hand in list(node.hands):
                    self.do_end(node, hand, 0, 0, snooze=False)
                self.do_write(node, "answered")
            assert all(statuses.is_finished(one.status) for one in self.tasks.values()), "a task has no end"
            assert not self.owed
            for one in self.tasks.values():
                if one.status == Status.ORPHANED:
                    assert not MANIFESTS[one.queue].idempotent
        finally:
            for store in (self.eye, *(node.store for node in self.nodes)):
                store.close()
            self.close()


def run(place: Place, *, examples: int, steps: int, is_random: bool) -> None:
    run_state_machine_as_test(
        lambda: Nodes(place),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=not is_random,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink) if is_random else (Phase.generate,),
            print_blob=True,
        ),
    )


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory whose files never reach a disk: no machine stops here, and the disk is what takes the time."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="disbatch-model-", dir=shared) as directory:
        yield Path(directory)


def cases(examples: int) -> list[Any]:
    long = [pytest.mark.soak, pytest.mark.timeout(1800)]
    return [pytest.param(examples, 40, False, id="short"), pytest.param(10 * examples, 80, True, id="long", marks=long)]


@pytest.mark.parametrize(("examples", "steps", "is_random"), cases(50))
def test_no_order_of_events_breaks_a_promise_on_sqlite(
    in_memory: Path, examples: int, steps: int, is_random: bool
) -> None:
    names = itertools.count(1)

    def place(clock: SharedClock) -> tuple[Callable[[], Store], Callable[[], None]]:
        path = in_memory / f"{next(names)}.db"

        def open_one() -> Store:
            store = SqliteStore(path, clock)
            store.open()
            return store

        def remove() -> None:
            for file in in_memory.glob(f"{path.name}*"):
                file.unlink()

        return open_one, remove

    run(place, examples=examples, steps=steps, is_random=is_random)


def test_what_was_fenced_and_therefore_stopped_was_not_never_started(in_memory: Path) -> None:
    """A node that settles another one dies between fence and fate; the other one lives, and stops the run. Its next
    life found a task that was to be started at this supervisor, and no run: back in its queue, the task ran twice."""

    def place(clock: SharedClock) -> tuple[Callable[[], Store], Callable[[], None]]:
        def open_one() -> Store:
            store = SqliteStore(in_memory / "one.db", clock)
            store.open()
            return store

        return open_one, lambda: None

    nodes = Nodes(place)
    nodes.do_push("once", 1)
    node = nodes.nodes[0]
    nodes.do_claim(node, is_lost=False)
    nodes.do_start(node, node.hands[0])
    nodes.do_write(node, "answered")
    nodes.take_over(1, 0, (1, True))
    (hand,) = node.hands
    nodes.hand_in(node, hand, transitions.progress_change(hand.key, {"stdout": "late"}), lambda _: None)
    nodes.do_write(node, "answered")
    assert not node.kept, "it has stopped the run, and its supervisor has forgotten it"
    nodes.do_fall(node)
    nodes.do_start_again(node)
    assert [one.status for one in nodes.tasks.values()] == [Status.ORPHANED]
    nodes.teardown()


@pytest.mark.mongodb
@pytest.mark.parametrize(("examples", "steps", "is_random"), cases(8))
def test_no_order_of_events_breaks_a_promise_on_mongodb(
    mongod_server: Mongod, examples: int, steps: int, is_random: bool
) -> None:
    with mongod_server.database() as url, pymongo.MongoClient(url) as client:

        def place(clock: SharedClock) -> tuple[Callable[[], Store], Callable[[], None]]:
            def open_one() -> Store:
                store = AheadMongoStore(url, clock)
                store.open()
                return store

            def empty() -> None:
                for name in ("tasks", "queues"):
                    client.get_default_database()[name].delete_many({})

            return open_one, empty

        run(place, examples=examples, steps=steps, is_random=is_random)
