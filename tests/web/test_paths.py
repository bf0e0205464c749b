"""Names in addresses: whatever a queue, a task, a batch or a node is called, it has an API, a page and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

import pytest

from client.documents import put_node, put_task
from disbatch_host.client import Client
from disbatch_host.web import paths
from disbatch_host.web.guard import Place
from helpers import web
from helpers.browsing import Page, Visitor
from helpers.web import Web

NAMES = {
    "slash": "a/b", "quoted slash": "a%2Fb", "quoted slash, small": "a%2fb", "up": "../up", "up inside": "x/../y",
    "dots": "..", "dot": ".", "two slashes": "a//b", "slash first": "/a", "slash last": "a/", "space": "a b",
    "question": "a?b=c", "hash": "a#b", "umlaut": "märz ✓", "long": "n" * 200, "percent": "%", "plus": "a+b",
    "section": "tasks", "action": "a/pause", "semicolon": "a;b", "backslash": "a\\b", "markup": "<b>&\"'",
}  # fmt: skip
# What is left of a name is another one, once a proxy or a browser has taken these for steps through directories.
_STEPS = re.compile(r"(^|/)\.{0,2}(/|$)")


@pytest.fixture(scope="module")
def things(client: Client) -> dict[str, str]:
    """Of each kind one of each name."""
    store = client.store
    for name in NAMES.values():
        store.insert_queue({"_id": name, "class": name, "ctime": store.now()})
        put_task(store, name, _id=name, parameters={"user": "ann"}, stdout="printed\n", status=1)
        client.push_many(name, [{"user": "of batch"}], batch=name, checks=False)
        put_node(store, name)
    return NAMES


@pytest.fixture(scope="module")
def below(living_url: str, client: Client, things: dict[str, str]) -> Iterator[Web]:
    with web.serving(living_url, place=Place(base_path="/disbatch")) as one:
        yield one


ADDRESSES = ("/queues/{}", "/tasks/{}", "/batches/{}", "/nodes/{}")


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_leads_to_what_has_it(below: Web, things: dict[str, str], kind: str) -> None:
    name = things[kind]
    for base in ("/disbatch/api/v1", "/api/v1"):  # a proxy may strip the base path
        for address in ADDRESSES:
            reply = below.get(address.format(quote(name, safe="")), base=base)
            assert (reply.status, reply.json.get("_id")) == (200, name), (address, reply.text)
        for spelled in (quote(name, safe="").lower(), "".join(f"%{one:02X}" for one in name.encode())):
            if unquote(spelled) == name:
                assert below.get(f"/queues/{spelled}", base=base).json["_id"] == name
        assert below.get(f"/tasks/{quote(name, safe='')}/output/stdout", base=base).text == "printed\n"
        assert below.get(f"/queues/{quote(name, safe='')}/nothing", base=base).status == 404


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_changed_is_what_has_the_name(below: Web, client: Client, things: dict[str, str], kind: str) -> None:
    name = things[kind]
    path = f"/disbatch/api/v1/queues/{quote(name, safe='')}"
    match = {"If-Match": below.get(path, base="").headers["etag"]}
    assert below.ask("PATCH", path, {"description": f"of {kind}"}, base="", headers=match).json["_id"] == name
    assert client.queues.get(name).document["description"] == f"of {kind}"
    assert below.post(f"{path}/resume", {}, base="").json["_id"] == name
    made = below.post(f"{path}/tasks?check=no", {"parameters": {"user": "bob"}}, base="")
    assert made.status == 201 and client.get(client.store.parse_id(made.json["ids"][0])).document["queue"] == name
    assert below.get(made.headers["location"], base="").json["queue"] == name


@pytest.mark.parametrize("kind", NAMES)
def test_pages_and_their_links_keep_the_name(below: Web, client: Client, things: dict[str, str], kind: str) -> None:
    """Every link from the page of a queue that names it leads to something."""
    name, visitor = things[kind], Visitor(below, base="/disbatch")
    visitor.sign_in("admin")
    wanted = quote(name, safe="")
    for address in ADDRESSES:
        for base in ("/disbatch", ""):
            reply = visitor.follow(visitor.get(f"{base}{address.format(wanted)}"))
            assert reply.status == 200, (address, reply.status)
    page = visitor.page(f"/disbatch/queues/{wanted}")
    named = [one for one in page.links if f"/queues/{wanted}" in one]
    assert named
    for link in (one for one in named if not one.endswith(("/pause", "/resume", "/delete", "/cancel"))):
        assert visitor.follow(visitor.get(link)).status == 200, link
    change = f"/queues/{wanted}/change"
    assert visitor.send(f"/disbatch{change}", change, description="seen").status == 200
    assert client.queues.get(name).document["description"] == "seen"


@pytest.mark.parametrize("kind", [kind for kind, name in NAMES.items() if not _STEPS.search(name)])
def test_a_proxy_may_unquote_a_path_on_its_way(below: Web, client: Client, things: dict[str, str], kind: str) -> None:
    """As nginx does where `proxy_pass` has a path: everything is unquoted, and what must be is quoted again."""
    name = things[kind]
    sent = quote(name, safe="/:;+&'!*()@,$=~")
    for base in ("/disbatch/api/v1", "/api/v1"):
        for address in ADDRESSES:
            reply = below.get(address.format(sent), base=base)
            assert (reply.status, reply.json.get("_id")) == (200, name), (address, reply.text)
        assert below.get(f"/tasks/{sent}/output/stdout", base=base).text == "printed\n"
    assert below.post(f"/queues/{sent}/resume", {}, base="/api/v1").json["_id"] == name
    visitor = Visitor(below, base="/disbatch")
    visitor.sign_in("admin")
    changed = visitor.send(f"/disbatch/queues/{sent}/change", "/change", description="unquoted")
    assert changed.status == 200 and client.queues.get(name).document["description"] == "unquoted"


@pytest.mark.parametrize(
    "path", ["/queues/", "/queues/mail/psh", "/queues//tasks", "/tasks/%FF", "/tasks//", "//queues"]
)
def test_an_address_that_nothing_is_at_stays_one(below: Web, path: str) -> None:
    reply = below.get(path, base="/disbatch/api/v1")
    assert (reply.status, reply.code) == (404, "route")
    visitor = Visitor(below, base="/disbatch")
    visitor.sign_in("admin")
    shown = visitor.get(f"/disbatch{path}")
    if path.endswith("/"):
        assert (shown.status, shown.headers["location"]) == (303, f"/disbatch{path.rstrip('/')}")
    else:
        assert shown.status == 404


def test_no_address_leads_to_another_site(below: Web) -> None:
    visitor = Visitor(below, base="/disbatch")
    visitor.sign_in("admin")
    for path in (
        "//evil.example/",
        "/disbatch//evil.example/",
        "/%2F%2Fevil.example/",
        "/disbatch/%5C%5Cevil.example/",
    ):
        reply = visitor.get(path)
        if reply.status == 303:
            assert re.match(r"/disbatch/[\w.%]+$", reply.headers["location"]), (path, reply.headers)
        else:
            assert [one for one in Page(reply.text).links if not one.startswith(("/disbatch", "#"))] == []


def test_one_spelling_of_each_path() -> None:
    for raw in (b"/queues/a%2Fb", b"/queues/a%2fb", b"/%71ueues/%61%2Fb"):
        assert paths.canonical(raw) == "/queues/a%2Fb"
    assert paths.canonical(b"/a%252Fb") == "/a%252Fb" and paths.names({"q": "a%252Fb"}) == {"q": "a%2Fb"}
    assert paths.canonical("/märz".encode()) == "/m%C3%A4rz"
    assert paths.below("/disbatch", "/disbatch") == "" and paths.below("/disbatch", "/disbatched") == "/disbatched"
    assert paths.below("/a.b/~c", paths.canonical(b"/a%2Eb/%7Ec/queues")) == "/queues"
    with pytest.raises(ValueError, match="utf-8"):
        paths.canonical(b"/%FF")
