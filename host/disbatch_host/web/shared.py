"""What all requests have in common.

Responsible for: the parts of a server that live as long as it does. Must not know: routes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from disbatch_host.web.background import Background
from disbatch_host.web.figures import Figures
from disbatch_host.web.hub import Hub
from disbatch_host.web.looker import Looker
from disbatch_host.web.pool import ClientPool
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.sending import Sending
from disbatch_host.web.spool import Spool
from disbatch_host.web.trials import Trials


class OneEach:
    """One at a time of something that takes long, for each person."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._taken: set[str] = set()

    @contextlib.contextmanager
    def of(self, who: Principal) -> Iterator[None]:
        """Raises Problem if one is under way."""
        if who.name in self._taken:
            detail = f"one {self._what} of {who.name} is under way, and only one may be"
            raise Problem(Code.TOO_MANY, detail, headers={"Retry-After": "1"})
        self._taken.add(who.name)
        try:
            yield
        finally:
            self._taken.discard(who.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Made in the event loop of the server."""

    pool: ClientPool
    looker: Looker
    hub: Hub
    sending: Sending
    figures: Figures
    searches: OneEach = field(default_factory=lambda: OneEach("search"))
    exports: OneEach = field(default_factory=lambda: OneEach("export or trial"))
    background: Background
    spool: Spool | None  # None: this server takes no files
    trials: Trials | None  # likewise
    lease_seconds: float  # after which another server goes on with what this one has begun

    async def close(self) -> None:
        """Wait for what was begun, and close all clients."""
        await self.hub.close()
        await self.looker.close()
        await self.background.close()
        if self.trials is not None:
            await asyncio.to_thread(self.trials.close)
        self.pool.close()
