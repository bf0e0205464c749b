"""A store in which every text that people and programs can write is markup, and a secret that nobody may read.

Responsible for: such things, and the addresses of everything that shows them. Must not know: how it is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from client.documents import put_node
from disbatch_host.client import Client
from disbatch_host.documents.records import new_task
from disbatch_host.web.pages import PAGES
from helpers.nodes import write_plugin
from helpers.printing import Printing

# An element that is known again, things that run, and what ends an attribute.
MARK = (
    '<evil-mark><script>window.hacked=1;alert(1)</script><img src=x onerror="window.hacked=1">\'">'
    "<a href=javascript:alert(2)>&amp;"
)
CRLF = "why\r\nSet-Cookie: evil=1\r\n\r\n<evil-mark>"
SECRET = "planted-5ecret"
_PLACE = re.compile(r"\{(\w+)\}")


def plugins_in(directory: Path) -> Path:
    """A directory with a plugin whose manifest and README are full of it."""
    parameters = {
        "type": "object",
        "title": MARK,
        "required": ["user"],
        "properties": {
            "user": {"type": "string", "minLength": 1, "title": MARK, "description": MARK, "examples": [MARK]},
            "password": {"type": "string", "writeOnly": True},
            MARK: {"enum": [MARK, 1], "default": MARK},
            "deep": {"type": "object", "title": MARK, "properties": {MARK: {"type": "string", "default": MARK}}},
            "how": {"oneOf": [{"title": MARK, "type": "object", "properties": {"kind": {"const": MARK}}}]},
        },
    }
    examples = [{"name": MARK, "parameters": {"user": MARK, "password": "of an example"}, "exit": 0}]
    home = write_plugin(directory, "Greet", "true", parameters=parameters, description=MARK, examples=examples)
    (home / "README.md").write_text(
        f"# {MARK}\n\n{MARK}\n\n```\n{MARK}\n```\n[link](javascript:alert(1)) ![x](x)\n<evil-mark onclick=alert(1)>\n"
    )
    return directory


def fill(client: Client) -> dict[str, str]:
    """Whatever has an address, by what it is: the ids of tasks by their state."""
    store, now = client.store, client.store.now()
    for name in (MARK, CRLF):
        store.insert_queue({"_id": name, "class": "Greet", "description": MARK, "ctime": now})
    paused = {"at": now, "by": MARK, "why": CRLF}
    store.insert_queue({"_id": f"paused {MARK}", "class": MARK, "ctime": now, "paused": paused})
    store.insert_queue({"_id": f"broken {MARK}", "class": MARK, "ctime": now, "maxthreads": MARK, "rate": MARK})
    heartbeat = {"pid": 7, "queues": [MARK], "host": MARK, "plugins": [{"class": "Greet", "version": MARK}]}
    put_node(store, MARK, version=MARK, host=MARK, heartbeat=heartbeat, queuetypes=[{"class": MARK, "version": MARK}])
    ids = {"failed": f"task {MARK}"}
    store.insert_tasks([_ended(ids["failed"], now, status=2)])
    done = store.insert_tasks([_ended(f"done {MARK}", now, status=1, result={MARK: [MARK, {MARK: MARK}]}, error=None)])
    ids["concluded"] = str(getattr(done[0], "id", done[0]))
    ids["cancelled"] = str(client.push(MARK, {"user": MARK, "password": SECRET}, checks=False).id)
    client.cancel(client.store.parse_id(ids["cancelled"]), why=MARK)
    ids["waiting"] = str(client.push(MARK, {"user": MARK, "password": SECRET}, checks=False, unique_key=MARK).id)
    client.push_many(MARK, [{"user": MARK, "password": SECRET}], batch=MARK, checks=False)
    client.queues.create("runs", "Greet", description=MARK)
    ids["running"] = str(client.push("runs", {"user": MARK, "password": SECRET}, checks=False).id)
    run = Printing(client, client.store.parse_id(ids["running"])).begin()
    run.tells(progress={"value": 0.4, "message": MARK}, log=[{"time": now, "level": MARK, "message": MARK}])
    run.prints(f"out {MARK}\n".encode())
    return ids


def _ended(task_id: str, now: Any, **more: Any) -> dict[str, Any]:
    run = {"attempt": 2, "node": MARK, "host": MARK, "started": now, "ended": now, "seconds": 1.5, "reason": MARK,
           "outcome": MARK, "token": "t0ken", "plugin": {"class": "Greet", "version": MARK},
           "output": {one: {"bytes": 20, "in_file": False} for one in ("stdout", "stderr")}}  # fmt: skip
    error = {
        "code": MARK,
        "message": MARK,
        "detail": {MARK: MARK},
        "group": {"text": f"{MARK}: {MARK}", "key": "0a1b2c3d"},
    }
    parameters = {"user": MARK, "password": SECRET, MARK: [MARK, {MARK: 1}]}
    told = {"parameters": {"password": SECRET, "user": MARK}}
    return {
        **new_task(MARK, parameters, now=now), "_id": task_id, "node": MARK, "run": run, "error": error,
        "stdout": f"out {MARK}\n\x1b[31m{MARK}\x1b[0m\x1b]8;;javascript:alert(1)\x07link\x1b]8;;\x07\n",
        "stderr": f"{MARK}\n",
        "unique_key": f"{task_id} key", "created_by": MARK, "log": [{"time": now, "level": MARK, "message": MARK}],
        "progress": {"value": 0.4, "message": MARK}, "secrets": ["/password"],
        "attempts": [{**run, "attempt": 1, "error": error, **told}], **more,
    }  # fmt: skip


def addresses(things: Mapping[str, str], **found: list[str]) -> list[str]:
    """Every page that can be got, of each of these things. `found`: more names, by their place in an address."""
    ids = list(things.values())
    queues = [MARK, CRLF, f"paused {MARK}", f"broken {MARK}"]
    names = {"q": queues, "id": ids, "b": [MARK], "n": [MARK], "class": ["Greet", MARK], **found}
    pages: list[str] = []
    for page in (one for one in PAGES if one.method == "GET" and one.path not in ("/search", "/operations/new")):
        place = _PLACE.search(page.path)
        some = [""] if place is None else [quote(name, safe="") for name in names.get(place[1], ())]
        pages += [page.path if place is None else page.path.replace(place[0], one) for one in some]
    failed, mark = quote(things["failed"], safe=""), quote(MARK, safe="")
    tabs = [f"/tasks/{failed}?tab={one}" for one in ("stdout", "stderr", "log", "result", "followups", "document")]
    return [
        *pages, *tabs, f"/tasks/{failed}?tab=stdout&find=evil&wrap=1&plain=1", f"/tasks/{failed}?tab={mark}",
        f"/tasks?queue={mark}&status=failed&columns=p.user,p.{mark},p.password", f"/tasks?error={mark}",
        f"/tasks?queue={mark}&p.user={mark}", f"/tasks?grep={mark}", f"/tasks?cursor={mark}", f"/search?q={mark}",
        f"/failures?queue={mark}", "/failures?by=error,version,node,queue", f"/failures?by={mark}",
        f"/batches?state={mark}", f"/tasks?{mark}={mark}",
        f"/operations/new?action=retry&queue={mark}", f"/operations/new?action={mark}", f"/queues/{mark}/push?as=json",
        f"/queues/{mark}/push?example=0", f"/queues/{mark}/push?like={failed}", f"/login?next={mark}", f"/{mark}",
        f"/queues/{mark}x", f"/tasks/{mark}x", f"/nodes/{mark}x", f"/plugins/{mark}x", f"/batches/{mark}x",
    ]  # fmt: skip
