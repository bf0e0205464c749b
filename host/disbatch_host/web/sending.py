"""Sends answers that take longer, and ends them: the places that they take, and what ends a stream.

Responsible for: ASGI messages of bodies in parts and of events, and that nothing is left of one that has ended. Must
not know: routes, what is sent.

Rules:
1. There are so many places for streams, and so many for those of one person; as many for downloads besides.
2. A stream ends after an hour, when its reader may no longer do so, and at once when the server is to stop;
   always with `bye`, which says why. One whose reader takes nothing then is cut off.
3. A body that cannot be completed is cut off: it must not look complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from disbatch_host.errors import DisbatchError, in_words
from disbatch_host.web.call import Events, Parts
from disbatch_host.web.events import COMMENT, MEDIA_TYPE, RETRY, event
from disbatch_host.web.figures import Figures
from disbatch_host.web.guard import Receive, Scope, Send
from disbatch_host.web.limits import Places
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Code, Problem

log = logging.getLogger(__name__)

BYE_SECONDS = 0.5  # for a reader to take the last event
PART_SECONDS = 120.0  # for a reader to take a part

_NO_STORE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

IsStill = Callable[[], bool]  # whether the reader may still read


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of longer answers."""

    in_all: int = 500
    each: int = 20  # of one person
    life_seconds: float = 3600.0
    comment_seconds: float = 15.0  # between signs of life; also how often it is asked whether a reader may still read


class Sending:
    """All the longer answers of a server. Made in its event loop."""

    def __init__(self, figures: Figures, limits: Limits) -> None:
        self._figures = figures
        self._limits = limits
        self._streams = Places(limits.in_all, limits.each)
        self._downloads = Places(limits.in_all, limits.each)
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all streams; also those that begin later. In the event loop's thread."""
        self._closing.set()

    @property
    def open(self) -> Mapping[str, int]:
        return {"events": self._streams.taken, "download": self._downloads.taken}

    def events(self, found: Events, who: Principal, is_still: IsStill) -> _Response:
        """The answer. Raises Problem if there is no place for it."""
        return _EventsResponse(
            found, self._place(self._streams, who), self._over(who, is_still), self._limits.comment_seconds
        )

    def parts(self, found: Parts, who: Principal, status: int, media_type: str) -> _Response:
        """The answer. Raises Problem if there is no place for it."""
        return _PartsResponse(found, self._place(self._downloads, who), status, media_type)

    def _place(self, places: Places, who: Principal) -> Callable[[], None]:
        """Takes one; what gives it back."""
        what = "streams" if places is self._streams else "downloads"
        lacking = places.take(who.name)
        if lacking is None:
            return lambda: places.give_back(who.name)
        self._figures.count_refused(what)
        headers = {"Retry-After": "5"}
        if lacking == "each":
            raise Problem(Code.TOO_MANY, f"{who.name} has as many {what} open as one may have", headers=headers)
        raise Problem(Code.BUSY, f"there are as many {what} as this server may have", headers=headers)

    def _over(self, who: Principal, is_still: IsStill) -> Callable[[], Awaitable[str]]:
        async def over() -> str:
            """Why a stream ends, once it does."""
            end = time.monotonic() + self._limits.life_seconds
            while True:
                left = end - time.monotonic()
                token_left = left if who.expires is None else (who.expires - datetime.now(UTC)).total_seconds()
                if min(left, token_left) <= 0:
                    return "hour" if left <= 0 else "signed_out"
                pause = min(left, token_left, self._limits.comment_seconds)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause)
                    return "stopping"
                if not is_still():
                    return "signed_out"

        return over


class _Response(Response):
    """An answer that takes longer."""

    def __init__(self, status: int, headers: Mapping[str, str], give_back: Callable[[], None]) -> None:
        super().__init__(status_code=status)
        self._given = headers
        self._give_back = give_back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        try:
            raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self._given.items()]
            await send({"type": "http.response.start", "status": self.status_code, "headers": raw})
            if scope["method"] == "HEAD":
                await send(_part(b"", is_last=True))
            elif not await self._send_all(send, gone):
                scope["state"]["cut_off"]()
                await asyncio.sleep(0)  # then the connection is known to be lost
        finally:
            self._give_back()
            gone.cancel()

    async def _send_all(self, send: Send, gone: asyncio.Future[None]) -> bool:
        """False: the connection is to be cut off."""
        raise NotImplementedError


class _PartsResponse(_Response):
    def __init__(self, found: Parts, give_back: Callable[[], None], status: int, media_type: str) -> None:
        headers = {"Content-Type": found.media_type or media_type, "X-Accel-Buffering": "no", **found.headers}
        super().__init__(status, headers, give_back)
        self._parts = found.parts

    async def _send_all(self, send: Send, gone: asyncio.Future[None]) -> bool:
        async def pump() -> bool:
            try:
                async with contextlib.aclosing(self._parts) as parts:
                    async for part in parts:
                        await asyncio.wait_for(send(_part(part)), PART_SECONDS)
            except (DisbatchError, Problem) as error:
                log.warning("a download was cut off: %s", in_words(error))
                return False
            except TimeoutError:
                log.info("a download was cut off: nothing of it was taken for %.0f s", PART_SECONDS)
                return False
            await send(_part(b"", is_last=True))
            return True

        sending = asyncio.ensure_future(pump())
        await _first_of(sending, gone)
        if sending.done():
            return sending.result()
        await _stop(sending)
        return True


class _EventsResponse(_Response):
    def __init__(
        self, found: Events, give_back: Callable[[], None], over: Callable[[], Awaitable[str]], comment_seconds: float
    ) -> None:
        super().__init__(200, {"Content-Type": MEDIA_TYPE, **_NO_STORE}, give_back)
        self._events = found.events
        self._over = over
        self._comment_seconds = comment_seconds

    async def _send_all(self, send: Send, gone: asyncio.Future[None]) -> bool:
        sending = asyncio.ensure_future(self._pump(send))
        over = asyncio.ensure_future(self._over())
        try:
            await _first_of(sending, gone, over)
            if gone.done():
                return True
            why = "end"
            if over.done():
                why = over.result()
            else:
                sending.result()
        except Exception as error:
            log.error("a stream has ended: %s", in_words(error))
            log.debug("a stream", exc_info=True)
            why = "fault"
        finally:
            over.cancel()
            await _stop(sending)
        last = _part(RETRY + event("bye", {"why": why}), is_last=True)
        try:
            await asyncio.wait_for(send(last), BYE_SECONDS)
        except TimeoutError:
            return False
        return True

    async def _pump(self, send: Send) -> None:
        await send(_part(RETRY))
        async with contextlib.aclosing(_with_comments(self._events, self._comment_seconds)) as parts:
            async for part in parts:
                await send(_part(part))


async def _with_comments(events: AsyncGenerator[bytes, None], seconds: float) -> AsyncGenerator[bytes, None]:
    """These, and a comment whenever none has come for so long: else a proxy takes the connection for dead."""

    async def following() -> bytes | None:
        return await anext(events, None)

    coming = asyncio.ensure_future(following())
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=seconds)
            if not done:
                yield COMMENT
                continue
            found = coming.result()
            if found is None:
                return
            coming = asyncio.ensure_future(following())
            yield found
    finally:
        await _stop(coming)
        await events.aclose()


def _part(data: bytes, *, is_last: bool = False) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": not is_last}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first_of(*some: asyncio.Future[Any]) -> None:
    await asyncio.wait(some, return_when=asyncio.FIRST_COMPLETED)


async def _stop(work: asyncio.Future[Any]) -> None:
    """It has ended then, whatever comes of it."""
    work.cancel()
    await asyncio.wait({work})
    if not work.cancelled():
        work.exception()
