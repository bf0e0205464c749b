"""Somebody who looks at the page without a script: cookies, links and forms, as a browser has them.

Responsible for: reading forms out of a page and sending them. Must not know: what is tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode, urlsplit

from helpers.web import Reply, Web

_SAME_SITE = {"Sec-Fetch-Site": "same-origin"}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_LINKS = ("href", "src", "action", "hx-get", "data-events", "data-task", "data-output", "data-news", "data-rows")


@dataclass
class Form:
    """A form as it was found, with what is filled in."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)


class Page(HTMLParser):
    """What a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.inline: list[str] = []  # scripts and styles that are not files
        self._textarea: str | None = None
        self._select: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.links += [given[name] for name in _LINKS if name in given]
        if tag == "style" or "style" in given or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name.startswith("on")]
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get").upper()))
        elif self.forms and given.get("name"):
            self._handle_field(tag, given)
        if tag == "option" and self._select and "selected" in given:
            self.forms[-1].fields.append((self._select, given["value"]))

    def _handle_field(self, tag: str, given: Mapping[str, str]) -> None:
        if tag == "textarea":
            self._textarea = given["name"]
            self.forms[-1].fields.append((given["name"], ""))
        elif tag == "select":
            self._select = given["name"]
        elif tag == "input" and (given.get("type") not in ("radio", "checkbox") or "checked" in given):
            self.forms[-1].fields.append((given["name"], given.get("value", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._textarea = None
        elif tag == "select":
            self._select = None

    def handle_data(self, data: str) -> None:
        if self._textarea is not None:
            name, text = self.forms[-1].fields.pop()
            self.forms[-1].fields.append((name, text + data))


@dataclass
class Visitor:
    """Somebody with a browser that runs no script."""

    web: Web
    base: str = ""  # of the site
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str) -> Reply:
        return self._keep(self.web.get(path, base="", role=None, headers=self._headers()))

    def page(self, path: str) -> Page:
        reply = self.get(path)
        assert reply.status == 200, (path, reply.status, reply.text[:500])
        return Page(reply.text)

    def post(self, path: str, fields: Sequence[tuple[str, str]], headers: Mapping[str, str] = _SAME_SITE) -> Reply:
        body = urlencode(fields).encode()
        return self._keep(
            self.web.post(path, body, base="", role=None, headers={**self._headers(), **_FORM, **headers})
        )

    def send(self, path: str, action: str, **filled: str) -> Reply:
        """Fill in and send the form of a page whose address ends like this; follow where it leads."""
        (form,) = [one for one in self.page(path).forms if one.action.endswith(action) and one.method == "POST"]
        kept = [(name, value) for name, value in form.fields if name not in filled]
        return self.follow(self.post(form.action, [*kept, *filled.items()]))

    def send_file(self, path: str, data: str | bytes, name: str, headers: Mapping[str, str] = _SAME_SITE) -> Reply:
        """The file alone, as a browser puts it into a form."""
        content = data.encode() if isinstance(data, str) else data
        head = f'--b0\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content + b"\r\n--b0--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=b0"}
        return self._keep(self.web.post(path, body, base="", role=None, headers={**self._headers(), **kind, **headers}))

    def follow(self, reply: Reply) -> Reply:
        while reply.status == 303:
            reply = self.get(reply.headers["location"])
        return reply

    def sign_in(self, role: str) -> Reply:
        return self.send(f"{self.base}/login", "/login", token=self.web.tokens[role])

    def _headers(self) -> dict[str, str]:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"Cookie": cookie} if cookie else {}

    def _keep(self, reply: Reply) -> Reply:
        if "set-cookie" in reply.headers:
            name, _, rest = reply.headers["set-cookie"].partition("=")
            self.cookies[name] = rest.partition(";")[0].strip('"')
        return reply


def path_of(link: str) -> str:
    return urlsplit(link).path
