"""`disbatch-host task push`"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from disbatch_host.cli import common, parameters, render
from disbatch_host.cli.main import common_options
from disbatch_host.clock import SystemClock
from disbatch_host.errors import DisbatchError, OutputError, UsageError
from disbatch_host.model import Queue, new_task
from disbatch_host.plugins import Plugin
from disbatch_host.store.base import Store
from disbatch_protocol.parameters import masked_at

_BATCH = 1000  # tasks created in one go


@click.command()
@click.argument("queue")
@click.argument("json_or_dash", metavar="[JSON | -]", required=False)
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter; may be given several times.")
@click.option("--no-check", is_flag=True, help="Do not check the parameters against the plugin's schema.")
@common_options
def push(queue: str, json_or_dash: str | None, pairs: tuple[str, ...], no_check: bool) -> None:
    """Create tasks; prints the id of each.

    \b
      disbatch-host task push mail '{"user": "matt"}'
      disbatch-host task push mail -p user=matt -p tries:=3 -p body=@letter.txt
      disbatch-host task push mail - < users.ndjson

    KEY=VALUE takes the value as JSON where it is valid JSON, else as a string; KEY:=VALUE always JSON; KEY=@FILE reads
    a file. '-' reads a JSON object a line from stdin. Once an id is printed, its task is on disk.
    """
    if json_or_dash == "-" and pairs:
        raise UsageError("expected either '-' or -p, found both; with '-' each line holds all parameters")
    with common.opened_store() as store:
        found = common.find_queue(store, queue)
        pusher = _Pusher(store, found, _plugin_of(found, no_check=no_check), is_checking=not no_check)
        if json_or_dash == "-":
            _push_lines(pusher)
            return
        values = parameters.parameters_of(json_or_dash, pairs)
        pusher.check(values, "")
        pusher.create([values])


def _plugin_of(queue: Queue, *, no_check: bool) -> Plugin | None:
    """The plugin of the queue, where it is known here."""
    try:
        return common.known_plugins().plugins.get(queue.class_name)
    except DisbatchError:
        if no_check:  # a directory that is not there does not matter then
            return None
        raise


def _push_lines(pusher: _Pusher) -> None:
    """Create what stdin holds, in batches. A line that does not fit ends it; those before it are created and said."""
    created = 0
    batch: list[Mapping[str, Any]] = []
    with render.progress("creating tasks") as advance:

        def flush() -> None:
            nonlocal created
            if batch:
                pusher.create(batch)
                created += len(batch)
                advance(len(batch))
                batch.clear()

        try:
            for number, values in parameters.read_lines(parameters.lines_as_they_come(sys.stdin.fileno())):
                if values is None:  # nothing more for now: whoever waits for the ids of what is there gets them
                    flush()
                    continue
                pusher.check(values, f"line {number}: ")
                batch.append(values)
                if len(batch) == _BATCH:
                    flush()
        except UsageError as error:
            flush()
            before = f"the {created} tasks of the lines before it are" if created != 1 else "the task before it is"
            raise UsageError(f"{error}; {before} created") from error
        flush()


class _Pusher:
    """Creates tasks of one queue and prints their ids."""

    def __init__(self, store: Store, queue: Queue, plugin: Plugin | None, *, is_checking: bool) -> None:
        self._store = store
        self._queue = queue
        self._plugin = plugin
        self._is_checking = is_checking

    def check(self, values: Mapping[str, Any], where: str) -> None:
        """Raises UsageError where the parameters do not fit; `where` begins the line."""
        if self._plugin is None or not self._is_checking:
            return
        if faults := self._plugin.schema.check(values):
            text = "; ".join(str(fault) for fault in faults)
            raise UsageError(
                f"{where}the parameters do not fit plugin {self._plugin.name}: {text} (--no-check skips this)"
            )

    def create(self, batch: Sequence[Mapping[str, Any]]) -> None:
        """Create a task for each of these parameters; when its id is printed, it is on disk."""
        now = SystemClock().now()
        secrets = [() if self._plugin is None else self._plugin.schema.secrets(values) for values in batch]
        documents = [
            new_task(self._queue.id, values, now=now, **({"secrets": list(places)} if places else {}))
            for values, places in zip(batch, secrets, strict=True)
        ]
        ids = self._store.insert_tasks(documents)
        try:
            if not common.wants_json():
                click.echo("\n".join(map(str, ids)))
                return
            for task_id, document, places in zip(ids, documents, secrets, strict=True):
                shown = {"_id": task_id, **document, "parameters": masked_at(document["parameters"], places)}
                render.print_json(shown, self._store.extended_json)
        except BrokenPipeError:
            raise
        except OSError as error:
            created = "the task is" if len(ids) == 1 else f"{len(ids)} tasks are"
            raise OutputError(
                f"the output cannot be written: {error.strerror}; {created} created all the same, "
                "`disbatch-host task list` shows the newest"
            ) from error
