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

import os
import pwd
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from disbatch_host.client import allowed, control, deleting, finding, parameters, times, waiting
from disbatch_host.client.batches import Batches
from disbatch_host.client.control import Changes, UnreachableNode
from disbatch_host.client.creating import Creating
from disbatch_host.client.finding import Selection
from disbatch_host.client.nodes import Nodes
from disbatch_host.client.opening import catalog_of, store_of
from disbatch_host.client.other_parameters import OtherParameters
from disbatch_host.client.plugins import Plugins
from disbatch_host.client.queues import Queues
from disbatch_host.client.requests import request
from disbatch_host.client.standstill import OnStill
from disbatch_host.client.times import Duration
from disbatch_host.client.waiting import OnProgress, Waited
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.errors import UsageError
from disbatch_host.settings.values import resolve
from disbatch_host.store.contract import Store

if TYPE_CHECKING:  # most programs need neither an overview nor an import
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

    def release(self, tasks: Tasks, *, on_progress: Callable[[int], object] | None = None) -> Changes:
        """Let blocked tasks run now, regardless of the time or tasks they wait for. Raises as `cancel` does."""
        return Changes.of(control.release(self.store, self._meant(tasks, allowed.releasable)), on_progress)

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
