"""The page about the API says what the table of routes says, and its lines for curl work."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from disbatch_host.client import Client, Selection
from disbatch_host.web import api, curl, schemas
from helpers.browsing import Visitor
from helpers.web import Web


@pytest.fixture(scope="module")
def text(server: Web) -> str:
    visitor = Visitor(server)
    assert visitor.sign_in("read").status == 200
    assert '<a class="hint" href="/api">API</a>' in visitor.get("/queues").text
    reply = visitor.get("/api")
    assert reply.status == 200
    return reply.text


def test_it_has_every_route_with_its_role_and_a_line(text: str) -> None:
    rows = re.findall(
        r'<th scope="row" class="kind id">([^<]+)</th><td class="s nw">([^<]+)</td>.*?<code[^>]*>([^<]+)<', text
    )
    assert [(name, role) for name, role, _ in rows if (name, role) not in
            {(one.name, one.role.word if one.role else "none") for one in api.ROUTES}] == []  # fmt: skip
    assert len(rows) == len(api.ROUTES)
    assert {html.unescape(line) for _, _, line in rows} == {curl.line_of(one) for one in api.ROUTES}


@pytest.mark.parametrize("route", [one for one in api.ROUTES if one.body], ids=lambda one: one.name)
def test_the_body_of_a_line_is_one_that_the_route_takes(route: api.Route) -> None:
    assert route.body is not None
    body = curl.body_of(route)
    assert not schemas.faults_of(route.body.schema, body), body


def test_the_lines_work_in_a_shell(server: Web, client: Client, text: str, tmp_path: Path) -> None:
    if client.store.find_queue("mail") is None:
        client.queues.create("mail", "Greet")
    (tmp_path / "FILE.csv").write_text("user\nann\n")
    (address,) = re.findall(r"export DISBATCH_API=(\S+)", text)
    assert address == f"http://127.0.0.1:{server.port}{server.base}"
    variables = {"PATH": os.environ["PATH"], "DISBATCH_API": address, "DISBATCH_TOKEN": server.tokens["admin"]}
    lines = {one.name: curl.line_of(one).replace("QUEUE", "mail") for one in api.ROUTES}

    def run(line: str) -> str:
        done = subprocess.run(
            ["sh", "-c", f"{line} --silent --show-error --fail-with-body"], cwd=tmp_path, env=variables,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    assert json.loads(run(lines["GET /queues/{q}"]))["_id"] == "mail"
    before = client.count(Selection(queue="mail"))
    task = json.dumps({"parameters": {"user": "ann"}})
    pushed = re.sub(r"-d '[^']*'", f"-d '{task}'", lines["POST /queues/{q}/tasks"])
    assert json.loads(run(pushed))["created"] == 1 and client.count(Selection(queue="mail")) == before + 1
    upload = json.loads(run(lines["POST /uploads"]))["upload"]
    begun = json.loads(run(lines["POST /imports"].replace("UPLOAD", upload)))
    assert begun["queue"] == "mail" and begun["file"] == "upload.csv"
    assert json.loads(run(lines["POST /queues/{q}/pause"]))["paused"]["why"] == "in words"
    assert json.loads(run(lines["POST /queues/{q}/resume"]))["_id"] == "mail"
