"""Why the tasks of a queue do not run, as `status`, `queue show` and `queue list` say it alike.

Responsible for: which obstacles of a queue people are told about. Must not know: how they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from disbatch_host.decide import readings, why
from disbatch_host.decide.why import Code, Why
from disbatch_host.documents.records import NodeRecord, Queue


def why_waiting(
    queue: Queue | None, total: Mapping[str, int], records: Sequence[NodeRecord], now: datetime
) -> tuple[Why, ...]:
    """Why no node runs the queue's tasks; empty if one can, or if none are waiting and there are no nodes either.
    `total`: its tasks by the words of `decide.counts`."""
    found = why.queue_obstacles(queue, records, now=now)
    if queue is not None and not any(cause.code is Code.SET_ASIDE for cause in found):
        # Other nodes run them, so this does not explain a standstill; but somebody has to fix it.
        name = queue.class_name
        alive = (one for one in records if readings.is_alive(one) and queue.is_for(one.id))
        aside = {one.id: readings.set_aside_of(one)[name] for one in alive if name in readings.set_aside_of(one)}
        if aside:
            reasons = "; on node ".join(f"{node}: {' '.join(reason.split())}" for node, reason in aside.items())
            brief = f"set aside on {', '.join(aside)}, see below"
            found.append(Why(Code.SET_ASIDE, f"plugin {name} is set aside on node {reasons}", brief))
    return tuple(cause for cause in found if cause.code is not Code.NO_NODE or total["waiting"])
