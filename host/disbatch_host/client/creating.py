"""The verbs of `Client` that create tasks.

Responsible for: giving each what it needs: the store, the plugins known here, the person who asks. The modules beside
this one do the work. Must not know: any front end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Unpack

from disbatch_host.client import finding, parameters
from disbatch_host.client.batch_members import Member, NewBatch, begin
from disbatch_host.client.published import known_plugin
from disbatch_host.client.pushing import Plan, Pushed, Pusher, Timing
from disbatch_host.client.reading import Reading
from disbatch_host.documents.records import TaskId

if TYPE_CHECKING:  # most programs need no import
    from contextlib import AbstractContextManager

    from disbatch_host.client.importing.files import OpenFile
    from disbatch_host.client.importing.from_source import Listeners
    from disbatch_host.client.importing.importer import Imported, Rules
    from disbatch_host.client.importing.requested import Prepared, Requested
    from disbatch_host.client.several import Several, Wanted


class Creating(Reading):
    """See `client.Client`."""

    def push(
        self,
        queue: str,
        values: Mapping[str, Any],
        *,
        checks: bool = True,
        batch: str | NewBatch | None = None,
        like: TaskId | None = None,
        task_id: TaskId | None = None,
        **plan: Unpack[Timing],
    ) -> Pushed:
        """Create a task with these parameters; when this returns, it is on disk. `plan`: see `Timing`. If an
        unfinished task already has the unique key, its id is returned and `is_new` is False. `batch`: the name of the
        batch that it belongs to, which is made if there is none. `like`: a task whose parameters, priority and unique
        key it takes over, as far as they are not given here. `task_id`: its id, made by the store's `new_ids`; if it
        exists, it was created by an earlier call.

        Raises NotFoundError and UsageError; of these ParametersError if `checks` is set and a plugin known here rejects
        the parameters, BatchClosedError if the batch takes no more tasks."""
        checked: Mapping[str, Any] = parameters.checked(values)
        secrets: Sequence[str] = ()
        if like is not None:
            from disbatch_host.client.other_parameters import original_of  # noqa: PLC0415

            original = original_of(self.store, finding.find_task(self.store, like, self.by), self._catalog)
            checked, secrets = original.with_values(self.store, checked), original.secrets
            plan = {**original.options, **plan}
        pusher = self._pusher(queue, checks, plan, secrets)
        pusher.check(checked)
        member = pusher.batch = self._member(batch, checks)
        pushed = pusher.create([checked], ids=None if task_id is None else [task_id])[0]
        if member is not None:
            member.close(int(pushed.is_new), existing=int(not pushed.is_new))
        return pushed

    def push_many(
        self,
        queue: str,
        rows: Iterable[Mapping[str, Any]],
        *,
        checks: bool = True,
        key_of: Callable[[Mapping[str, Any]], str] | None = None,
        on_progress: Callable[[int], object] | None = None,
        batch: str | NewBatch | None = None,
        ids: Sequence[TaskId] | None = None,
        **plan: Unpack[Timing],
    ) -> list[Pushed]:
        """Create a task from each row of parameters, in batches; results are in the order of the rows, without
        their documents. `rows` may be a generator of any length. `key_of` returns a row's unique key. `on_progress`
        gets the number of rows done so far, which are on disk. `batch`: as of `push`; `NewBatch()` is one of its own,
        closed at the end. `ids`: one for each row, as of `push`.

        Raises as `push` does. A row that does not fit stops it: earlier batches are created, the row's own is not."""
        pusher = self._pusher(queue, checks, plan)
        member = pusher.batch = self._member(batch, checks)
        pushed: list[Pushed] = []
        for some in pusher.create_all(map(parameters.checked, rows), key_of, ids):
            pushed += (Pushed(id=one.id, is_new=one.is_new) for one in some)
            if on_progress is not None:
                on_progress(len(pushed))
        if member is not None:
            created = sum(one.is_new for one in pushed)
            member.close(created, existing=len(pushed) - created)
        return pushed

    def several(self, queue: str, wanted: Sequence[Wanted]) -> Several:
        """Tasks of one queue that may differ in all that `push` takes, checked but for their parameters: nothing is
        created until `Several.create`, which creates all. Raises NotFoundError for the queue."""
        from disbatch_host.client.several import Several  # noqa: PLC0415

        return Several(self.store, finding.find_queue(self.store, queue), self._catalog, wanted, self.by)

    def import_file(
        self,
        queue: str,
        source: str | os.PathLike[str] | IO[bytes],
        rules: Rules | None = None,
        *,
        form: str | None = None,
        delimiter: str | None = None,
        begins_again: bool = False,
        batch: NewBatch | None = None,
        listeners: Listeners | None = None,
        **timing: Unpack[Timing],
    ) -> Imported:
        """Create a task for each row of a file: CSV with a header line, or NDJSON (`form` is `csv` or `ndjson`; by
        default the name or the first bytes decide), plain or compressed. After a kill, the same call resumes the
        import, unless `begins_again` is set. The tasks are a batch, of their own unless `batch` names another one.

        Raises RowsRefusedError if rows do not fit and the rules stop at them, UsageError for anything wrong that shows
        before the first row, NotFoundError."""
        from disbatch_host.client.importing import from_source, importer  # noqa: PLC0415

        return from_source.import_file(
            self.store, self._catalog, finding.find_queue(self.store, queue), source, rules or importer.Rules(), timing,
            listeners or {}, form=form, delimiter=delimiter, begins_again=begins_again, batch=batch, by=self.by,
        )  # fmt: skip

    def prepared_import(self, wanted: Requested) -> Prepared:
        """An import that may be tried, which needs no store any more. Raises as `Prepared` does."""
        from disbatch_host.client.importing import requested  # noqa: PLC0415

        return requested.Prepared(self.store, self._catalog, wanted, self.by)

    def import_requested(
        self,
        wanted: Requested,
        opened: Callable[[], AbstractContextManager[OpenFile]],
        import_id: str,
        listeners: Listeners,
    ) -> Imported | None:
        """Carry out an import, or the rest of it, under an id of its own. None: that has been done. Raises as
        `import_file` does."""
        from disbatch_host.client.importing import requested  # noqa: PLC0415

        return requested.perform(self.store, self._catalog, wanted, opened, import_id, self.by, listeners)

    def import_collection(
        self,
        queue: str,
        collection: str,
        rules: Rules,
        *,
        condition: Mapping[str, Any] | None = None,
        batch: NewBatch | None = None,
        listeners: Listeners | None = None,
        **timing: Unpack[Timing],
    ) -> Imported:
        """Create a task for each document of a MongoDB collection that matches the condition. It cannot resume. Raises
        as `import_file` does, and StoreRefusedError if the store has no collections."""
        from disbatch_host.client.importing import from_source  # noqa: PLC0415

        return from_source.import_collection(
            self.store, self._catalog, finding.find_queue(self.store, queue), collection, condition or {}, rules,
            timing, listeners or {}, batch=batch, by=self.by,
        )  # fmt: skip

    def _pusher(self, queue: str, checks: bool, plan: Timing, secrets: Sequence[str] = ()) -> Pusher:
        found = finding.find_queue(self.store, queue)
        plugin = known_plugin(self.store, self._catalog, found.class_name)
        planned = Plan.of(self.store, by=self.by, **plan)
        return Pusher(self.store, found, plugin, planned, is_checking=checks, secrets=secrets)

    def _member(self, batch: str | NewBatch | None, checks: bool) -> Member | None:
        if batch is None:
            return None
        new = batch if isinstance(batch, NewBatch) else NewBatch(name=batch)
        return begin(self.store, new, self.by, source={"kind": "tasks"}, catalog=self._catalog, checks=checks)
