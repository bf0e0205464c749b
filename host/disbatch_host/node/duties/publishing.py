"""The duty that publishes what this node's plugins are, and removes what no node names any more.

Responsible for: the notes about plugins in the store (`plugin.published`, named by `plugin.published_names`), and which
of its own a node names in its document. Must not know: when plugins change, who reads the notes.

Rules:
1. A digest is named only once its note is there. Each note is a compartment: a store that refuses one costs only that.
2. A note is written when a plugin is new or has changed, never by a heartbeat.
3. A note that no node names is removed once it is a day old: until then a node that is just starting may be about to
   name it, and people may push tasks while no node is there. Any node does it, a bounded number in each look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from disbatch_host.decide import readings
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.plugin import published, published_names
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.classes import Classes
from disbatch_host.store.contract import Store

KEPT_FOR = timedelta(days=1)
_NAMES_MAX = 10_000  # notes that one look goes through
_REMOVED_MAX = 500  # of them, removed by one look
_PLACE = "publishing of plugin"


class Publishing:
    """See `rounds.Duty`. `digests` has what this node names, by class."""

    def __init__(
        self,
        store_thread: StoreThread,
        classes: Classes,
        troubles: Troubles,
        pace: Pace,
        on_published: Callable[[], None],
    ) -> None:
        """`on_published` is called when `digests` has changed."""
        self.name = "publishing"
        self.wake = asyncio.Event()  # set when plugins may have changed
        self.digests: Mapping[str, str] = {}
        self._store_thread = store_thread
        self._classes = classes
        self._troubles = troubles
        self._pace = pace
        self._on_published = on_published
        self._known: dict[Plugin, published.Publication | None] = {}  # None: it cannot be published
        self._there: set[str] = set()  # names of own notes that are in the store
        self._is_swept_at = 0.0

    @property
    def interval_seconds(self) -> float:
        return self._pace.publishing_seconds if self._is_all_there else self._pace.rest_seconds

    async def turn(self) -> None:
        """Publish what is new, and now and then look through all notes."""
        await self._read()
        now = asyncio.get_running_loop().time()
        if not self._is_swept_at or now - self._is_swept_at >= self._pace.publishing_seconds:
            # Not in the first turn: a node that is starting has other things to do.
            if self._is_swept_at:
                with self._troubles.contained("publishing", "notes of plugins"):
                    self._there -= await self._store_thread.call(self._swept)
            self._is_swept_at = now
        for one in list(self._known.values()):
            if one is None or published_names.note_name(one.class_name, one.digest) in self._there:
                continue
            if self._troubles.is_resting(_PLACE, one.class_name):
                continue
            with self._troubles.contained(_PLACE, one.class_name):
                await self._publish(one)
        self._name()

    async def _read(self) -> None:
        """Make what is to be published of plugins that are new here."""
        current = list(self._classes.plugins.values())
        known = {plugin: self._known[plugin] for plugin in current if plugin in self._known}
        for plugin in current:
            if plugin not in known:
                known[plugin] = None
                with self._troubles.contained(_PLACE, plugin.name):
                    # In a thread: it reads a file, and the check of an example may take a moment.
                    known[plugin] = await asyncio.to_thread(published.publication_of, plugin)
        self._known = known

    async def _publish(self, one: published.Publication) -> None:
        name = published_names.note_name(one.class_name, one.digest)

        def write(store: Store) -> None:
            now = store.now()
            found = store.read_note(name)
            at = None if found is None else found.get("at")
            if isinstance(at, datetime) and now - at < KEPT_FOR / 2:
                return  # another node has published the same
            store.write_note(name, {**one.document, "at": now})

        await self._store_thread.call(write)
        self._there.add(name)

    def _name(self) -> None:
        digests = {
            one.class_name: one.digest
            for one in self._known.values()
            if one is not None and published_names.note_name(one.class_name, one.digest) in self._there
        }
        if digests != self.digests:
            self.digests = digests
            self._on_published()

    @property
    def _is_all_there(self) -> bool:
        return sum(one is not None for one in self._known.values()) == len(self.digests)

    def _swept(self, store: Store) -> set[str]:
        """Remove the notes that no node names; return those of this node that are missing."""
        names = set(store.note_names(published_names.notes_prefix(), _NAMES_MAX))
        own = {published_names.note_name(class_name, digest) for class_name, digest in self.digests.items()}
        nodes = store.nodes()
        named = own | {
            published_names.note_name(class_name, digest)
            for node in nodes
            for class_name, digest in readings.digests_of(node).items()
        }
        before = store.now() - KEPT_FOR
        unnamed = [name for name in sorted(names - named) if published_names.named_by(name) is not None]
        for name in unnamed[:_REMOVED_MAX]:
            with self._troubles.contained("publishing", name):
                _remove_older(store, name, before)
        return own - names if len(names) < _NAMES_MAX else set()


def _remove_older(store: Store, name: str, before: datetime) -> None:
    note: Mapping[str, Any] | None = store.read_note(name)
    at = None if note is None else note.get("at")
    if isinstance(at, datetime) and at >= before:
        return
    # As it is now: a node may just be writing it again.
    store.write_note(name, None, replacing=None if note is None else {"at": at})
