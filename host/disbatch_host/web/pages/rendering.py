"""From values to HTML: the templates, and what all of them may use.

Responsible for: Jinja2 with escaping always on, and the frame around each page. Must not know: requests, stores.

Rules:
1. Nothing is HTML but what a template says. No value is ever marked as safe.
2. No link is written by hand: `url` makes each.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import jinja2
import orjson

from disbatch_host.web.pages import assets, words
from disbatch_host.web.pages.page import Html, Pairs, url, with_query
from disbatch_host.web.principal import Principal
from disbatch_host.web.role import Role
from disbatch_protocol import status as statuses

TEMPLATES = Path(__file__).parents[1] / "templates"
_LIVE = "live"  # a parameter of the query: off


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Who looks, at what, and how he wants to see it."""

    who: Principal | None
    path: str
    query: Pairs
    scheme: str = ""  # light, dark; empty: as the system
    zone: str = "local"
    needs_sign_in: bool = True


@dataclass(frozen=True, slots=True)
class When:
    """A moment, as a page shows it."""

    iso: str
    exact: str
    ago: str
    clock: str
    word: str = ""

    def __bool__(self) -> bool:
        return bool(self.iso)


class Renderer:
    """Renders pages below one base path."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
            auto_reload=False,
        )  # fmt: skip
        self._environment.globals |= {
            "url": self._url, "asset": self._asset, "halves": words.halves, "percent": words.percent,
        }  # fmt: skip
        self._environment.filters |= {
            "num": words.number, "span": words.span, "age": words.age, "size": words.size, "short": words.short_id,
            "json": _json,
            "status": status_class, "value": value_in_short,
        }  # fmt: skip

    def page(self, shown: Html, look: Look) -> str:
        """The whole page."""
        now = datetime.now(UTC)
        zone = words.zone_of("" if look.zone == "local" else look.zone, _local())

        def when(value: Any) -> When:
            found = words.moment(value)
            if found is None:
                return When("", "", "", "")
            exact, ago = words.exact(found, zone), words.ago(found, now)
            return When(found.isoformat(timespec="milliseconds"), exact, ago, words.clock(found, now, zone))

        def can(role: str) -> bool:
            return look.who is not None and look.who.role >= Role[role.upper()]

        def changed(**given: Any) -> str:
            """This page with some of its query changed; None leaves one out."""
            kept = [(name, value) for name, value in look.query if name not in given]
            more = [(name, str(value)) for name, value in given.items() if value is not None]
            return with_query(self._base + look.path, [*kept, *more])

        values = {
            **shown.values, "title": shown.title, "look": look, "who": look.who, "can": can, "when": when,
            "changed": changed, "zone_name": str(now.astimezone(zone).tzname() or "local"), "now": when(now),
            "done_at": lambda seconds: now + timedelta(seconds=seconds),
            "is_live": look.who is not None and dict(look.query).get(_LIVE) != "off",
            "here": with_query(self._base + look.path, look.query), "section": _section(look.path),
        }  # fmt: skip
        return self._environment.get_template(shown.template).render(values)

    def _url(self, *parts: Any, **query: Any) -> str:
        """In templates, `query` may have `_` at the end of a name that is a word of Python."""
        return url(self._base, *map(str, parts), query={name.removesuffix("_"): one for name, one in query.items()})

    def _asset(self, name: str) -> str:
        return url(self._base, "static", assets.assets()[name].name)


def _local() -> tzinfo:
    return datetime.now().astimezone().tzinfo or UTC


def _section(path: str) -> str:
    """The part of the site that an address belongs to."""
    return path.removeprefix("/").partition("/")[0]


def status_class(value: Any) -> str:
    """The word and the class of a status: its name, `failed` for all that are above 2."""
    if isinstance(value, str):
        return value
    if not isinstance(value, int):
        return "unknown"
    name = "failed" if value >= statuses.Status.FAILED else statuses.name(value)
    return "running" if name == "claimed" else name


def value_in_short(value: Any) -> str:
    """A value of a task in a cell of a table."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, list) and all(isinstance(one, (str, int, float)) for one in value):
        return ", ".join(map(str, value))
    return _json(value, indent=False)


def _json(value: Any, *, indent: bool = True) -> str:
    options = orjson.OPT_INDENT_2 if indent else 0
    return orjson.dumps(value, default=str, option=options | orjson.OPT_NON_STR_KEYS).decode()
