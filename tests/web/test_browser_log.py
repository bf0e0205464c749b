"""The screen of a task in a real Chromium: its output as it comes, and everything that goes on around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from disbatch_host.client import Client
from disbatch_host.web.sending import Limits
from disbatch_protocol.status import Status
from helpers import web
from helpers.driving import driven, flows_of
from helpers.nodes import write_plugin
from helpers.printing import Printing

pytestmark = [pytest.mark.browser, pytest.mark.timeout(420)]

SCRIPT = "drive_log.mjs"


class Runs:
    """What the flows ask for: runs that print when they are told to."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._runs: dict[str, Printing] = {}
        self._count = 0

    def task(self, *, begins: bool = True) -> str:
        """A new task, of a queue of its own."""
        self._count += 1
        queue = f"q{self._count}"
        self._client.queues.create(queue, "Greet", description="printed to")
        run = Printing(self._client, self._client.push(queue, {"user": "ann"}).id)
        self._runs[str(run.id)] = run.begin() if begins else run
        return str(run.id)

    def begin(self, task: str) -> None:
        self._runs[task].begin()

    def print(self, task: str, text: str, *, times: int = 1, first: int = 0, stream: str = "stdout") -> int:
        """The text so many times, with `%d` as a number; how many bytes that are."""
        data = "".join(text.replace("%d", str(first + n)) for n in range(times)).encode()
        self._runs[task].prints(data, stream)
        return len(data)

    def tell(self, task: str, **fields: Any) -> None:
        self._runs[task].tells(**fields)

    def end(self, task: str, status: int = int(Status.CONCLUDED)) -> None:
        self._runs[task].ends(status)

    def again(self, task: str, last: str) -> None:
        """It prints its last words, ends, and another attempt begins, all of it between two looks of anybody."""
        run = self._runs[task]
        run.prints(last.encode())
        run.is_to_run_again()
        run.begin(keep_attempts=3)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, browser_packages: None) -> Iterator[Mapping[str, list[str]]]:
    """What was wrong in each flow."""
    directory = tmp_path_factory.mktemp("browser_log")
    write_plugin(directory / "plugins", "Greet", "true", retry={"max": 3}, version="1.2.0", description="Greets")
    url = f"sqlite://{directory}/test.db"
    plugins = [directory / "plugins"]
    with Client.open(url, plugins=plugins, by="ann@here", creates=True) as client, contextlib.ExitStack() as stack:
        settings: dict[str, Any] = {"streams": Limits(comment_seconds=0.5)}
        servers = [stack.enter_context(web.serving(url, plugins, **settings))]
        server = servers[0]
        runs = Runs(client)

        def restart() -> None:
            stack.close()
            servers.append(stack.enter_context(web.serving(url, plugins, like=server, **settings)))

        def sign_out(role: str) -> None:
            servers[-1].sign_out(role)

        told = {"base": f"http://127.0.0.1:{server.port}", "tokens": dict(server.tokens)}
        names = ("task", "begin", "print", "tell", "end", "again")
        answers = {**{one: getattr(runs, one) for one in names}, "stop": stack.close, "restart": restart,
                   "sign_out": sign_out}  # fmt: skip
        yield driven(SCRIPT, told, answers, within_seconds=400)


@pytest.mark.parametrize("flow", flows_of(SCRIPT))
def test_the_output_of_a_task_in_a_browser(found: Mapping[str, list[str]], flow: str) -> None:
    assert found[flow] == []
