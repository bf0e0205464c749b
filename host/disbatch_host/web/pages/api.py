"""The API as a table: every route, who may use it, and a line for curl."""

from __future__ import annotations

from disbatch_host.web import api, curl
from disbatch_host.web.pages.page import Html, Page, Shown, View


def _show(view: View) -> Shown:
    groups: dict[str, list[dict[str, str]]] = {}
    for one in api.ROUTES:
        role = "" if one.role is None else one.role.word
        row = {"method": one.method, "path": one.path, "role": role, "words": one.words, "curl": curl.line_of(one)}
        groups.setdefault(one.path.split("/")[1], []).append(row)
    values = {"groups": [(name or "the API", rows) for name, rows in groups.items()], "address": view.origin}
    return Html(template="api.html", title="API", values=values)


PAGES = (Page(path="/api", does=_show),)
