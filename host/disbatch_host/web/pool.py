"""Clients that are lent to requests, one call at a time, each with a store of its own.

Responsible for: a store being used by one thread at a time, and nobody waiting for ever. Must not know: requests, what
is done with a client.

Rules:
1. A store is lent for one call. What goes on longer, such as a download, takes it again for each piece.
2. A call that was begun is seen through, even if the one who asked has gone: its store is free only then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from disbatch_host.client import Client
from disbatch_host.web.problems import Code, Problem

WAIT_SECONDS = 5.0  # for a store that is free

T = TypeVar("T")


class ClientPool:
    """Some open clients. Made in the event loop that uses it."""

    def __init__(self, clients: Sequence[Client], *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._clients = tuple(clients)
        self._wait_seconds = wait_seconds
        self._free: asyncio.LifoQueue[Client] = asyncio.LifoQueue()  # the one whose pages are still in memory
        for client in self._clients:
            self._free.put_nowait(client)
        self._threads = ThreadPoolExecutor(len(self._clients), thread_name_prefix="store")

    @property
    def size(self) -> int:
        return len(self._clients)

    @property
    def lent(self) -> int:
        return len(self._clients) - self._free.qsize()

    async def run(self, do: Callable[[Client], T], by: str) -> T:
        """What `do` returns, called in a thread with a client of `by`. Raises what it raises, and Problem if none is
        free in time."""
        try:
            client = await asyncio.wait_for(self._free.get(), self._wait_seconds)
        except TimeoutError as error:
            detail = f"all {len(self._clients)} connections to the store were in use for {self._wait_seconds:.0f} s"
            raise Problem(Code.BUSY, f"{detail}; try again soon", headers={"Retry-After": "5"}) from error
        work = asyncio.get_running_loop().run_in_executor(self._threads, lambda: do(client.on_behalf_of(by)))
        work.add_done_callback(lambda done: self._give_back(client, done))
        return await asyncio.shield(work)

    def _give_back(self, client: Client, done: asyncio.Future[T]) -> None:
        if not done.cancelled():
            done.exception()  # the sender may be gone; an error is not to be reported as never retrieved
        self._free.put_nowait(client)

    def close(self) -> None:
        """Wait for the calls that were begun, and close the clients."""
        self._threads.shutdown(wait=True)
        for client in self._clients:
            client.close()
