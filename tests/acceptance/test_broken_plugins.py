"""A collection of broken plugins, each rejected by `check` with a message that names file, field and remedy.

Those of the static level are found without running anything, the others by an example or by what production would
do."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from acceptance.conftest import Terminal
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.trial import trials
from disbatch_host.trial.findings import Verdict

SH = "#!/bin/sh\ncat >/dev/null\n"
# All that can be seen of a program without starting it is right, but there is none behind its header.
ELF_HEADER = Path(sys.executable).read_bytes()[:64]
# Speaks the worker protocol; what happens with a task is filled in.
WORKER = """#!/usr/bin/env python3
import json, os, signal, sys, time
def say(**event):
    os.write(3, json.dumps(event).encode() + b"\\n")
sys.stdin.readline()
say(type="ready", protocol=1)
for number, line in enumerate(sys.stdin):
    task = json.loads(line)["task"]
    {work}
"""


@dataclass(frozen=True)
class Broken:
    """A plugin, how it must be looked at, and what the message must say: which field or trial, and what to do."""

    where: str  # the JSON pointer or the trial
    remedy: str
    manifest: dict[str, Any] | str = field(default_factory=dict)
    program: str | bytes = SH
    level: str = ""
    mode: int = 0o755


def example(**more: Any) -> dict[str, Any]:
    return {"examples": [{"name": "one", "parameters": {}, **more}]}


STATIC = {
    "no JSON": Broken("plugin.json", "line 1, column 2", manifest="{protocol: 1}"),
    "no object": Broken("plugin.json", 'write {"protocol": 1', manifest="[]"),
    "a name twice": Broken(
        "plugin.json", "remove one of them", manifest='{"protocol":1,"command":["./p"],"cwd":"work","cwd":"plugin"}'
    ),
    "byte order mark": Broken("plugin.json", "without one", manifest='\ufeff{"protocol":1,"command":["./p"]}'),
    "no protocol": Broken('"protocol"', 'write "protocol": 1', manifest='{"command":["./p"]}'),
    "protocol 3": Broken("/protocol", "1 or 2", manifest={"protocol": 3}),
    "what only protocol 2 has": Broken("/protocol", 'write "protocol": 2', manifest={"stdin": "none"}),
    "no command": Broken('"command"', 'write ["./program"]', manifest='{"protocol":1}'),
    "command as a string": Broken("/command", 'write ["./program"]', manifest={"command": "./p"}),
    "empty command": Broken("/command", "./", manifest={"command": []}),
    "program that is not there": Broken("/command/0", "copy it there", manifest={"command": ["./q"]}),
    "program that is not in PATH": Broken("/command/0", 'write "./p"', manifest={"command": ["p"]}),
    "program outside": Broken("/command/0", "copy it into the directory", manifest={"command": ["../../elsewhere"]}),
    "not executable": Broken("/command/0", "chmod +x", mode=0o644),
    "writable by everybody": Broken("/command/0", "chmod o-w", mode=0o777),
    "CR LF in the first line": Broken("/command/0", "sed -i", program="#!/bin/sh\r\necho hi\r\n"),
    "interpreter that is not there": Broken("/command/0", "install it", program="#!/opt/no/such/perl\n"),
    "env interpreter that is not there": Broken(
        "/command/0", "install nosuchlang", program="#!/usr/bin/env nosuchlang\n"
    ),
    "no first line": Broken("/command/0", "its first line", program="echo hi\n"),
    "program that is cut off": Broken("/command/0", "copy it again", program=b"\x7fELF this is no program"),
    "empty program": Broken("/command/0", "empty file", program=""),
    "byte order mark in the program": Broken("/command/0", "without a byte order mark", program="\ufeff#!/bin/sh\n"),
    "name with a blank": Broken("/name", "letters, digits", manifest={"name": "my plugin"}),
    "unknown mode": Broken("/mode", "worker", manifest={"mode": "daemon"}),
    "timeout in words": Broken("/timeout", "90s", manifest={"timeout": "ten minutes"}),
    "timeout of zero": Broken("/timeout", "leave it out", manifest={"timeout": 0}),
    "parameters that are no schema": Broken(
        "/parameters/type", 'did you mean "object"?', manifest={"parameters": {"type": "objekt"}}
    ),
    "remote reference": Broken("/parameters", "$ref", manifest={"parameters": {"$ref": "https://example.org/s.json"}}),
    "exit codes that overlap": Broken(
        "/exit_codes", "make them disjoint", manifest={"exit_codes": {"1-5": "failure", "3": "success"}}
    ),
    "unknown outcome": Broken("/exit_codes/3", "success", manifest={"exit_codes": {"3": "maybe"}}),
    "success with a status": Broken(
        "/exit_codes/3", "remove it", manifest={"exit_codes": {"3": {"outcome": "success", "status": 4}}}
    ),
    "own DISBATCH_ variable": Broken("/env", "DISBATCH_", manifest={"env": {"DISBATCH_X": "1"}}),
    "what it requires is not there": Broken("/requires/0", "install it", manifest={"requires": ["nosuchprogram"]}),
    "unknown user": Broken("/run_as", "name another one", manifest={"run_as": "nosuchuser"}),
    "example that does not fit": Broken(
        "/examples/0/parameters",
        "correct one of them",
        manifest={"parameters": {"type": "object", "required": ["name"]}, **example()},
    ),
    "unknown stop signal": Broken("/stop_signal", "TERM", manifest={"stop_signal": "KILL"}),
}

RUN = {
    "another exit code": Broken("example one", "ended with exit code 7", example(), SH + "exit 7\n", "--run"),
    "another output": Broken(
        "example one",
        'expected "Hello" in stdout, found Goodbye',
        example(stdout_contains="Hello"),
        SH + "echo Goodbye\n",
        "--run",
    ),
    "another result": Broken(
        "example one",
        "expected the result 5",
        example(result=5),
        SH + 'echo \'{"type":"result","value":6}\' >&3\n',
        "--run",
    ),
    "lines that are not events": Broken(
        "example one", "lines on descriptor 3 are not events", example(), SH + "echo hello >&3\n", "--run"
    ),
    "never ends": Broken(
        "example one", "within 0.5 s, found it still running", example(timeout=0.5), SH + "exec sleep 60\n", "--run"
    ),
    "cannot be started": Broken("example one", "not a program of this machine", example(), ELF_HEADER, "--run"),
    "never ready": Broken(
        "example one",
        "expected a ready event",
        {"mode": "worker", "worker": {"start_timeout": 0.3}, "kill_grace": 0.1, **example()},
        "#!/bin/sh\nexec sleep 60\n",
        "--run",
    ),
    "ready for another protocol": Broken(
        "example one",
        "protocol 1, found 2",
        {"mode": "worker", **example()},
        '#!/bin/sh\nread x; echo \'{"type":"ready","protocol":2}\' >&3; cat\n',
        "--run",
    ),
    "exit without done": Broken(
        "example one",
        "ended with exit code 0",
        {"mode": "worker", **example()},
        WORKER.format(work="sys.exit(0)"),
        "--run",
    ),
}

TORTURE = {
    "large parameters": Broken(
        "1 MiB of parameters",
        "with 1 MiB more",
        {},
        "#!/usr/bin/env python3\nimport sys\nsys.exit(len(sys.stdin.readline()) > 100000)\n",
        "--torture",
    ),
    "odd text": Broken(
        "odd text",
        "set the encoding",
        {**example(), "examples": [{"name": "one", "parameters": {"name": "x"}}], "env": {"PYTHONIOENCODING": "ascii"}},
        "#!/usr/bin/env python3\nimport json, sys\n"
        "print(json.loads(sys.stdin.buffer.readline())['parameters']['name'])\n",
        "--torture",
    ),
    "a lock": Broken(
        "two at once",
        '"concurrency": 1',
        {},
        SH + "mkdir $HOME/lock || exit 9\nsleep 0.4\nrmdir $HOME/lock\n",
        "--torture",
    ),
    "ignores TERM": Broken(
        "stops when asked to",
        "end on that signal",
        {"kill_grace": 0.3},
        "#!/bin/sh\ntrap '' TERM\nsleep 1\n",
        "--torture",
    ),
    "second task fails": Broken(
        "two tasks in a row",
        "as one of two tasks in a row",
        {"mode": "worker"},
        WORKER.format(work='say(type="done", exit=3 * (number % 2))'),
        "--torture",
    ),
    "does not leave": Broken(
        "leaves at end of file",
        "leave the loop",
        {"mode": "worker", "kill_grace": 0.3},
        # Where it has had no task it does, which another trial waits for.
        WORKER.format(work='say(type="done", exit=0)') + "while 'task' in globals():\n    time.sleep(1)\n",
        "--torture",
    ),
    "leaves with a failure": Broken(
        "leaves at end of file",
        "expected exit code 0",
        {"mode": "worker"},
        WORKER.format(work='say(type="done", exit=0)') + "sys.exit(5)\n",
        "--torture",
    ),
}


def write(directory: Path, broken: Broken) -> Path:
    home = directory / "plugins" / "broken"
    home.mkdir(parents=True)
    program = home / "p"
    program.write_bytes(broken.program if isinstance(broken.program, bytes) else broken.program.encode())
    program.chmod(broken.mode)
    manifest = broken.manifest
    if not isinstance(manifest, str):
        manifest = json.dumps({"protocol": 1, "command": ["./p"], **manifest})
    (home / "plugin.json").write_text(manifest)
    for path in (home.parent, home, home / "plugin.json"):
        path.chmod(path.stat().st_mode & ~0o022)
    return home


@pytest.mark.parametrize("name", [*STATIC, *RUN, *TORTURE])
def test_a_broken_plugin_is_rejected_with_file_field_and_remedy(terminal: Terminal, name: str) -> None:
    broken = {**STATIC, **RUN, **TORTURE}[name]
    write(terminal.directory, broken)
    (terminal.directory / "elsewhere").write_text(SH)
    (terminal.directory / "elsewhere").chmod(0o755)
    result = terminal("check", *([broken.level] if broken.level else []))
    assert (result.code, result.err) == (1, ""), result
    lines = [line for line in result.out.splitlines() if line.startswith("error: ")]
    about = [line for line in lines if "plugins/broken/plugin.json" in line and broken.where in line]
    assert about, result.out
    assert any(broken.remedy in line for line in about), about


def test_a_program_that_waits_for_input_for_ever_is_found_out(terminal: Terminal) -> None:
    """Not by the command, which has more patience."""
    program = "#!/bin/sh\nuntil read -r line; do sleep 0.1; done\n"
    (plugin,) = load_plugins([write(terminal.directory, Broken("", "", program=program))]).plugins.values()
    findings = trials.torture(plugin, closed_stdin_seconds=0.5)
    (found,) = [one for one in findings if one.verdict is Verdict.FAILED]
    assert found.trial == "closed stdin"
    assert "found it still running after 0.5 s; a read that returns nothing must end the program" in found.message


def test_the_collection_is_large_enough() -> None:
    assert len(STATIC) >= 25 and len(RUN) + len(TORTURE) >= 15


def test_all_faults_of_a_manifest_come_at_once(terminal: Terminal) -> None:
    write(terminal.directory, Broken("", "", {"mode": "x", "timeout": -1, "kill_grace": "?", "comand": []}, mode=0o644))
    out = terminal("check").out
    for pointer in ("/mode", "/timeout", "/kill_grace", "/comand"):
        assert pointer in out
