"""The overview of the cluster: as it is, and as it changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from disbatch_host.errors import StoreError, in_words
from disbatch_host.web.call import Answer, Events, tag_of
from disbatch_host.web.events import MEDIA_TYPE, event
from disbatch_host.web.opening import Opening
from disbatch_host.web.problems import Problem
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route

_AGAIN_SECONDS = 1.0


async def _overview(opening: Opening) -> Answer:
    body = (await opening.shared.looker.overview(opening.who)).picture
    return Answer(body=body, tag=tag_of({name: value for name, value in body.items() if name != "age_seconds"}))


async def _events(opening: Opening) -> Events:
    return Events(events=_overviews(opening))


async def _overviews(opening: Opening) -> AsyncGenerator[bytes, None]:
    looker = opening.shared.looker
    while True:
        try:
            async with contextlib.aclosing(looker.overviews(opening.who)) as seen:
                async for one in seen:
                    if one.trouble:
                        yield event("trouble", {"message": one.trouble, "age_seconds": round(one.age_seconds, 1)})
                    else:
                        yield event("overview", one.picture)
        except (StoreError, Problem) as error:  # there has never been a picture
            yield event("trouble", {"message": in_words(error), "age_seconds": None})
            await asyncio.sleep(_AGAIN_SECONDS)


_OVERVIEW = {
    "type": "object",
    "required": [
        "at", "took_seconds", "queues", "nodes", "failures", "failures_seen", "running", "age_seconds", "trouble",
    ],
}  # fmt: skip
ROUTES = (
    Route(
        method="GET", path="/overview", role=Role.READ, opens=_overview, answers={200: _OVERVIEW},
        words="Queues, nodes, failures and running tasks, as a look some seconds ago has found them.",
    ),
    Route(
        method="GET", path="/overview/events", role=Role.READ, opens=_events, media_type=MEDIA_TYPE,
        answers={200: {"type": "string", "description": "Events: overview, trouble, bye."}},
        words="The same, whenever it was looked at again.",
    ),
)  # fmt: skip
