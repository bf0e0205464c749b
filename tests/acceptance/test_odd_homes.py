"""No home directory, no entry in the password database, a current directory that was deleted: one line that says what
to set, and everything that needs neither works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.conftest import PROGRAM, Result, Terminal
from helpers.nodes import write_plugin

# The program as a user whom nobody knows, as containers are run; that user may not reach the interpreter, so all is
# imported first, once for several commands: each is a process all the same.
_AS_NOBODY_KNOWN = """
import importlib, json, os, pkgutil, sys
import jsonschema, referencing
import disbatch_host, disbatch_protocol
for package in (disbatch_host, disbatch_protocol):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if "__main__" not in module.name and ".new." not in module.name:
            importlib.import_module(module.name)
results = []
for arguments, environment in json.load(sys.stdin):
    files = [os.memfd_create(name) for name in ("out", "err")]
    pid = os.fork()
    if pid == 0:
        os.dup2(files[0], 1), os.dup2(files[1], 2)
        os.environ.clear()
        os.environ.update(environment)
        os.setgid(12345), os.setuid(12345)
        disbatch_host.cli.main.main(arguments)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    results.append([code, *(os.pread(file, 2**20, 0).decode() for file in files)])
json.dump(results, sys.stdout)
"""
Command = tuple[list[str], dict[str, str]]  # arguments and variables
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without an entry")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that everybody may use, with a plugin `e`."""
    with tempfile.TemporaryDirectory() as name:
        write_plugin(Path(name) / "plugins", "e", "cat")
        Path(name).chmod(0o777)
        yield Path(name)


def unknown(shared: Path, *commands: Command) -> list[Result]:
    """The results of these commands, one after the other."""
    given = [(arguments, {"PATH": os.environ["PATH"], **environment}) for arguments, environment in commands]
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY_KNOWN], input=json.dumps(given), cwd=shared, stdout=subprocess.PIPE,
        text=True, check=True, timeout=60,
    )  # fmt: skip
    return [Result(*one) for one in json.loads(done.stdout)]


@needs_root
@pytest.mark.parametrize("home", [None, "", "relative", "~"])
def test_without_a_home_one_line_says_what_to_set(shared: Path, home: str | None) -> None:
    """All commands used to say "Could not determine home directory.; this is a defect", `exec` and `check` as well."""
    environment = {} if home is None else {"HOME": home}
    create, store = ["queue", "create", "q", "--class", "e"], f"sqlite://{shared}/x.db"
    need_one = (["task", "list"], ["status"], create, ["--until-idle"])
    need_none = (["exec", "e"], ["check"], ["plugins"], ["exec", "e", "--plugins", str(shared / "plugins")])
    results = unknown(
        shared,
        *((command, environment) for command in (*need_one, *need_none)),
        (create, {"DISBATCH_STORE": store, **environment}),
        (["task", "push", "q"], {"XDG_STATE_HOME": str(shared), "DISBATCH_STORE": store}),
        (create, {"XDG_STATE_HOME": str(shared)}),
        (["status", "--plugins", "~/plugins", "--store", store], {}),
    )
    for result in results[: len(need_one)]:
        assert result.code == 2 and result.err.count("\n") == 1, result
        assert "expected a home directory for the default store" in result.err
        assert "set HOME or XDG_STATE_HOME, or name a store with --store or DISBATCH_STORE" in result.err
    said = results[-1]
    assert [one.code for one in results[len(need_one) : -1]] == [0] * 7
    assert said.code == 2 and "whose home is not known; write the whole path" in said.err


@needs_root
@pytest.mark.parametrize("home", ["/nonexistent", "/dev/null", "/root"])
def test_a_home_that_cannot_be_used_is_one_line(shared: Path, home: str) -> None:
    commands = (["queue", "create", "q", "--class", "e"], ["task", "list"])
    result, listed = unknown(shared, *((command, {"HOME": home}) for command in commands))
    assert result.code == 3 and result.err.count("\n") == 1
    assert f"{home}/.local/state/disbatch/disbatch.db cannot be opened: " in result.err
    assert listed.err.count("\n") == 1 and "this is a bug" not in listed.err


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["task", "list"], 0), (["status"], 0), (["queue", "create", "q", "--class", "e"], 0), (["check"], 2),
        (["plugins"], 2), (["exec", "e"], 4), (["exec", "./plugins/e"], 4), (["new", "X", "--lang", "sh"], 2),
        (["task", "import", "q", "x.csv"], 2), (["task", "export", "x.ndjson"], 1), (["--until-idle"], 2),
        (["check", "--plugins", "PLUGINS"], 0), (["exec", "e", "--plugins", "PLUGINS"], 0),
        (["new", "X", "--lang", "sh", "--plugins", "PLUGINS"], 0), (["--until-idle", "--plugins", "PLUGINS"], 0),
    ],
)  # fmt: skip
def test_in_a_deleted_directory_what_needs_none_works_and_the_rest_says_so(
    terminal: Terminal, shared: Path, command: list[str], code: int
) -> None:
    gone = terminal.directory / "gone"
    gone.mkdir()
    words = [str(shared / "plugins") if one == "PLUGINS" else one for one in command]
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$0" "$@"', str(PROGRAM), *words], cwd=gone, capture_output=True, text=True,
        env=terminal.environment, check=False, timeout=60,
    )  # fmt: skip
    assert "this is a bug" not in done.stderr
    if code:
        assert done.returncode == code and done.stderr.count("\n") == 1, done
        assert "the current directory was deleted or replaced, so change to one that is there (cd)" in done.stderr
    else:
        assert done.returncode == 0, done
