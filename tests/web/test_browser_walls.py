"""The walls of the page in a real Chromium: markup, other origins, proxies; and every state of it, for everybody.

One browser is started for all of them; a test looks at what it has found in one flow.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from client.documents import put_task
from disbatch_host.client import Client
from disbatch_host.web.guard import Place
from helpers import driving, forked, marked, proxies, web
from helpers.nodes import write_plugin
from helpers.printing import Printing
from helpers.processes import wait_until
from helpers.web import Web
from web.conftest import GREET

# One browser does everything in the set-up of the first test.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(520)]

FLOWS = driving.flows_of("walls.mjs")
EMPTY = (
    "/", "/queues", "/tasks", "/failures", "/batches", "/nodes", "/plugins", "/operations", "/push", "/queues/new",
    "/imports", "/api",
)  # fmt: skip
# Of a store that a real node works on; and pages that say why not.
REAL = (
    "/", "/queues", "/queues/mail", "/tasks", "/tasks?queue=mail&status=failed", "/tasks/{failed}", "/tasks/{waiting}",
    "/failures", "/batches", "/batches/wave", "/nodes", "/nodes/n1", "/nodes/n2", "/plugins", "/plugins/Greet",
    "/operations", "/queues/mail/push", "/queues/mail/change", "/queues/mail/import", "/imports",
    "/operations/new?action=retry&queue=mail&status=failed",
)  # fmt: skip
OF_NODES = ("/", "/nodes", "/nodes/n1", "/nodes/n2", "/queues/mail")
REFUSED = {
    "/nothing": "admin", "/queues/mial": "admin", "/queues/mail/push": "read", "/tasks?status=!x": "admin",
    "/tasks?queue=none": "admin", "/operations/new?action=delete&queue=mail&status=created": "admin",
}  # fmt: skip
SCREENS = {
    **{f"empty {path}": ("empty", path, "admin") for path in EMPTY},
    **{f"with a node {path}": ("real", path, "admin") for path in OF_NODES},
    **{f"refused {path}": ("real", path, role) for path, role in REFUSED.items()},
    **{f"store away {path}": ("away", path, "read") for path in ("/", "/queues", "/tasks?queue=mail")},
}


def prints(url: str, tasks: Mapping[str, str], stop: threading.Event) -> None:
    """Two runs that print, and say how far they are, all the time."""
    with Client.open(url, by="node") as client:
        runs = [Printing(client, client.store.parse_id(one)).begin() for one in tasks.values()]
        number = 0
        while not stop.wait(0.25):
            number += 1
            for run in runs:
                run.prints(f"line {number} {marked.MARK}\n".encode())
                run.tells(progress={"value": 0.4, "message": f"{number} {marked.MARK}"})


class Sites:
    """Servers of stores, each with what a browser has to know of it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self.plugins = directory / "plugins"
        self.told: dict[str, object] = {}

    def url(self, name: str) -> str:
        (self._directory / name).mkdir(exist_ok=True)
        return f"sqlite://{self._directory}/{name}/test.db"

    def client(self, name: str) -> Client:
        return self._stack.enter_context(
            Client.open(self.url(name), plugins=[self.plugins], by="ann@here", creates=True)
        )

    def serve(self, name: str, place: Place | None = None, of: str | None = None) -> Web:
        server = self._stack.enter_context(web.serving(self.url(of or name), [self.plugins], place=place or Place()))
        self.told[name] = {"base": f"http://127.0.0.1:{server.port}", "tokens": dict(server.tokens)}
        return server


def real(sites: Sites, stack: ExitStack) -> dict[str, str]:
    """A store that a node works on, and one that has gone."""
    client = sites.client("real")
    client.queues.create("mail", "Greet")
    client.queues.create("idle", "Nobody::Has")
    client.push_many("mail", [{"user": f"user{n}"} for n in range(6)], batch="wave")
    directory = Path(sites.url("real").removeprefix("sqlite://")).parent
    for node_id in ("n2", "n1"):
        with (directory / f"{node_id}.log").open("wb") as log:
            node = forked.start_node(
                ("--store", sites.url("real"), "--plugins", str(sites.plugins), "--node-id", node_id),
                stdout=log, stderr=log,
            )  # fmt: skip
        assert node is not None
        stack.callback(node.kill)
        wait_until(lambda name=node_id: client.store.get_node(name), 30, node_id)  # type: ignore[misc]
        if node_id == "n2":
            wait_until(lambda: client.store.count_by_status()["mail"].get(1) == 6, 60, "the tasks")
            node.kill()  # it stays in the list, and is dead some day
    waiting = client.push("idle", {"user": "ann"}, checks=False).id
    cancelled = client.push("idle", {"user": "bob"}, checks=False).id
    client.cancel(cancelled)
    error = {
        "code": "exit_3",
        "message": "cannot connect",
        "group": {"text": "exit_3: cannot connect", "key": "0a1b2c3d"},
    }
    failed = put_task(client.store, "mail", status=2, stdout="x\n", stderr="y\n", error=error)
    return {"waiting": str(waiting), "failed": str(failed)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, browser_packages: None) -> Iterator[Mapping[str, list[str]]]:
    """What was wrong in each flow."""
    directory = tmp_path_factory.mktemp("walls")
    with ExitStack() as stack:
        sites = Sites(directory, stack)
        write_plugin(sites.plugins, "Greet", "true", version="1.2.0", **GREET)
        tasks = real(sites, stack)
        sites.client("empty")
        hostile = stack.enter_context(
            Client.open(sites.url("hostile"), plugins=[marked.plugins_in(directory / "evil")], by="me", creates=True)
        )
        things = marked.fill(hostile)
        hostile.queues.create("mail", "Greet")
        for name in ("live", "printing"):
            hostile.queues.create(name, "Greet")
            tasks[name] = str(hostile.push(name, {"user": marked.MARK}, checks=False).id)
        tasks["kept"] = str(hostile.push("mail", {"user": "kept"}, checks=False).id)
        sites.client("away")
        for name in ("empty", "real", "away"):
            sites.serve(name)
        other = sites.serve("below", Place(base_path="/disbatch"), of="hostile")
        elsewhere = proxies.free_port()
        sites.serve("shared", Place(cors_origins=[f"http://127.0.0.1:{elsewhere}"]), of="real")
        behind = {
            kind: stack.enter_context(proxies.proxy(kind, directory / kind.replace(", ", "-"), other.port))
            for kind in proxies.KINDS
        }
        stop = threading.Event()
        printer = threading.Thread(
            target=prints,
            args=(sites.url("hostile"), {one: tasks[one] for one in ("live", "printing")}, stop),
            daemon=True,
        )
        printer.start()
        stack.callback(printer.join, 30)
        stack.callback(stop.set)
        away = Path(sites.url("away").removeprefix("sqlite://"))
        away.rename(away.with_name("elsewhere.db"))
        server = stack.enter_context(web.serving(sites.url("hostile"), [directory / "evil"]))
        told = {
            "base": f"http://127.0.0.1:{server.port}", "tokens": dict(server.tokens), "tasks": tasks,
            "sites": sites.told,
            "addresses": marked.addresses(things), "menus": [path.format(**tasks) for path in REAL], "screens": SCREENS,
            "proxies": {kind: f"http://127.0.0.1:{port}/disbatch" for kind, port in behind.items()},
            "elsewhere": elsewhere,
        }  # fmt: skip
        yield driving.driven("walls.mjs", told, {}, within_seconds=500)


@pytest.mark.parametrize("flow", [*FLOWS, *(f"behind {kind}" for kind in proxies.KINDS)])
def test_it_holds_in_a_browser(found: Mapping[str, list[str]], flow: str) -> None:
    assert found[flow] == [], "\n".join(found[flow])


@pytest.mark.parametrize("screen", SCREENS)
def test_every_state_can_be_read_by_everybody(found: Mapping[str, list[str]], screen: str) -> None:
    """No violation for axe-core, nothing in the console, no sideways scroll at 390, 640 and 1,280 px."""
    assert found[screen] == [], "\n".join(found[screen])
