"""`disbatch-host task push`."""

from __future__ import annotations

import contextlib
import functools
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from disbatch_host import suggested
from disbatch_host.cli import bars, batch_options, common, parameters, render, when
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.kinds import Whole
from disbatch_host.client import batch_members
from disbatch_host.client.batch_members import Member
from disbatch_host.client.finding import find_queue, find_task
from disbatch_host.client.parameters import NAMES_MAX, misspelt_note
from disbatch_host.client.published import newest_of
from disbatch_host.client.pushing import (
    BATCH,
    PRIORITY_MAX,
    ParametersError,
    Plan,
    Pushed,
    Pusher,
    is_broken_here,
)
from disbatch_host.documents.records import Queue, TaskId
from disbatch_host.errors import DisbatchError, OutputError, StoreRefusedError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses

if TYPE_CHECKING:
    from disbatch_host.client.other_parameters import Original
    from disbatch_host.client.published import AnyPlugin


@click.command()
@click.argument("queue")
@click.argument("words", metavar="[JSON | -]", nargs=-1)
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter; may be given several times.")
@click.option("--like", metavar="ID", help="Take over parameters, priority and unique key of this task.")
@click.option("--no-check", is_flag=True, help="Do not check the parameters against the plugin's schema.")
@click.option("--delay", metavar="DURATION", help="Run no sooner than this long from now.")
@click.option("--at", metavar="TIME", help="Run no sooner than this: RFC 3339, or local '2026-11-25 14:00' or '14:00'.")
@click.option(
    "--after", multiple=True, metavar="ID", help="Wait until this task concludes; may be given several times."
)
@click.option("--after-any", is_flag=True, help="With --after: however those tasks end.")
@click.option("--expires", metavar="DURATION|TIME", help="Cancel the task if it has not started by then.")
@click.option("--priority", type=Whole(-PRIORITY_MAX, PRIORITY_MAX), metavar="N", help="Higher first (0).")
@click.option("--unique-key", metavar="K", help="Only if no unfinished task of the queue has this key.")
@batch_options.batch_options
@common_options
def push(
    queue: str,
    words: tuple[str, ...],
    pairs: tuple[str, ...],
    like: str | None,
    no_check: bool,
    for_batch: Mapping[str, Any],
    **timing: Any,
) -> None:
    """Create tasks and print the id of each.

    \b
      disbatch-host task push mail '{"user": "matt"}'
      disbatch-host task push mail -p user=matt -p tries:=3 -p body=@letter.txt
      disbatch-host task push mail - < users.ndjson
      disbatch-host task push mail - --on-done notify --on-done-p to=ann@example.com < users.ndjson
      disbatch-host task push mail -p user=matt --at 22:30 --expires 2h --priority 5
      disbatch-host task push report --after 5f0c… --after 5f0d…
      disbatch-host task push sync -p user=matt --unique-key matt
      disbatch-host task push mail --like 5f0c… -p user=matt2

    KEY=VALUE takes the value as a string where the plugin's schema says string, or where the number would not come back
    as typed (1.10, 01067); else as JSON if it is valid JSON, else as a string. KEY:=VALUE is always JSON; KEY=@FILE
    reads a file. '-' reads one JSON object per line from stdin; the options apply to every line. Once an id is printed,
    its task is on disk.

    What '-' reads is a batch: its id is the first line on stderr, and it is closed at the end. With --batch NAME, also
    for a single task, the batch of that name is made or joined, and stays open (--close, or batch close).

    --like copies a task: its parameters, also the secret ones, which are never shown, its priority and its unique key.
    JSON, -p and other options win over what it has; its times, predecessors and batch are not taken over.

    A task whose --after failed stays blocked, with the reason, until that task is run again (task retry) and
    concludes. If an unfinished task already has the --unique-key, its id is printed and nothing is created.
    """
    is_from_stdin = words == ("-",)
    if is_from_stdin and pairs:
        raise UsageError("expected either '-' or -p, found both; with '-', each line holds all parameters")
    if is_from_stdin and like is not None:
        raise UsageError("expected either '-' or --like, found both; with '-', each line holds all parameters")
    as_json = common.wants_json()
    with common.opened_store() as store:
        found = find_queue(store, queue)
        original = None if like is None else _original(store, like)
        if original is not None:
            timing = {**original.options, **{name: one for name, one in timing.items() if one is not None}}
        planned = when.plan_of(store, **timing)
        plugin = known_plugin(store, found, no_check=no_check)
        schema = None if plugin is None else plugin.schema
        secrets = () if original is None else original.secrets
        pusher = _Pusher(store, found, plugin, planned, is_checking=not no_check, as_json=as_json, secrets=secrets)
        if is_from_stdin or batch_options.is_given(for_batch):
            new = batch_options.new_batch(store, for_batch)
            if new.name is None and not is_from_stdin:
                raise UsageError("a single task needs --batch NAME for --on-done and --stop-after")
            pusher.says_batch = is_from_stdin
            pusher.begins = functools.partial(
                batch_members.begin, store, new, common.who(), source=_source_of(queue, is_from_stdin=is_from_stdin),
                catalog=None if no_check else common.catalog(), checks=not no_check,
            )  # fmt: skip
        if is_from_stdin:
            _push_lines(pusher)
        else:
            values = parameters.parameters_of(parameters.one_text(words, schema), pairs, schema)
            values = values if original is None else original.with_values(store, values)
            pusher.check(values, "")
            pusher.create([values])
        pusher.close_batch()
        pusher.say_what_was_not_created()


def _original(store: Store, like: str) -> Original:
    from disbatch_host.client.other_parameters import original_of  # noqa: PLC0415

    here = None
    with contextlib.suppress(DisbatchError):  # said where the parameters are checked
        here = common.catalog()
    return original_of(store, find_task(store, like, common.who()), here)


def _source_of(queue: str, *, is_from_stdin: bool) -> Mapping[str, Any]:
    return {"kind": "push" if is_from_stdin else "tasks", "name": "stdin" if is_from_stdin else "", "queue": queue}


def known_plugin(store: Store, queue: Queue, *, no_check: bool) -> AnyPlugin | None:
    """The plugin of the queue: of a directory here, else as nodes publish it. Warns if it is here but unusable and
    nothing is published, and if nodes differ."""
    name = queue.class_name
    catalog = None
    try:
        catalog = common.catalog()
    except DisbatchError:
        if not no_check:  # else a missing directory does not matter
            raise
    if catalog is not None and name in catalog.plugins:
        return catalog.plugins[name]
    published = newest_of(store, name)
    if no_check:
        return published.newest
    notes = list(published.faults)
    if published.newest is None and is_broken_here(queue, catalog):
        notes.append(
            f"the parameters are not checked: plugin {name} cannot be used here; "
            f"{suggested.hint('check', name)} says why"
        )
    elif published.newest is not None and published.differing is not None:
        version = published.newest.version or "the newest"
        notes.append(f"nodes have different parameters of {name} ({published.differing}); checked by {version}")
    for one in notes:
        click.echo(render.printable(one), err=True)
    return published.newest


def _push_lines(pusher: _Pusher) -> None:
    """Create what stdin holds, in batches. A line that does not fit stops it; earlier ones are created and printed."""
    created = 0
    batch: list[Mapping[str, Any]] = []
    with bars.progress("creating tasks") as advance:

        def flush() -> None:
            nonlocal created
            if batch:
                pusher.create(batch)
                created += len(batch)
                advance(len(batch))
                batch.clear()

        try:
            for number, values in parameters.read_lines(parameters.lines_as_they_come(sys.stdin.fileno())):
                if values is None:  # a pause: print the ids of the tasks so far
                    flush()
                    continue
                pusher.check(values, f"line {number}: ")
                batch.append(values)
                if len(batch) == BATCH:
                    flush()
        except UsageError as error:
            flush()
            tasks = f"{common.count_of(created, 'task')} from the lines before it {'was' if created == 1 else 'were'}"
            raise UsageError(f"{error}; {tasks} created{pusher.how_to_go_on()}") from error
        flush()


class _Pusher:
    """Creates tasks of one queue and prints their ids."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        plugin: AnyPlugin | None,
        plan: Plan,
        *,
        is_checking: bool,
        as_json: bool,
        secrets: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._queue = queue
        self._pusher = Pusher(store, queue, plugin, plan, is_checking=is_checking, secrets=secrets)
        self._unique_key = plan.unique_key
        self._as_json = as_json
        self._schema = plugin.schema if plugin is not None and is_checking else None
        self._names: set[str] = set()  # of parameters, in all tasks so far
        self.says_batch = False  # its id, before anything else
        self._member: Member | None = None
        self._created = 0
        self.begins: Callable[[], Member] | None = None  # makes or joins the batch, with the first task
        self._others: dict[TaskId, int] = {}  # tasks that already have the unique key, and how often each was met

    def check(self, values: Mapping[str, Any], where: str) -> None:
        """Raises UsageError if the parameters do not fit; `where` starts the message."""
        try:
            self._pusher.check(values)
        except ParametersError as error:
            raise UsageError(f"{where}{error} (--no-check skips this)") from error
        self._begin_batch()
        if not self._names.issuperset(values) and len(self._names) < NAMES_MAX:
            if (note := misspelt_note(values, self._schema, but=self._names)) is not None:
                click.echo(f"{where}{note}", err=True)
            self._names.update(values)

    def create(self, batch: Sequence[Mapping[str, Any]]) -> None:
        """Create a task for each of these parameters; once its id is printed, it is on disk."""
        self._begin_batch()
        try:
            pushed = self._pusher.create(batch)
        except StoreRefusedError as error:
            for task_id in error.created:  # beside those that are refused
                if self._as_json:
                    render.print_json({"_id": task_id}, self._store.extended_json)
                else:
                    click.echo(str(task_id))
            raise
        self._created += sum(one.is_new for one in pushed)
        for one in pushed:
            if not one.is_new:
                self._others[one.id] = self._others.get(one.id, 0) + 1
        try:
            if not self._as_json:
                click.echo("\n".join(str(one.id) for one in pushed))
                return
            for one in pushed:
                self._print(one)
        except BrokenPipeError:
            raise
        except OSError as error:
            count = sum(one.is_new for one in pushed)
            created = "the task was" if count == 1 else f"{count} tasks were"
            raise OutputError(
                f"the output cannot be written: {error.strerror}; {created} created nevertheless, "
                f"{suggested.hint('task list')} shows the newest"
            ) from error

    def _begin_batch(self) -> None:
        """Make or join the batch, with the first task that fits."""
        if self.begins is not None and self._member is None:
            self._member = self._pusher.batch = self.begins()
            if self.says_batch:
                click.echo(f"batch {render.printable(self._member.id)}", err=True)

    def close_batch(self) -> None:
        """Everything is created."""
        if self._member is not None:
            self._member.close(self._created, existing=sum(self._others.values()))

    def how_to_go_on(self) -> str:
        """What to do with the batch if not everything could be created; empty if there is none."""
        if self._member is None:
            return ""
        name = self._member.id
        closes = suggested.hint("batch close", name)
        return f"; its batch is open: push the rest with --batch {shlex.quote(name)} --close, or {closes}"

    def say_what_was_not_created(self) -> None:
        """One line on stderr for each task that is in the way."""
        for task_id, count in self._others.items():
            found = self._store.get_task(task_id)
            state = "just deleted" if found is None else statuses.name(found.status)
            what = "nothing was" if count == 1 else f"{count} tasks were not"
            click.echo(
                f"{what} created: task {task_id} of queue {self._queue.id} (status {state}) has the unique key "
                f"{self._unique_key!r} already",
                err=True,
            )

    def _print(self, pushed: Pushed) -> None:
        if self._unique_key is None:
            shown: Mapping[str, Any] = pushed.masked
        elif pushed.is_new:
            shown = {**pushed.masked, "created": True}
        else:
            found = self._store.get_task(pushed.id)
            state = {} if found is None else {"status": found.status, "status_name": statuses.name(found.status)}
            shown = {"_id": pushed.id, "queue": self._queue.id, "created": False, **state}
        render.print_json(shown, self._store.extended_json)
