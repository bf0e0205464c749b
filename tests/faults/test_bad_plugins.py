"""Plugins that are broken, odd or slow to check, beside good ones on a living node: each costs only itself."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.node.duties.plugins import PluginScan
from disbatch_host.node.pace import Pace
from disbatch_host.plugin.catalog import Catalog
from disbatch_host.plugin.classes import Classes
from disbatch_protocol.status import Status
from helpers.nodes import Cluster, write_plugin
from helpers.processes import peak_memory, wait_until
from helpers.stores import on_sqlite, one_store_each

EVIL = "^(x+)+$"
BAD = "x" * 60 + "!"
HEARTBEAT_SECONDS_MAX = 3.0
MEMORY_MAX = 150 * 2**20


def heartbeat_age(cluster: Cluster) -> float:
    node = cluster.store.get_node("n1")
    assert node is not None and node.age_seconds is not None
    return node.age_seconds


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def oldest_heartbeat_until(cluster: Cluster, is_over: Any, within_seconds: float) -> float:
    oldest = 0.0

    def look() -> bool:
        nonlocal oldest
        oldest = max(oldest, heartbeat_age(cluster))
        return bool(is_over())

    wait_until(look, within_seconds, "it never came to that")
    return oldest


SLOW: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a pattern": ({"properties": {"a": {"pattern": EVIL}}}, {"a": BAD}),
    "names": ({"patternProperties": {EVIL: {"type": "integer"}}}, {BAD: 1}),
    "names of secrets": ({"patternProperties": {EVIL: {"writeOnly": True}}}, {BAD: 1}),
    "names that are left": ({"patternProperties": {EVIL: {}}, "additionalProperties": False}, {BAD: 1}),
    "a choice": ({"anyOf": [{"properties": {"a": {"pattern": EVIL}}}, {"required": ["b"]}]}, {"a": BAD}),
}


@one_store_each("store_url", "name", SLOW)
def test_a_task_whose_check_would_never_end_fails_and_costs_nobody_else(cluster: Cluster, name: str) -> None:
    """It stopped one node after the other: each took it over from the last."""
    schema, parameters = SLOW[name]
    cluster.plugin("Good", "echo fine")
    cluster.plugin("Slow", "echo slow", parameters=schema)
    for one in ("Good", "Slow"):
        cluster.queue(one)
    (slow,) = cluster.push("Slow", parameters)
    cluster.start("--heartbeat", "0.2", pace={"check_seconds": 0.5})
    good = cluster.push("Good", *[{}] * 5)
    fitting = cluster.push("Slow", {"b": 1} if name == "a choice" else {})
    wait_until(lambda: cluster.store.get_node("n1"), 20, "no node")
    oldest = oldest_heartbeat_until(
        cluster, lambda: cluster.task(slow).status < -2 or cluster.task(slow).status > 1, 30
    )
    assert oldest < HEARTBEAT_SECONDS_MAX
    task = cluster.task(slow)
    assert task.run["reason"] == "parameters" and task.run["outcome"] == "permanent"
    assert "could not be checked within 0.5 s" in task.document["error"]["message"]
    for one in (*good, *fitting):
        cluster.wait_for_status(one, Status.CONCLUDED)
    node = cluster.store.get_node("n1")
    assert node is not None and not node.document.get("set_aside")


@on_sqlite
def test_plugins_whose_examination_would_never_end_are_left_out_of_a_living_node(cluster: Cluster) -> None:
    cluster.plugin("Good", "echo fine")
    cluster.queue("Good")
    cluster.start("--heartbeat", "0.2", pace={"check_seconds": 0.5})
    wait_until(lambda: cluster.store.get_node("n1"), 20, "no node")
    schema = {"properties": {"a": {"pattern": EVIL, "default": BAD}}}
    cluster.plugin("Default", "true", parameters=schema)
    del schema["properties"]["a"]["default"]
    cluster.plugin("Example", "true", parameters=schema, examples=[{"parameters": {"a": BAD}}])
    cluster.plugin("Typo", "true", parameters={"properties": {"a": {"$ref": "#address", "default": 1}}})
    (good,) = cluster.push("Good", {})

    def broken() -> set[str]:
        node = cluster.store.get_node("n1")
        assert node is not None
        return {Path(one["manifest"]).parent.name for one in node.document.get("broken", [])}

    oldest = oldest_heartbeat_until(cluster, lambda: broken() == {"Default", "Example", "Typo"}, 30)
    assert oldest < HEARTBEAT_SECONDS_MAX
    cluster.wait_for_status(good, Status.CONCLUDED)


class GatedClasses(Classes):
    """Reads its directories for as long as it is held, then for another `busy_seconds` of CPU time."""

    def __init__(self, busy_seconds: float = 0.0) -> None:
        super().__init__([])
        self.is_reading, self.gate = threading.Event(), threading.Event()
        self.busy_seconds = busy_seconds
        self.was_let_go = False
        self.take(super().read())

    def read(self) -> Catalog:
        self.is_reading.set()
        self.was_let_go = self.gate.wait(10)
        began = time.thread_time()
        while time.thread_time() - began < self.busy_seconds:
            pass
        return super().read()


def scan_of(classes: Classes, **pace: float) -> PluginScan:
    nobody: Any = None  # hears of changes: there are none
    return PluginScan(classes, nobody, nobody, nobody, Pace(**pace))  # type: ignore[arg-type]


def test_the_event_loop_goes_on_while_plugins_are_examined() -> None:
    """With 2,000 broken ones a look took the node two seconds, in which no heartbeat was written."""
    classes = GatedClasses()

    async def look() -> None:
        duty = scan_of(classes)
        turn = asyncio.get_running_loop().create_task(duty.turn())
        await asyncio.to_thread(classes.is_reading.wait, 10)
        classes.gate.set()  # the loop does this: it would not come to it
        await turn
        duty.close()

    asyncio.run(look())
    assert classes.was_let_go


def test_the_longer_a_look_at_the_plugins_takes_the_less_often_it_is_taken() -> None:
    """It took 95 % of a core with 2,000 broken ones, each of which was examined each time (`test_plugin_scan`)."""
    classes = GatedClasses(busy_seconds=0.05)
    classes.gate.set()
    duty = scan_of(classes, plugin_scan_seconds=0.1)
    assert duty.interval_seconds == 0.1
    asyncio.run(duty.turn())
    assert duty.interval_seconds >= 50 * 0.05
    duty.close()


@pytest.mark.soak
@pytest.mark.parametrize("count", [500, 2000])
@on_sqlite
def test_many_broken_plugins_cost_next_to_nothing(cluster: Cluster, count: int) -> None:
    for number in range(count):
        home = cluster.plugins / f"P{number}"
        home.mkdir(mode=0o755)
        (home / "plugin.json").write_text(
            '{"protocol":1,"command":["./none"],"parameters":{"type":"object","properties":{"a":{"type":"string"}}}}'
        )
        (home / "plugin.json").chmod(0o644)
    write_plugin(cluster.plugins, "Good", "echo fine")
    cluster.queue("Good")
    (good,) = cluster.push("Good", {})
    process = cluster.start("--heartbeat", "0.2")
    wait_until(lambda: cluster.store.get_node("n1"), 60, "no node")
    cluster.wait_for_status(good, Status.CONCLUDED)
    began, before = time.monotonic(), cpu_seconds(process.pid)
    seconds = 6 if count > 500 else 4  # two scans at least
    oldest = oldest_heartbeat_until(cluster, lambda: time.monotonic() - began > seconds, 20)
    assert oldest < HEARTBEAT_SECONDS_MAX
    used = cpu_seconds(process.pid) - before
    assert used < 0.08 * seconds, used  # 95 % of a core before, with 2,000
    print(f"oldest heartbeat {oldest:.2f} s, peak memory {peak_memory(process.pid) / 2**20:.0f} MiB, {used:.2f} s CPU")
    assert peak_memory(process.pid) < MEMORY_MAX
