"""What a server does when nobody waits for it: operations batch by batch, imports, and forgetting what is old.

Responsible for: who does what when, and stopping in time. Must not know: HTTP, what an operation or an import is (see
`client.operations` and `web.imports`).

Rules:
1. Whatever is to be done is in the store. Another server takes it up when this one is gone.
2. A batch of an operation is one call of the pool. Imports have a thread and a client of their own, one after another.
3. A stop lets the batch that was begun come to its end, and leaves the rest to others, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from disbatch_host.client import Client, operations
from disbatch_host.client import once as onces
from disbatch_host.client.jobs import LEASE_SECONDS, Jobs, JobState, LostJobError
from disbatch_host.errors import DisbatchError, StoreUnreachableError, in_words
from disbatch_host.web import imports
from disbatch_host.web.pool import ClientPool
from disbatch_host.web.problems import Problem
from disbatch_host.web.spool import Spool

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # between looks for what others have left
_FORGET_SECONDS = 60.0
_SHARDS_EACH = 4  # of the notes of requests, at each such time
_BY = "web"

T = TypeVar("T")


class Background:
    """Made in the event loop of the server. `client`: for imports alone."""

    def __init__(
        self, pool: ClientPool, client: Client, spool: Spool | None, *, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._pool = pool
        self._client = client
        self._spool = spool
        self._lease_seconds = lease_seconds
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._imports_woken = threading.Event()
        self._is_stopping = threading.Event()
        self._running: asyncio.Task[None] | None = None
        self._shard = itertools.count(secrets.randbelow(256))

    def wake(self) -> None:
        """There is something to be done. For any thread."""
        self._imports_woken.set()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    def stop(self) -> None:
        """Begin nothing any more. For any thread."""
        self._is_stopping.set()
        self.wake()

    def start(self) -> None:
        """Begin. In the event loop."""
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop, wait for what was begun, and close the client."""
        self.stop()
        if self._running is not None:
            await self._running
        self._client.close()

    async def _run(self) -> None:
        importing = asyncio.create_task(asyncio.to_thread(self._import_until_stopped))
        forgetting = asyncio.create_task(self._forget())
        try:
            while not self._is_stopping.is_set():
                self._woken.clear()
                if not await self._do_some():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._woken.wait(), LOOK_SECONDS)
        finally:
            forgetting.cancel()
            self.stop()
            await importing

    async def _do_some(self) -> bool:
        """A batch of each operation that is to be done. False: there was nothing to do."""
        ids = await self._called(lambda client: self._jobs(client, operations.KIND).to_be_done())
        done = [await self._called(functools.partial(self._step, job_id=one)) for one in ids or ()]
        return any(done)

    def _step(self, client: Client, job_id: str) -> bool:
        """One batch. False: it was not ours to do."""
        if self._is_stopping.is_set():
            return False
        jobs = self._jobs(client, operations.KIND)
        job = jobs.take(job_id)
        if job is None:
            return False
        try:
            done = operations.step(client.store, jobs, job)
            if done.state is not JobState.RUNNING:
                log.info("operation %s: %s, %s", job_id, done.state, dict(done.document["outcomes"]))
            elif self._is_stopping.is_set():
                jobs.let_go(done)
        except StoreUnreachableError:
            raise  # it goes on when the store is back
        except LostJobError:
            return False
        except Exception as error:  # whatever it is, it must cost this operation alone
            log.warning("operation %s has failed: %s", job_id, in_words(error))
            jobs.end(job, JobState.FAILED, error=in_words(error))
        return True

    async def _called(self, do: Callable[[Client], T]) -> T | None:
        """None: it could not be done now."""
        try:
            return await self._pool.run(do, _BY)
        except (DisbatchError, Problem) as error:
            log.debug("in the background: %s", in_words(error))
        except Exception as error:  # a fault of this program must not end everything that is done here
            log.error("in the background: %s", in_words(error), exc_info=log.isEnabledFor(logging.DEBUG))
        return None

    def _jobs(self, client: Client, kind: str) -> Jobs:
        return Jobs(client.store, kind, owner=self._owner, lease_seconds=self._lease_seconds)

    def _import_until_stopped(self) -> None:
        while not self._is_stopping.is_set():
            self._imports_woken.clear()
            try:
                self._import_some()
            except DisbatchError as error:
                log.debug("imports: %s", in_words(error))
            except Exception as error:
                log.error("imports: %s", in_words(error), exc_info=log.isEnabledFor(logging.DEBUG))
            self._imports_woken.wait(LOOK_SECONDS)

    def _import_some(self) -> None:
        if self._spool is None:
            return
        jobs = self._jobs(self._client, imports.KIND)
        for job_id in jobs.to_be_done():
            if self._is_stopping.is_set():
                return
            found = jobs.find(job_id)
            received = None if found is None else imports.file_of(found, self._spool)
            if found is not None and found.state is JobState.RUNNING and received is None and not found.is_to_stop:
                continue  # its file is in the spool of another server
            if (job := jobs.take(job_id)) is None:
                continue
            if received is not None:
                imports.carry_out(self._client, jobs, job, self._spool, received, self._is_stopping.is_set)
            else:
                imports.give_up(self._client, jobs, job)

    async def _forget(self) -> None:
        while True:
            await self._called(self._forget_some)
            await asyncio.sleep(_FORGET_SECONDS)

    def _forget_some(self, client: Client) -> None:
        for _ in range(_SHARDS_EACH):
            onces.forget_old(client.store, next(self._shard))
        self._jobs(client, operations.KIND).forget_old()
        gone = self._jobs(client, imports.KIND).forget_old()
        if self._spool is not None:
            unfinished = map(self._jobs(client, imports.KIND).find, self._jobs(client, imports.KIND).to_be_done())
            kept = {str(one.document["upload"]) for one in unfinished if one is not None}
            self._spool.forget_old(frozenset(kept), gone)
