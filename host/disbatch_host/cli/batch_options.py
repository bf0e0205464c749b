"""The options by which new tasks become a batch: those of `task push` and `task import`.

Responsible for: the options. Must not know: what a batch is (`client.batch_members`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from disbatch_host.cli import common, parameters
from disbatch_host.cli.kinds import Whole
from disbatch_host.client.batch_members import NewBatch
from disbatch_host.client.finding import find_queue
from disbatch_host.client.published import known_plugin
from disbatch_host.errors import DisbatchError, UsageError
from disbatch_host.store.contract import Store

if TYPE_CHECKING:
    from disbatch_protocol.parameters import ParameterSchema

_STOP_AFTER_MAX = 2**31 - 1
_OPTIONS = {
    "batch": click.option(
        "--batch", metavar="NAME", help="The batch of the tasks: made, or joined if it is open. It stays open."
    ),
    "close": click.option("--close", is_flag=True, help="With --batch: close it once the tasks are created."),
    "on_done": click.option(
        "--on-done", metavar="QUEUE", help="Once all tasks of the batch have ended, create one task there."
    ),
    "on_done_pairs": click.option(
        "--on-done-p", "on_done_pairs", multiple=True, metavar="KEY=VALUE", help="A parameter of that task."
    ),
    "stop_after": click.option(
        "--stop-after",
        type=Whole(1, _STOP_AFTER_MAX),
        metavar="N",
        help="Cancel what waits of the batch after N of its tasks failed.",
    ),
}


def batch_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command gets them as `for_batch`, for `new_batch`."""

    @functools.wraps(function)
    def with_batch(**given: Any) -> Any:
        return function(for_batch={name: given.pop(name) for name in _OPTIONS}, **given)

    wrapped: Callable[..., Any] = with_batch
    for option in reversed(tuple(_OPTIONS.values())):
        wrapped = option(wrapped)
    return wrapped


def is_given(for_batch: Mapping[str, Any]) -> bool:
    return any(value not in (None, (), False) for value in for_batch.values())


def new_batch(store: Store, for_batch: Mapping[str, Any]) -> NewBatch:
    """The batch that is meant. Raises UsageError, and NotFoundError for an unknown queue."""
    name, on_done = for_batch["batch"], for_batch["on_done"]
    if for_batch["close"] and name is None:
        raise UsageError("--close is for a batch that is named with --batch; one without a name is closed anyway")
    if for_batch["on_done_pairs"] and on_done is None:
        raise UsageError("--on-done-p needs --on-done, the queue of the task that gets the parameters")
    values: Mapping[str, Any] = {}
    if on_done is not None:
        values = parameters.parameters_of(None, for_batch["on_done_pairs"], _schema_of(store, on_done))
    return NewBatch(
        name=name,
        on_done=on_done,
        on_done_parameters=values,
        stop_after=for_batch["stop_after"],
        closes=for_batch["close"],
    )


def _schema_of(store: Store, queue_name: str) -> ParameterSchema | None:
    queue = find_queue(store, queue_name)
    here = None
    with contextlib.suppress(DisbatchError):  # without a directory of plugins, by what nodes publish
        here = common.catalog()
    plugin = known_plugin(store, here, queue.class_name)
    return None if plugin is None else plugin.schema
