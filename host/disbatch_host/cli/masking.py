"""What of a task may be shown: the secrets in its parameters are masked, wherever it is printed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from disbatch_host.cli import common
from disbatch_host.documents.records import Task
from disbatch_host.errors import DisbatchError
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.store.contract import Store
from disbatch_protocol.parameters import masked_at


class Masker:
    """Masks the secrets of tasks' parameters, as far as their plugins are known here."""

    def __init__(self, store: Store) -> None:
        self._classes = {queue.id: queue.class_name for queue in store.queues()}
        self._plugins: Mapping[str, Plugin] = {}
        with contextlib.suppress(DisbatchError):  # a plugin directory that is not there must not hide the task
            self._plugins = common.known_plugins().plugins

    def document(self, found: Task) -> dict[str, Any]:
        """The task's document, safe to show. What is secret says whoever knows: the document, from its creation and
        from its run, and the plugins that are known here. Of a task that nobody knew, nothing is masked."""
        places = {*_places(found.document.get("secrets")), *_places(found.run.get("secrets"))}
        for name in {self._classes.get(found.queue, ""), self._class_that_ran(found)}:
            if name in self._plugins:
                places.update(self._plugins[name].schema.secrets(found.parameters))
        if found.fault is not None:  # what says which of its parameters are secret may be what cannot be read
            return {**found.document, "parameters": None, "fault": found.fault}
        return {**found.document, "parameters": masked_at(found.parameters, places)}

    def _class_that_ran(self, found: Task) -> str:
        ran = found.run.get("plugin")
        return str(ran.get("class")) if isinstance(ran, Mapping) else ""


def _places(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, (list, tuple)) else []
