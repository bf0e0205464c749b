"""The timing of new tasks: the options of `task push` and `task import`."""

from __future__ import annotations

from typing import Unpack

import click

from disbatch_host.cli import common
from disbatch_host.client.pushing import Plan, Timing
from disbatch_host.errors import UsageError
from disbatch_host.settings.forms import lacks_unit
from disbatch_host.store.contract import Store
from disbatch_protocol.quantities import format_duration


def plan_of(store: Store, **given: Unpack[Timing]) -> Plan:
    """Raises UsageError, and NotFoundError for a predecessor that does not exist.

    A delay without a unit means seconds, as scripts write it, and that is said: a wrong one destroys nothing, unlike a
    wrong `keep` or filter."""
    if given.get("delay") is not None and given.get("at") is not None:
        raise UsageError("expected either --delay or --at, found both")
    if given.get("after_any") and not given.get("after"):
        raise UsageError("--after-any needs --after, the tasks to wait for")
    text = given.get("delay")
    bare_seconds = float(text) if isinstance(text, str) and lacks_unit(text) else None
    if bare_seconds is not None:
        given["delay"] = bare_seconds
    with common.options_named():
        plan = Plan.of(store, by=common.who(), **given)
    if bare_seconds:
        said = f"--delay {text} is taken for {format_duration(bare_seconds)}; write the unit, as in {text}s"
        click.echo(f"disbatch-host: {said}", err=True)
    return plan
