"""The nodes of the cluster, and what people ask of them.

Responsible for: finding nodes, asking them to drain, resume or stop, waiting until they comply, and deleting dead ones.
Must not know: how nodes are shown, how a node handles a request.

Rules:
1. A request is a field of the node's document, so it can be made from any machine. The node sees it with its next
   heartbeat and answers with the one after that.
2. A request is made only if a node will see it: nodes of other programs and dead ones raise NodeUnreachableError.
3. A node is deleted only if it is dead and holds no tasks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from disbatch_host import suggested
from disbatch_host.client import handshake, requests
from disbatch_host.decide import readings
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, NodeRecord
from disbatch_host.errors import NodeNotGoneError, NodeUnreachableError, NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol.faults import near_name
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import IN_HAND

_ANSWERED = 2  # heartbeats: a node sees a request with one, and answers with the next
_LOOK_SECONDS = 0.1  # a node's document changes once a heartbeat, and nothing signals that


class Wish(StrEnum):
    """A request to a node."""

    DRAIN = "drain"
    RESUME = "resume"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that was made."""

    wish: Wish
    node: NodeRecord  # as it was before
    was_drained: bool  # whether it had been asked to drain before
    keeps_runs: bool = False  # it was asked to leave at once
    is_confirmed: bool = True  # False: the node was asked to claim nothing more, and has not said in time that it does


class Nodes:
    """The nodes of one store. `by` names the person who asks: `user@machine`."""

    def __init__(self, store: Store, by: str, *, within_seconds: float = handshake.WITHIN_SECONDS) -> None:
        """`within_seconds`: how long `drain` waits for the node's word."""
        self._store = store
        self._by = by
        self._within_seconds = within_seconds

    def list(
        self, *, class_name: str | None = None, is_alive: bool | None = None, state: str | None = None
    ) -> tuple[NodeRecord, ...]:
        """The nodes, ordered by id. Filters: those that have the plugin `class_name`; those alive, or dead;
        those alive and in this `state` (`running`, `draining`, `drained`, `stopping`), or `away`."""
        return tuple(
            one
            for one in self._store.nodes()
            if (class_name is None or class_name in readings.classes_of(one))
            and (is_alive is None or (readings.is_alive(one) if is_alive else life_of(one) == "dead"))
            and (state is None or (life_of(one) != "dead" and _state_of(one) == state))
        )

    def get(self, node_id: str) -> NodeRecord:
        """One node. Raises NotFoundError, which names a similar id if there is one."""
        found = self._store.get_node(node_id)
        if found is None:
            near = near_name(node_id, [one.id for one in self._store.nodes()])
            hint = f"did you mean {near!r}?" if near else f"{suggested.hint('node list')} shows the nodes"
            raise NotFoundError(f"no node {node_id!r} in {self._store.description}; {hint}")
        return found

    def drain(self, node_id: str, *, why: str | None = None) -> Asked:
        """Let a node claim no more tasks, once this has returned; its running tasks finish. It waits for the node to
        confirm that, a few seconds at most (`Asked.is_confirmed`).

        Raises NotFoundError, NodeUnreachableError for a node that cannot be asked, and UsageError for a reason that
        tables cannot show."""
        asked = self._ask(self._reachable(node_id), Wish.DRAIN, why)
        return dataclasses.replace(asked, is_confirmed=self._claims_nothing(asked))

    def resume(self, node_id: str) -> Asked:
        """Let a drained node claim tasks again; any other node is unaffected.

        Raises NotFoundError, and NodeUnreachableError for a node that cannot be asked, or is stopping."""
        found = self._reachable(node_id)
        if found.state == "stopping":
            raise NodeUnreachableError(
                f"node {node_id} is stopping and cannot be resumed; start it again once it has ended"
            )
        return self._ask(found, Wish.RESUME, None)

    def stop(self, node_id: str, *, why: str | None = None, keep_runs: bool = False) -> Asked:
        """Stop a node gracefully: its running tasks finish, or are stopped after its `--stop-grace`. A second
        request stops its tasks, a third kills them. `keep_runs`: it leaves at once, and they go on without it.

        Raises NotFoundError, NodeUnreachableError for a node that cannot be asked, or cannot leave its runs, and
        UsageError for a reason that tables cannot show."""
        found = self._reachable(node_id)
        if keep_runs:
            _require_home(found)
        return self._ask(found, Wish.STOP, why, keep_runs=keep_runs)

    def wait(
        self,
        asked: Asked,
        *,
        within_seconds: float | None = None,
        on_look: Callable[[NodeRecord], object] = lambda _: None,
    ) -> bool:
        """Wait until a node has done what was asked: it is drained, it claims again, or it has ended (which satisfies
        any request). False if it has not `within_seconds`; None waits without limit. `on_look` gets the
        current node each time it is read.

        Raises NodeUnreachableError if the node dies meanwhile, or cannot leave its runs any more."""
        deadline = None if within_seconds is None else time.monotonic() + within_seconds
        mark, heartbeats = asked.node.heartbeat_mark, 0
        while True:
            found = self._store.get_node(asked.node.id)
            if found is None or found.session != asked.node.session:
                return True
            on_look(found)
            if found.heartbeat_mark != mark:
                mark, heartbeats = found.heartbeat_mark, heartbeats + 1
            if readings.is_away(found):  # its process ends with that
                return True
            # Before the node has answered, its document says nothing about the request.
            if heartbeats >= _ANSWERED and found.state in _STATES[asked.wish]:
                return True
            if heartbeats >= _ANSWERED and asked.keeps_runs:
                _require_home(found)  # it has just lost its supervisor, and goes on
            if not readings.is_alive(found):
                raise NodeUnreachableError(
                    f"node {found.id} died before it was {_IN_WORDS[asked.wish]}, {silence_of(found)}"
                )
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_SECONDS)

    def _claims_nothing(self, asked: Asked) -> bool:
        """Wait until a node that was asked to drain claims nothing more; whether it does."""
        if self._store.claims_read_queues and handshake.can_answer(asked.node):
            return True  # each claim looks itself
        deadline = time.monotonic() + self._within_seconds
        marks = {asked.node.heartbeat_mark}
        # Until it has answered, what it says may be of an earlier request to drain that was taken back meanwhile.
        is_old = asked.node.state in _CLAIMS_NOTHING and not asked.was_drained
        while True:
            found = self._store.get_node(asked.node.id)
            if found is None or found.session != asked.node.session:
                return True
            marks.add(found.heartbeat_mark)
            if found.state in _CLAIMS_NOTHING and (not is_old or len(marks) > _ANSWERED):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_SECONDS)

    def delete(self, node_id: str) -> NodeRecord:
        """Forget a dead node that will not come back; it is returned as it was.

        Raises NotFoundError, and NodeNotGoneError if it is alive, or still holds tasks (any living node
        settles those)."""
        found = self.get(node_id)
        if readings.is_alive(found):
            stop_it = f"{suggested.hint('node stop', found.id, '--wait')} ends it" if found.is_ours else "stop it first"
            heard = "" if found.age_seconds is None else f", {silence_of(found)}"
            raise NodeNotGoneError(f"node {found.id} is alive{heard}; {stop_it}")
        in_hand = self._store.count_tasks(TaskFilter(node=found.id, statuses=IN_HAND))
        if in_hand and readings.is_away(found):
            raise NodeNotGoneError(
                f"node {found.id} {readings.away_in_words(found)}, and "
                f"{'1 task runs' if in_hand == 1 else f'{in_hand} tasks run'} there without it; start it again"
            )
        if in_hand:
            raise NodeNotGoneError(
                f"node {found.id} is dead and {'1 task is' if in_hand == 1 else f'{in_hand} tasks are'} still "
                f"in its hands; any living node settles that, see {suggested.hint('task list', '--node', found.id)}"
            )
        self._store.hold(found.id, {})  # releases its places in queues with `maxtotal`
        if not self._store.remove_node(found.id, found.session):
            raise NodeNotGoneError(f"node {found.id} has just been restarted, or is already deleted")
        return found

    def _reachable(self, node_id: str) -> NodeRecord:
        """A node that will see a request (rule 2)."""
        found = self.get(node_id)
        if not found.is_ours:
            raise NodeUnreachableError(
                f"node {node_id} belongs to another program ({found.document.get('version')}), which cannot be asked "
                "from here; stop it on its own machine"
            )
        if readings.is_away(found):
            raise NodeUnreachableError(f"node {node_id} {readings.away_in_words(found)}; start it again first")
        if not readings.is_alive(found):
            raise NodeUnreachableError(
                f"node {node_id} is not alive, {silence_of(found)}; other nodes take over its tasks"
            )
        return found

    def _ask(self, found: NodeRecord, wish: Wish, why: str | None, *, keep_runs: bool = False) -> Asked:
        name = "stop" if wish is Wish.STOP else "drain"
        value: Document | None = None
        if wish is not Wish.RESUME:
            value = requests.request(self._by, why, now=self._store.now())
            value |= {"keep_runs": True} if keep_runs else {}
        if not self._store.request_of_node(found.id, name, value):
            raise NotFoundError(f"no node {found.id!r} any more; it has just stopped")
        return Asked(wish=wish, node=found, was_drained="drain" in found.requests, keeps_runs=keep_runs)


def _require_home(found: NodeRecord) -> None:
    if not isinstance(found.document.get("home"), str):
        raise NodeUnreachableError(
            f"node {found.id} cannot leave its runs: they would end with it (its log says why, if its version knows of "
            "it); stop it without --keep-runs"
        )


_CLAIMS_NOTHING = ("draining", "drained", "stopping")
_STATES: dict[Wish, Collection[str]] = {Wish.DRAIN: ("drained",), Wish.RESUME: ("running",), Wish.STOP: ()}
_IN_WORDS = {Wish.DRAIN: "drained", Wish.RESUME: "resumed", Wish.STOP: "stopped"}


def silence_of(record: NodeRecord) -> str:
    """When a node was last heard of, as part of a sentence."""
    age = record.age_seconds
    return "it was never heard from" if age is None else f"it was last heard from {format_duration(age)} ago"


def life_of(record: NodeRecord) -> str:
    """`dead`, `away`, `alive`, or the state of a living node that claims no more tasks."""
    if readings.is_away(record):
        return "away"
    if not readings.is_alive(record):
        return "dead"
    return "alive" if record.state == "running" else record.state


def _state_of(record: NodeRecord) -> str:
    return "away" if readings.is_away(record) else record.state


def to_json(record: NodeRecord) -> dict[str, Any]:
    """The node's document, with the facts that only a reader can know: whether it is alive, the age of its heartbeat,
    and how much longer it may be away."""
    return {
        **record.document,
        "_id": record.id,
        "alive": readings.is_alive(record),
        "age_seconds": record.age_seconds,
        "away_seconds": record.away_seconds if readings.is_away(record) else None,
    }
