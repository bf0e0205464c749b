"""docs/api.md: the API for those who write programs for it, from the table of routes.

`python -m disbatch_host.web.api_page DIRECTORY` writes it in a checkout (`make schemas`); a test compares.

Responsible for: this text. Must not know: how a route works.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from disbatch_host.web import api, queries
from disbatch_host.web.app import API
from disbatch_host.web.openapi import EVERYWHERE
from disbatch_host.web.problems import Code
from disbatch_host.web.route import Route

CLIENT = """\
import json, os, time, urllib.request

BASE, TOKEN = os.environ["DISBATCH_API"], os.environ["DISBATCH_TOKEN"]


def ask(method, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    headers |= {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(BASE + path, data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


tasks = [{"parameters": {"user": name}} for name in ("ann", "bob")]
pushed = ask("POST", "/queues/mail/tasks", {"tasks": tasks}, **{"Idempotency-Key": "tuesday"})
for task in pushed["ids"]:
    print(task, ask("GET", f"/tasks/{task}")["status_name"])
wanted = {"action": "cancel", "ids": pushed["ids"], "reason": "it was a test"}
seen = ask("POST", "/operations", {**wanted, "dry_run": True})
begun = ask("POST", "/operations", {**wanted, "until": seen["until"], "expect": seen["eligible"]})
while ask("GET", f"/operations/{begun['id']}")["state"] == "running":
    time.sleep(0.2)
"""

_RULES = f"""\
# The REST API

`disbatch-host web` serves it below `{API}`. This page is written from the table of routes, as the server's own
`{API}/openapi.json` is; the files in `schemas/` are its documents.

- A request carries `Authorization: Bearer dsb_…`; `disbatch-host web token add NAME --role read|operate|admin` makes
  one. A role includes those before it. A token of some queues (`--queue`) sees these, and nothing else exists for it.
- Bodies are JSON in UTF-8, dates RFC 3339 in UTC with milliseconds, durations `"1h30m"` or seconds, ids text. A name
  in a query or a body that is not known is refused.
- An error is `application/problem+json` (RFC 9457). `type` is `urn:disbatch:problem:` and one of the codes below;
  `detail` says what was expected, what was found, and what to do; `faults` names each value that does not fit.
- Secret parameters are `********` in every answer. Sent back as a value, that is refused.
- `ETag` and `If-None-Match` hold for documents and lists; changing or deleting a queue needs `If-Match`.
- `Idempotency-Key` (at most 128 characters) makes a request safe to be sent again: for a day, the same request with
  the same key gets the same answer, and whatever it creates is created once, also if the server was killed meanwhile.
- What is done to many tasks is an operation: a dry run says which there are, and `until` when that was. The real one
  needs that `until` and their number as `expect`; what has changed since is left alone. It goes on if its server is
  killed.
- A file of tasks as NDJSON ends with `{{"end": n}}`. One without that line was cut.

A client in Python's standard library:

```python
{CLIENT}```
"""


def page(routes: Sequence[Route] = api.ROUTES) -> str:
    """The whole page."""
    return "".join([_RULES, *_table(routes), *_filter(), *_codes(), *(line for one in routes for line in _route(one))])


def _table(routes: Sequence[Route]) -> Iterator[str]:
    yield "\n## Addresses\n\n| | address | role | |\n|---|---|---|---|\n"
    for one in routes:
        role = "" if one.role is None else one.role.word
        yield f"| {one.method} | [`{one.path}`](#{_anchor(one)}) | {role} | {_cell(one.words)} |\n"


def _filter() -> Iterator[str]:
    yield (
        "\n## Which tasks\n\nLists, counts, exports, failures and operations take the same parameters. Those that may "
        "be named several times are lists in a body.\n\n| | |\n|---|---|\n"
    )
    for name, schema in queries.FILTER.items():
        several = " Several." if schema.get("type") == "array" else ""
        yield f"| `{name}` | {_cell(schema.get('description', ''))}{several} |\n"


def _codes() -> Iterator[str]:
    yield "\n## Errors\n\n| code | status | |\n|---|---|---|\n"
    for code in Code:
        yield f"| `{code.word}` | {int(code.status)} | {code.title} |\n"
    some = ", ".join(f"`{one.word}`" for one in EVERYWHERE)
    yield f"\nEvery address that needs a role may answer {some}, and every one `host`, `query` and `internal`.\n"


def _route(route: Route) -> Iterator[str]:
    yield f"\n### {route.name}\n\n{route.words}\n"
    facts = [f"Role: {'none' if route.role is None else route.role.word}."]
    if route.is_once:
        facts.append("Takes an `Idempotency-Key`.")
    if route.takes_file:
        facts.append("The body is the file, or a form (`multipart/form-data`) with it.")
    statuses = ", ".join(str(one) for one in sorted(route.answers))
    media = "" if route.media_type == "application/json" else f" as `{route.media_type}`"
    facts.append(f"Answers {statuses}{media}.")
    codes = [f"`{one.word}`" for one in dict.fromkeys((*route.problems, route.about)) if one is not Code.ROUTE]
    if codes:
        facts.append(f"May refuse with {', '.join(codes)}.")
    yield f"\n{' '.join(facts)}\n"
    own = {name: one for name, one in route.query.items() if queries.FILTER.get(name) != one}
    if len(own) < len(route.query):
        yield "\nTakes the parameters of [Which tasks](#which-tasks).\n"
    yield from _members("in the query", own, ())
    if route.body is not None:
        yield from _body(route.body.schema)


def _body(schema: Mapping[str, Any]) -> Iterator[str]:
    for number, one in enumerate(schema.get("oneOf", [schema])):
        if number:
            yield "\nOr:\n"
        yield from _members("in the body", one.get("properties", {}), one.get("required", ()))


def _members(where: str, schemas: Mapping[str, Any], required: Sequence[str]) -> Iterator[str]:
    if not schemas:
        return
    yield f"\n| {where} | | |\n|---|---|---|\n"
    for name, schema in schemas.items():
        star = ", required" if name in required else ""
        yield f"| `{name}` | {_kind(schema)}{star} | {_cell(schema.get('description', ''))} |\n"


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join("null" if one is None else f"`{one}`" for one in schema["enum"])
    kinds = schema.get("type", "any")
    words = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{words}, {low:,} to {high:,}"
    return words


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _anchor(route: Route) -> str:
    """Of its heading."""
    words = "".join(one for one in route.name.lower() if one.isalnum() or one in " -_")
    return words.replace(" ", "-")


if __name__ == "__main__":
    (Path(sys.argv[1]) / "docs" / "api.md").write_text(page(), encoding="utf-8")
