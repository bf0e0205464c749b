"""The way through the steps of an import, of somebody whose browser runs no script.

Responsible for: sending a file, and the forms of the steps. Must not know: what is tested.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping

from helpers.browsing import Form, Page, Visitor
from helpers.processes import wait_until
from helpers.web import Reply


def people(count: int, *, every: int = 0) -> str:
    """A table; every so many rows has a user that is too long."""
    lines = (f"u{n}{'x' * 30 * (every > 0 and n % every == every - 1)},{n}" for n in range(count))
    return "user,tries\n" + "".join(f"{one}\n" for one in lines)


def text_of(reply: Reply) -> str:
    """Its words."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", reply.text.partition("<main")[2])))


def choose(reply: Reply) -> Form:
    """The form of the columns."""
    assert reply.status == 200, (reply.status, text_of(reply))
    (form,) = [one for one in Page(reply.text).forms if one.action.endswith("/import/map")]
    return form


def seen_until(visitor: Visitor, address: str, is_it: Callable[[Reply], bool]) -> Reply:
    """A page that is loaded again until it shows something."""
    found: list[Reply] = []

    def look() -> bool:
        found.append(visitor.get(address))
        assert found[-1].status == 200, text_of(found[-1])
        return is_it(found[-1])

    wait_until(look, 60, f"what is waited for at {address}")
    return found[-1]


def checked(visitor: Visitor, reply: Reply) -> Reply:
    """What is said once all rows were tried."""
    assert reply.status == 303, text_of(reply)
    assert reply.headers["location"].endswith("&step=check"), reply.headers["location"]
    return seen_until(visitor, reply.headers["location"], lambda one: "hx-get" not in one.text)


def check(
    visitor: Visitor, queue: str, table: str | bytes, chosen: Mapping[str, str], name: str = "people.csv"
) -> Reply:
    """The same, from the file on."""
    sent = visitor.send_file(f"/queues/{queue}/import", table, name)
    assert sent.status == 303, text_of(sent)
    form = choose(visitor.get(sent.headers["location"].replace("step=file", "step=map")))
    kept = [(name, value) for name, value in form.fields if name not in chosen]
    return checked(visitor, visitor.post(form.action, [*kept, *chosen.items()]))


def begin_import(visitor: Visitor, reply: Reply) -> Reply:
    """What the button of the third step leads to."""
    (form,) = [one for one in Page(reply.text).forms if one.action.endswith("/import/run")]
    begun = visitor.post(form.action, form.fields)
    assert begun.status == 303 and begun.headers["location"].startswith("/imports/"), text_of(begun)
    return begun


def through(visitor: Visitor, reply: Reply) -> Reply:
    """What the last step says at its end."""
    begun = begin_import(visitor, reply)
    return seen_until(visitor, begun.headers["location"], lambda one: "hx-get" not in one.text)
