"""Tasks again, with a difference: other parameters for a task that is run again, and new tasks like another one.

Responsible for: which parameters such a task has, whether they fit its plugin, and which of them are secret. Must not
know: how parameters are typed, how tasks are created or run again.

Rules:
1. Secrets stay as they are in the store: a copy has the real values, and nothing here shows them.
2. What is secret in one task is secret in the other, even where its plugin is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from disbatch_host.client.masking import Masker
from disbatch_host.client.parameters import check_size
from disbatch_host.client.published import known_plugin
from disbatch_host.client.pushing import Timing, check_parameters
from disbatch_host.documents.new_parameters import BEFORE_MAX, CHANGED, NewParameters, changed_values
from disbatch_host.documents.records import QueueId, Task
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.document import to_json
from disbatch_protocol.masks import masked_at

if TYPE_CHECKING:  # a copy in a queue whose plugin is unknown here needs no manifests
    from disbatch_host.client.published import AnyPlugin
    from disbatch_host.plugin.catalog import Catalog
    from disbatch_host.plugin.checking import CheckedSchema

ValuesOf = Callable[["CheckedSchema | None"], Mapping[str, Any]]  # the other values, by the schema of the plugin


class OtherParameters:
    """Other values of some parameters, for tasks of any queue that are run again."""

    def __init__(self, store: Store, catalog: Catalog | None, values_of: ValuesOf, *, checks: bool = True) -> None:
        self._store = store
        self._catalog = catalog
        self._values_of = values_of
        self._checks = checks
        self._masker = Masker(store, catalog)
        self._classes = {queue.id: queue.class_name for queue in store.queues()}
        self._known: dict[QueueId, tuple[AnyPlugin | None, Mapping[str, Any]]] = {}

    def checked(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """The same tasks. Raises as `of` does, before any of them is run again."""
        for one in tasks:
            self.of(one)
        return tasks

    def of(self, task: Task) -> NewParameters:
        """The parameters of a task with these values. Raises UsageError; of these ParametersError if they do not fit
        its plugin, as far as that is known."""
        old = parameters_of(task)
        plugin, others = self._of_queue(task.queue)
        values = {**old, **others}
        check_size(to_json(values, other=self._store.extended_json))
        if self._checks:
            check_parameters(plugin, values)
        places = self._masker.places(task)
        before: Mapping[str, Any] | str = changed_values(old, values, masked_at(old, places))
        if len(orjson.dumps(to_json(before, other=self._store.extended_json))) > BEFORE_MAX:
            before = CHANGED
        secret = places | self._masker.places(task, values)
        if plugin is not None:
            secret |= set(plugin.schema.secrets(values))
        return NewParameters(values=values, before=before, secrets=tuple(sorted(secret)))

    def _of_queue(self, queue: QueueId) -> tuple[AnyPlugin | None, Mapping[str, Any]]:
        if queue not in self._known:
            name = self._classes.get(queue)
            plugin = None if name is None else known_plugin(self._store, self._catalog, name)
            self._known[queue] = plugin, self._values_of(None if plugin is None else plugin.schema)
        return self._known[queue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """What a new task takes over from another one."""

    parameters: Mapping[str, Any] = field(repr=False)
    secrets: tuple[str, ...]  # JSON pointers into them
    options: Timing  # `priority` and `unique_key`; times and predecessors were those of that task alone

    def with_values(self, store: Store, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its parameters with others over them. Raises UsageError if they are too large together."""
        merged = {**self.parameters, **values}
        check_size(to_json(merged, other=store.extended_json))
        return merged


def original_of(store: Store, task: Task, catalog: Catalog | None) -> Original:
    """Raises UsageError for a task whose parameters nothing can be taken over from."""
    options: Timing = {}
    priority, key = task.document.get("priority"), task.document.get("unique_key")
    if isinstance(priority, int):
        options["priority"] = priority
    if isinstance(key, str):
        options["unique_key"] = key
    parameters = parameters_of(task)
    return Original(parameters=parameters, secrets=tuple(sorted(Masker(store, catalog).places(task))), options=options)


def parameters_of(task: Task) -> Mapping[str, Any]:
    """The parameters of a task, which can be anything in one of another program. Raises UsageError."""
    if task.fault is not None or not isinstance(task.parameters, Mapping):
        what = "is damaged" if task.fault is not None else "has other ones"
        raise UsageError(f"expected a task whose parameters are a JSON object; task {task.id} {what}")
    return task.parameters
