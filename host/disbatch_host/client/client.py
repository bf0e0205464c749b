"""Everything a command node does, as one object: the public API of this package.

    from disbatch_host.client import Client, Selection

    with Client.open("sqlite:///var/lib/disbatch/queue.db") as client:
        task = client.push("mail", {"user": "matt"})
        client.wait([task.id])

Responsible for: opening a store as the commands do, and giving each verb what it needs: the store, the plugins
installed here, and the person who asks. The modules beside this one do the work. Must not know: any front end.

Rules:
1. A client is used by one thread at a time, as its store is.
2. Ids are accepted as the store returns them, or as text; six or more digits that only one id begins with are enough,
   and `@last` is the newest task that this person created.
3. Errors are `errors.DisbatchError`: UsageError for a wrong value (FieldError names the field), NotFoundError
   for anything that does not exist, StoreError for a store that does not answer or refuses.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from disbatch_host.client import allowed, control, deleting, finding, history, parameters, times, waiting
from disbatch_host.client import why as reasons
from disbatch_host.client.batches import Batches
from disbatch_host.client.control import Changes, UnreachableNode
from disbatch_host.client.creating import Creating
from disbatch_host.client.failures import GROUPS_MAX, SECONDS, Failures, find_failures
from disbatch_host.client.finding import Selection
from disbatch_host.client.history import Event
from disbatch_host.client.masking import Masker
from disbatch_host.client.nodes import Nodes
from disbatch_host.client.opening import catalog_of, store_of
from disbatch_host.client.other_parameters import OtherParameters
from disbatch_host.client.plugins import Plugins
from disbatch_host.client.queues import Queues
from disbatch_host.client.requests import request
from disbatch_host.client.standstill import OnStill
from disbatch_host.client.times import Duration
from disbatch_host.client.waiting import OnProgress, Waited
from disbatch_host.clock import SystemClock
from disbatch_host.decide.why import Why
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.conditions import PAGE_SECONDS, Page
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.errors import UsageError
from disbatch_host.settings.values import resolve
from disbatch_host.store.contract import Store
from disbatch_host.store.contract.answers import Counted

if TYPE_CHECKING:  # most programs need neither an overview nor an import
    from disbatch_host.client.outputs import Said
    from disbatch_host.client.overview import Observer, Overview
    from disbatch_host.plugin.catalog import Catalog

Tasks = Selection | TaskId | Iterable[TaskId]  # a selection, one id, or ids


class Client(Creating):
    """Talks to one cluster. `Client.open` opens a store of its own; `Client(store, catalog, by)` uses a store that is
    already open and leaves it open, for a server with many. `by` names the person who asks: `user@machine`."""

    def __init__(self, store: Store, catalog: Catalog | None, by: str) -> None:
        super().__init__(store, catalog, by)
        self.queues = Queues(store, by)
        self.nodes = Nodes(store, by)
        self.batches = Batches(store, by, catalog)
        self.plugins = Plugins(store, catalog)
        self._is_own_store = False

    @classmethod
    def open(
        cls, url: str | None = None, *, plugins: Sequence[str | Path] = (), by: str | None = None, creates: bool = False
    ) -> Client:
        """A client with a store of its own, closed at the end of the `with` block. `url` and `plugins` are the
        commands' `--store` and `--plugins`; if they are not given, the environment variables, the configuration file
        and the defaults apply, as for the commands. Plugins say which parameters fit, and which are secret.

        A missing SQLite file is created only if `creates` is set: a typo must not make a new store. The missing
        default store looks empty instead. Raises UsageError and StoreError."""
        settings = resolve({"store": url, "plugins": tuple(str(one) for one in plugins)})
        catalog = catalog_of(settings)
        store = store_of(settings, creates=creates)
        store.open()
        client = cls(store, catalog, _who() if by is None else by)
        client._is_own_store = True
        return client

    def on_behalf_of(self, by: str) -> Client:
        """A client of another person on the same store and plugins, which stays as open as this one."""
        return Client(self.store, self._catalog, by)

    def close(self) -> None:
        """Close the store if `open` opened it. Closing twice is fine."""
        if self._is_own_store:
            self.store.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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

    def wait(
        self,
        ids: Iterable[TaskId] | None = None,
        *,
        queue: str | None = None,
        which: Selection | None = None,
        timeout_seconds: float | None = None,
        on_progress: OnProgress | None = None,
        on_still: OnStill | None = None,
    ) -> Waited:
        """Wait until these tasks have ended, or until no task of the queue, or of a selection without a status, is
        unfinished, including any that are created meanwhile; at most `timeout_seconds`. `on_progress` gets a `Progress`
        (done, failed, total) each time; `on_still` is told why nothing moves, once for each cause. If a queue or a
        selection has nothing unfinished at the beginning, that is not a success: `before` says what ended earlier.

        Raises UsageError unless exactly one of the three is given, NotFoundError if a task does not exist or is deleted
        meanwhile."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        if [ids, queue, which].count(None) != 2:
            raise UsageError("expected either task ids or a queue or a selection to wait for")
        if ids is None:
            selected = which or Selection(queue=finding.find_queue(self.store, str(queue)).id)
            if selected.status != ():
                raise UsageError("expected a selection without a status: whatever is unfinished is waited for")
            return waiting.wait_for_selected(
                self.store, self._filter(selected), deadline=deadline, on_progress=on_progress, on_still=on_still
            )
        return waiting.wait_for_tasks(
            self.store, finding.ids_of(ids), deadline=deadline, on_progress=on_progress, on_still=on_still, by=self.by
        )

    def cancel(
        self, tasks: Tasks, *, why: str | None = None, on_progress: Callable[[int], object] | None = None
    ) -> Changes:
        """Cancel tasks: waiting ones at once; for running ones, ask their nodes to stop them (`stopping`). A selection
        without a status means all unfinished tasks. `on_progress` gets the number of tasks processed so far.

        Raises NotFoundError, and UsageError for a selection without a queue or with a status it is not for."""
        which = self._meant(tasks, allowed.cancellable)
        return Changes.of(control.cancel(self.store, which, self._request(why)), on_progress)

    def retry(
        self,
        tasks: Tasks,
        *,
        why: str | None = None,
        values: Mapping[str, Any] | None = None,
        checks: bool = True,
        on_progress: Callable[[int], object] | None = None,
    ) -> Changes:
        """Run ended tasks again, at once; a selection without a status means failed ones (terminated among them).
        The outcome of each earlier attempt is kept. `values`, for tasks that are named: other values of some of their
        parameters, checked as `push` does; the earlier attempt keeps its own. Raises as `cancel` does, and UsageError,
        with nothing changed, if new parameters do not fit."""
        which = self._meant(tasks, allowed.retriable)
        if values is None:
            return Changes.of(control.retry(self.store, which, self._request(why)), on_progress)
        if isinstance(which, TaskFilter):
            raise UsageError("expected the ids of tasks whose parameters change, found a selection")
        others = parameters.checked(values)
        new = OtherParameters(self.store, self._catalog, lambda _: others, checks=checks)
        return Changes.of(control.retry(self.store, new.checked(which), self._request(why), new.of), on_progress)

    def release(self, ids: TaskId | Iterable[TaskId]) -> Changes:
        """Let blocked tasks run now, regardless of the time or tasks they wait for. Raises NotFoundError."""
        return Changes.of(control.release(self.store, self._named(ids)))

    def set(self, ids: TaskId | Iterable[TaskId], **values: Any) -> Changes:
        """Change `priority` or `expires` of waiting tasks; None removes it. Raises NotFoundError, UsageError."""
        return Changes.of(control.set_fields(self.store, self._named(ids), values))

    def delete(
        self, tasks: Tasks, *, older: Duration | None = None, on_progress: Callable[[int], object] | None = None
    ) -> Changes:
        """Delete ended tasks with their output; a selection must name statuses. `older`, for a selection: only tasks
        that ended longer ago than this. Raises as `cancel` does."""
        age = None if older is None else times.duration("older", older)
        if age is not None and not isinstance(tasks, Selection):
            raise UsageError("older is for a selection, found task ids")
        which = self._meant(tasks, lambda store, selection, by: allowed.deletable(store, selection, by, age))
        return Changes.of(deleting.delete(self.store, which), on_progress)

    def unreachable_nodes(self, node_ids: Iterable[str]) -> list[UnreachableNode]:
        """Those of the nodes that were asked to stop tasks (`Changes.stopping`) that may not do so soon, or ever."""
        return control.unreachable_nodes(self.store, node_ids)

    def why(self, task_id: TaskId) -> Why:
        """Why a task has not started: a code from a closed list, and a sentence. Raises NotFoundError."""
        return reasons.why(self.store, self.get(task_id).id)

    def history(self, task_id: TaskId) -> list[Event]:
        """The history of a task, in chronological order. Raises NotFoundError."""
        return history.history_of(self.get(task_id))

    def output(
        self, task_id: TaskId, stream: str = "stdout", *, start: int = 0, attempt: int | None = None
    ) -> Iterator[bytes]:
        """Everything a task has printed so far on `stdout` or `stderr`, in pieces; `attempt`: of that one, instead of
        the last. Raises NotFoundError, also for an attempt whose output is no longer kept (`keep_attempts`)."""
        from disbatch_host.client.output import attempt_pieces, output_pieces  # noqa: PLC0415

        task = self.get(task_id)
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
    ) -> Failures:
        """Why tasks failed, of all queues, of one, or of a selection: by cause, the most frequent first, with count,
        first and last, queues, nodes, versions of plugins, and some of the tasks. `limit`: at most so many causes.
        Where there are more than can be counted in `seconds`, `is_complete` is False. Raises as `find` does."""
        selection = which if isinstance(which, Selection) else Selection(queue=which)
        return find_failures(
            self.store, finding.filter_of(self.store, selection, self.by), limit=limit, seconds=seconds
        )

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

    def _filter(self, which: Selection | TaskFilter) -> TaskFilter:
        return finding.filter_of(self.store, which, self.by) if isinstance(which, Selection) else which

    def _meant(
        self, tasks: Tasks, filter_of: Callable[[Store, Selection, str], TaskFilter]
    ) -> TaskFilter | Sequence[Task]:
        return filter_of(self.store, tasks, self.by) if isinstance(tasks, Selection) else self._named(tasks)

    def _named(self, ids: TaskId | Iterable[TaskId]) -> list[Task]:
        return finding.find_named(self.store, finding.ids_of(ids), self.by)

    def _request(self, why: str | None) -> Document:
        return request(self.by, why, now=self.store.now())


def _who() -> str:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
