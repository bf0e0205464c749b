"""The verbs of `Client` that only look.

Responsible for: giving each what it needs: the store, the plugins known here, the person who asks. The modules beside
this one do the work. Must not know: any front end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from disbatch_host.client import finding, history
from disbatch_host.client import why as reasons
from disbatch_host.client.failures import CAUSE, GROUPS_MAX, SECONDS, Failures, find_failures
from disbatch_host.client.failures_by_hour import FailuresByHour, find_failures_by_hour
from disbatch_host.client.finding import Selection
from disbatch_host.client.history import Event
from disbatch_host.client.masking import Masker
from disbatch_host.client.standstill import OnStill
from disbatch_host.clock import SystemClock
from disbatch_host.decide.why import Why
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.conditions import PAGE_SECONDS, Page
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.store.contract import Store
from disbatch_host.store.contract.answers import Counted

if TYPE_CHECKING:  # most programs need neither an overview nor outputs of many
    from disbatch_host.client.outputs import Said
    from disbatch_host.client.overview import Observer, Overview
    from disbatch_host.plugin.catalog import Catalog


class Reading:
    """See `client.Client`."""

    def __init__(self, store: Store, catalog: Catalog | None, by: str) -> None:
        self.store = store
        self.by = by
        self._catalog = catalog

    def find(
        self,
        which: Selection | TaskFilter,
        *,
        limit: int | None = None,
        newest_first: bool = False,
        with_output: bool = False,
    ) -> Iterator[Task]:
        """The selected tasks, in the order of creation, read lazily. Their secret parameters are not masked.
        Raises FieldError, and NotFoundError for an unknown queue."""
        return self.store.find_tasks(
            self._filter(which), limit=limit, newest_first=newest_first, with_output=with_output
        )

    def page(
        self,
        which: Selection | TaskFilter,
        *,
        limit: int = 50,
        newest_first: bool = True,
        cursor: str | None = None,
        budget_seconds: float = PAGE_SECONDS,
    ) -> Page:
        """Some of the selected tasks, the newest first, without output; `cursor` is the `next` or `previous` of another
        page. What it costs does not depend on where the page is. A selection by more than queue and status may need to
        look at very many tasks: after about `budget_seconds` the page is returned as far as it is (`Page.is_cut`).
        Their secret parameters are not masked. Raises as `find` does, and FieldError for a wrong cursor."""
        return self.store.find_page(
            self._filter(which), limit=limit, newest_first=newest_first, cursor=cursor, budget_seconds=budget_seconds
        )

    def count(self, which: Selection | TaskFilter) -> int:
        """The number of selected tasks. Raises as `find` does."""
        return self.store.count_tasks(self._filter(which))

    def count_within(self, which: Selection | TaskFilter, seconds: float | None) -> Counted:
        """The same, as far as there is time; None: however long it takes. Raises as `find` does."""
        found = self._filter(which)
        if seconds is None:
            return Counted(value=self.store.count_tasks(found), is_exact=True)
        return self.store.count_within(found, budget_seconds=seconds)

    def get(self, task_id: TaskId) -> Task:
        """One task, with the output that is in its document. Raises NotFoundError."""
        return finding.find_task(self.store, task_id, self.by)

    def why(self, task_id: TaskId) -> Why:
        """Why a task has not started: a code from a closed list, and a sentence. Raises NotFoundError."""
        return reasons.why(self.store, self.get(task_id).id)

    def history(self, task_id: TaskId) -> list[Event]:
        """The history of a task, in chronological order. Raises NotFoundError."""
        return history.history_of(self.get(task_id))

    def output(
        self,
        task_id: TaskId,
        stream: str = "stdout",
        *,
        start: int = 0,
        attempt: int | None = None,
        tail: int | None = None,
    ) -> Iterator[bytes]:
        """Everything a task has printed so far on `stdout` or `stderr`, in pieces, from the byte `start`, or only its
        last `tail` lines; `attempt`: of that one, instead of the last. Raises NotFoundError, also for an attempt whose
        output is no longer kept (`keep_attempts`), or was lost with its node."""
        from disbatch_host.client.output import attempt_pieces, output_pieces, tail_start  # noqa: PLC0415

        task = self.get(task_id)
        if tail is not None:
            start = tail_start(self.store, task, stream, tail, attempt=attempt)
        if attempt is None:
            return output_pieces(self.store, task, stream, start=start)
        return attempt_pieces(self.store, task, attempt, stream, start=start)

    def outputs(
        self, which: Selection | TaskFilter, streams: Sequence[str] = ("stdout",), *, tail: int | None = None
    ) -> Iterator[Said]:
        """What the selected tasks have printed so far, in the order of their creation; `tail`: of each the last lines.
        Memory does not grow with their number, or with their output. Raises as `find` does."""
        from disbatch_host.client.outputs import outputs  # noqa: PLC0415

        return outputs(self.store, self._filter(which), streams, tail=tail)

    def follow_outputs(
        self,
        which: Selection | TaskFilter,
        streams: Sequence[str] = ("stdout",),
        *,
        tail: int | None = None,
        on_still: OnStill | None = None,
    ) -> Iterator[Said | None]:
        """`outputs`, then whatever these tasks and new ones print, in whole lines; None when there is no more for now.
        Ends when a batch that is selected is closed and all of its tasks have ended; else never. Raises as `find` does,
        and FieldError for a status that tasks leave meanwhile."""
        from disbatch_host.client.outputs_followed import follow_outputs  # noqa: PLC0415

        return follow_outputs(self.store, self._filter(which), streams, tail=tail, on_still=on_still)

    def masked(self, task: Task | TaskId) -> Document:
        """A task's document, safe to show: secret parameters are masked if the document or a plugin that is known here
        names them. For many tasks use `masker`. Raises NotFoundError."""
        found = task if isinstance(task, Task) else self.get(task)
        return self.masker().document(found)

    def masker(self) -> Masker:
        """Masks the secrets of any number of tasks; reads the queues once."""
        return Masker(self.store, self._catalog)

    def overview(self) -> Overview:
        """What is going on in the cluster now. Rates need two snapshots: see `observer`."""
        return self.observer().look()

    def observer(self) -> Observer:
        """Takes snapshots of the cluster, each compared with the one before."""
        from disbatch_host.client.overview import Observer  # noqa: PLC0415

        return Observer(self.store, SystemClock())

    def failures(
        self,
        which: Selection | str | None = None,
        *,
        limit: int = GROUPS_MAX,
        seconds: float = SECONDS,
        by: Sequence[str] = (CAUSE,),
    ) -> Failures:
        """Why tasks failed, of all queues, of one, or of a selection: by cause, the most frequent first, with count,
        first and last, queues, nodes, versions of plugins, and some of the tasks. `limit`: at most so many causes.
        `by`: what groups are told apart by, some of `failures.BY`, instead of the cause alone.
        Where there are more than can be counted in `seconds`, `is_complete` is False. Raises as `find` does."""
        selection = which if isinstance(which, Selection) else Selection(queue=which)
        return find_failures(
            self.store, finding.filter_of(self.store, selection, self.by), limit=limit, seconds=seconds, by=by
        )

    def failures_by_hour(self, which: Selection, *, seconds: float = SECONDS) -> FailuresByHour:
        """How many tasks of a selection failed in each hour. Raises as `find` does."""
        return find_failures_by_hour(self.store, finding.filter_of(self.store, which, self.by), seconds=seconds)

    def export(
        self,
        to: str | os.PathLike[str] | IO[bytes],
        which: Selection | TaskFilter | None = None,
        *,
        form: str | None = None,
        columns: str | Sequence[str] = (),
        delimiter: str | None = None,
        with_output: bool = False,
        on_progress: Callable[[int], object] = lambda _: None,
        on_note: Callable[[str], object] = lambda _: None,
    ) -> int:
        """Write tasks, secrets masked, to an open file, or to a path, which appears only once it is complete; returns
        the number of tasks. `form` is `csv`, `tsv` or `ndjson`, by default what the name ends in. `columns`: these
        alone (see `columns`), such as `task,status,user,result.size`. `with_output`: all of stdout and stderr, in
        NDJSON. `on_note` is told what a reader of the file should know. Raises as `find` does, UsageError for a name
        that promises another format, and OutputError if the file cannot be written."""
        from disbatch_host.client import complete_file, exporting  # noqa: PLC0415

        meant, shown = self._filter(which or Selection()), self.masker().document
        name = os.fspath(to) if isinstance(to, (str, os.PathLike)) else None
        shape = exporting.shape_of(name, form=form, columns=columns, delimiter=delimiter, with_output=with_output)
        with contextlib.ExitStack() as stack:
            if isinstance(to, (str, os.PathLike)):
                to = stack.enter_context(complete_file.complete_file(to))
            return exporting.export(
                self.store, meant, shown, to, shape, spool_directory=None if name is None else str(Path(name).parent),
                on_progress=on_progress, on_note=on_note,
            )  # fmt: skip

    def bundle(self, task: Task | TaskId, out: IO[bytes]) -> None:
        """Write everything about one task to an open file, as an archive (see `bundling`). Raises NotFoundError."""
        from disbatch_host.client import bundling  # noqa: PLC0415

        bundling.write_bundle(self.store, task if isinstance(task, Task) else self.get(task), self._catalog, out)

    def _filter(self, which: Selection | TaskFilter) -> TaskFilter:
        return finding.filter_of(self.store, which, self.by) if isinstance(which, Selection) else which
