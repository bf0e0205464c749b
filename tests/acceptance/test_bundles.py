"""A bundle holds what a bug report needs, without secrets of parameters, and its input runs again."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from acceptance.conftest import Terminal

SCHEMA = {
    "type": "object",
    "properties": {
        "user": {"type": "string"},
        "password": {"type": "string", "writeOnly": True},
        "deep": {"type": "object", "properties": {"token": {"type": "string", "writeOnly": True}}},
    },
}
PROGRAM = 'read -r line; case $line in *\'"user":"bad"\'*) echo "no such user" >&2; exit 3;; esac; echo "fine $line"'


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        files = [(one, archive.extractfile(one)) for one in archive.getmembers()]
        return {one.name.partition("/")[2]: file.read() for one, file in files if file is not None}


def test_a_bundle_tells_all_but_secrets_and_its_input_runs_again(
    on_store: Terminal, plugin: Callable[..., Path]
) -> None:
    plugin("Mail", PROGRAM, parameters=SCHEMA)
    on_store.fine("queue", "create", "q", "--class", "Mail")
    deep = 'deep:={"token": "t0ken", "more": 1}'
    task_id = on_store.fine(
        "task", "push", "q", "-p", "user=bad", "-p", "password=s3cret", "-p", deep
    ).out.strip()  # fmt: skip
    on_store.fine("--until-idle")
    said = on_store.fine("task", "bundle", task_id)
    file = f"task-{task_id}.tar.gz"
    assert said.out == f"task {task_id} written to {file}\n" and "outputs and log entries are not" in said.err
    found = members((on_store.directory / file).read_bytes())
    assert all(b"s3cret" not in one and b"t0ken" not in one for one in found.values())
    assert found["attempts/1/stderr"] == b"no such user\n" and found["attempts/1/stdout"] == b""
    assert json.loads(found["task.json"])["error"]["code"] == "exit_3"
    assert json.loads(found["input.json"])["masked"] == ["/deep/token", "/password"]
    assert [one["kind"] for one in json.loads(found["story.json"])][-1] == "ended"
    assert json.loads(found["plugin/plugin.json"])["name"] == "Mail"
    hashes = {one["path"]: one["sha256"] for one in json.loads(found["plugin/files.json"])}
    assert set(hashes) == {"plugin.json", "run.sh"} and all(len(one) == 64 for one in hashes.values())
    assert json.loads(found["queue.json"])["_id"] == "q" and b"Linux" in found["here.json"]
    assert {"README.txt", "task.json"} <= set(found)
    on_store.fine("task", "bundle", task_id, "again.tar.gz")
    again = members((on_store.directory / "again.tar.gz").read_bytes())
    at_that_time = ("README.txt", "node.json")  # they say when they were written
    assert {name: one for name, one in again.items() if name not in at_that_time} == {
        name: one for name, one in found.items() if name not in at_that_time
    }
    missing = on_store.refused(2, "exec", "--bundle", file)
    assert "give deep, password" in missing and "-p password=@FILE" in missing
    given = ("-p", "password=other", "-p", 'deep:={"token": "x"}')
    failed = on_store("exec", "--bundle", file, *given)
    assert failed.code == 1 and "exit code 3" in failed.err
    fine = on_store.fine("exec", "--bundle", file, *given, "-p", "user=ann").out
    assert '"user":"ann"' in fine and '"password":"other"' in fine
    like = on_store.fine("exec", "--like", task_id, *given, "-p", "user=ann").out
    assert json.loads(like.removeprefix("fine "))["parameters"] == json.loads(fine.removeprefix("fine "))["parameters"]


def test_what_is_not_a_bundle_is_said_in_one_line(on_store: Terminal, plugin: Callable[..., Path]) -> None:
    plugin("Mail", PROGRAM)
    (on_store.directory / "text").write_text("no archive")
    assert "expected a bundle" in on_store.refused(2, "exec", "--bundle", "text")
    assert "No such file" in on_store.refused(2, "exec", "--bundle", "nowhere.tar.gz")
    assert "expected a plugin" in on_store.refused(2, "exec")
    assert "either" in on_store.refused(2, "exec", "--bundle", "a", "--like", "b")
    on_store.fine("queue", "create", "q", "--class", "Mail")
    task_id = on_store.fine("task", "push", "q", "-p", "user=ann").out.strip()
    assert "no task" in on_store.refused(4, "task", "bundle", "0" * 24)
    on_store.fine("task", "bundle", task_id, "x.tar.gz")  # one that has not run
    assert '"user":"bob"' in on_store.fine("exec", "--bundle", "x.tar.gz", "-p", "user=bob").out
