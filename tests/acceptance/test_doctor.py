"""`doctor`: a line for each thing, the exit code, and nothing changed."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from acceptance.conftest import Result, Terminal
from disbatch_host.store.contract import Store
from disbatch_protocol import schemas
from helpers.stores import on_sqlite

Plugin = Callable[..., Path]


def checked(result: Result) -> dict[str, Any]:
    """The document, held against its schema."""
    (document,) = result.json
    jsonschema.Draft202012Validator(schemas.load("doctor")).validate(document)
    assert document["exit_code"] == result.code
    for verdict in ("warning", "error"):
        assert document[f"{verdict}s"] == sum(one["verdict"] == verdict for one in document["checks"])
    return document


def by_name(result: Result) -> dict[str, Any]:
    return {one["name"]: one for one in checked(result)["checks"]}


def put_node(store: Store, node_id: str, **fields: Any) -> None:
    heartbeat = {"pid": 7, "queues": [], "running": fields.pop("running", 0)}
    document = {"_id": node_id, "session": node_id, "version": "disbatch-host 0.1.0", "heartbeat": heartbeat, **fields}
    assert store.put_node(document, replacing=None)


def files_below(directory: Path) -> dict[str, tuple[int, int]]:
    found = (one for one in directory.rglob("*") if "__pycache__" not in one.parts)
    return {str(one): (one.stat().st_size, one.stat().st_mtime_ns) for one in found}


def test_what_is_fine_is_said_on_one_line_each(on_store: Terminal, store: Store, plugin: Plugin) -> None:
    plugin("A", "exit 0")
    on_store.fine("queue", "create", "q", "--class", "A")
    put_node(store, "n1", queuetypes=[{"class": "A", "version": "", "digest": "0" * 64}])
    result = on_store("doctor", "--json")
    checks = by_name(result)
    for name in ("store", "layout", "rights", "indexes", "clock", "queues", "nodes", "plugins", "disk", "cgroup"):
        assert checks[name]["verdict"] == "ok", checks[name]
    assert {"supervisor", "running", "state", "limits", "versions"} <= checks.keys()
    assert checks["versions"]["verdict"] == "warning" and "0.1.0 on n1" in checks["versions"]["text"]
    assert result.code == 0, "warnings alone are no failure"
    shown = on_store("doctor")
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [one["verdict"] for one in checked(result)["checks"]]
    assert "warning" in lines[-1] and shown.err == ""


def test_what_is_wrong_in_the_store_is_an_error_with_what_to_do(
    on_store: Terminal, store: Store, plugin: Plugin
) -> None:
    plugin("A", "exit 0", command="not a list")
    store.insert_queue({"_id": "typo", "class": "Mial"})
    store.insert_queue({"_id": "odd\x1b[31m", "class": 5})
    store.insert_queue({"_id": "paused", "class": "Mail", "paused": True})
    on_store.fine("task", "push", "typo", "{}")
    put_node(
        store, "n1", queuetypes=[{"class": "Mail", "version": "1"}], broken=[{"class": "B", "reason": "no program"}]
    )
    put_node(store, "n2", settings={"dead_after_seconds": -1}, running=4)
    result = on_store("doctor", "--json")
    checks = by_name(result)
    assert result.code == 1 and {checks[name]["verdict"] for name in ("queues", "plugins")} == {"error"}
    queues = checks["queues"]["text"]
    assert "typo: no living node has plugin Mial, did you mean Mail? (tasks wait)" in queues and "paused" not in queues
    assert checks["plugins"]["facts"]["broken"] == 1
    assert "dead: n2" in checks["nodes"]["text"] and "4 tasks in hand" in checks["nodes"]["text"]
    assert checks["nodes"]["todo"] and checks["queues"]["todo"]
    assert "B is broken" in checks["troubles"]["text"]
    assert checks["versions"]["facts"]["publish_nothing"] == ["n1"]
    shown = on_store("doctor")
    assert shown.code == 1 and "\x1b" not in shown.out and shown.out.splitlines()[-1].startswith("2 errors, ")


@pytest.mark.parametrize("is_alive", [False, True])
def test_a_queue_that_paused_itself_is_named_whether_a_node_is_alive_or_not(
    on_store: Terminal, store: Store, is_alive: bool
) -> None:
    paused = {"by": "node n1", "why": "3 tasks failed within 10m (pause_on_failures 3/10m)", "failures": 3}
    limit = {"pause_on_failures": "3/10m"}
    store.insert_queue({"_id": "mail", "class": "Mail", **limit, "paused": {**paused, "at": store.now()}})
    store.insert_queue({"_id": "other", "class": "Mail"})
    if is_alive:
        put_node(store, "n1", queuetypes=[{"class": "Mail", "version": "1"}])
    found = by_name(on_store("doctor", "--json"))["queues"]
    assert found["verdict"] == "warning" and paused["why"] in found["text"] and "mail: " in found["text"]
    assert "queue resume" in found["todo"] and ("no node is alive" in found["text"]) is not is_alive
    assert ("start one" in found["todo"]) is not is_alive


@on_sqlite
def test_nothing_is_made_by_looking(on_store: Terminal, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    missing = on_store("--store", f"sqlite://{tmp_path}/gone/test.db", "doctor", "--json")
    assert missing.code == 3 and "is not there" in by_name(missing)["store"]["text"]
    assert "plugins" in by_name(missing), "the rest is shown all the same"
    environment = {name: value for name, value in on_store.environment.items() if name != "DISBATCH_STORE"}
    default = Terminal(on_store.directory, environment)("doctor", "--json")
    assert default.code == 0 and by_name(default)["store"]["verdict"] == "warning"
    assert files_below(tmp_path) == before
    on_store.fine("queue", "create", "q", "--class", "A")
    before = files_below(tmp_path)
    on_store("doctor")
    assert files_below(tmp_path) == before


@on_sqlite
@pytest.mark.parametrize("is_deaf", [True, False])
def test_a_store_that_does_not_answer_is_said_in_time(on_store: Terminal, is_deaf: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not is_deaf:
            server.close()
        began = time.monotonic()
        url = f"mongodb://me:s3cret@127.0.0.1:{port}/x"
        result = on_store.as_process("--store", url, "doctor", "--json")
        assert time.monotonic() - began < 25  # of which the machine may need some, with others beside
    checks = by_name(result)
    assert (result.code, checks["store"]["verdict"]) == (3, "error") and {"limits", "disk"} <= checks.keys()
    assert "s3cret" not in result.out + result.err


@on_sqlite
def test_an_address_for_metrics_that_is_taken_and_a_password_that_others_read_are_found(on_store: Terminal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        config = on_store.directory / "host.json"
        config.write_text(json.dumps({"metrics": address, "store": "mongodb://me:s3cret@127.0.0.1:1/x"}))
        config.chmod(0o644)
        environment = {name: value for name, value in on_store.environment.items() if name != "DISBATCH_STORE"}
        result = Terminal(on_store.directory, environment)("--config", str(config), "doctor", "--json")
    checks = by_name(result)
    assert checks["metrics"]["verdict"] == "error" and address in checks["metrics"]["text"]
    assert checks["password"]["verdict"] == "warning" and "chmod 600" in checks["password"]["todo"]
    assert "s3cret" not in result.out + result.err
