"""This API as an OpenAPI 3.1 document, from the table of routes.

Responsible for: this document. Must not know: how a route works.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from disbatch_host import __version__
from disbatch_host.web import problems
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.once import HEADER
from disbatch_host.web.problems import Code
from disbatch_host.web.receiving import FILES
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route
from disbatch_protocol import schemas

EVERYWHERE = (Code.UNAUTHENTICATED, Code.ROLE, Code.TOO_MANY, Code.STORE, Code.BUSY)
_DOCUMENTS = ("task", "queue", "node", "batch", "failures", "manifest")
_PLACE = re.compile(r"\{(\w+)\}")


def route_of(others: Sequence[Route]) -> Route:
    """The route of this document; `others`: all besides."""

    def describe(call: Call) -> Answer:
        return Answer(body=document((*others, route), call.base), has_tag=True)

    words = "This API as an OpenAPI document."
    route = Route(method="GET", path="/openapi.json", role=Role.READ, does=describe, words=words)
    return route


def document(routes: Sequence[Route], base: str) -> Mapping[str, Any]:
    """The OpenAPI document of a server whose API is at `base`."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "disbatch-host", "version": __version__, "description": _WORDS},
        "servers": [{"url": base}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"problem": _PROBLEM, **{name: _component(name) for name in _DOCUMENTS}},
        },
    }


_WORDS = (
    "Tasks, queues, nodes and batches of a Disbatch store. Errors are RFC 9457 problems; dates are RFC 3339 in UTC "
    "with milliseconds; ids are text."
)
_ONCE = "A key of the sender's own: the same request with the same key is carried out once, and answered each time."
_FILE = {"type": "string", "format": "binary"}
_PROBLEM: Mapping[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"enum": [f"urn:disbatch:problem:{code.word}" for code in Code]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was expected, what was found, what to do."},
        "instance": {"type": "string", "description": "Of this request, as the log has it."},
        "faults": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "message"],
                "properties": {name: {"type": "string"} for name in ("pointer", "message", "hint")},
            },
        },
    },
}


def _component(name: str) -> Any:
    """A schema of this program, whose references are then within the document."""
    return _rewritten(schemas.load(name), f"#/components/schemas/{name}")


def _rewritten(value: Any, root: str) -> Any:
    if isinstance(value, list):
        return [_rewritten(one, root) for one in value]
    if not isinstance(value, Mapping):
        return value
    found = {}
    for name, member in value.items():
        if name in ("$id", "$schema"):
            continue
        if name == "$ref" and isinstance(member, str):
            file, _, fragment = member.partition("#")
            there = root if not file else f"#/components/schemas/{file.removesuffix('.json')}"
            found[name] = f"{there}{fragment}"
        else:
            found[name] = _rewritten(member, root)
    return found


def _operation(route: Route) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PLACE.findall(route.path)
    ]
    for name, schema in route.query.items():
        plain = {key: value for key, value in schema.items() if key != "description"}
        parameters.append({"name": name, "in": "query", "description": schema.get("description", ""), "schema": plain})
    if route.is_once:
        parameters.append({"name": HEADER, "in": "header", "description": _ONCE, "schema": {"type": "string"}})
    codes = [*route.problems, *(EVERYWHERE if route.role is not None else ()), route.about]
    refusals: dict[str, list[str]] = {}
    for code in dict.fromkeys(codes):
        refusals.setdefault(str(int(code.status)), []).append(code.word)
    answers: dict[str, Any] = {
        status: {
            "description": ", ".join(words),
            "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/problem"}}},
        }
        for status, words in refusals.items()
    }
    for code_of_answer, schema_of_answer in route.answers.items():
        content: dict[str, Any] = (
            {} if schema_of_answer is None else {"content": {route.media_type: {"schema": schema_of_answer}}}
        )
        answers[str(code_of_answer)] = {"description": "As wanted.", **content}
    found: dict[str, Any] = {
        "summary": route.words,
        "parameters": parameters,
        "responses": dict(sorted(answers.items())),
        "x-role": None if route.role is None else route.role.word,
    }
    if route.role is None:
        found["security"] = []
    if route.body is not None:
        body: dict[str, Any] = {"application/json": {"schema": route.body.schema}}
        if route.body.of_lines is not None:
            body["application/x-ndjson"] = {"schema": {"type": "string"}}
        found["requestBody"] = {"required": route.body.is_required, "content": body}
    if route.takes_file:
        found["requestBody"] = {"required": True, "content": {one: {"schema": _FILE} for one in FILES}}
    return found
