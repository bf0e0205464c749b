"""The root of the API, who is signed in, and the description of it all."""

from __future__ import annotations

from disbatch_host import __version__
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route
from disbatch_protocol.document import rfc3339


def _root(call: Call) -> Answer:
    names = (
        "overview", "queues", "tasks", "operations", "imports", "batches", "failures", "nodes", "plugins", "me",
        "openapi.json",
    )  # fmt: skip
    links = {name.partition(".")[0]: call.link(name) for name in names}
    return Answer(body={"version": __version__, "is_signed_in": call.who.name != "nobody", "_links": links})


def _me(call: Call) -> Answer:
    who = call.who
    return Answer(
        body={
            "principal": who.name,
            "role": who.role.word,
            "queues": None if who.queues is None else sorted(who.queues),
            "expires": None if who.expires is None else rfc3339(who.expires),
        }
    )


ROUTES = (
    Route(method="GET", path="/", role=None, does=_root, words="What there is, and whether anybody is signed in."),
    Route(method="GET", path="/me", role=Role.READ, does=_me, words="Who is signed in, and what he may do."),
)
