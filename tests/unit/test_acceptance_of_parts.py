"""A heartbeat is written whatever the store refuses of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.errors import NodeIdInUseError, StoreRefusedError, StoreUnreachableError
from disbatch_host.node.acceptance import Acceptance
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.pace import Pace


class Fussy:
    """A store that refuses documents with a part that holds "bad"."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {}
        self.tries = 0

    async def write(self, document: dict[str, Any]) -> str:
        self.tries += 1
        if "bad" in str(document):
            raise StoreRefusedError("no")
        self.document = {**self.document, **document}
        return f"write {self.tries}"


def beat(**parts: Any) -> dict[str, Any]:
    heartbeat = {"pid": 1, "running": 2, "queues": [{"queue": "q"}]}
    return {"state": "running", "heartbeat": heartbeat, "queuetypes": [{"class": "A"}], "broken": [], **parts}


def test_what_is_refused_is_left_empty_and_everything_else_is_written() -> None:
    fussy, troubles = Fussy(), Troubles(SystemClock(), Pace())

    async def test() -> None:
        acceptance = Acceptance(troubles)
        document = beat(broken=["bad"], troubles=[{"what": "x"}])
        assert await acceptance.write(document, fussy.write) == "write 2"
        assert fussy.document == {**document, "broken": []}
        assert [one["culprit"] for one in troubles.documents()] == ["broken"]
        tries = fussy.tries
        await acceptance.write(document, fussy.write)  # not tried again
        assert fussy.tries == tries + 1
        await acceptance.write(beat(broken=["good"]), fussy.write)
        assert fussy.document["broken"] == ["good"]

    asyncio.run(test())


def test_of_the_heartbeat_itself_the_least_is_written() -> None:
    fussy = Fussy()

    async def test() -> None:
        document = beat(heartbeat={"pid": 1, "running": 2, "queues": ["bad"]})
        await Acceptance(Troubles(SystemClock(), Pace())).write(document, fussy.write)
        assert fussy.document == beat(heartbeat={"pid": 1, "running": 2, "queues": []})

    asyncio.run(test())


def test_a_registration_is_written_once() -> None:
    fussy = Fussy()

    async def test() -> None:
        acceptance = Acceptance(Troubles(SystemClock(), Pace()))
        assert await acceptance.write(beat(broken=["bad"]), fussy.write, in_parts=False) == "write 2"
        assert fussy.document["queuetypes"] == []

    asyncio.run(test())


@pytest.mark.parametrize("error", [StoreUnreachableError("away"), NodeIdInUseError("taken")])
def test_other_errors_are_not_taken_for_a_refusal(error: Exception) -> None:
    async def write(document: dict[str, Any]) -> None:
        raise error

    with pytest.raises(type(error)):
        asyncio.run(Acceptance(Troubles(SystemClock(), Pace())).write(beat(), write))
