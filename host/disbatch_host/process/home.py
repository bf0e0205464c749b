"""Where the supervisor of a node lives, if it outlives the node, and whom it belongs to.

Responsible for: the form, and the error of a supervisor that is not for a node. Must not know: how a directory is
chosen, where the numbers come from.
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


class SupervisorRefusedError(Exception):
    """The supervisor in the directory is another node's, or another store's, or does not answer; the message says
    which. `session`: the highest that it has known, if it is not lower than the one that was refused."""

    def __init__(self, message: str, *, session: int | None = None) -> None:
        super().__init__(message)
        self.session = session
