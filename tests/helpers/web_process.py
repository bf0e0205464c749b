"""A server that is a process of its own, and may be told to die at a certain point: what a test kills in the middle.

Responsible for: starting it, and that point. Must not know: what is tested.

`python -m helpers.web_process SETTINGS` with JSON is the process: it dies by SIGKILL, so nothing of it is tidied up.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from disbatch_host.client import Client, control, deleting, operations
from disbatch_host.client.importing import passes
from disbatch_host.client.once import Once
from disbatch_host.settings.forms import Address
from disbatch_host.web import imports, running
from disbatch_host.web.role import Role
from disbatch_host.web.running import WebSettings
from disbatch_host.web.tokens import TokenFile, new_token
from helpers.web import Web

LEASE_SECONDS = 1.0
BATCH = 100  # tasks, or rows, in each batch of such a process: there is little to be done in a test


@dataclass(frozen=True, kw_only=True)
class WebProcess:
    """A running one."""

    web: Web
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)  # of its log

    def wait_for_death(self) -> None:
        """By the point that was named."""
        assert self.process.wait(60) == -signal.SIGKILL, self.lines


@contextlib.contextmanager
def serving(url: str, plugins: Path, directory: Path, *, dies: str | None = None) -> Iterator[WebProcess]:
    """A server whose spool and tokens are in a directory. `dies`: where, see `_POINTS`."""
    tokens, secrets = directory / "tokens.json", directory / "secrets.json"
    if not tokens.exists():
        made = {name: new_token(name, Role[name.upper()], now=datetime.now(UTC)) for name in ("operate", "admin")}
        for token, _ in made.values():
            TokenFile(tokens).add(token)
        secrets.write_text(json.dumps({name: text for name, (_, text) in made.items()}))
    given = {"url": url, "plugins": str(plugins), "directory": str(directory), "dies": dies}
    command = [sys.executable, "-m", "helpers.web_process", json.dumps(given)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            said = process.stdout.readline()  # "serving on http://127.0.0.1:43210/"
            assert "127.0.0.1:" in said, (said, lines)
            port = int(said.rpartition(":")[2].strip().rstrip("/"))
            yield WebProcess(web=Web(port=port, tokens=json.loads(secrets.read_text())), process=process, lines=lines)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join(10)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # nothing of this thread is done any more


def _after_half(verb: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The verb, which at its `number`-th call does half of the tasks and is killed."""
    calls = [0]

    def killed(store: Any, tasks: Any, *more: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            verb(store, tasks[: len(tasks) // 2], *more)
            _die()
        return verb(store, tasks, *more)

    return killed


def _after(verb: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The verb, after whose `number`-th call everything ends."""
    calls = [0]

    def killed(*arguments: Any, **more: Any) -> Any:
        found = verb(*arguments, **more)
        calls[0] += 1
        if calls[0] == number:
            _die()
        return found

    return killed


def _before(*_: Any, **__: Any) -> Any:
    _die()


_POINTS: Mapping[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "in a batch of a retry": (control, "retry_some", lambda verb: _after_half(verb, 2)),
    "in a batch of a deletion": (deleting, "delete_some", lambda verb: _after_half(verb, 2)),
    "while rows are created": (passes, "_create", lambda verb: _after(verb, 2)),
    "once all rows are created": (imports, "_end", lambda verb: _before),
    "before an answer is kept": (Once, "finish", lambda verb: _before),
}


def _serve(given: Mapping[str, Any]) -> None:
    directory = Path(given["directory"])
    operations.BATCH = passes.BATCH_ROWS = BATCH
    if given["dies"] is not None:
        where, name, change = _POINTS[given["dies"]]
        setattr(where, name, change(getattr(where, name)))
    settings = WebSettings(
        listen=Address("127.0.0.1", 0), tokens=TokenFile(directory / "tokens.json"), spool=directory / "spool",
        lease_seconds=LEASE_SECONDS, changes_per_second=10_000,
    )  # fmt: skip
    running.run(
        settings, lambda: Client.open(given["url"], plugins=[given["plugins"]], by="web"),
        lambda line: print(line, flush=True),
    )  # fmt: skip


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
