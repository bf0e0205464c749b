"""Requests with an Idempotency-Key: carried out once, answered as often as they are sent.

Responsible for: what of a request the key stands for, and keeping its answer. Must not know: HTTP libraries, what is
done (`client.once` has the note in the store).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from disbatch_host.client.once import Kept, Once
from disbatch_host.errors import FieldError
from disbatch_host.web.call import Answer, Events, Parts
from disbatch_host.web.opening import Opening
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.route import Route, status_of

HEADER = "Idempotency-Key"
_REPLAYED = {"Idempotency-Replayed": "true"}


def once_of(
    route: Route, who: str, headers: Mapping[str, str], request: Sequence[Any], *, lease_seconds: float
) -> Once | None:
    """`request`: path, query and body. None: there is no key, or the route needs none. Raises Problem for one that
    cannot be a key."""
    key = headers.get(HEADER.lower())
    if key is None or not route.is_once:
        return None
    try:
        return Once(who, key, [route.name, *request], lease_seconds=lease_seconds)
    except FieldError as error:
        raise Problem(Code.QUERY, f"{HEADER}: {error.reason}") from error


async def carried_out(route: Route, opening: Opening) -> Answer | Parts | Events:
    """What the route answers, or what it answered before. Raises as the route does, StillRunningError,
    KeyReusedError."""
    once = opening.once
    if once is None:
        return await _done(route, opening)
    kept = await opening.call(lambda call: once.answer(call.client.store))
    if kept is not None:
        return Answer(body=kept.body, status=kept.status, headers={**kept.headers, **_REPLAYED})
    try:
        answer = await _done(route, opening)
    except BaseException:
        await opening.call(lambda call: once.give_up(call.client.store))
        raise
    assert isinstance(answer, Answer), "what is sent in parts is sent anew each time"
    given = Kept(status=answer.status or int(status_of(route)), body=answer.body, headers=answer.headers)
    await opening.call(lambda call: once.finish(call.client.store, given))
    return answer


async def _done(route: Route, opening: Opening) -> Answer | Parts | Events:
    if route.opens is not None:
        return await route.opens(opening)
    assert route.does is not None
    return await opening.call(route.does)
