"""Where the supervisor of a node lives, if it outlives the node, and whom it belongs to.

Responsible for: the form. Must not know: how a directory is chosen, where the numbers come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorHome:
    """A supervisor belongs to a directory, a store and a node id; its node, to a session."""

    directory: Path  # 0700, this user's; its socket, lock and log are there
    store_id: bytes  # 16 bytes
    node_id: bytes
    session: int  # higher than that of every node of this id before
    keep_seconds: float  # how long its runs may go on without a node
