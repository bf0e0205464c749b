"""For how long the heartbeats of other nodes have not changed, by this node's own monotonic clock.

Responsible for: telling `policy.dead_nodes` what dates cannot tell. Must not know: what is decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from disbatch_host.model import NodeRecord


class HeartbeatWatch:
    """Looks at each list of nodes that is read."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}  # what it was, and since when it has been that

    def look(self, nodes: Sequence[NodeRecord], *, at: float) -> dict[str, float]:
        """Seconds by node id. `at`: the monotonic time of this look."""
        seen = {}
        for node in nodes:
            mark, since = self._seen.get(node.id, (None, at))
            seen[node.id] = (node.heartbeat_mark, since if mark == node.heartbeat_mark else at)
        self._seen = seen
        return {node_id: at - since for node_id, (_, since) in seen.items()}

    def forget(self) -> None:
        """The store was away: nobody could renew anything, so that what was seen before counts for nothing."""
        self._seen.clear()
