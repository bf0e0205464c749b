"""Two decisions: who may have a node id, and which nodes are dead. Pure.

Responsible for: these decisions, and measuring, by this node's own monotonic clock, for how long other nodes'
heartbeats have not changed. Must not know: stores, processes, the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from disbatch_host.documents.records import NodeRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A node id's record, and what is known of its process."""

    record: NodeRecord
    is_on_this_machine: bool
    is_process_alive: bool  # meaningful only on this machine
    is_of_earlier_boot: bool = False  # of this machine, going by its name: nothing of it runs any more


def may_take_id(holder: Holder, *, dead_after_seconds: float) -> bool:
    """Whether a starting node may have the id without force (den-1.0, rule 1).

    On this machine the process itself is asked: a node that was killed a second ago may start again at once, one that
    is only stopped (SIGSTOP) may not. For any other machine the heartbeat is the only evidence, and a node that is away
    has runs there, until its time is over.
    """
    if holder.is_on_this_machine:
        return not holder.is_process_alive
    may_have_runs = holder.record.away_seconds is not None and not holder.is_of_earlier_boot
    return holder.record.is_stale(dead_after_seconds) and not may_have_runs


def dead_nodes(
    nodes: Sequence[NodeRecord],
    *,
    own_id: str,
    dead_after_seconds: float,
    watched_seconds: Mapping[str, float],
    confirm_seconds: float,
    confirm_heartbeats: int,
) -> list[NodeRecord]:
    """The nodes whose tasks another node should settle. Only nodes of this program: another program alone knows what an
    old heartbeat of its nodes means.

    `watched_seconds`: for how long, by its own monotonic clock and with a store that answered, the caller has seen each
    node's heartbeat unchanged. An old date alone proves nothing: when a clock has jumped, or nobody could reach the
    store, all heartbeats look old until their nodes' next turn. So an old one must have been watched for
    `confirm_seconds` and for `confirm_heartbeats` intervals of its node. A node that is away has said so, and is not
    dead before its time is over: its runs go on.
    """

    def is_dead(node: NodeRecord) -> bool:
        if node.away_seconds is not None:
            return False
        watched = watched_seconds.get(node.id, 0.0)
        if node.is_stale(dead_after_seconds):
            return watched >= max(confirm_seconds, confirm_heartbeats * node.heartbeat_seconds())
        # A date in the future, after a clock was put back, proves nothing either.
        return watched > node.dead_after_seconds(dead_after_seconds)

    return [node for node in nodes if node.id != own_id and node.is_ours and is_dead(node)]


class HeartbeatWatch:
    """Measures for how long the heartbeats of other nodes have not changed, which dates alone cannot show. The end of
    the time that a node is away is one more date: it is watched from then on."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}  # the last one seen, and since when

    def look(self, nodes: Sequence[NodeRecord], *, at: float) -> dict[str, float]:
        """Seconds by node id. `at`: the monotonic time of this look."""
        seen: dict[str, tuple[object, float]] = {}
        for node in nodes:
            mark, since = self._seen.get(node.id, (None, at))
            new = (node.heartbeat_mark, node.away_seconds is not None)
            seen[node.id] = (new, since if mark == new else at)
        self._seen = seen
        return {node_id: at - since for node_id, (_, since) in seen.items()}

    def forget(self) -> None:
        """Discard earlier observations: the store was away, so nobody could renew a heartbeat."""
        self._seen.clear()
