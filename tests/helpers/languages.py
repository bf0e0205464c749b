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
_INTERPRETERS = {"bash": "bash", "perl": "perl", "python": "python3", "node": "node", "go": "go"}


def write_greeter(plugins: Path, language: str, require: Callable[[str], None]) -> Path:
    """The plugin's directory. `require` skips the test, or fails it where nothing may be skipped."""
    require(_INTERPRETERS[language])
    file, text = PROGRAMS[language]
    home = plugins / f"greet-{language}".replace("-", "_")
    home.mkdir(mode=0o755)
    program = home / file
    program.write_text(text)
    program.chmod(0o755)
    if language == "go":
        environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
        subprocess.run(["go", "build", "-o", "greet", file], cwd=home, check=True, env=environment)
        program = home / "greet"
    (home / "plugin.json").write_text(json.dumps({"protocol": 1, "command": [f"./{program.name}"]}))
    (home / "plugin.json").chmod(0o644)
    return home


def has(program: str) -> bool:
    return shutil.which(program) is not None
