"""docs/api.md says what the table of routes says, and its client works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from disbatch_host.client import Client, Selection
from disbatch_host.web import api, api_page
from disbatch_protocol.status import Status
from helpers.web import Web

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_page_is_as_the_routes_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == api_page.page(), "`make schemas` writes it again"
    for route in api.ROUTES:
        assert f"### {route.method} {route.path}\n" in text
    assert len(re.findall(r"^### ", text, re.MULTILINE)) == len(api.ROUTES)


def test_the_client_on_the_page_works(server: Web, client: Client) -> None:
    """In a process of its own, with nothing but the standard library."""
    if client.store.find_queue("mail") is None:
        client.queues.create("mail", "Greet")
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert program == api_page.CLIENT and sum(map(bool, program.splitlines())) <= 20
    variables = {
        "DISBATCH_API": f"http://127.0.0.1:{server.port}{server.base}", "DISBATCH_TOKEN": server.tokens["operate"],
        "PATH": os.environ["PATH"],
    }  # fmt: skip
    before = client.count(Selection(queue="mail"))
    runs = [
        subprocess.run(
            [sys.executable, "-I", "-c", program], env=variables, capture_output=True, text=True, timeout=60, check=True
        )
        for _ in range(2)
    ]
    ids = [line.split()[0] for line in runs[0].stdout.splitlines()]
    assert runs[0].stdout == "".join(f"{one} created\n" for one in ids) and len(ids) == 2
    assert runs[1].stdout == "".join(f"{one} cancelled\n" for one in ids), "the same key, so the same tasks"
    assert {client.get(one).status for one in ids} == {Status.CANCELLED}
    assert client.count(Selection(queue="mail")) == before + 2
