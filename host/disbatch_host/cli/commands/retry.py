"""`disbatch-host task retry` and `task release`: make idle tasks run after all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import bars, common, parameters, render, results, selection
from disbatch_host.cli.frame import common_options
from disbatch_host.client import allowed, control
from disbatch_host.client.control import Outcome, Result
from disbatch_host.client.finding import find_named
from disbatch_host.client.pushing import ParametersError
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task
from disbatch_host.errors import DisbatchError, ExitCode, UsageError
from disbatch_host.store.contract import Store


@click.command()
@selection.NAMES
@click.option(
    "-p", "pairs", multiple=True, metavar="KEY=VALUE", help="Another value of a parameter, as in `task push`."
)
@click.option("--no-check", is_flag=True, help="With -p: do not check the parameters against the plugin's schema.")
@selection.filter_options
@common.reason_option
@selection.YES
@common_options
def retry(
    ids: tuple[str, ...],
    pairs: tuple[str, ...],
    no_check: bool,
    filters: Mapping[str, Any],
    reason: str | None,
    yes: bool,
) -> int:
    """Run ended tasks again, at once; the outcome of each earlier attempt is kept.

    \b
      disbatch-host task retry 5f0c… --reason 'server is back'
      disbatch-host task retry 5f0c… -p user=matt2
      disbatch-host task retry --failed --queue mail
      disbatch-host task retry --failed --queue mail --error timeout
      disbatch-host task retry --status orphaned --queue mail
      disbatch-host task retry --failure 1a00ac14

    Each gets as many attempts as a new task, and starts as soon as a node has room, whatever --delay, --at or --after
    it was pushed with. Exit 1 if one has not ended, or if another unfinished task has its unique key.

    With -p, for tasks that are named, it gets other values of these parameters and keeps the rest. They are checked
    first, and nothing is run again if they do not fit. The earlier attempt keeps the values that it ran with (task show
    --json, attempts), with secrets masked.

    At a terminal, more than one task of a queue is retried only after a question. A script is not asked, since
    --failed, --status or --failure says which ones.
    """
    is_named = selection.is_named(ids, filters)
    if not is_named and pairs:
        shows = suggested.hint("task list", *selection.words_of(filters))
        raise UsageError(f"expected task ids with -p, found {selection.given_options(filters)[0]}; {shows} shows them")
    if no_check and not pairs:
        raise UsageError("--no-check needs -p: parameters that stay the same are not checked")
    if filters["failure"] is not None and not filters["status"]:
        filters = {**filters, "status": allowed.FAILED_SOMEHOW}
    if not is_named and not filters["status"]:
        raise UsageError(f"expected --failed or --status beside {_named(filters)}, found neither")
    with common.options_named():
        allowed.check_retriable(filters["status"])
    with common.opened_store() as store:
        request, as_json = common.request(reason, store.now()), common.wants_json()
        if is_named:
            tasks = find_named(store, ids, common.who())
            batches = (
                _retry_with(store, tasks, request, pairs, checks=not no_check)
                if pairs
                else control.retry(store, tasks, request)
            )
            return _say_all(store, batches, as_json=as_json)
        which = selection.filter_of(store, filters)
        total = store.count_tasks(which)
        if not total:
            say_none_failed(filters, suggested.hint("task failures"))
            selection.say_unmet(store, which)
        question = f"run {common.count_of(total, 'task')} {selection.of_what(filters)} again?"
        selection.confirm(question, total, yes=yes, is_explicit=True)
        return retry_selected(store, control.retry(store, which, request), total, as_json=as_json)


def _named(filters: Mapping[str, Any]) -> str:
    """The options that narrow enough, as they were given."""
    return " and ".join(f"--{name}" for name in ("queue", "batch") if filters[name] is not None)


def _retry_with(
    store: Store, tasks: Sequence[Task], request: Document, pairs: Sequence[str], *, checks: bool
) -> Iterator[list[Result]]:
    """Raises UsageError, with nothing changed, for parameters that do not fit."""
    from disbatch_host.client.other_parameters import OtherParameters  # noqa: PLC0415

    here = None
    try:
        here = common.catalog()
    except DisbatchError:
        if checks:
            raise
    others = OtherParameters(store, here, lambda schema: parameters.parameters_of(None, pairs, schema), checks=checks)
    try:
        return control.retry(store, others.checked(tasks), request, others.of)
    except ParametersError as error:
        raise UsageError(f"{error} (--no-check skips this)") from error


_RETRY_WORDS: results.Words = {
    Outcome.NOT_ENDED: lambda one: f"is not run again: it has not ended, it is {results.status_of(one)}"
}


def say_none_failed(filters: Mapping[str, Any], shows: str) -> None:
    """Where a cause was named, that no task failed for it. `shows`: the command that has the causes."""
    causes = [f"--{name} {filters[name]}" for name in ("failure", "error", "grep") if filters[name] is not None]
    if causes:
        text = f"no such task failed with {' and '.join(causes)}; {shows} shows the causes"
        click.echo(render.printable(text), err=True)


def retry_selected(store: Store, batches: Iterable[Sequence[Result]], total: int, *, as_json: bool) -> int:
    """Carry out a retry; reports how many are run again, and for each that is not, why. Returns the exit code."""
    retried = refused = 0
    with bars.progress("running tasks again", total=total) as advance:
        for batch in batches:
            said = [one for one in batch if as_json or not one.is_done]
            results.say(store, said, _RETRY_WORDS, as_json=as_json)
            done = sum(one.is_done for one in batch)
            retried, refused = retried + done, refused + len(batch) - done
            advance(len(batch))
    if not as_json:
        others = f", {refused} will not" if refused else ""
        click.echo(f"{common.count_of(retried, 'task')} will be run again{others}")
    return ExitCode.FAILED if refused else ExitCode.DONE


def _say_all(store: Store, batches: Iterable[Sequence[Result]], *, as_json: bool) -> int:
    code = ExitCode.DONE
    for batch in batches:
        results.say(store, batch, _RETRY_WORDS, as_json=as_json)
        if not all(one.is_done for one in batch):
            code = ExitCode.FAILED
    return code


@click.command()
@selection.NAMES
@selection.filter_options
@selection.YES
@common_options
def release(ids: tuple[str, ...], filters: Mapping[str, Any], yes: bool) -> int:
    """Let blocked tasks run now, regardless of the time or tasks they wait for.

    \b
      disbatch-host task release 5f0c…
      disbatch-host task release --queue mail --where user=matt

    For a task whose predecessor failed and will not be run again (task retry), or one that is due too late.

    At a terminal, more than one task of a queue is released only after a question. A script needs --yes, or --status
    blocked. Exit 1 if one that was named is not blocked.
    """
    is_named = selection.is_named(ids, filters)
    with common.options_named():
        allowed.check_releasable(filters["status"])
    with common.opened_store() as store:
        as_json = common.wants_json()
        if is_named:
            return _say_all(store, control.release(store, find_named(store, ids, common.who())), as_json=as_json)
        which = selection.filter_of(store, {**filters, "status": filters["status"] or ("blocked",)})
        total = store.count_tasks(which)
        if not total:
            selection.say_unmet(store, which)
        question = f"release {common.count_of(total, 'task')} {selection.of_what(filters)}?"
        selection.confirm(question, total, yes=yes, is_explicit=bool(filters["status"]))
        return _release_selected(store, which, total, as_json=as_json)


def _release_selected(store: Store, which: TaskFilter, total: int, *, as_json: bool) -> int:
    released = refused = 0
    with bars.progress("releasing tasks", total=total) as advance:
        for batch in control.release(store, which):
            results.say(store, [one for one in batch if as_json or not one.is_done], as_json=as_json)
            done = sum(one.is_done for one in batch)
            released, refused = released + done, refused + len(batch) - done
            advance(len(batch))
    if not as_json:
        others = f", {refused} are not" if refused else ""
        click.echo(f"{common.count_of(released, 'task')} released{others}")
    return ExitCode.FAILED if refused else ExitCode.DONE
