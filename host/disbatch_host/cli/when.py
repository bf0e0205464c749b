"""When new tasks may run: what the options of `task push` and `task import` mean."""

from __future__ import annotations

from typing import Unpack

from disbatch_host.cli import common
from disbatch_host.client.pushing import Plan, Timing
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store


def plan_of(store: Store, **given: Unpack[Timing]) -> Plan:
    """Raises UsageError, and NotFoundError for a task to be waited for that is not there."""
    if given.get("delay") is not None and given.get("at") is not None:
        raise UsageError("expected either --delay or --at, found both")
    if given.get("after_any") and not given.get("after"):
        raise UsageError("expected --after with --after-any: after which task?")
    with common.options_named():
        return Plan.of(store, **given)
