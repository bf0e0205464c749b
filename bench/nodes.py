"""Four nodes on one MongoDB against one, with the same number of tasks; and that no task was started twice.

The plugin appends the id of its task to a file: what really ran is counted there, not in the database.
"""

from __future__ import annotations

from collections import Counter

import own
from contenders import AT_ONCE
from figures import Table, Target
from place import Place

MANY = 4


def run(place: Place, table: Table, rounds: int) -> None:
    if "MongoDB" not in place.kinds:
        table.notice("several nodes are left out: there is no MongoDB")
        return
    tasks = 400 if place.quick else 4000
    starts = place.directory / "starts"
    place.plugin("counted", f'read -r line\necho "$DISBATCH_TASK_ID" >> {starts}\necho "done $line"')
    for _ in range(rounds):
        one = _rate(place, tasks, nodes=1)
        table.add("nodes", f"1 node, {AT_ONCE} at once", one, "tasks/s")
        many = _rate(place, tasks, nodes=MANY)
        target = Target("ratio", ">=", 1.0)
        what = f"{MANY} nodes, {AT_ONCE} at once each, together"
        table.add("nodes", what, many, "tasks/s", beside=("1 node", one), targets=[target])
        twice = sum(count - 1 for count in Counter(starts.read_text().split()).values())
        table.add("nodes", "tasks started twice", twice, "tasks", targets=[Target("value", "<=", 0.0)])
        assert len(starts.read_text().split()) - twice == 2 * tasks, "a task has not run"
        starts.unlink()


def _rate(place: Place, tasks: int, *, nodes: int) -> float:
    return own.rate(place, "MongoDB", "counted", at_once=AT_ONCE, tasks=tasks, nodes=nodes)
