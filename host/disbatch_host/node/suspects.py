"""Queues whose claims fail: found one by one, and left to rest, so that they cost no other queue its claims.

Responsible for: which queues may be claimed from together. Must not know: how claims are made, what they are of.

Rules:
1. A claim is one call for several queues. When it fails, and nobody can say because of which, the next claims are of
   one queue each, until each has been claimed from, or has failed.
2. A queue whose own claim has failed rests (`compartment`).
"""

from __future__ import annotations

from collections.abc import Sequence

from disbatch_host.documents.changes import Want
from disbatch_host.documents.records import Queue, QueueId
from disbatch_host.node.compartment import Troubles

_CLAIM = "claim from queue"


class ClaimFailedError(Exception):
    """A claim has failed because of one of its queues. It is known, or will be with the next claims; nothing is lost by
    another round at once."""


class Suspects:
    """Used in the thread of the store."""

    def __init__(self, troubles: Troubles) -> None:
        self._troubles = troubles
        self._suspects: set[QueueId] = set()  # a claim of several of them has failed

    def awake(self, queues: Sequence[Queue]) -> list[Queue]:
        """Those of these that do not rest."""
        return [queue for queue in queues if not self._troubles.is_resting(_CLAIM, queue.id)]

    def allowed(self, wants: Sequence[Want]) -> Sequence[Want]:
        """Those of these that may be claimed together now; fewer than all while `are_left`."""
        if self._suspects:
            suspects = [want for want in wants if want.queue in self._suspects]
            if suspects:
                return suspects[:1]
            self._suspects.clear()  # they want nothing now
        return wants

    @property
    def are_left(self) -> bool:
        """Whether there are queues that have to be claimed from by themselves first."""
        return bool(self._suspects)

    def failed(self, wants: Sequence[Want], error: Exception) -> None:
        """The claim of these has failed."""
        if len(wants) == 1:
            self._suspects.discard(wants[0].queue)
            self._troubles.report(_CLAIM, wants[0].queue, error)
        else:
            self._suspects = {want.queue for want in wants}

    def succeeded(self, wants: Sequence[Want]) -> None:
        """The claim of these was made."""
        if self._suspects:
            self._suspects.difference_update([want.queue for want in wants])
