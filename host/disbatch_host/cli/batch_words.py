"""A batch in words: its facts at the terminal.

Responsible for: the lines of `batch show`. Must not know: how the numbers are counted, how lines are printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disbatch_host import suggested
from disbatch_host.cli import render, tally
from disbatch_host.cli.common import count_of as counted
from disbatch_host.client.batch_progress import BatchProgress
from disbatch_host.decide import counts
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses

STATES = {BatchState.OPEN: "cyan", BatchState.CLOSED: "default", BatchState.DONE: "green"}


def source_in_words(one: Batch) -> str:
    kind, name, queue = (one.source.get(field) for field in ("kind", "name", "queue"))
    words = f"{kind or 'tasks'} {name}".strip() if name else str(kind or "tasks")
    return f"{words} into queue {queue}" if queue else words


def facts_of(store: Store, progress: BatchProgress) -> list[tuple[str, Any]]:
    """Names and values for `render.print_facts`."""
    one, words = progress.batch, progress.by_word
    now = store.now()
    facts: list[tuple[str, Any]] = [
        ("batch", one.id),
        ("state", (_state_in_words(one, progress), STATES[one.state])),
        ("created", f"{render.moment(one.ctime)} ({render.age(one.ctime, now)}) by {one.by or '-'}"),
        ("source", source_in_words(one)),
    ]
    if isinstance(digest := one.source.get("sha256"), str):
        facts.append(("sha256", digest))
    if (skipped := one.skipped) is not None:
        report = one.source.get("report")
        where = f"; {report} has them" if isinstance(report, str) else ""
        facts.append(("skipped", (f"{counted(skipped, 'row')} of the source did not fit{where}", "yellow")))
    if (existing := one.existing) is not None:
        text = f"{existing} not created: an unfinished task had the unique key"
        facts.append(("existing", (text, "yellow")))
    about = "" if progress.is_counted else "about "
    percent = "" if progress.percent is None else f", {about}{progress.percent:.3g} % ended"
    facts.append(("tasks", f"{about}{progress.total}{percent}"))
    facts += [(name, words[name]) for name in counts.COLUMNS if words[name] and name != "terminated"]
    if progress.behind_failure:
        text = f"{progress.behind_failure} wait for tasks that failed, and keep the batch from being done"
        facts.append(("blocked", (text, "yellow")))
    if progress.per_second is not None:
        left = "" if progress.left_seconds is None else f", about {render.duration(round(progress.left_seconds))} left"
        facts.append(("rate", f"{progress.per_second:.3g} a second since the first start{left}"))
    facts += _facts_of_tasks(progress)
    for cause in (one.summary or {}).get("causes") or ():
        if isinstance(cause, Mapping):
            facts.append(("cause", f"{cause.get('count')} x {cause.get('text')}"))
    if one.stop_after is not None:
        facts.append(("stop after", _stop_in_words(one)))
    if one.on_done is not None:
        facts.append(("on done", _on_done_in_words(store, one)))
    if one.fault is not None:
        facts.append(("fault", (one.fault, "red")))
    return facts


def _facts_of_tasks(progress: BatchProgress) -> list[tuple[str, Any]]:
    """How long it took, attempts and the slowest, and of how many tasks that is."""
    told, is_all = progress.facts, progress.is_looked_at
    if not told.looked_at:
        return []
    facts: list[tuple[str, Any]] = []
    if progress.batch.state is BatchState.DONE and told.run_seconds is not None:
        took = tally.took_in_words(told.run_seconds, progress.since_creation_seconds, is_about=not is_all)
        facts.append(("took", took))
    at_least = "" if progress.is_counted else "at least "
    part = (
        "" if is_all else f": of {told.looked_at} of {at_least}{progress.ended} ended tasks, for which there was time"
    )
    facts.append(
        ("attempts", f"{told.attempts} for {told.looked_at} ended tasks" if is_all else f"{told.attempts}{part}")
    )
    for number, (task_id, seconds) in enumerate(told.slowest):
        facts.append(("slowest", f"{task_id} took {render.duration(seconds)}{part if not number else ''}"))
    return facts


def _state_in_words(one: Batch, progress: BatchProgress) -> str:
    if one.state is BatchState.DONE:
        return f"done at {render.moment(one.done_at)}"
    if one.state is BatchState.OPEN:
        return f"open: tasks may be added; {suggested.hint('batch close', one.id)} closes it"
    closed = one.closed or {}
    words = f"closed at {render.moment(closed.get('at'))} by {closed.get('by') or '-'}"
    is_over = progress.is_counted and progress.ended == progress.total
    return f"{words}; all tasks have ended, and a node marks it as done" if is_over else words


def _stop_in_words(one: Batch) -> str:
    if one.stopped is None:
        return f"{one.stop_after} failures"
    cancelled = one.stopped.get("cancelled")
    rest = "; tasks that wait are being cancelled" if cancelled is None else f"; {cancelled} tasks were cancelled"
    return f"{one.stop_after} failures: stopped at {render.moment(one.stopped.get('at'))}{rest}"


def _on_done_in_words(store: Store, one: Batch) -> str:
    on_done = one.on_done or {}
    words, task_id = f"a task in queue {on_done.get('queue')}", on_done.get("task")
    if task_id is None:
        return words
    task = store.get_task(task_id)
    became = statuses.name(task.status) if task is not None else "to be created" if one.owes_task else "deleted since"
    return f"{words}: task {task_id}, {became}"
