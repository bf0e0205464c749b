"""The plugins of a cluster, as far as they are known here: of a directory here, or as nodes publish them.

Responsible for: finding those of a class or a queue. Must not know: how they are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from disbatch_host.client.finding import find_queue
from disbatch_host.client.published import known_plugin
from disbatch_host.decide import readings
from disbatch_host.store.contract import Store

if TYPE_CHECKING:  # reading manifests takes longer than most commands do
    from disbatch_host.client.plugin_help import PluginHelp
    from disbatch_host.client.published import AnyPlugin
    from disbatch_host.plugin.catalog import Catalog


class Plugins:
    """The plugins of one store, and of the directories here."""

    def __init__(self, store: Store, catalog: Catalog | None) -> None:
        self._store = store
        self._catalog = catalog

    def classes(self) -> list[str]:
        """The classes that a plugin here, a queue, or a node that is alive or away has, in order."""
        known: set[str] = set() if self._catalog is None else set(self._catalog.plugins)
        known |= {queue.class_name for queue in self._store.queues() if queue.class_name}
        for node in self._store.nodes():
            if readings.is_alive(node) or readings.is_away(node):
                known |= readings.classes_of(node)
        return sorted(known)

    def help(self, class_name: str) -> PluginHelp:
        """Everything that is known about a class. Raises NotFoundError."""
        from disbatch_host.client.plugin_help import plugin_help  # noqa: PLC0415

        return plugin_help(self._store, self._catalog, class_name)

    def of_queue(self, queue_id: str) -> AnyPlugin | None:
        """The plugin that checks the parameters of a queue's tasks; None: nobody knows it. Raises NotFoundError."""
        return known_plugin(self._store, self._catalog, find_queue(self._store, queue_id).class_name)
