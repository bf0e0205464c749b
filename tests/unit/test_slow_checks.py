"""Checks that would never end: each ends in time, as a fault of the value, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.plugin.checking import Checks
from disbatch_protocol.faults import Fault

EVIL = "^(x+)+$"
BAD = "x" * 60 + "!"


@pytest.fixture
def checks() -> Iterator[Checks]:
    yield from closed_checks(Checks())


@pytest.fixture
def brief_checks() -> Iterator[Checks]:
    yield from closed_checks(Checks(seconds=0.2))


def closed_checks(one: Checks) -> Iterator[Checks]:
    before = children()
    yield one
    one.close()
    assert children() == before


def children() -> list[int]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    while True:
        try:
            return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        except FileNotFoundError:  # a thread ended meanwhile: its children are another's now, so look again
            continue


def test_a_pattern_that_never_ends_is_a_fault_that_names_it(checks: Checks) -> None:
    schema = checks.schema({"properties": {"a": {"type": "string", "pattern": EVIL}}})
    (fault,) = schema.check({"a": BAD})
    assert fault.message.startswith("could not be checked within 2 s: the pattern")
    assert f'"{EVIL}" of /properties/a' in fault.message
    assert schema.check({"a": "xx"}) == ()
    assert [one.pointer for one in schema.check({"a": "y"})] == ["/a"]


def test_names_that_a_pattern_never_ends_on_are_masked_as_a_whole(brief_checks: Checks) -> None:
    """A task whose parameter has such a name stopped one node after the other."""
    schema = brief_checks.schema({"patternProperties": {"^([a-z]+)*_secret$": {"writeOnly": True}}})
    values = {"x" * 50 + "!": "hunter2"}
    assert schema.secrets(values) == ("",)
    assert "hunter2" not in str(schema.masked(values))
    assert schema.secrets({"my_secret": 1}) == ("/my_secret",)


@pytest.mark.parametrize(
    "manifest",
    [
        {"parameters": {"properties": {"a": {"pattern": EVIL, "default": BAD}}}},
        {"parameters": {"properties": {"a": {"pattern": EVIL}}}, "examples": [{"parameters": {"a": BAD}}]},
        {"parameters": {"propertyNames": {"pattern": EVIL}}, "examples": [{"parameters": {BAD: 1}}]},
        {"parameters": {"patternProperties": {EVIL: {"writeOnly": True}}}, "examples": [{"parameters": {BAD: 1}}]},
        {
            "parameters": {"patternProperties": {EVIL: {}}, "additionalProperties": False},
            "examples": [{"parameters": {BAD: 1}}],
        },
    ],
)
def test_defaults_and_examples_that_never_end_are_faults_of_the_manifest(brief_checks: Checks, manifest: Any) -> None:
    faults: list[Fault] = list(brief_checks.manifest_faults(manifest["parameters"], manifest.get("examples")))
    assert any("can be checked within 0.2 s" in fault.message for fault in faults), faults


def test_a_process_that_was_killed_comes_back(checks: Checks) -> None:
    before = children()
    schema = checks.schema({"properties": {"a": {"pattern": EVIL}}})
    assert schema.check({"a": "x"}) == ()
    (child,) = set(children()) - set(before)
    os.kill(child, signal.SIGKILL)
    assert schema.check({"a": "x"}) == ()


def test_an_event_loop_goes_on_while_a_check_takes_its_time(checks: Checks) -> None:
    schema = checks.schema({"properties": {"a": {"pattern": EVIL}}})

    async def longest_pause() -> float:
        longest, last = 0.0, time.monotonic()
        check = asyncio.ensure_future(schema.examined({"a": BAD}))
        while not check.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert check.result().took_too_long and check.result().faults
        return longest

    assert asyncio.run(longest_pause()) < 1.0


def test_a_schema_that_is_slow_holds_up_no_other(checks: Checks) -> None:
    """Ten tasks of it are waiting; one of another class with a pattern is checked meanwhile."""
    slow = checks.schema({"properties": {"a": {"pattern": EVIL}}})
    other = checks.schema({"properties": {"a": {"pattern": "^(y+)+$"}}})

    async def both() -> float:
        waiting = [asyncio.ensure_future(slow.examined({"a": BAD})) for _ in range(10)]
        began = time.monotonic()
        assert (await other.examined({"a": "yyy"})).faults == ()
        seconds = time.monotonic() - began
        assert sum(one.done() for one in waiting) <= 2
        for one in waiting:
            one.cancel()
        return seconds

    asyncio.run(both())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, 2**63, 10**400, 19.99, 0.3])
def test_a_multiple_of_a_fraction_is_decided_for_every_number(checks: Checks, value: float) -> None:
    schema = checks.schema({"properties": {"n": {"type": "number", "multipleOf": 0.01}}})
    assert bool(schema.check({"n": value})) == (isinstance(value, float) and not math.isfinite(value))


def test_long_lists_of_objects_are_compared_quickly_and_truly(checks: Checks) -> None:
    schema = checks.schema({"properties": {"a": {"uniqueItems": True}}})
    assert schema.check({"a": [{"n": number} for number in range(20_000)]}) == ()
    for equal in ([1, 1.0], [{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], ["x", "x"], [None, None]):
        assert schema.check({"a": equal}), equal
    for different in ([1, True], [0, False], ["1", 1], [[], {}], [{"a": 1}, {"a": True}]):
        assert not schema.check({"a": different}), different
