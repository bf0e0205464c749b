"""An import in a real Chromium: 50,000 rows of which 188 do not fit, and each step and state as everybody reads it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.client import Client, Selection
from disbatch_host.client.importing import task_maker
from disbatch_host.client.jobs import Jobs, JobState
from disbatch_host.web import imports
from helpers import web
from helpers.nodes import write_plugin

# One browser does everything in the set-up of the first test.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(520)]

DRIVER = Path(__file__).parent / "browser" / "importing.mjs"
PARAMETERS = {
    "type": "object",
    "required": ["user", "password"],
    "properties": {
        "user": {"type": "string", "minLength": 1, "maxLength": 20, "title": "Mailbox"},
        "password": {"type": "string", "writeOnly": True},
        "tries": {"type": "integer", "minimum": 0},
        "mode": {"enum": ["copy", "move"], "default": "copy"},
    },
    "additionalProperties": False,
}
ROWS, BAD = 50_000, 188
EVERY = ROWS // BAD
FLOWS = re.findall(r'^  async "([^"]+)"\(', DRIVER.read_text(), re.MULTILINE)
SCREENS = {"nothing sent": "/queues/alone/import", "waiting import": "/imports/{waiting}", "running import":
           "/imports/{running}?live=off", "failed import": "/imports/{failed}", "API": "/api"}  # fmt: skip
LOOKS = [*dict.fromkeys(re.findall(r'look\(\w+, "([^"]+)"\)', DRIVER.read_text())), *SCREENS]


def bad_lines() -> list[int]:
    return [2 + EVERY * number for number in range(BAD)]


def write_table(path: Path) -> None:
    with path.open("w") as file:
        file.write("user,password,note\n")
        for number in range(ROWS):
            is_bad = number % EVERY == 0 and number // EVERY < BAD
            file.write(f"user{number}{'x' * 30 * is_bad},planted-5ecret{number},n\n")


def fill(client: Client) -> dict[str, str]:
    """Imports in states that do not last."""
    client.queues.create("people", "Greet")
    client.queues.create("alone", "Nobody::Has")
    jobs = Jobs(client.store, imports.KIND)
    document = {
        "upload": "0" * 32, "file": "elsewhere.csv", "sha256": "", "queue": "people", "by": "ann@web", "request": "{}",
        "begun": client.store.now(), "step": None, "rows": 0, "total": 100, "per_second": None, "existing": 0,
        "skipped": 0, "empty": 0, "faults": 0, "first_faults": [],
    }  # fmt: skip
    fault = json.dumps({"line": 7, "column": "user", "reason": "/user: expected at most 20 characters, found 31",
                        "row": {"user": "x" * 31, "password": "********"}})  # fmt: skip
    states = {
        "waiting": {},
        "running": {"step": "creating", "rows": 40, "per_second": 12.5, "faults": 1, "first_faults": [fault]},
        "failed": {"error": "the store refuses: no room", "rows": 60, "faults": 2, "first_faults": [fault]},
    }
    ids = {}
    for name, more in states.items():
        state = JobState.FAILED if name == "failed" else JobState.RUNNING
        ids[name] = jobs.create(str(client.store.new_ids(1)[0]), {**document, **more}, state=state).id
    return ids


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A row at which a trial waits until the end."""
    end, real = threading.Event(), task_maker.TaskMaker.made

    def made(self: task_maker.TaskMaker, row: Any, size: int, *, is_checked: bool) -> Any:
        if row and row[0] == "hold me":
            end.wait(500)
        return real(self, row, size, is_checked=is_checked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_maker.TaskMaker, "made", made)
        try:
            yield
        finally:
            end.set()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, browser_packages: None) -> Iterator[Mapping[str, list[str]]]:
    """What was wrong in each flow, and on each screen."""
    directory = tmp_path_factory.mktemp("browser")
    write_plugin(directory / "plugins", "Greet", "true", parameters=PARAMETERS, version="1.2.0", description="Greets")
    url = f"sqlite://{directory}/test.db"
    write_table(directory / "people.csv")
    with Client.open(url, plugins=[directory / "plugins"], by="ann@here", creates=True) as client:
        ids = fill(client)
        with web.serving(url, [directory / "plugins"]) as server, held():
            told = {
                "base": f"http://127.0.0.1:{server.port}", "tokens": dict(server.tokens), "bad": bad_lines(),
                "files": {"large": str(directory / "people.csv")}, "chromium": shutil.which("chromium"),
                "screens": {name: one.format(**ids) for name, one in SCREENS.items()},
                "shots": os.environ.get("DISBATCH_SHOTS"),
            }  # fmt: skip
            done = subprocess.run(
                ["node", DRIVER], input=json.dumps(told), capture_output=True, text=True, timeout=500, check=False
            )
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        count = client.count(Selection(queue="people", where=("tries=3",)))
        yield {**{one["flow"]: one["problems"] for one in lines}, "tasks": [str(count)]}


@pytest.mark.parametrize("flow", FLOWS)
def test_somebody_imports_in_a_browser(found: Mapping[str, list[str]], flow: str) -> None:
    assert found[flow] == []


@pytest.mark.parametrize("screen", LOOKS)
def test_a_step_can_be_read_by_everybody(found: Mapping[str, list[str]], screen: str) -> None:
    """No violation for axe-core in either scheme, no sideways scroll at 390, 640 and 1,280 px."""
    assert found[screen] == []


def test_the_rows_that_fit_are_tasks_and_no_other(found: Mapping[str, list[str]]) -> None:
    assert found["tasks"] == [str(ROWS - BAD)]
