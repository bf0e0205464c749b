"""`disbatch-host batch …`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import bars, batch_words, common, render, results, selection
from disbatch_host.cli.commands import wait as waits
from disbatch_host.cli.commands.cancel import Canceller
from disbatch_host.cli.commands.retry import retry_selected, say_none_failed
from disbatch_host.cli.frame import Subcommands, common_options
from disbatch_host.cli.kinds import OneOf, Whole
from disbatch_host.client import allowed, control
from disbatch_host.client.batch_progress import BatchNow
from disbatch_host.client.batches import Batches, shown
from disbatch_host.client.waiting import Waited
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.errors import ExitCode, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.quantities import parse_duration

_LIST_LIMIT = 20
_UNFINISHED = frozenset(map(int, statuses.UNFINISHED))


@click.group(cls=Subcommands, elsewhere={"export": "export.of_batch", "failures": "failures.of_batch"})
@common_options
def batch() -> None:
    """List, show, close, wait for, retry, cancel, export and delete batches: tasks that were created together.

    Every import and every `task push QUEUE -` is a batch; --batch NAME makes or joins one. A batch is named by its id,
    the beginning of it (6 characters or more), or @last: the newest that you made on this machine.
    """


def _batches(store: Store) -> Batches:
    return Batches(store, common.who())


@batch.command("list")
@click.option(
    "--state", "states", multiple=True, type=OneOf([str(one) for one in BatchState]), help="Only those in this state."
)
@click.option(
    "--limit", type=Whole(1), default=_LIST_LIMIT, show_default=True, metavar="N", help="Show at most this many."
)
@common_options
def list_(states: tuple[str, ...], limit: int) -> None:
    """List batches, the newest first.

    \b
      disbatch-host batch list --state open --state closed

    open: tasks may be added; closed: nobody adds any, and some may be unfinished; done: all have ended. Until a batch
    is done, its tasks and those that failed are counted as they are now.
    """
    with common.opened_store() as store:
        found = _batches(store).list(states=states or None, limit=limit + 1)
        listed = [*zip(found[:limit], _batches(store).now(found[:limit]), strict=True)]
        if common.wants_json():
            for one, current in listed:
                more = {} if current is None else {"now": current.to_json()}
                render.print_json({**shown(one), **more}, store.extended_json)
        else:
            now = store.now()
            rows = [
                (
                    one.id,
                    (str(one.state), batch_words.STATES[one.state]),
                    *_numbers(one, current),
                    one.by or "-",
                    render.age(one.ctime, now),
                    one.fault or batch_words.source_in_words(one),
                )
                for one, current in listed
            ]
            render.print_table(("batch", "state", "tasks", "failed", "by", "created", "source"), rows, right=(2, 3))
        if len(found) > limit:
            click.echo(f"the newest {limit}; there are more, --limit shows them", err=True)


def _numbers(one: Batch, current: BatchNow | None) -> tuple[Any, Any]:
    """How many tasks it has, and how many failed: as its summary has it once it is done, until then as it is now."""
    if current is not None:
        about = "" if current.is_counted else "about "
        return f"{about}{current.total}", f"{about}{current.failed}"
    if one.state is BatchState.DONE and one.summary is not None:
        return one.summed("total"), one.summed("failed")
    return one.total or "-", "-"


@batch.command()
@click.argument("id")
@common_options
def show(id: str) -> None:
    """Show how far a batch has come: counts, rate, remaining time, causes of failures, its slowest tasks.

    \b
      disbatch-host batch show @last
      disbatch-host batch show 65f0c1 --json | jq .progress.percent
    """
    with common.opened_store() as store:
        progress = _batches(store).progress(id)
        if common.wants_json():
            document = {**shown(progress.batch), "progress": progress.to_json()}
            render.print_json(document, store.extended_json)
        else:
            render.print_facts(batch_words.facts_of(store, progress))


@batch.command()
@click.argument("id")
@common_options
def close(id: str) -> None:
    """Close a batch: nobody adds tasks any more. It is done once all of its tasks have ended.

    \b
      disbatch-host batch close march
    """
    with common.opened_store() as store:
        found, is_new = _batches(store).close(id)
        if common.wants_json():
            render.print_json(shown(found), store.extended_json)
        elif is_new:
            click.echo(f"batch {render.printable(found.id)} is closed")
        else:
            click.echo(f"batch {render.printable(found.id)} was {found.state} already")


@batch.command()
@click.argument("id")
@click.option("--timeout", metavar="S", help="Give up after this long.")
@common_options
def wait(id: str, timeout: str | None) -> int:
    """Wait until a batch is done; exit 0 if all of its tasks concluded, whenever they did, else 1.

    \b
      disbatch-host batch wait @last && echo fine
      disbatch-host batch wait 65f0c1 --timeout 2h

    An open batch is waited for until somebody closes it. The last line on stderr says what came of the tasks.
    """
    try:
        limit_seconds = None if timeout is None else parse_duration(timeout)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from error
    with common.opened_store() as store:
        batches = _batches(store)
        found = batches.get(id)
        with waits.bar() as told:
            waited = batches.wait(
                found.id, timeout_seconds=limit_seconds, on_progress=told, on_still=results.say_still,
                on_open=results.say_open,
            )  # fmt: skip
        if common.wants_json():
            render.print_json({"batch": found.id, **waits.document_of(waited), **_took(waited)}, store.extended_json)
        waits.say_what_came_of_it(waited, limit_seconds, ["--batch", found.id])
        return ExitCode.DONE if waited.all_concluded else ExitCode.FAILED


def _took(waited: Waited) -> dict[str, Any]:
    return {"run_seconds": waited.run_seconds, "since_creation_seconds": waited.since_creation_seconds}


@batch.command()
@click.argument("id")
@selection.some_filter_options("failure", "error", "grep")
@click.option("--again", is_flag=True, help="Have --on-done create its task once more, when all have ended.")
@common.reason_option
@click.option("--yes", is_flag=True, help="Do not ask. A script is not asked anyway.")
@common_options
def retry(id: str, filters: Mapping[str, Any], again: bool, reason: str | None, yes: bool) -> int:
    """Run the failed tasks of a batch again, at once: all, or those of one cause.

    \b
      disbatch-host batch retry @last --reason 'server is back'
      disbatch-host batch retry @last --failure 1a00ac14 --again

    The batch is done once more when they have ended. What --on-done created once, it creates then only with --again.
    --failure takes all of the cause that did not conclude, as `task retry` does. At a terminal, more than one task is
    retried only after a question; a script is not asked.
    """
    with common.opened_store() as store:
        found = _batches(store).get(id)
        status = allowed.FAILED if filters["failure"] is None else allowed.FAILED_SOMEHOW
        which = selection.filter_of(store, {**filters, "batch": found.id, "status": status})
        total = store.count_tasks(which)
        if not total:
            say_none_failed(filters, suggested.hint("batch failures", found.id))
        question = f"run {common.count_of(total, 'task')} of batch {render.printable(found.id)} again?"
        selection.confirm(question, total, yes=yes, is_explicit=True)
        request = common.request(reason, store.now())
        code = retry_selected(store, control.retry(store, which, request), total, as_json=common.wants_json())
        name = render.printable(found.id)
        if again and not _batches(store).arm(found.id):
            click.echo(f"batch {name} was made without --on-done, so --again does nothing", err=True)
        if not again and total and found.on_done is not None and not found.is_armed:
            click.echo(
                f"batch {name} has told once that it was done; it tells again only if it is retried with --again",
                err=True,
            )
        return code


@batch.command()
@click.argument("id")
@common.reason_option
@selection.YES
@common_options
def cancel(id: str, reason: str | None, yes: bool) -> int:
    """Cancel the unfinished tasks of a batch: waiting ones at once; for running ones, ask their nodes to stop them.

    \b
      disbatch-host batch cancel @last --reason 'wrong file'

    At a terminal, more than one task is cancelled only after a question. A script always needs --yes.
    """
    with common.opened_store() as store:
        found = _batches(store).get(id)
        which = TaskFilter(batch=found.id, statuses=_UNFINISHED)
        total = store.count_tasks(which)
        question = f"cancel {common.count_of(total, 'task')} of batch {render.printable(found.id)}?"
        selection.confirm(question, total, yes=yes, is_explicit=False)
        canceller = Canceller(store, common.request(reason, store.now()), as_json=common.wants_json())
        canceller.cancel_all(which, total)
        canceller.say_who_may_not_stop()
        return ExitCode.DONE


@batch.command()
@click.argument("id")
@selection.YES
@common_options
def delete(id: str, yes: bool) -> int:
    """Delete a batch that is done, with its tasks and their output. This cannot be undone.

    \b
      disbatch-host batch delete 65f0c1 --yes

    Tasks that others wait for are kept, and with them the batch. A script needs --yes.
    """
    with common.opened_store() as store:
        batches = _batches(store)
        found = batches.get(id)
        total = store.count_tasks(TaskFilter(batch=found.id))
        question = f"delete batch {render.printable(found.id)} and its {common.count_of(total, 'task')}?"
        if not yes:
            _ask(question)
        with bars.progress("deleting tasks", total=total) as advance:
            told = 0

            def tell(count: int) -> None:
                nonlocal told
                advance(count - told)
                told = count

            changes = batches.delete(found.id, on_progress=tell)
        if common.wants_json():
            render.print_json({"batch": found.id, "deleted": changes.done, "kept": len(changes.left)})
        else:
            click.echo(f"{common.count_of(changes.done, 'task')} deleted")
            if changes.left:
                kept = common.count_of(len(changes.left), "task")
                click.echo(f"{kept} kept, and the batch with them: others wait for them", err=True)
        return ExitCode.FAILED if changes.left else ExitCode.DONE


def _ask(question: str) -> None:
    """Always, since a batch is one thing. Raises Abort, and UsageError where nobody can be asked."""
    selection.confirm(question, 2, yes=False, is_explicit=False)
