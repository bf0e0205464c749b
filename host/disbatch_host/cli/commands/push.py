"""`disbatch-host task push`"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click

from disbatch_host.cli import common, parameters, render, times
from disbatch_host.cli.frame import common_options
from disbatch_host.clock import SystemClock, to_milliseconds
from disbatch_host.documents.records import Document, Queue, TaskId, new_task
from disbatch_host.errors import DisbatchError, OutputError, UsageError
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.parameters import masked_at
from disbatch_protocol.status import Status

PRIORITY_MAX = 2**31 - 1  # what every program that reads the database can hold
_BATCH = 1000  # tasks created in one go


@click.command()
@click.argument("queue")
@click.argument("json_or_dash", metavar="[JSON | -]", required=False)
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter; may be given several times.")
@click.option("--no-check", is_flag=True, help="Do not check the parameters against the plugin's schema.")
@click.option("--delay", metavar="S", help="Not before so long from now.")
@click.option("--at", metavar="TIME", help="Not before this time: RFC 3339, or local '2026-11-25 14:00' or '14:00'.")
@click.option("--after", multiple=True, metavar="ID", help="Not before this task has concluded; may be given again.")
@click.option("--after-any", is_flag=True, help="With --after: however it ends.")
@click.option("--expires", metavar="S|TIME", help="Cancelled where it has not been started by then.")
@click.option("--priority", type=click.IntRange(-PRIORITY_MAX, PRIORITY_MAX), metavar="N", help="Higher first (0).")
@click.option("--unique-key", metavar="K", help="Only where no unfinished task of the queue has this key.")
@common_options
def push(queue: str, json_or_dash: str | None, pairs: tuple[str, ...], no_check: bool, **when: Any) -> None:
    """Create tasks; prints the id of each.

    \b
      disbatch-host task push mail '{"user": "matt"}'
      disbatch-host task push mail -p user=matt -p tries:=3 -p body=@letter.txt
      disbatch-host task push mail - < users.ndjson
      disbatch-host task push mail -p user=matt --at 22:30 --expires 2h --priority 5
      disbatch-host task push report --after 5f0c… --after 5f0d…
      disbatch-host task push sync -p user=matt --unique-key matt

    KEY=VALUE takes the value as JSON where it is valid JSON, else as a string; KEY:=VALUE always JSON; KEY=@FILE reads
    a file. '-' reads a JSON object a line from stdin; the options hold for every line. Once an id is printed, its task
    is on disk.

    A task whose --after has failed stays blocked, with the reason, until that one is run again (task retry) and
    concludes. Where an unfinished task has the --unique-key already, its id is printed and nothing is created.
    """
    if json_or_dash == "-" and pairs:
        raise UsageError("expected either '-' or -p, found both; with '-' each line holds all parameters")
    with common.opened_store() as store:
        found = common.find_queue(store, queue)
        planned = _Plan.of(store, **when)
        pusher = _Pusher(store, found, _plugin_of(found, no_check=no_check), planned, is_checking=not no_check)
        if json_or_dash == "-":
            _push_lines(pusher)
        else:
            values = parameters.parameters_of(json_or_dash, pairs)
            pusher.check(values, "")
            pusher.create([values])
        pusher.say_what_was_not_created()


def _plugin_of(queue: Queue, *, no_check: bool) -> Plugin | None:
    """The plugin of the queue, where it is known here."""
    try:
        catalog = common.known_plugins()
    except DisbatchError:
        if no_check:  # a directory that is not there does not matter then
            return None
        raise
    broken = next((one for one in catalog.broken if one.known_as == queue.class_name), None)
    if broken is not None and not no_check:
        click.echo(
            f"the parameters are not checked: plugin {queue.class_name} cannot be used here; "
            f"`disbatch-host check {queue.class_name}` says why",
            err=True,
        )
    return catalog.plugins.get(queue.class_name)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """When, in which order and whether at all the tasks are to be run, as it was asked for."""

    fields: Mapping[str, Any]  # of each document
    unique_key: str | None = None

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        delay: str | None,
        at: str | None,
        after: Sequence[str],
        after_any: bool,
        expires: str | None,
        priority: int | None,
        unique_key: str | None,
    ) -> _Plan:
        """Raises UsageError, and NotFoundError for a task to be waited for that is not there: so no circle can come
        about, since a task that is created now can only wait for older ones."""
        if delay is not None and at is not None:
            raise UsageError("expected either --delay or --at, found both")
        if after_any and not after:
            raise UsageError("expected --after with --after-any: after which task?")
        if unique_key is not None:
            common.check_id("a unique key", unique_key)
        fields: dict[str, Any] = {}
        is_timed = delay is not None or at is not None or expires is not None
        now = store.now() if is_timed else SystemClock().now()  # what is due is told by the store's clock
        due = None
        if delay is not None:
            due = to_milliseconds(now + times.duration("--delay", delay))
        elif at is not None:
            due = times.moment("--at", at, now)
        if due is not None and due > now:
            fields |= {"status": int(Status.BLOCKED), "not_before": due}
        if after:
            fields |= {"status": int(Status.BLOCKED), "after": _ids_of(store, after)}
            fields |= {"after_any": True} if after_any else {}
        if expires is not None:
            fields["expires"] = _expiry(expires, now, due)
        if priority is not None:
            fields["priority"] = priority
        if unique_key is not None:
            fields["unique_key"] = unique_key
        return cls(fields=fields, unique_key=unique_key)


def _ids_of(store: Store, texts: Sequence[str]) -> list[TaskId]:
    """The ids of these tasks, each once, in the order that they were named in."""
    return list(dict.fromkeys(common.find_task(store, text).id for text in texts))


def _expiry(text: str, now: datetime, due: datetime | None) -> datetime:
    found = times.moment_to_come("--expires", text, now)
    if found <= now:
        raise UsageError(f"--expires: expected a time to come, found {render.moment(found)}, which has passed")
    if due is not None and found <= due:
        raise UsageError(
            f"--expires: expected a time after that when the task is due, {render.moment(due)}, "
            f"found {render.moment(found)}"
        )
    return found


class _Pusher:
    """Creates tasks of one queue and prints their ids."""

    def __init__(self, store: Store, queue: Queue, plugin: Plugin | None, planned: _Plan, *, is_checking: bool) -> None:
        self._store = store
        self._queue = queue
        self._plugin = plugin
        self._plan = planned
        self._is_checking = is_checking
        self._others: dict[TaskId, int] = {}  # tasks that have the unique key already, and how often they had it

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
            new_task(
                self._queue.id, values, now=now, **({"secrets": list(places)} if places else {}), **self._plan.fields
            )
            for values, places in zip(batch, secrets, strict=True)
        ]
        if self._plan.unique_key is not None:  # only who has named an id sees that it is another one
            named = self._store.new_ids(len(documents))
            documents = [{"_id": one, **document} for one, document in zip(named, documents, strict=True)]
        ids = self._store.insert_tasks(documents)
        others = [one for one, document in zip(ids, documents, strict=True) if document.get("_id", one) != one]
        for one in others:
            self._others[one] = self._others.get(one, 0) + 1
        try:
            if not common.wants_json():
                click.echo("\n".join(map(str, ids)))
                return
            for task_id, document, places in zip(ids, documents, secrets, strict=True):
                self._print(task_id, document, places)
        except BrokenPipeError:
            raise
        except OSError as error:
            created = "the task is" if len(ids) - len(others) == 1 else f"{len(ids) - len(others)} tasks are"
            raise OutputError(
                f"the output cannot be written: {error.strerror}; {created} created all the same, "
                "`disbatch-host task list` shows the newest"
            ) from error

    def say_what_was_not_created(self) -> None:
        """One line on stderr for each task that stands in the way."""
        for task_id, count in self._others.items():
            found = self._store.get_task(task_id)
            state = "just deleted" if found is None else statuses.name(found.status)
            what = "nothing was" if count == 1 else f"{count} tasks were not"
            click.echo(
                f"{what} created: task {task_id} of queue {self._queue.id} (status {state}) has the unique key "
                f"{self._plan.unique_key!r} already",
                err=True,
            )

    def _print(self, task_id: TaskId, document: Document, secrets: Sequence[str]) -> None:
        if self._plan.unique_key is None:
            shown = {"_id": task_id, **document, "parameters": masked_at(document["parameters"], secrets)}
        elif document["_id"] == task_id:
            shown = {**document, "parameters": masked_at(document["parameters"], secrets), "created": True}
        else:
            found = self._store.get_task(task_id)
            state = {} if found is None else {"status": found.status, "status_name": statuses.name(found.status)}
            shown = {"_id": task_id, "queue": self._queue.id, "created": False, **state}
        render.print_json(shown, self._store.extended_json)
