"""`--log-format`: a record a line, with the ids of what it is about as fields."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from acceptance.conftest import Terminal
from disbatch_host import logs
from helpers.nodes import QUICK_TO_NOTICE, UNKNOWN_FORMAT, Cluster
from helpers.processes import wait_until
from helpers.stores import on_sqlite

ALWAYS = {"time", "level", "message", "logger", "node"}
IDS = {"task", "queue", "class", "attempt", "pid", "about_node", "error_code", "error"}
NUMBERS = {  # of the last line of a node with --until-idle
    "ran", "concluded", "failed", "cancelled", "orphaned", "given_back", "lost_to_others", "tried_again", "error_codes",
}  # fmt: skip


def records(cluster: Cluster, node_id: str = "n1") -> list[dict[str, Any]]:
    """Every line of a node's log, each of which must be an object."""
    found = []
    for line in cluster.log(node_id).splitlines():
        record = json.loads(line)
        more = NUMBERS if record["message"].startswith("ran ") else {"traceback"}
        assert set(record) >= ALWAYS and not set(record) - ALWAYS - IDS - more, line
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"]), line
        assert record["node"] == node_id and record["level"] in ("debug", "info", "warning", "error"), line
        found.append(record)
    return found


def work(cluster: Cluster) -> dict[str, Any]:
    """Tasks that end in every way; the id of one of each class."""
    cluster.plugin("Fine", "exit 0")
    cluster.plugin("Fails", "exit 3")
    cluster.plugin("Slow", "exec sleep 60", timeout=0.2)
    (cluster.plugin("Gone", "exit 0") / "run.sh").write_bytes(UNKNOWN_FORMAT)
    cluster.plugin("Broken", "exit 0", command=["./no-such-program"])
    hello = 'read -r hello; echo \'{"type":"ready","protocol":1}\' >&3; read -r line'
    cluster.plugin("Worker", f"{hello}; echo nonsense >&3; exit 3", mode="worker")
    ids = {name: cluster.push(cluster.queue(name, f"q{name}"), {})[0] for name in ("Fine", "Fails", "Slow", "Worker")}
    ids["Gone"] = cluster.push(cluster.queue("Gone", "qGone"), *({} for _ in range(6)))[0]
    return ids


@on_sqlite
def test_a_line_of_json_for_each_record_with_its_ids(cluster: Cluster) -> None:
    ids = work(cluster)
    cluster.run("--log-format", "json", "--log-level", "debug")
    found = records(cluster)
    for name in ("Fine", "Fails", "Slow", "Worker"):
        task_id = str(ids[name])
        ends = [one for one in found if one.get("task") == task_id and ", now " in one["message"]]
        assert ends, name
        assert {"queue": f"q{name}", "class": name, "attempt": 1}.items() <= ends[0].items()
        assert ends[0]["level"] == ("debug" if name == "Fine" else "warning")
        assert ends[0].get("error_code") == {"Fails": "exit_3", "Slow": "timeout", "Worker": "exit_3"}.get(name)
        assert ("error" in ends[0]) == (name != "Fine")
        assert ends[0]["pid"] == cluster.task(ids[name]).run["pid"]
    aside = [one for one in found if one["message"].startswith("plugin Gone is set aside")]
    assert [one["class"] for one in aside] == ["Gone"] and aside[0]["level"] == "error"
    not_started = [one for one in found if one.get("class") == "Gone" and "task" in one and one["level"] == "error"]
    assert len(not_started) >= 5
    assert sum(one["message"].startswith("plugin left out") for one in found) == 1


@on_sqlite
def test_the_text_form_says_the_same_and_shows_no_fields(cluster: Cluster) -> None:
    ids = work(cluster)
    cluster.run("--log-level", "debug", node_id="n1")
    for line in cluster.log().splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) +\S", line), (
            line
        )
        assert "extra" not in line and "{" not in line
    assert f"task {ids['Fails']} of queue qFails: failure (exit code 3), now failed: exit_3: it ended" in cluster.log()
    assert f"task {ids['Slow']} of queue qSlow: terminated (timeout), now terminated: timeout: it ran" in cluster.log()


@on_sqlite
def test_a_node_that_tells_of_another_one_says_which(cluster: Cluster) -> None:
    cluster.plugin("Hold", "echo begun; exec sleep 600")
    (task_id,) = cluster.push(cluster.queue("Hold"), {})
    first = cluster.start("--heartbeat", "0.2", "--dead-after", "1", node_id="n1")
    wait_until(lambda: cluster.task(task_id).document["stdout"] == "begun\n", 20, "did not begin")
    first.kill()
    first.wait()
    second = cluster.start(
        "--log-format", "json", "--heartbeat", "0.2", "--dead-after", "1", node_id="n2", pace=QUICK_TO_NOTICE
    )
    wait_until(
        lambda: any(one.get("about_node") == "n1" and "is dead" in one["message"] for one in records(cluster, "n2")),
        60,
        "the other node did not say that n1 is dead",
    )
    second.terminate()
    assert second.wait(30) == 0


@on_sqlite
def test_the_form_follows_the_configuration_file(cluster: Cluster) -> None:
    config = cluster.directory / "host.json"
    config.write_text(json.dumps({"log_format": "json"}))
    process = cluster.start("--config", str(config))
    wait_until(lambda: "runs on" in cluster.log(), 20, "the node did not begin")
    assert records(cluster)
    config.write_text(json.dumps({"log-format": "text", "log_level": "warning", "max": 4}))
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: node_max(cluster) == 4, 20, "the configuration was not read again")
    config.write_text(json.dumps({"log_format": "text", "max": 5}))
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "INFO    the settings were read again: max is 5" in cluster.log(), 20, "it is not text")
    process.terminate()
    assert process.wait(30) == 0


def node_max(cluster: Cluster) -> object:
    record = cluster.store.get_node("n1")
    return record.document["settings"]["max"] if record is not None else None


@pytest.mark.parametrize("value", ["xml", "", "JSON"])
def test_another_form_is_refused(terminal: Terminal, value: str) -> None:
    terminal.refused(2, "--log-format", value)
    (terminal.directory / "host.json").write_text(json.dumps({"log_format": value}))
    line = terminal.refused(2, "--config", "host.json")
    assert '/log_format: expected "text" or "json", found' in line


def formatted(**more: Any) -> dict[str, Any]:
    fields = {
        "name": "disbatch_host.node.node",
        "levelname": "ERROR",
        "msg": "it %s",
        "args": ("failed",),
        "created": 0.0625,
    }
    found: dict[str, Any] = json.loads(logs.JsonFormatter("n1").format(logging.makeLogRecord(fields | more)))
    return found


def test_a_traceback_is_one_field() -> None:
    def fail() -> None:
        parameters = "parameter-that-is-secret"
        raise ValueError(f"a message of {len(parameters)} characters")

    try:
        fail()
    except ValueError:
        found = formatted(exc_info=sys.exc_info())
    assert found["traceback"].startswith("Traceback (most recent call last)")
    assert found["traceback"].endswith("ValueError: a message of 24 characters")
    assert found["message"] == "it failed" and found["time"] == "1970-01-01T00:00:00.062Z"


def test_whatever_a_name_holds_the_line_is_json() -> None:
    from datetime import UTC, datetime

    for odd in ("\udcff", "\n\x00\x1b[2J", 'quote " backslash \\', "ü☃", object(), datetime.now(UTC), 1.5):
        assert formatted(args=(odd,))["level"] == "error"
        fields = logs.ids(queue=odd, class_name=str(odd), task=odd)
        assert "\n" not in logs.JsonFormatter("n1").format(logging.makeLogRecord({"msg": "x", **fields}))


def test_unknown_ids_are_left_out() -> None:
    assert set(formatted(**logs.ids(task="t"))) == ALWAYS | {"task"}
    assert set(formatted()) == ALWAYS


@on_sqlite
def test_a_log_that_cannot_be_written_does_not_stop_the_node(cluster: Cluster, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    from helpers.nodes import COMMAND

    cluster.plugin("Fine", "exit 0")
    (task_id,) = cluster.push(cluster.queue("Fine"), {})
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "--store", cluster.url, "--plugins", str(cluster.plugins), "--node-id", "n1", "--until-idle",
             "--log-format", "json"],
            stdin=subprocess.DEVNULL, stdout=full, stderr=full, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0
    assert cluster.task(task_id).status == 1
