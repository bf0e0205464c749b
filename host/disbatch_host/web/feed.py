"""One task as all its followers see it: read once, kept for a moment, taken by each at his own pace.

Responsible for: what of a task is news, in which order it is told, and how much of it is kept. Must not know: HTTP, who
follows.

Rules:
1. Each piece of news is read, masked and written as text once, however many follow.
2. The last `KEPT_BYTES` are kept for everybody together. Who is further behind has a gap; nobody waits for him. The
   reader waits, a moment at most, for the quickest, and leaves out what he is too far behind to want (`BEHIND_BYTES`).
3. A pause is nine times as long as the read before it: a task that is followed takes at most a tenth of a store.
4. Text ends at the end of a character; an offset between two pieces of news is never within one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from disbatch_host.client import Client
from disbatch_host.client.history import reason_in_short
from disbatch_host.client.output_places import STREAMS, Output, attempt_of
from disbatch_host.documents.records import Task, TaskId
from disbatch_host.errors import NotFoundError, StoreError, in_words
from disbatch_host.web.call import Call
from disbatch_host.web.documents import plain, task_json
from disbatch_host.web.news import (
    News,
    Place,
    end_event,
    entries_since,
    gap_event,
    gone_event,
    parts_of,
    reset_event,
    task_event,
    text_event,
    trouble_event,
)  # fmt: skip
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Problem
from disbatch_host.web.role import Role
from disbatch_protocol import status as statuses
from disbatch_protocol.status import is_finished

KEPT_BYTES = 2**20
BEHIND_BYTES = 32 * 2**20  # as much as a page shows of an output
_LOOK_BYTES = 3 * 2**17  # of news, after which followers get their turn
_LOOK_SECONDS = 0.5  # unless something wakes it
_LOOK_SECONDS_LEAST = 0.1  # on a busy store something always does
_LOOK_SECONDS_MOST = 5.0
_PAUSE_FACTOR = 9
_AHEAD_BYTES = KEPT_BYTES // 2  # of the quickest follower
_AHEAD_SECONDS = 1.0
_AGAIN_SECONDS = 1.0  # after the store did not answer
_WEB = Principal(name="web", role=Role.READ)

T = TypeVar("T")
Lend = Callable[[Callable[[Client], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Told:
    """Some news in a row."""

    data: bytes = field(repr=False)
    number: int  # of what comes next
    place: Place
    is_end: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Where a reader is at a moment."""

    place: Place
    outputs: Mapping[str, Output]  # as far as that place, at least
    task: bytes = field(repr=False)  # an event with all of it
    number: int  # of the news that come next


@dataclass(slots=True)
class _Known:
    """What was seen of the task so far."""

    place: Place
    run: tuple[int, str | None]  # which attempt, also where two have one number
    outputs: Mapping[str, Output]
    shown: Mapping[str, Any]  # its document, without the log
    log: Sequence[Any]
    is_behind: bool  # there was more than one look takes


@dataclass(slots=True)
class _Look:
    """What one look has found."""

    known: _Known
    news: list[News]
    has_more: bool = False  # of its output: look again at once
    is_over: bool = False


class Feed:
    """Reads from `start` to `stop`, in the event loop; what asks a store is called by `lend`."""

    def __init__(
        self,
        task_id: TaskId,
        lend: Lend,
        base: str,
        *,
        behind_bytes: int = BEHIND_BYTES,
        ahead_seconds: float = _AHEAD_SECONDS,
    ) -> None:
        """`behind_bytes`: further than that is not read on; `ahead_seconds`: a moment for the quickest follower."""
        self._behind_bytes = behind_bytes
        self._ahead_seconds = ahead_seconds
        self.task_id = task_id
        self.followers = 0
        self.is_over = False  # the task has ended, and everything was read
        self._lend = lend
        self._base = base
        self._known: _Known | None = None
        self._kept: deque[News] = deque()
        self._joined: dict[tuple[int, frozenset[str]], Told] = {}  # of these, for the many that are equally far
        self._kept_bytes = 0
        self._first = 0  # number of the first of these
        self._taken = 0  # the highest number that a follower is at
        self._news = asyncio.Event()  # replaced whenever there are any
        self._near = asyncio.Event()
        self._woken = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._is_ready = asyncio.Event()

    def start(self) -> None:
        self._work = asyncio.ensure_future(self._read())

    def stop(self) -> None:
        if self._work is not None:
            self._work.cancel()

    def wake(self) -> None:
        self._woken.set()

    # For followers

    async def known(self) -> Joined:
        """What a follower begins with. Raises NotFoundError if the task is gone."""
        while self._known is None:
            if self.is_over:
                raise NotFoundError(f"task {self.task_id} was deleted")
            await self._is_ready.wait()
        known = self._known
        return Joined(
            place=known.place,
            outputs=known.outputs,
            task=task_event(known.shown, known.log, known.place, is_whole=True),
            number=self._first + len(self._kept) - self.is_over,  # of one that has ended, the end itself
        )

    async def news(self, number: int, streams: frozenset[str]) -> Told | None:
        """All news from this number on that are kept, one at least, without those of other streams; None if it is not
        kept any more."""
        self._taken = max(self._taken, number)
        self._near.set()
        while number >= self._first + len(self._kept):
            await self._news.wait()
        if number < self._first:
            return None
        found = self._joined.get((number, streams))
        if found is None:
            some = [self._kept[index] for index in range(number - self._first, len(self._kept))]
            wanted = [one.data for one in some if one.stream is None or one.stream in streams]
            last = some[-1]
            found = self._joined[number, streams] = Told(
                b"".join(wanted), number + len(some), last.place, is_end=last.kind == "end"
            )
        return found

    # The reader

    async def _read(self) -> None:
        is_troubled = False
        while not self.is_over:
            self._woken.clear()
            began = time.monotonic()
            known = self._known
            try:
                look: _Look = await self._lend(functools.partial(self._look, known))
            except NotFoundError:
                place = Place(0, dict.fromkeys(STREAMS, 0)) if known is None else known.place
                self._tell([News("end", gone_event(), place)])
                self.is_over = True
                self._is_ready.set()
                break
            except (StoreError, Problem) as error:
                if not is_troubled and known is not None:
                    is_troubled = True
                    self._tell([News("trouble", trouble_event(in_words(error)), known.place)])
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            is_troubled = False
            self._known = look.known
            self._is_ready.set()
            self.is_over = look.is_over
            self._tell(look.news)
            if look.has_more:
                await self._wait_for_quickest()
            elif not self.is_over:
                await self._pause(time.monotonic() - began)

    async def _pause(self, took_seconds: float) -> None:
        least = min(_LOOK_SECONDS_MOST, max(_LOOK_SECONDS_LEAST, took_seconds * _PAUSE_FACTOR))
        await asyncio.sleep(least)
        if least < _LOOK_SECONDS:
            await _within(self._woken.wait(), _LOOK_SECONDS - least)

    async def _wait_for_quickest(self) -> None:
        """Until somebody is so near that what is read next finds him within what is kept."""
        end = time.monotonic() + self._ahead_seconds
        while self._bytes_from(self._taken) > _AHEAD_BYTES and (left := end - time.monotonic()) > 0:
            self._near.clear()
            await _within(self._near.wait(), left)

    def _bytes_from(self, number: int) -> int:
        return sum(len(self._kept[index].data) for index in range(max(0, number - self._first), len(self._kept)))

    def _tell(self, news: Sequence[News]) -> None:
        if not news:
            return
        for one in news:
            self._kept.append(one)
            self._kept_bytes += len(one.data)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popleft().data)
            self._first += 1
        self._joined.clear()
        told, self._news = self._news, asyncio.Event()
        told.set()

    # In a thread, one look at a time

    def _look(self, known: _Known | None, client: Client) -> _Look:
        task = client.get(self.task_id)
        outputs = {name: Output.of(task, name) for name in STREAMS}
        run = attempt_of(task), outputs["stdout"].token
        news: list[News] = []
        if known is None:
            ends = {name: one.begin_of_character(client.store, one.size(client.store)) for name, one in outputs.items()}
            place = Place(run[0], ends)
        elif known.run != run:
            place = Place(run[0], dict.fromkeys(STREAMS, 0))
            if known.run[0] > 0:
                news.append(News("reset", reset_event(place), place))
        else:
            place = known.place
        is_end = is_finished(task.status)
        has_more = False
        if known is not None:
            if known.is_behind and known.run == run:
                self._leave_out(client, outputs, news, place)
                place = news[-1].place if news else place
            has_more = self._read_more(client, outputs, news, place, is_end=is_end)
            place = news[-1].place if news else place
        shown, log = self._shown(client, task)
        if known is None or shown != known.shown or log != known.log:
            since = log if known is None else entries_since(known.log, log)
            news.append(News("task", task_event(shown, since, place, is_whole=known is None), place))
        is_over = is_end and not has_more
        if is_over:
            news.append(News("end", end_event(shown, place), place))
        now = _Known(place=place, run=run, outputs=outputs, shown=shown, log=log, is_behind=has_more)
        return _Look(now, news, has_more=has_more, is_over=is_over)

    def _leave_out(self, client: Client, outputs: Mapping[str, Output], news: list[News], place: Place) -> None:
        """Of an output that grows quicker than even the quickest reads it, all but the end."""
        for name, output in outputs.items():
            begin = place.offsets[name]
            if output.read(client.store, begin + self._behind_bytes):
                end = output.begin_of_character(client.store, output.size(client.store))
                place = place.at(name, end)
                news.append(News("gap", gap_event(name, begin, end, place), place, name))

    def _read_more(
        self, client: Client, outputs: Mapping[str, Output], news: list[News], place: Place, *, is_end: bool
    ) -> bool:
        """Add what is new of the outputs; whether there may be more than one look takes."""
        left = _LOOK_BYTES
        for name, output in outputs.items():
            while data := output.read_text(client.store, place.offsets[name], is_end=is_end):
                for part in parts_of(data, is_binary=output.is_binary):
                    offset = place.offsets[name]
                    place = place.at(name, offset + len(part))
                    news.append(News(name, text_event(name, offset, part, place), place, name))
                    left -= len(news[-1].data)
                if left <= 0:
                    return True
        return False

    def _shown(self, client: Client, task: Task) -> tuple[dict[str, Any], Sequence[Any]]:
        call = Call(client=client, who=_WEB, base=self._base)
        shown = task_json(call, task, client.masked(task), is_whole=False)
        log = task.document.get("log")
        entries = plain(call, {"log": log})["log"] if isinstance(log, (list, tuple)) else []
        more = {"status_name": statuses.name(task.status), "reason": reason_in_short(task)}
        return {**shown, **more, "attempt": attempt_of(task)}, entries


async def _within(waiting: Awaitable[Any], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(waiting, seconds)
