"""Task documents that are safe to show: the secrets in the parameters are masked.

Responsible for: deciding which parameters are secret, from every source: the document, as of its creation and
of its run, the plugins in a catalog, and what nodes publish about all others. Must not know: where tasks are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from disbatch_host.client.published import schemas_of
from disbatch_host.documents.causes import pointers_in
from disbatch_host.documents.records import Task
from disbatch_host.store.contract import Store
from disbatch_protocol.masks import masked_at

if TYPE_CHECKING:  # a command that shows no parameters starts without manifests
    from disbatch_host.plugin.catalog import Catalog
    from disbatch_host.plugin.checking import CheckedSchema


class Masker:
    """Masks secret parameters of tasks. Queues are read once, and what is published about a class once as well."""

    def __init__(self, store: Store, catalog: Catalog | None) -> None:
        self._store = store
        self._published: dict[str, list[CheckedSchema]] = {}  # by class; of every version
        self._classes = {queue.id: queue.class_name for queue in store.queues()}
        self._plugins = {} if catalog is None else catalog.plugins

    def document(self, found: Task) -> dict[str, Any]:
        """The task's document, safe to show. If nothing says which parameters are secret, nothing is masked."""
        if found.fault is not None:  # the damaged part may be the one that lists the secrets
            return {**found.document, "parameters": None, "fault": found.fault}
        document = {**found.document, "parameters": masked_at(found.parameters, self.places(found))}
        attempts = [self._attempt(found, one) for one in found.attempts]
        return {**document, "attempts": attempts} if attempts else document

    def places(self, found: Task, values: Any = None) -> set[str]:
        """JSON pointers to the secrets in its parameters; in `values`, if they are others of the same task."""
        values = found.parameters if values is None else values
        places = {*pointers_in(found.document.get("secrets")), *pointers_in(found.run.get("secrets"))}
        for name in {self._classes.get(found.queue, ""), _class_that_ran(found)}:
            for schema in self._schemas(name) if values else ():
                places.update(schema.secrets(values))
        return places

    def _attempt(self, found: Task, attempt: Any) -> Any:
        """An element of `attempts`. Secrets that were known when they were changed are masked in the store already."""
        changed = attempt.get("parameters") if isinstance(attempt, Mapping) else None
        if not isinstance(changed, Mapping):
            return attempt
        return {**attempt, "parameters": masked_at(changed, self.places(found, changed))}

    def _schemas(self, class_name: str) -> list[CheckedSchema]:
        if class_name in self._plugins:
            return [self._plugins[class_name].schema]
        if class_name not in self._published:
            self._published[class_name] = schemas_of(self._store, class_name)
        return self._published[class_name]


def _class_that_ran(found: Task) -> str:
    ran = found.run.get("plugin")
    return str(ran.get("class")) if isinstance(ran, Mapping) else ""
