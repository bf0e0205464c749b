"""The program as its users have it: the installed command, in a directory of its own, with a clean environment."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(sys.executable).with_name("disbatch-host")


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        """One document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Terminal:
    """Somebody who types commands."""

    directory: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = 60) -> Result:
        done = subprocess.run(
            [str(PROGRAM), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self.environment,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def fine(self, *arguments: str, **more: Any) -> Result:
        """A command that must succeed."""
        result = self(*arguments, **more)
        assert result.code == 0, (arguments, result)
        return result

    def refused(self, code: int, *arguments: str, **more: Any) -> str:
        """A command that must fail with this exit code, in one line and without a traceback; the line."""
        result = self(*arguments, **more)
        assert result.code == code, (arguments, result)
        assert result.err.startswith("disbatch-host: ") and result.err.count("\n") == 1, result.err
        assert "Traceback" not in result.err
        return result.err

    @contextlib.contextmanager
    def node(self, *options: str) -> Iterator[None]:
        """A node n1 beside the commands, until the end of the block."""
        command = [str(PROGRAM), "--node-id", "n1", *options]
        with (self.directory / "node.log").open("a") as log:
            process = subprocess.Popen(command, cwd=self.directory, env=self.environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """No store is named: the default one, below the directory."""
    home = tmp_path / "home"
    (home / "plugins").mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "COLUMNS": "80"}
    return Terminal(home, environment)


@pytest.fixture
def on_store(terminal: Terminal, store_url: str) -> Terminal:
    """With DISBATCH_STORE set to an empty store of each kind."""
    terminal.environment["DISBATCH_STORE"] = store_url
    return terminal


@pytest.fixture
def plugin(terminal: Terminal) -> Callable[..., Path]:
    from helpers.nodes import write_plugin

    return lambda name, program, **manifest: write_plugin(terminal.directory / "plugins", name, program, **manifest)
