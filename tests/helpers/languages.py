"""The same small plugin in each language, from nothing but the contract: it greets `name` on stdout, says `greeted` on
stderr, and ends with the exit code `exit`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

PROGRAMS = {
    "bash": (
        "greet.sh",
        r"""#!/usr/bin/env bash
IFS= read -r line
name=$(sed -E 's/.*"name":"([^"]*)".*/\1/' <<<"$line")
code=$(sed -nE 's/.*"exit":([0-9]+).*/\1/p' <<<"$line")
echo "Hello, $name"
echo greeted >&2
exit "${code:-0}"
""",
    ),
    "perl": (
        "greet.pl",
        """#!/usr/bin/env perl
use strict; use warnings; use JSON::PP;
my $task = decode_json(scalar <STDIN>);
binmode STDOUT, ':encoding(UTF-8)';
print "Hello, $task->{parameters}{name}\\n";
print STDERR "greeted\\n";
exit($task->{parameters}{exit} // 0);
""",
    ),
    "python": (
        "greet.py",
        """#!/usr/bin/env python3
import json, sys
task = json.loads(sys.stdin.buffer.readline())
sys.stdout.buffer.write(f"Hello, {task['parameters']['name']}\\n".encode())
sys.stdout.flush()
print("greeted", file=sys.stderr)
sys.exit(task["parameters"].get("exit", 0))
""",
    ),
    "node": (
        "greet.mjs",
        """#!/usr/bin/env node
import { readFileSync } from 'node:fs';
const { parameters } = JSON.parse(readFileSync(0, 'utf8'));
console.log(`Hello, ${parameters.name}`);
console.error('greeted');
process.exitCode = parameters.exit ?? 0;
""",
    ),
    "go": (
        "greet.go",
        """package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	var task struct {
		Parameters struct {
			Name string
			Exit int
		}
	}
	if err := json.NewDecoder(os.Stdin).Decode(&task); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Println("Hello, " + task.Parameters.Name)
	fmt.Fprintln(os.Stderr, "greeted")
	os.Exit(task.Parameters.Exit)
}
""",
    ),
}
# The same plugin from nothing but the contract's text: it emits the events of its parameter `case`.
EVENT_PROGRAMS = {
    "sh": (
        "say.sh",
        r"""#!/bin/sh
IFS= read -r line
say() { printf '%s\n' "$1" >&3; }
case $line in
*'"case":"tell"'*)
    say '{"type":"progress","value":0.5,"message":"half"}'
    say '{"type":"log","level":"warning","message":"slow","fields":{"ms":120}}'
    say '{"type":"set","fields":{"mailbox":"x"}}'
    say '{"type":"result","value":{"answer":42}}' ;;
*'"case":"status"'*) say '{"type":"status","status":7}' ;;
*'"case":"error"'*) say '{"type":"error","code":"auth_failed","message":"no such user","retry":false}' ;;
*'"case":"snooze"'*) say '{"type":"snooze","seconds":3600,"message":"quota"}' ;;
*'"case":"tasks"'*) say '{"type":"tasks","tasks":[{"queue":"next","parameters":{"n":1}},{"queue":"next"}]}' ;;
esac
""",
    ),
    "bash": (
        "say.bash",
        r"""#!/usr/bin/env bash
read -r line
[[ $line =~ \"case\":\"([a-z]+)\" ]]
case ${BASH_REMATCH[1]} in
tell)
    cat >&3 <<'END'
{"type": "progress", "value": 0.5, "message": "half"}
{"type": "log", "level": "warning", "message": "slow", "fields": {"ms": 120}}
{"type": "set", "fields": {"mailbox": "x"}}
{"type": "result", "value": {"answer": 42}}
END
    ;;
status) echo '{"type":"status","status":7}' >&"$DISBATCH_EVENT_FD" ;;
error) echo '{"type":"error","code":"auth_failed","message":"no such user","retry":false}' >&3 ;;
snooze) echo '{"type":"snooze","seconds":3600,"message":"quota"}' >&3 ;;
tasks) echo '{"type":"tasks","tasks":[{"queue":"next","parameters":{"n":1}},{"queue":"next"}]}' >&3 ;;
esac
""",
    ),
    "perl": (
        "say.pl",
        """#!/usr/bin/env perl
use strict; use warnings; use JSON::PP; use IO::Handle;
my $case = decode_json(scalar <STDIN>)->{parameters}{case};
open my $events, '>&=', 3 or die "no descriptor 3: $!";
$events->autoflush(1);
sub say_it { print $events encode_json($_[0]), "\n" }
if ($case eq 'tell') {
    say_it({type => 'progress', value => 0.5, message => 'half'});
    say_it({type => 'log', level => 'warning', message => 'slow', fields => {ms => 120}});
    say_it({type => 'set', fields => {mailbox => 'x'}});
    say_it({type => 'result', value => {answer => 42}});
}
say_it({type => 'status', status => 7}) if $case eq 'status';
say_it({type => 'error', code => 'auth_failed', message => 'no such user', retry => JSON::PP::false})
    if $case eq 'error';
say_it({type => 'snooze', seconds => 3600, message => 'quota'}) if $case eq 'snooze';
say_it({type => 'tasks', tasks => [{queue => 'next', parameters => {n => 1}}, {queue => 'next'}]}) if $case eq 'tasks';
""",
    ),
    "python": (
        "say.py",
        """#!/usr/bin/env python3
import json, os, sys
case = json.loads(sys.stdin.readline())["parameters"]["case"]
def say(**event):
    os.write(3, json.dumps(event).encode() + b"\\n")
if case == "tell":
    say(type="progress", value=0.5, message="half")
    say(type="log", level="warning", message="slow", fields={"ms": 120})
    say(type="set", fields={"mailbox": "x"})
    say(type="result", value={"answer": 42})
elif case == "status":
    say(type="status", status=7)
elif case == "error":
    say(type="error", code="auth_failed", message="no such user", retry=False)
elif case == "snooze":
    say(type="snooze", seconds=3600, message="quota")
elif case == "tasks":
    say(type="tasks", tasks=[{"queue": "next", "parameters": {"n": 1}}, {"queue": "next"}])
""",
    ),
    "node": (
        "say.mjs",
        """#!/usr/bin/env node
import { readFileSync, writeSync } from 'node:fs';
const { case: wanted } = JSON.parse(readFileSync(0, 'utf8')).parameters;
const say = (event) => writeSync(3, JSON.stringify(event) + '\\n');
switch (wanted) {
  case 'tell':
    say({ type: 'progress', value: 0.5, message: 'half' });
    say({ type: 'log', level: 'warning', message: 'slow', fields: { ms: 120 } });
    say({ type: 'set', fields: { mailbox: 'x' } });
    say({ type: 'result', value: { answer: 42 } });
    break;
  case 'status': say({ type: 'status', status: 7 }); break;
  case 'error': say({ type: 'error', code: 'auth_failed', message: 'no such user', retry: false }); break;
  case 'snooze': say({ type: 'snooze', seconds: 3600, message: 'quota' }); break;
  case 'tasks':
    say({ type: 'tasks', tasks: [{ queue: 'next', parameters: { n: 1 } }, { queue: 'next' }] });
    break;
}
""",
    ),
    "go": (
        "say.go",
        """package main

import (
	"encoding/json"
	"os"
)

type object map[string]any

func main() {
	var task struct{ Parameters struct{ Case string } }
	if err := json.NewDecoder(os.Stdin).Decode(&task); err != nil {
		panic(err)
	}
	events := json.NewEncoder(os.NewFile(3, "events"))
	switch task.Parameters.Case {
	case "tell":
		events.Encode(object{"type": "progress", "value": 0.5, "message": "half"})
		events.Encode(object{"type": "log", "level": "warning", "message": "slow", "fields": object{"ms": 120}})
		events.Encode(object{"type": "set", "fields": object{"mailbox": "x"}})
		events.Encode(object{"type": "result", "value": object{"answer": 42}})
	case "status":
		events.Encode(object{"type": "status", "status": 7})
	case "error":
		events.Encode(object{"type": "error", "code": "auth_failed", "message": "no such user", "retry": false})
	case "snooze":
		events.Encode(object{"type": "snooze", "seconds": 3600, "message": "quota"})
	case "tasks":
		events.Encode(object{"type": "tasks", "tasks": []object{
			{"queue": "next", "parameters": object{"n": 1}}, {"queue": "next"}}})
	}
}
""",
    ),
}
_INTERPRETERS = {
    "sh": "sh", "bash": "bash", "perl": "perl", "python": "python3", "node": "node", "go": "go",
}  # fmt: skip


def write_greeter(plugins: Path, language: str, require: Callable[[str], None]) -> Path:
    """The greeter's directory. `require` skips the test, or fails it where nothing may be skipped."""
    return _write(plugins, language, f"greet_{language}", PROGRAMS[language], require)


def write_sayer(plugins: Path, language: str, require: Callable[[str], None]) -> Path:
    """The directory of the plugin that emits events."""
    return _write(plugins, language, f"say_{language}", EVENT_PROGRAMS[language], require)


def _write(plugins: Path, language: str, name: str, source: tuple[str, str], require: Callable[[str], None]) -> Path:
    require(_INTERPRETERS[language])
    file, text = source
    home = plugins / name
    home.mkdir(mode=0o755)
    program = home / file
    program.write_text(text)
    program.chmod(0o755)
    if language == "go":
        program = build_go(program)
    (home / "plugin.json").write_text(json.dumps({"protocol": 1, "command": [f"./{program.name}"]}))
    (home / "plugin.json").chmod(0o644)
    return home


def build_go(source: Path) -> Path:
    """The program that a single Go file is."""
    program = source.with_suffix("")
    environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", program.name, source.name], cwd=source.parent, check=True, env=environment)
    return program


def has(program: str) -> bool:
    return shutil.which(program) is not None
