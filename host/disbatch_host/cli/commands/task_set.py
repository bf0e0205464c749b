"""`disbatch-host task set`."""

from __future__ import annotations

import re
from typing import Any

import click

from disbatch_host.cli import common, results
from disbatch_host.cli.frame import common_options
from disbatch_host.client import control
from disbatch_host.client.finding import find_task
from disbatch_host.client.pushing import PRIORITY_MAX
from disbatch_host.errors import ExitCode, UsageError


@click.command("set")
@click.argument("id")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@common_options
def set_(id: str, changes: tuple[str, ...]) -> int:
    """Change priority or expires of a waiting task. An empty value removes it.

    \b
      disbatch-host task set 5f0c… priority=10
      disbatch-host task set 5f0c… expires=2h
      disbatch-host task set 5f0c… expires=
    """
    with common.opened_store() as store:
        task = find_task(store, id, common.who())
        values: dict[str, Any] = {}
        for pair in changes:
            name, mark, text = pair.partition("=")
            if not mark:
                raise UsageError(f"expected KEY=VALUE, found {pair!r:.60}")
            values[name] = _value_of(name, text)
        code = ExitCode.DONE
        for batch in control.set_fields(store, [task], values):
            results.say(store, batch, as_json=common.wants_json())
            if not all(one.is_done for one in batch):
                code = ExitCode.FAILED
        return code


def _value_of(name: str, text: str) -> int | str | None:
    control.check_settable(name)
    if not text:
        return None
    if name == "expires":
        return text
    if not re.fullmatch(r"-?[0-9]{1,10}", text) or abs(int(text)) > PRIORITY_MAX:
        raise UsageError(f"priority: expected a whole number of at most {PRIORITY_MAX}, found {text!r:.40}")
    return int(text)
