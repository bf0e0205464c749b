"""What is known of the node that has a task in its hands, where it has not been heard from. Pure.

Responsible for: noticing it by the rules that nodes follow (`membership`, `node/duties/lost_runs.py`), and the words
for what becomes of the task. Must not know: stores, terminals, the clock.

Rules:
1. A task without a claim of this program is another program's: nothing is said of it, since nothing here settles it.
2. A heartbeat that is late but not yet too old is called silence, not death.
3. A node that is away has said so itself: nobody settles anything of it before its time is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from disbatch_host.decide.readings import away_in_words, is_alive, is_away, is_silent
from disbatch_host.decide.words import ago
from disbatch_host.documents.records import NodeRecord, Task
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import IN_HAND, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A node that has tasks in its hands and is silent."""

    node: str
    heard: str  # after its name: `was last heard from 44 s ago and is taken for dead`
    then: str  # what becomes of the tasks, as a sentence
    is_away: bool = False  # it has left on purpose, and its runs go on

    @property
    def sentence(self) -> str:
        return f"node {self.node} {self.heard}; {self.then}"


def absence_of(task: Task, nodes: Sequence[NodeRecord]) -> Absence | None:
    """The absence of the node that has the task in its hands; None if nobody has it, or that node is there. `nodes`:
    all of the store, read when the task was or later."""
    if task.status not in IN_HAND or task.node is None or task.token is None:
        return None
    return absence_of_node(task.node, nodes, settles="it", fate=_fate_of(task))


def absence_of_node(node_id: str, nodes: Sequence[NodeRecord], *, settles: str, fate: str) -> Absence | None:
    """The absence of a node; None if it is there. `settles` and `fate`: which of its tasks another node settles, and
    what becomes of them."""
    record = next((one for one in nodes if one.id == node_id), None)
    if record is None:
        return Absence(
            node=node_id,
            heard="is not in the store",
            then=f"once a node with this id is started, it settles {settles}: {fate}",
        )
    if is_alive(record) and not is_silent(record):
        return None
    heard = "was never heard from" if record.age_seconds is None else f"was last heard from {ago(record.age_seconds)}"
    if not record.is_ours:
        return Absence(
            node=node_id,
            heard=f"belongs to another program ({record.document.get('version')}) and {heard}",
            then=f"that program alone can settle {settles}",
        )
    if is_away(record):
        then = f"its runs go on without it; if it is not back by then, another node settles {settles}: {fate}"
        return Absence(node=node_id, heard=away_in_words(record), then=then, is_away=True)
    others = [one for one in nodes if one.id != node_id and one.is_ours and is_alive(one) and not is_silent(one)]
    who = "another node" if others else "the next node that is started"
    if is_alive(record):
        left = format_duration(max(1, round(record.dead_after_seconds() - (record.age_seconds or 0.0))))
        then = f"if it stays silent for {left} more, {who} settles {settles}: {fate}"
        return Absence(node=node_id, heard=heard, then=then)
    settled = (
        f"{who} settles {settles} within seconds" if others else f"no other node is alive; {who} settles {settles}"
    )
    return Absence(node=node_id, heard=f"{heard} and is taken for dead", then=f"{settled}: {fate}")


def _fate_of(task: Task) -> str:
    if task.status == Status.CLAIMED:
        return "it goes back to its queue"
    if task.cancel is not None:
        return "it is cancelled"
    if task.run.get("idempotent") is not True:
        return "it becomes orphaned, since its plugin does not say that running it twice does no harm"
    return "it goes back to its queue and runs again"
