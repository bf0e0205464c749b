"""The process host of tests that are about both supervisors: the class, and the program."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from disbatch_host.process import connection
from disbatch_host.process.frames import Hello
from disbatch_host.process.host import DRAIN_SECONDS, OF_ITS_OWN, FrameHost
from disbatch_host.process.inline import InlineSupervisor
from helpers import supervisors

CLASS, PROGRAM = "class", "program"


class _Tested:
    supervisor = CLASS


def host_under_test(*, drain_seconds: float = DRAIN_SECONDS, hello: Hello = OF_ITS_OWN) -> FrameHost:
    """A process host at the supervisor that this test is about; `each_supervisor` says which."""
    is_class = _Tested.supervisor == CLASS
    link = InlineSupervisor() if is_class else connection.paired(supervisors.program())
    return FrameHost(link, drain_seconds=drain_seconds, hello=hello)


@pytest.fixture(params=[CLASS, pytest.param(PROGRAM, marks=supervisors.usable())])
def each_supervisor(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test at the class and at the program."""
    _Tested.supervisor = request.param
    yield request.param
    _Tested.supervisor = CLASS
