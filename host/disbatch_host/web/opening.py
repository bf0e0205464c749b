"""A request whose answer takes longer than one call, as its route sees it.

Responsible for: this shape. Must not know: HTTP libraries, routes.

Rules:
1. No store is held while a part is on its way to its reader: each part is a call of its own (`Opening.call`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from disbatch_host.client import Client
from disbatch_host.web.call import Asked, Call
from disbatch_host.web.shared import Shared

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening(Asked):
    """A request whose answer takes longer."""

    shared: Shared

    async def call(self, do: Callable[[Call], T]) -> T:
        """What `do` returns, with a store that is lent for this call. Raises what it raises, and Problem if none is
        free in time."""
        call = functools.partial(
            Call, who=self.who, base=self.base, path=self.path, query=self.query, body=self.body,
            headers=self.headers, once=self.once, spool=self.shared.spool, wake=self.shared.background.wake,
        )  # fmt: skip

        def carry_out(client: Client) -> T:
            return do(call(client=client))

        return await self.shared.pool.run(carry_out, self.who.by)
