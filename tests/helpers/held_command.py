"""A command of `disbatch-host` that stops itself at one place, for a test that needs it there and nowhere else:
`python -m helpers.held_command METHOD COUNT ARGUMENT...`, where METHOD is a method of the store after whose call number
COUNT it gets SIGSTOP; with `together`, after the end of that block; with `find_tasks`, when it asks for task COUNT.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from disbatch_host.cli.main import main
from helpers.processes import wait_until


def start_held(
    method: str, count: int, *arguments: str, directory: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Such a command, once it has stopped; SIGCONT lets it go on to its end."""
    command = [sys.executable, "-m", "helpers.held_command", method, str(count), *arguments]
    process = subprocess.Popen(
        command, cwd=directory, env={**environment, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_until(lambda: _state(process) in "TZ", 60, f"it never came to its {method} number {count}")
    assert _state(process) == "T", process.communicate()
    return process


def _state(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def _hold(method: str, count: int) -> None:
    calls = 0

    def called() -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGSTOP)

    store = _store()
    original = getattr(store, method)
    how = {"together": _block, "find_tasks": _items}.get(method, _call)
    setattr(store, method, how(original, called))


def _store() -> type[Any]:
    """The one that the command will use; importing both would take longer than the command."""
    if os.environ["DISBATCH_STORE"].startswith("sqlite://"):
        from disbatch_host.store.sqlite import SqliteStore

        return SqliteStore
    from disbatch_host.store.mongo import MongoStore

    return MongoStore


def _call(original: Callable[..., Any], called: Callable[[], None]) -> Callable[..., Any]:
    def held(*arguments: Any, **more: Any) -> Any:
        result = original(*arguments, **more)
        called()
        return result

    return held


def _items(original: Callable[..., Any], called: Callable[[], None]) -> Callable[..., Any]:
    def held(*arguments: Any, **more: Any) -> Any:
        for item in original(*arguments, **more):
            called()
            yield item

    return held


def _block(original: Callable[..., Any], called: Callable[[], None]) -> Callable[..., Any]:
    @contextlib.contextmanager
    def held(*arguments: Any) -> Iterator[None]:
        with original(*arguments):
            yield
        called()

    return held


if __name__ == "__main__":
    _hold(sys.argv[1], int(sys.argv[2]))
    main(sys.argv[3:])
