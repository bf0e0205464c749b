"""Counts of failures by cause, for Prometheus.

Responsible for: how many causes have a number of their own. Must not know: what a cause is, when a task has failed.

Rule: of each class the causes seen last have their own, `GROUPS_MAX` of them; when another comes, the one that was not
seen for longest goes to `other` with its count, so that the sum never falls. A text of a program is no label: it may
hold anything, and `task failures` shows it for the key.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily

GROUPS_MAX = 20  # of a class
CODE_MAX = 60  # characters of a code, which is a program's own
_OTHER = "other"


class Cause(NamedTuple):
    """What the labels name."""

    code: str
    key: str


class FailureCounts:
    """The counts of one node. `count` is called in its event loop, `family` in any thread."""

    def __init__(self) -> None:
        self._of_class: dict[str, OrderedDict[Cause, int]] = {}
        self._others: dict[str, int] = {}

    def count(self, class_name: str, code: str, key: str) -> None:
        """A task failed for good."""
        cause, known = Cause(code[:CODE_MAX], key), self._of_class.setdefault(class_name, OrderedDict())
        known[cause] = known.get(cause, 0) + 1
        known.move_to_end(cause)
        if len(known) > GROUPS_MAX:
            _, count = known.popitem(last=False)
            self._others[class_name] = self._others.get(class_name, 0) + count

    def family(self) -> CounterMetricFamily:
        family = CounterMetricFamily(
            "disbatch_tasks_failed",
            "Tasks that failed for good on this node, by cause; `task failures` has the text of a group.",
            labels=("class", "code", "group"),
        )
        for class_name, known in list(self._of_class.items()):
            for cause, count in list(known.items()):
                family.add_metric((class_name, cause.code, cause.key), count)
        for class_name, count in list(self._others.items()):
            family.add_metric((class_name, _OTHER, _OTHER), count)
        return family
