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
# One program a language whose parameter `case` says how it ends.
CASE_PROGRAMS = {
    "bash": (
        "case.sh",
        r"""#!/usr/bin/env bash
if [[ $0 == *deaf* ]]; then exec <&-; echo deaf; exit 0; fi
read -r line
[[ $line =~ \"case\":\"([a-z]+)\" ]]
echo out; echo err >&2
case ${BASH_REMATCH[1]} in
three) exit 3 ;;
signal) kill -SEGV $$ ;;
long) head -c 3145728 /dev/zero | tr '\0' x ;;
background) sleep 300 & ;;
esac
""",
    ),
    "perl": (
        "case.pl",
        """#!/usr/bin/env perl
use strict; use warnings; use JSON::PP;
if ($0 =~ /deaf/) { close STDIN; print "deaf\n"; exit 0 }
my $case = decode_json(scalar <STDIN>)->{parameters}{case};
$| = 1;
print "out\n"; print STDERR "err\n";
exit 3 if $case eq 'three';
kill 'SEGV', $$ if $case eq 'signal';
print 'x' x (3 * 2**20) if $case eq 'long';
if ($case eq 'background') { exec 'sleep', '300' unless fork }
""",
    ),
    "python": (
        "case.py",
        """#!/usr/bin/env python3
import json, os, signal, subprocess, sys
if "deaf" in sys.argv[0]:
    os.close(0); print("deaf"); sys.exit(0)
case = json.loads(sys.stdin.readline())["parameters"]["case"]
print("out", flush=True); print("err", file=sys.stderr)
if case == "three":
    sys.exit(3)
elif case == "signal":
    os.kill(os.getpid(), signal.SIGSEGV)
elif case == "long":
    sys.stdout.write("x" * 3 * 2**20)
elif case == "background":
    subprocess.Popen(["sleep", "300"])
""",
    ),
    "node": (
        "case.mjs",
        """#!/usr/bin/env node
import { spawn } from 'node:child_process';
import { closeSync, readFileSync } from 'node:fs';
if (process.argv[1].includes('deaf')) {
  closeSync(0);
  console.log('deaf');
} else {
  const { case: wanted } = JSON.parse(readFileSync(0, 'utf8')).parameters;
  console.log('out');
  console.error('err');
  if (wanted === 'three') process.exitCode = 3;
  if (wanted === 'signal') process.kill(process.pid, 'SIGSEGV');
  if (wanted === 'long') process.stdout.write('x'.repeat(3 * 2 ** 20));
  if (wanted === 'background') spawn('sleep', ['300'], { stdio: ['ignore', 'inherit', 'inherit'] }).unref();
}
""",
    ),
    "go": (
        "case.go",
        """package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

func main() {
	if strings.Contains(os.Args[0], "deaf") {
		os.Stdin.Close()
		fmt.Println("deaf")
		return
	}
	var task struct{ Parameters struct{ Case string } }
	if err := json.NewDecoder(os.Stdin).Decode(&task); err != nil {
		panic(err)
	}
	fmt.Println("out")
	fmt.Fprintln(os.Stderr, "err")
	switch task.Parameters.Case {
	case "three":
		os.Exit(3)
	case "signal":
		// A SEGV that was sent becomes a stack trace and exit code 2 in Go's runtime; KILL stays what it is.
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "long":
		os.Stdout.WriteString(strings.Repeat("x", 3<<20))
	case "background":
		sleep := exec.Command("sleep", "300")
		sleep.Stdout, sleep.Stderr = os.Stdout, os.Stderr
		if err := sleep.Start(); err != nil {
			panic(err)
		}
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


def write_cases(plugins: Path, language: str, require: Callable[[str], None], *, name: str) -> Path:
    """The directory of the plugin that ends as it is told to; it ignores its stdin where `name` holds `deaf`."""
    return _write(plugins, language, name, CASE_PROGRAMS[language], require)


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
