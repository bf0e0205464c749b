"""The options of the commands that create tasks, and what they put into each of them.

Responsible for: `--priority`, `--delay`, `--at` and `--expires`, and moments as people write them. Must not know:
stores, what the parameters are.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from disbatch_host.clock import to_milliseconds
from disbatch_host.errors import UsageError
from disbatch_protocol.quantities import parse_duration
from disbatch_protocol.status import Status

Function = TypeVar("Function", bound=Callable[..., Any])
_PRIORITY_MAX = 2**31 - 1  # what any reader of the documents takes as an int


def creation_options(function: Function) -> Function:
    """What `fields_of` takes, as options of a command."""
    for option in reversed(
        (
            click.option(
                "--priority",
                type=click.IntRange(-_PRIORITY_MAX, _PRIORITY_MAX),
                metavar="N",
                help="Higher goes first (0).",
            ),
            click.option("--delay", metavar="S", help="Not before so long from now, like 90 or 1h30m."),
            click.option("--at", metavar="TIME", help="Not before this time, like 2026-12-24T18:00 (or with Z: UTC)."),
            click.option(
                "--expires", metavar="TIME", help="Cancel what has not started by then; or after a length, like 2d."
            ),
        )
    ):
        function = option(function)
    return function


def fields_of(
    now: datetime, *, priority: int | None, delay: str | None, at: str | None, expires: str | None
) -> dict[str, Any]:
    """What these options put into a task that is created `now`, by the store's clock. Raises UsageError."""
    fields: dict[str, Any] = {}
    if priority:
        fields["priority"] = priority
    if delay is not None and at is not None:
        raise UsageError("expected either --delay or --at, found both")
    if delay is not None:
        fields["not_before"] = now + timedelta(seconds=seconds_of("--delay", delay))
    if at is not None:
        fields["not_before"] = moment_of("--at", at, now)
    if fields.get("not_before", now) > now:
        fields["status"] = int(Status.BLOCKED)
    else:
        fields.pop("not_before", None)  # what is due already waits for nothing
    if expires is not None:
        fields["expires"] = moment_of("--expires", expires, now, sign=1)
        if fields["expires"] <= fields.get("not_before", now):
            raise UsageError("--expires: expected a time after the tasks may start, found an earlier one")
    return fields


def moment_of(option: str, text: str, now: datetime, *, sign: int = 0) -> datetime:
    """A date, with or without a time, local where it names no zone. With `sign` also a length of time, from now on (1)
    or back (-1). Raises UsageError."""
    if sign:
        try:
            return to_milliseconds(now + sign * timedelta(seconds=parse_duration(text)))
        except ValueError:
            pass  # then it is a date, or the message below names both
    try:
        found = datetime.fromisoformat(text.strip())
        return to_milliseconds(found.astimezone(UTC))
    except (ValueError, OverflowError, OSError):
        length = ', or a length like "2d"' if sign else ""
        raise UsageError(f'{option}: expected a time like "2026-12-24T18:00"{length}, found {text!r:.40}') from None


def seconds_of(option: str, text: str) -> float:
    """A length of time. Raises UsageError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
