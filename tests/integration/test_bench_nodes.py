"""The nodes of the benches: a figure is that of a node with a supervisor, or without one, as its row says."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import supervisors

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> Any:
    """bench/cost.py; the benches are scripts beside each other, not a package."""
    monkeypatch.syspath_prepend(BENCH)
    for script in BENCH.glob("*.py"):
        monkeypatch.delitem(sys.modules, script.stem, raising=False)  # restores what was there, when the test has ended
    return importlib.import_module("cost")


@pytest.fixture
def place(cost: Any) -> Iterator[Any]:
    with importlib.import_module("place").Place(quick=True, wants_mongodb=False) as place:
        yield place


@supervisors.usable()
@pytest.mark.parametrize("class_name", ["line", "worker"])
def test_the_cpu_of_a_task_is_divided_among_node_supervisor_and_programs(
    cost: Any, place: Any, class_name: str
) -> None:
    found = cost.measure(place, "SQLite", class_name, at_once=4, tasks=40)
    assert found.supervisor > 0 and found.busiest_of_supervisor > 0 and found.starters == 4
    assert 0 < found.busiest <= found.node and found.programs > 0 and found.mongod == 0


def test_a_node_without_a_supervisor_runs_the_programs_itself(cost: Any, place: Any) -> None:
    found = cost.measure(place, "SQLite", "line", at_once=4, tasks=40, has_supervisor=False)
    assert found.supervisor is None and found.node > 0 and found.programs > 0


@supervisors.usable()
def test_a_node_that_is_not_run_as_the_row_says_is_refused(cost: Any, place: Any) -> None:
    """A node that fell back of itself would be shown as one with a supervisor."""
    own = cost.own
    with (
        place.fresh_store("SQLite") as url,
        own.opened(url) as store,
        own.Node(place, url, command=["env", "DISBATCH_SUPERVISOR=no", *own.COMMAND]) as node,
        pytest.raises(AssertionError, match="supervisor"),
    ):
        store.insert_queue({"_id": "line", "class": "line"})
        node.wait_until_there(store)
