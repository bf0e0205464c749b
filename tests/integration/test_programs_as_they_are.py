"""Programs that are run as they are: what they read, the modes of their files, and output that is not UTF-8."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.client.output import follow_output, output_pieces
from disbatch_protocol.status import Status
from helpers.errors import plain
from helpers.nodes import Cluster, Living
from helpers.processes import wait_until
from helpers.stores import living_on_sqlite, on_sqlite

SHOW_MASK = 'umask; echo x > "$TMPDIR/$DISBATCH_TASK_ID"; stat -c %a "$TMPDIR/$DISBATCH_TASK_ID"'


def queue_of(cluster: Cluster, program: str, **manifest: Any) -> Any:
    name = cluster.own_name("As")
    cluster.plugin(name, program, **manifest)
    return cluster.queue(name)


@on_sqlite
def test_the_mask_is_the_manifests_and_not_the_nodes(cluster: Cluster) -> None:
    """Incident: the same plugin made files of mode 640 under the systemd unit, and of mode 644 by hand."""
    temporary = cluster.directory / "tmp"
    temporary.mkdir()
    wanted = {
        "plain": ({}, ["0022", "644"]),
        "tight": ({"umask": "077"}, ["0077", "600"]),
        "open": ({"umask": "0002"}, ["0002", "664"]),
        "limited": ({"umask": "027", "limits": {"files": 100}}, ["0027", "640"]),
    }
    tasks = {}
    for name, (manifest, _) in wanted.items():
        cluster.plugin(name, SHOW_MASK, **manifest)
        tasks[name] = cluster.push(cluster.queue(name), {}, {}, {})
    work = "stat -c %a .; umask"
    cluster.plugin("work", work, cwd="work", umask="000")
    (own,) = cluster.push(cluster.queue("work"), {})
    before = os.umask(0o037)
    try:
        cluster.start("--until-idle", env={"TMPDIR": str(temporary)})
    finally:
        os.umask(before)
    assert cluster.processes[-1].wait(60) == 0
    for name, (_, lines) in wanted.items():
        assert [cluster.task(one).document["stdout"].split() for one in tasks[name]] == [lines] * 3, name
    assert cluster.task(own).document["stdout"].split() == ["700", "0000"]


@on_sqlite
def test_a_worker_process_has_the_mask_of_its_manifest(cluster: Cluster) -> None:
    program = """#!/usr/bin/env python3
import json, os, sys
sys.stdin.readline()
os.write(3, b'{"type":"ready","protocol":1}\\n')
for line in sys.stdin:
    print(oct(os.umask(0)), flush=True)
    os.write(3, b'{"type":"done","exit":0}\\n')
"""
    cluster.plugin("W", program, file="w.py", mode="worker", umask="027")
    assert cluster.run_one(cluster.queue("W")).document["stdout"] == "0o27\n"


ASK = """if read -r answer; then echo "answer was: $answer"; else echo "no answer"; fi; readlink /proc/self/fd/0"""


def test_a_program_that_asks_gets_no_answer(living: Living) -> None:
    """Incident: `read -p "delete everything? [y/N]"` was answered with the task document."""
    asked = living.run_one(queue_of(living, ASK))
    assert asked.document["stdout"].startswith('answer was: {"_id"')
    task = living.run_one(queue_of(living, ASK, protocol=2, stdin="null"))
    assert (task.status, task.document["stdout"]) == (Status.CONCLUDED, "no answer\n/dev/null\n")


@pytest.mark.parametrize(
    ("parameters", "read"),
    [
        ({"text": "Zürich\n☕"}, "Zürich\n☕"),
        ({"text": ""}, ""),
        ({"text": {"b": [1, 2.5, None], "é": True}}, '{"b":[1,2.5,null],"é":true}\n'),
        ({"text": 5}, "5\n"),
        ({"text": None}, "null\n"),
        ({"other": 1}, ""),
    ],
)
def test_a_program_reads_a_parameter(living: Living, parameters: Any, read: str) -> None:
    queue = queue_of(living, "exec cat", protocol=2, stdin={"parameter": "text"})
    task = living.run_one(queue, parameters)
    assert (task.status, task.document["stdout"]) == (Status.CONCLUDED, read)


@living_on_sqlite
def test_a_program_reads_a_large_parameter_and_a_default(living: Living) -> None:
    schema = {"properties": {"text": {"type": "string", "default": "by default", "writeOnly": True}}}
    queue = queue_of(living, "exec cat", protocol=2, stdin={"parameter": "text"}, parameters=schema)
    assert living.run_one(queue).document["stdout"] == "by default"
    assert living.run_one(queue, {"text": "x" * 10**6}).document["stdout"] == "x" * 10**6


def printing(data: bytes) -> str:
    return f"#!/usr/bin/env python3\nimport os\nos.write(1, {data!r})\nos.write(2, {data!r})\n"


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        ("latin-1", "crème\n".encode("latin-1"), "crème\n"),
        ("utf-16", "Grüße 😀\r\n".encode("utf-16"), "Grüße 😀\r\n"),
        ("cp437", "└─\n".encode("cp437"), "└─\n"),
    ],
)
def test_output_in_another_encoding_is_text(living: Living, encoding: str, data: bytes, text: str) -> None:
    """Incident: UTF-16 came out with a NUL in each character, and what was not ASCII in latin-1 was lost for good."""
    queue = queue_of(living, printing(data) + "raise SystemExit(3)", file="p.py", encoding=encoding)
    task = living.run_one(queue)
    assert (task.document["stdout"], task.document["stderr"]) == (text, text)
    assert task.run["output"]["stdout"] == {"bytes": len(data), "in_file": False, "encoding": encoding}
    assert plain(task.document["error"]) == {"code": "exit_3", "message": text.rstrip()}


@pytest.mark.parametrize("size", [1, 1234, 3 * 2**20 + 5])
def test_binary_output_is_kept_as_it_is(living: Living, size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    program = f"#!/usr/bin/env python3\nimport sys\nsys.stdout.buffer.write((bytes(range(256)) * {size})[:{size}])\n"
    queue = queue_of(living, program, file="p.py", encoding={"stdout": "binary"})
    task = living.run_one(queue)
    assert task.document["stdout"] == f"disbatch-host: {size:,} bytes, not text\n"
    assert task.run["output"]["stdout"] == {"bytes": size, "in_file": True, "encoding": "binary"}
    assert living.output(task.id) == b"".join(output_pieces(living.store, task, "stdout")) == data
    pieces = [piece.data for piece in follow_output(living.store, task.id, "stdout") if piece is not None]
    assert b"".join(pieces) == data


def test_binary_output_beyond_max_output_keeps_both_ends(living: Living) -> None:
    program = "#!/usr/bin/env python3\nimport os\nos.write(1, b'a' * 1000 + b'b' * 1000)\n"
    task = living.run_one(queue_of(living, program, file="p.py", encoding="binary", max_output=101))
    line = "disbatch-host: 2,000 bytes, not text; 1,899 of them are left out (max_output is 101 B)\n"
    assert task.document["stdout"] == line and task.document["stderr"] == ""
    assert living.output(task.id) == b"a" * 50 + b"b" * 51


def test_binary_output_is_followed_without_the_line_about_it(living: Living, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    program = f"""#!/usr/bin/env python3
import os, sys, time
sys.stdout.buffer.write(bytes([255]) * 700_000)
sys.stdout.flush()
while not os.path.exists({str(gate)!r}):
    time.sleep(0.02)
os.write(1, b"end")
"""
    queue = queue_of(living, program, file="p.py", encoding="binary")
    (task_id,) = living.push(queue, {})
    seen = bytearray()
    for piece in follow_output(living.store, task_id, "stdout"):
        if piece is not None:
            seen += piece.data
        elif len(seen) > 500_000:
            gate.touch()
    assert bytes(seen) == b"\xff" * 700_000 + b"end"
    wait_until(lambda: living.task(task_id).status == Status.CONCLUDED, 20)


@on_sqlite
def test_what_this_version_does_not_support_is_left_out_by_name(cluster: Cluster) -> None:
    """Something of a later version: without it the program might do another thing."""
    home = cluster.plugins / "Later"
    home.mkdir(mode=0o755)
    manifest = {"protocol": 3, "command": ["rsync"], "later": ["-a", "{from}", "{to}"]}
    (home / "plugin.json").write_text(json.dumps(manifest))
    (home / "plugin.json").chmod(0o644)
    cluster.plugin("Good", "echo fine")
    assert cluster.run_one(cluster.queue("Good")).status == Status.CONCLUDED
    assert "/protocol: expected" in cluster.log()
