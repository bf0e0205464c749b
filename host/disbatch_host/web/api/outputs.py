"""What tasks have printed: whole, in parts, and searched."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from disbatch_host.client.output import run_of_attempt
from disbatch_host.client.output_places import STREAMS, Output
from disbatch_host.client.output_search import Search
from disbatch_host.errors import StoreUnreachableError
from disbatch_host.web.api.tasks import task_of
from disbatch_host.web.call import Answer, Call, Parts, tags_in
from disbatch_host.web.opening import Opening
from disbatch_host.web.problems import Code, Fault, Problem
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route, Schema

_SEARCHED_BYTES = 64 * 2**20  # of one call
_HITS_MAX = 200
_PATIENCE_SECONDS = 30.0
_AGAIN_SECONDS = 0.5
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_FROM = re.compile(r"(\d{1,18})(?::(\d{1,18}))?")


class _Found:
    """One stream of one attempt, and how much of it there is at this moment."""

    def __init__(self, call: Call, attempt: int | None) -> None:
        """Raises NotFoundError, Problem."""
        task = task_of(call)
        name = call.path["stream"]
        if name not in STREAMS:
            raise Problem(Code.ROUTE, f"expected {' or '.join(STREAMS)}, found {name!r:.80}")
        run = None if attempt is None else run_of_attempt(task, attempt)
        self.output = Output.of(task, name, run)
        self.size = self.output.size(call.client.store)
        if run is not None and run is not task.run and self._is_gone:
            words = f"`keep_attempts` of queue {task.queue} says how many are"
            raise Problem(Code.NOT_KEPT, f"the output of attempt {attempt} of task {task.id} is not kept; {words}")
        self.name = f"{task.id}-{name}.{'bin' if self.output.is_binary else 'txt'}"

    @property
    def _is_gone(self) -> bool:
        """Of an earlier attempt."""
        return not self.output.is_kept or (not self.size and self.output.about_bytes > 0)

    @property
    def tag(self) -> str:
        """Of the attempt and what there is of it; the token itself never leaves."""
        text = f"{self.output.task} {self.output.stream} {self.output.token} {self.size}"
        return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


async def _output(opening: Opening) -> Answer | Parts:
    return await _answer(opening, opening.query.get("attempt"))


async def _output_of_attempt(opening: Opening) -> Answer | Parts:
    def number(call: Call) -> int:
        task, text = task_of(call), call.path["n"]
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise Problem(Code.TASK, f"task {task.id} has no attempt {text!r:.40}; expected a number")
        return int(text)

    return await _answer(opening, await opening.call(number))


async def _answer(opening: Opening, attempt: int | None) -> Answer | Parts:
    found = await opening.call(lambda call: _Found(call, attempt))
    headers = {"ETag": found.tag, "Accept-Ranges": "bytes", "X-Attempt": str(found.output.attempt)}
    if opening.query.get("download"):
        headers["Content-Disposition"] = f'attachment; filename="{found.name}"'
    if found.tag in tags_in(opening.headers.get("if-none-match", "")):
        return Answer(status=304, headers=headers)
    start, end = 0, found.size
    status = 200
    wanted = None if opening.headers.get("if-range", found.tag) != found.tag else opening.headers.get("range")
    if wanted is not None and (part := _part_of(wanted, found.size)) is not None:
        start, end = part
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    headers["Content-Length"] = str(end - start)
    return Parts(
        parts=_pieces(opening, found.output, start, end), status=status, headers=headers,
        media_type="application/octet-stream" if found.output.is_binary else None,
    )  # fmt: skip


def _part_of(header: str, size: int) -> tuple[int, int] | None:
    """From which byte before which one; None: all of it, also for what this server does not understand. Raises Problem
    for a part that is not there."""
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        if int(last) > 0 and size == 0:
            return None  # the end of nothing
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    if start >= size:
        detail = f"expected a part of its {size:,} bytes, found {header!r:.60}"
        raise Problem(Code.RANGE, detail, headers={"Content-Range": f"bytes */{size}"})
    return start, end


async def _pieces(opening: Opening, output: Output, start: int, end: int) -> AsyncGenerator[bytes, None]:
    """One call of the store for each."""
    offset = start
    while offset < end:
        data = (await _patiently(opening, functools.partial(_read, output, offset)))[: end - offset]
        if not data:
            what = f"{output.stream} of task {output.task} ends at byte {offset:,} of {end:,}"
            raise Problem(Code.NOT_KEPT, f"{what}: it was replaced or deleted meanwhile")
        yield data
        offset += len(data)


async def _patiently(opening: Opening, do: Callable[[Call], bytes]) -> bytes:
    """What is half sent is not cut off because the store was away, or in use, for a moment."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return await opening.call(do)
        except (StoreUnreachableError, Problem):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_AGAIN_SECONDS)


def _read(output: Output, offset: int, call: Call) -> bytes:
    return output.read(call.client.store, offset)


async def _search(opening: Opening) -> Answer:
    with opening.shared.searches.of(opening.who):
        found = await opening.call(lambda call: _Found(call, opening.query.get("attempt")))
        offset, line = _begin_in(opening.query)
        search = Search(
            _wanted_in(opening.query), offset=offset, line=line, limit=opening.query.get("limit", _HITS_MAX)
        )
        at, last = offset, min(found.size, offset + _SEARCHED_BYTES)
        while at < last and not search.is_full:
            at += await opening.call(functools.partial(_feed, found.output, search, at, last, found.size))
    is_all = not search.is_full and last >= found.size
    line_words = "" if search.line is None else f":{search.line}"
    return Answer(
        body={
            "hits": [{"offset": one.offset, "line": one.line, "text": one.text} for one in search.hits],
            "next": None if is_all else f"{search.offset}{line_words}",
            "is_all": is_all,
            "size": found.size,
            "attempt": found.output.attempt,
        }
    )


def _feed(output: Output, search: Search, at: int, last: int, size: int, call: Call) -> int:
    data = output.read(call.client.store, at)[: last - at]
    if not data:
        raise Problem(Code.NOT_KEPT, f"{output.stream} of task {output.task} was replaced or deleted meanwhile")
    search.feed(data, is_last=at + len(data) >= size)
    return len(data)


def _wanted_in(query: Mapping[str, Any]) -> str:
    if "q" not in query:
        raise Problem(Code.QUERY, "q: expected a text to look for", faults=[Fault(pointer="q", message="missing")])
    return str(query["q"])


def _begin_in(query: Mapping[str, Any]) -> tuple[int, int | None]:
    """The byte, and the number of its line if it is known."""
    text = query.get("from", "0")
    match = _FROM.fullmatch(text)
    if match is None:
        message = f"expected `next` of another search, or the offset of a byte, found {text!r:.60}"
        raise Problem(Code.QUERY, f"from: {message}", faults=[Fault(pointer="from", message=message)])
    offset, line = int(match[1]), match[2]
    return offset, 1 if offset == 0 else None if line is None else int(line)


_QUERY: Mapping[str, Schema] = {
    "download": {"type": "boolean", "description": "As a file to be kept."},
}
_ATTEMPT: Schema = {"type": "integer", "minimum": 1, "description": "Of this attempt; else of the last one."}
_TEXT = {"type": "string", "description": "Bytes, UTF-8 unless the plugin says that the stream is binary."}
_PROBLEMS = (Code.ROUTE, Code.NOT_KEPT, Code.RANGE)
_PLAIN = "text/plain; charset=utf-8"
ROUTES = (
    Route(
        method="GET", path="/tasks/{id}/output/{stream}", role=Role.READ, opens=_output, about=Code.TASK,
        query={**_QUERY, "attempt": _ATTEMPT}, answers={200: _TEXT, 206: _TEXT, 304: None}, problems=_PROBLEMS,
        media_type=_PLAIN, words="What it has printed so far; stream is stdout or stderr. Range says which part.",
    ),
    Route(
        method="GET", path="/tasks/{id}/attempts/{n}/output/{stream}", role=Role.READ, opens=_output_of_attempt,
        about=Code.TASK, query=_QUERY, answers={200: _TEXT, 206: _TEXT, 304: None}, problems=_PROBLEMS,
        media_type=_PLAIN, words="The same of one attempt.",
    ),
    Route(
        method="GET", path="/tasks/{id}/output/{stream}/search", role=Role.READ, opens=_search, about=Code.TASK,
        query={
            "q": {"type": "string", "minLength": 2, "maxLength": 500, "description": "A text."},
            "from": {"type": "string", "description": "`next` of another search, or the offset of a byte."},
            "limit": {"type": "integer", "minimum": 1, "maximum": _HITS_MAX, "default": _HITS_MAX},
            "attempt": _ATTEMPT,
        },
        problems=(Code.ROUTE, Code.NOT_KEPT),
        answers={200: {"type": "object", "required": ["hits", "next", "is_all"]}},
        words="Where a text is in what it has printed, in upper or lower case.",
    ),
)  # fmt: skip
