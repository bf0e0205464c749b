"""When new tasks may run: what the options of `task push` and `task import` mean."""

from __future__ import annotations

from collections.abc import Sequence

from disbatch_host.cli import common
from disbatch_host.client.pushing import Plan
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store


def plan_of(
    store: Store,
    *,
    delay: str | None = None,
    at: str | None = None,
    after: Sequence[str] = (),
    after_any: bool = False,
    expires: str | None = None,
    priority: int | None = None,
    unique_key: str | None = None,
) -> Plan:
    """Raises UsageError, and NotFoundError for a task to be waited for that is not there."""
    if delay is not None and at is not None:
        raise UsageError("expected either --delay or --at, found both")
    if after_any and not after:
        raise UsageError("expected --after with --after-any: after which task?")
    with common.options_named():
        return Plan.of(
            store,
            delay=delay,
            at=at,
            after=after,
            after_any=after_any,
            expires=expires,
            priority=priority,
            unique_key=unique_key,
        )
