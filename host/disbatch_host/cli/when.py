"""The timing of new tasks: the options of `task push` and `task import`."""

from __future__ import annotations

from typing import Unpack

from disbatch_host.cli import common
from disbatch_host.client.pushing import Plan, Timing
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store


def plan_of(store: Store, **given: Unpack[Timing]) -> Plan:
    """Raises UsageError, and NotFoundError for a predecessor that does not exist."""
    if given.get("delay") is not None and given.get("at") is not None:
        raise UsageError("expected either --delay or --at, found both")
    if given.get("after_any") and not given.get("after"):
        raise UsageError("--after-any needs --after, the tasks to wait for")
    with common.options_named():
        return Plan.of(store, **given)
