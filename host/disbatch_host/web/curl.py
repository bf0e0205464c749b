"""A line for curl for each route of the API, with names in capitals where something is to be put in. Pure.

Responsible for: these lines. Must not know: how a route works.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import orjson

from disbatch_host.web.route import Route

_PLACE = re.compile(r"\{(\w+)\}")
# What the letters in an address stand for.
_PLACES = {
    "q": "QUEUE", "id": "TASK", "b": "BATCH", "n": "NODE", "o": "OPERATION", "i": "IMPORT", "u": "UPLOAD",
    "class": "CLASS", "stream": "stdout",
}  # fmt: skip
_SENTENCE = "in words"
# Where the least that a route takes says too little.
_BODIES: Mapping[str, Any] = {
    "POST /queues/{q}/tasks": {"parameters": {"NAME": "VALUE"}},
    "POST /queues/{q}/tasks/check": {"parameters": {"NAME": "VALUE"}},
    "PATCH /queues/{q}": {"maxthreads": 4},
    "POST /operations": {"action": "retry", "filter": {"queue": "QUEUE"}, "dry_run": True},
    "POST /imports": {"upload": "UPLOAD", "queue": "QUEUE", "on_error": "skip"},
}
_QUERIES = {"DELETE /queues/{q}": "tasks=keep", "GET /tasks/{id}/output/{stream}/search": "q=TEXT"}
_FILES = ("/export", "/bundle", ".csv")


def line_of(route: Route) -> str:
    """`curl -H "Authorization: Bearer $DISBATCH_TOKEN" "$DISBATCH_API/queues"`: address and token are variables of the
    shell."""
    parts = ["curl"]
    if route.path.endswith("/events"):
        parts.append("-N")
    if route.path.endswith(_FILES):
        parts.append("-OJ")  # a file, by the name that the server gives it
    if route.method != "GET":
        parts.append(f"-X {route.method}")
    if route.role is not None:
        parts.append('-H "Authorization: Bearer $DISBATCH_TOKEN"')
    if route.takes_file:
        parts += ["-H 'Content-Type: text/csv'", "--data-binary @FILE.csv"]
    if body := body_of(route):
        kind = "application/merge-patch+json" if route.method == "PATCH" else "application/json"
        parts += [f"-H 'Content-Type: {kind}'", f"-d {shlex.quote(orjson.dumps(body).decode())}"]
    if any(one.word == "if_match" for one in route.problems):
        parts.append("-H 'If-Match: *'")
    query = f"?{_QUERIES[route.name]}" if route.name in _QUERIES else ""
    return f'{" ".join(parts)} "$DISBATCH_API{_address(route)}{query}"'


def _address(route: Route) -> str:
    path = route.path.replace("/attempts/{n}", "/attempts/1")
    return _PLACE.sub(lambda match: _PLACES.get(match[1], match[1].upper()), path)


def body_of(route: Route) -> Any:
    """A body that it takes; None: it needs none."""
    if route.name in _BODIES:
        return _BODIES[route.name]
    return None if route.body is None else example_of(route.body.schema)


def example_of(schema: Mapping[str, Any], name: str = "") -> Any:
    """A small value that fits, if its capitals are replaced."""
    if schema.get("oneOf"):
        return example_of(schema["oneOf"][0], name)
    if schema.get("enum"):
        return schema["enum"][0]
    kinds = schema.get("type", "object" if "properties" in schema else "string")
    kind = kinds if isinstance(kinds, str) else kinds[0]
    if kind == "object":
        properties: Mapping[str, Any] = schema.get("properties", {})
        wanted = schema.get("required") or [*properties][:1]
        return {one: example_of(properties.get(one, {}), one) for one in wanted}
    if kind == "array":
        return [example_of(schema.get("items", {}), name)]
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    if kind == "boolean":
        return True
    return _SENTENCE if name == "reason" else name.lstrip("_").upper() or "VALUE"
