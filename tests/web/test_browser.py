"""The page in a real Chromium: flows through it, a silent console, axe-core on every screen, three widths.

One browser is started for all of them; a test looks at what it has found in one flow.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import pytest

from disbatch_host.client import Client
from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import new_task
from disbatch_host.web.guard import Place
from helpers import driving, web
from helpers.nodes import write_plugin
from helpers.printing import Printing

# One browser does everything in the set-up of the first test.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(520)]

PARAMETERS = {
    "type": "object",
    "required": ["user", "password"],
    "properties": {
        "user": {"type": "string", "maxLength": 20, "title": "Mailbox"},
        "password": {"type": "string", "writeOnly": True},
        "quiet": {"type": "boolean"},
        "mode": {"enum": ["copy", "move"], "default": "copy"},
        "target": {"enum": [f"new{n:02}" for n in range(9)]},
        "hosts": {"type": "array", "items": {"type": "string"}},
        "where": {"type": "object", "title": "Where", "properties": {"host": {"type": "string"}}},
        "rules": {"patternProperties": {"^x": {}}},
        "how": {"oneOf": [
            {"title": kind, "type": "object", "properties": {"kind": {"const": kind}, "n": {"type": "integer"}}}
            for kind in ("fast", "slow")
        ]},
        "since": {"type": "string", "format": "date"},
    },
    "additionalProperties": False,
}  # fmt: skip
FLOWS = driving.flows_of("drive.mjs")
SCREENS = {
    "overview": "/", "queues": "/queues", "queue": "/queues/many", "paused queue": "/queues/still",
    "queue without a node": "/queues/alone", "broken queue": "/queues/broken", "new queue": "/queues/new",
    "change of a queue": "/queues/many/change", "tasks": "/tasks", "queue's tasks": "/tasks?queue=many&status=failed",
    "no task": "/tasks?queue=many&p.user=nobody&status=created", "failed task": "/tasks/{failed}",
    "running task": "/tasks/{printing}?live=off", "waiting task": "/tasks/{kept}", "log": "/tasks/{failed}?tab=log",
    "document": "/tasks/{failed}?tab=document", "form": "/queues/forms/push", "JSON": "/queues/forms/push?as=json",
    "no form": "/queues/alone/push", "failures": "/failures",
    "groups": "/failures?by=version,node&queue=many", "batches": "/batches", "batch": "/batches/wave",
    "nodes": "/nodes", "plugins": "/plugins", "plugin": "/plugins/Greet", "keys": "/keys", "push": "/push",
    "retry": "/tasks/{failed}/retry", "task that goes on": "/tasks/{printing}", "attempt": "/tasks/{failed}?attempt=1",
    "found": "/tasks/{failed}?find=cannot+connect",
    "dry run": "/operations/new?action=retry&queue=many", "operations": "/operations",
    "filter": "/tasks?status=running",
}  # fmt: skip


def fill(client: Client) -> dict[str, str]:
    """What the flows and the screens need: ids by what they are for."""
    store, now = client.store, SystemClock().now()
    for name in ("forms", "many", "paused", "still", "printing"):
        client.queues.create(name, "Greet", description="a long description that has to be cut somewhere")
    client.queues.create("alone", "Nobody::Has")
    store.insert_queue({"_id": "broken", "class": "Greet", "maxthreads": "ten", "ctime": now})
    client.queues.pause("still", why="the mail server is down")
    greet = {"user": "ann", "password": "planted-5ecret", "mode": "move", "hosts": ["mx01.example.org"]}
    client.push_many("many", [{**greet, "user": f"user{n}"} for n in range(12)], batch="wave")
    client.push("alone", {"year": 1}, checks=False)
    run = {"attempt": 2, "node": "mig01", "started": now, "ended": now, "seconds": 1.5, "reason": "exited",
           "outcome": "failure", "exit_code": 3, "plugin": {"class": "Greet", "version": "1.2.0"},
           "output": {"stdout": {"bytes": 9, "in_file": False}, "stderr": {"bytes": 90, "in_file": False}}}  # fmt: skip
    for number in range(6):
        said = f"cannot connect to mx{number:02}.example.org: connection timed out after 30 s (attempt to port 993)"
        group = {"text": "exit_3: cannot connect to <host>: connection timed out", "key": "0a1b2c3d"}
        error = {"code": "exit_3", "message": said, "group": group}
        task = new_task("many", {**greet, "user": f"failed{number:015}", "target": f"new{number:02}"}, now=now)
        log = [{"time": now, "level": "info", "message": "began"}]
        task |= {"status": 2, "node": "mig01", "run": run, "error": error, "stdout": "begins\n", "log": log,
                 "stderr": f"\x1b[31mTraceback\x1b[0m\n{said}\n", "secrets": ["/password"], "batch": "wave",
                 "attempts": [{**run, "attempt": 1, "error": error}]}  # fmt: skip
        made = store.insert_tasks([task])[0]
    ids = {name: str(client.push("forms", greet).id) for name in ("stuck", "kept")}
    return {**ids, "failed": str(getattr(made, "id", made)), "printing": str(client.push("printing", greet).id)}


def prints(url: str, task: str, stop: threading.Event) -> None:
    """A run that prints all the time."""
    with Client.open(url, by="node") as client:
        run = Printing(client, client.get(task).id).begin()
        run.tells(progress={"value": 0.4, "message": "folder Archive: message 40 of 100"})
        run.prints(b"".join(b"line %d of those before\n" % n for n in range(60)))
        number = 0
        while not stop.wait(0.25):
            number += 1
            run.prints(b"line %d <script>alert(1)</script><img src=x>\n" % number)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, browser_packages: None) -> Iterator[Mapping[str, list[str]]]:
    """What was wrong in each flow, and on each screen."""
    directory = tmp_path_factory.mktemp("browser")
    write_plugin(directory / "plugins", "Greet", "true", parameters=PARAMETERS, version="1.2.0", description="Greets")
    url = f"sqlite://{directory}/test.db"
    with Client.open(url, plugins=[directory / "plugins"], by="ann@here", creates=True) as client:
        tasks = fill(client)
    stop = threading.Event()
    printer = threading.Thread(target=prints, args=(url, tasks["printing"], stop), daemon=True)
    printer.start()
    try:
        with web.serving(url, [directory / "plugins"], place=Place(public_urls=["http://jobs.test"])) as server:
            told = {
                "base": f"http://127.0.0.1:{server.port}", "named": f"http://jobs.test:{server.port}", "tasks": tasks,
                "tokens": dict(server.tokens), "screens": {name: one.format(**tasks) for name, one in SCREENS.items()},
            }  # fmt: skip
            yield driving.driven("drive.mjs", told, {}, within_seconds=500)
    finally:
        stop.set()
        printer.join(30)


@pytest.mark.parametrize("flow", FLOWS)
def test_somebody_in_a_browser(found: Mapping[str, list[str]], flow: str) -> None:
    assert found[flow] == []


@pytest.mark.parametrize("screen", SCREENS)
def test_a_screen_can_be_read_by_everybody(found: Mapping[str, list[str]], screen: str) -> None:
    """No violation for axe-core, nothing in the console, no sideways scroll at 390, 640 and 1,280 px."""
    assert found[screen] == []
