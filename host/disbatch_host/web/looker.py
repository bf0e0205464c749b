"""The overview of all viewers: one observer with a store of its own, however many watch.

Responsible for: looking, and what of a picture each of them may see. Must not know: HTTP, how it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from disbatch_host.client import Client, Selection
from disbatch_host.client.batch_progress import progress_of
from disbatch_host.client.overview import Observer
from disbatch_host.errors import DisbatchError
from disbatch_host.web.documents import plain_of
from disbatch_host.web.looks import Looks, Seen
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Problem
from disbatch_host.web.recent import STEP_SECONDS, Lately, Recent

Queues = frozenset[str]

_REASONS_MAX = 50  # of failures, for somebody who sees some queues
_REASONS_SECONDS = 0.5
_WANTED_SECONDS = 60.0  # after the last time that they were asked for
_COMPARED_SECONDS = 60.0  # a rate since longer ago would say nothing about now
_GOES_ON_SECONDS = 600.0  # to look now and then, once nobody watches: what is known of the last ten minutes has no hole
_BATCHES_MAX = 5  # that go on
_BATCH_SECONDS = 0.05  # for the tasks of one batch, whose rate they tell
_ENDED = ("concluded", "failed", "cancelled", "orphaned")


@dataclass(frozen=True, slots=True)
class Picture:
    """One look."""

    whole: Mapping[str, Any]  # as `status --watch --json`
    failures: Mapping[Queues, Mapping[str, Any]] = field(default_factory=dict)  # of those who see these queues alone
    batches: Sequence[Mapping[str, Any]] = ()  # that go on, the newest first

    def of(self, queues: Queues | None) -> dict[str, Any]:
        """What somebody may see of it who sees these queues; None: all."""
        if queues is None:
            return dict(self.whole)
        return {
            **self.whole,
            "queues": [one for one in self.whole["queues"] if one["queue"] in queues],
            "nodes": [{name: one[name] for name in ("node", "state", "alive")} for one in self.whole["nodes"]],
            "running": [one for one in self.whole["running"] if one["queue"] in queues],
            **self.failures.get(queues, {"failures": [], "failures_seen": 0}),
        }


class Looker:
    """Looks while somebody watches, and for a while after. Made in the event loop that uses it; closes the client."""

    def __init__(self, client: Client, *, step_seconds: float = STEP_SECONDS) -> None:
        """`step_seconds`: between two looks once nobody watches."""
        self._client = client
        self._step_seconds = step_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="looker")
        self._observer: Observer | None = None
        self._looked_at = 0.0
        self._recent = Recent()
        self._wanted: dict[Queues, float] = {}  # when somebody who sees these alone has asked last
        self._asked_at = 0.0  # when anybody has
        self._going_on: asyncio.Task[None] | None = None
        self.looks: Looks[Picture] = Looks(self._in_thread)

    async def overview(self, who: Principal) -> Seen[dict[str, Any]]:
        """As it is now, as far as this person may see it. Raises StoreError if it was never seen."""
        self._want(who.queues)
        return self._shown(await self.looks.fresh(), who)

    async def page(self, who: Principal) -> dict[str, Any]:
        """The same, with what only the page shows: the last ten minutes, and batches that go on."""
        self._want(who.queues)
        seen = await self.looks.fresh()
        lately: Lately = self._recent.of(who.queues)
        batches = seen.picture.batches if who.queues is None else ()
        return {**self._shown(seen, who).picture, "lately": lately, "batches": batches}

    async def overviews(self, who: Principal) -> AsyncGenerator[Seen[dict[str, Any]], None]:
        """Whenever there is a new one."""
        self._want(who.queues)
        changes = self.looks.changes()
        try:
            async for seen in changes:
                self._asked_at = time.monotonic()
                if who.queues is not None:
                    self._wanted[who.queues] = time.monotonic()
                yield self._shown(seen, who)
        finally:
            await changes.aclose()

    def _want(self, queues: Queues | None) -> None:
        self._asked_at = time.monotonic()
        if self._going_on is None or self._going_on.done():
            self._going_on = asyncio.get_running_loop().create_task(self._go_on())
        if queues is None:
            return
        last = self.looks.last
        if last is not None and queues not in last.picture.failures:
            self.looks.hurry()
        self._wanted[queues] = time.monotonic()

    async def _go_on(self) -> None:
        while time.monotonic() - self._asked_at < _GOES_ON_SECONDS:
            await asyncio.sleep(self._step_seconds)
            with contextlib.suppress(DisbatchError, Problem):  # told to those who ask
                await self.looks.fresh()

    def _shown(self, seen: Seen[Picture], who: Principal) -> Seen[dict[str, Any]]:
        shown = {
            **seen.picture.of(who.queues),
            "age_seconds": round(seen.age_seconds, 1),
            "trouble": seen.trouble or None,
        }
        return Seen(picture=shown, at=seen.at, trouble=seen.trouble)

    async def _in_thread(self) -> Picture:
        now = time.monotonic()
        self._wanted = {one: at for one, at in self._wanted.items() if now - at < _WANTED_SECONDS}
        wanted = list(self._wanted)
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: self._look(wanted))

    def _look(self, wanted: list[Queues]) -> Picture:
        if self._observer is None or time.monotonic() - self._looked_at > _COMPARED_SECONDS:
            self._observer = self._client.observer()
        seen = plain_of(self._client, self._observer.look().to_json())
        self._looked_at = time.monotonic()
        counts = {one["queue"]: (sum(one[word] for word in _ENDED), one["failed"]) for one in seen["queues"]}
        self._recent.add(self._looked_at, counts)
        return Picture(seen, {one: self._failures_of(one) for one in wanted}, self._batches())

    def _batches(self) -> list[dict[str, Any]]:
        store = self._client.store
        under_way = self._client.batches.list(states=("open", "closed"), limit=_BATCHES_MAX)
        return [
            {**progress_of(store, one, look_seconds=_BATCH_SECONDS).to_json(), "id": one.id, "state": str(one.state),
             "queue": one.source.get("queue"), "on_done": (one.on_done or {}).get("queue")}
            for one in under_way
        ]  # fmt: skip

    def _failures_of(self, queues: Queues) -> dict[str, Any]:
        which = Selection(queues=sorted(queues))
        found = self._client.failures(which, limit=_REASONS_MAX, seconds=_REASONS_SECONDS)
        seen = found.total + found.orphaned + found.expired
        return plain_of(self._client, {"failures": [one.to_json() for one in found.reasons], "failures_seen": seen})

    async def close(self) -> None:
        self._client.store.hurry()
        if self._going_on is not None:
            self._going_on.cancel()
        await self.looks.close()
        self._thread.shutdown(wait=True)
        self._client.close()
