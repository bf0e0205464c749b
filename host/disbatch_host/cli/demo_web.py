"""`disbatch-host demo --web`: a store with tasks that fail, a node that runs them, and the page over them.

Responsible for: making them, and ending all of it together. Must not know: what the page shows.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from disbatch_host.client import Client, NewBatch
from disbatch_host.plugin.new import bundled
from disbatch_host.store.url import sqlite_url

_TASKS = 3000
_HOSTS = 9
_END_SECONDS = 15
_MANIFEST: dict[str, Any] = {
    "protocol": 1,
    "name": "Mail::Move",
    "version": "1.2.0",
    "description": "Moves one mailbox to another server (in this demo it only says so)",
    "command": ["./move.sh"],
    "parameters": {
        "type": "object",
        "required": ["user", "source_host", "password", "mode"],
        "properties": {
            "user": {"type": "string", "title": "Mailbox", "maxLength": 64, "pattern": "^[a-z0-9.-]+$",
                     "description": "letters, digits, . and -", "examples": ["user00481"]},
            "source_host": {"type": "string", "title": "Source host", "examples": ["mx07.example.org"]},
            "password": {"type": "string", "title": "Password", "writeOnly": True},
            "mode": {"title": "Mode", "enum": ["copy", "move", "compare"], "default": "copy"},
            "folders": {"type": "array", "title": "Folders", "items": {"type": "string"}},
            "since": {"type": "string", "format": "date", "title": "Messages since"},
            "max_mb": {"type": "integer", "title": "Largest message", "minimum": 1, "maximum": 150, "default": 50},
            "verify": {"type": "boolean", "title": "Check sums", "description": "compares each message afterwards"},
            "rewrite": {"title": "Rewrite rules", "patternProperties": {"^x-": {"type": "string"}}},
            "sleep": {"type": "number", "description": "for this demo: seconds that it takes"},
        },
        "additionalProperties": False,
    },
    "timeout": "15m",
    "idempotent": True,
    "retry": {"max": 1, "delay": "2s"},
    "examples": [{"name": "a small mailbox", "exit": 0, "parameters": {
        "user": "user00481", "source_host": "mx01.example.org", "password": "x", "mode": "move"}}],
}  # fmt: skip
# Host mx07 does not answer, mx04 has no room, and one user in 97 may not sign in: the causes that are to be found.
_PROGRAM = r"""#!/bin/sh
set -eu
input=$(cat)
field() { printf '%s' "$input" | sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p"; }
user=$(field user) host=$(field source_host) sleep=$(field sleep)
number=$(printf '%s' "$user" | tr -cd '0-9' | sed 's/^0*//')
number=${number:-0}
echo "Mail::Move 1.2.0, $user on $host"
if [ -n "$sleep" ]; then
  step=0
  while [ "$step" -lt 100 ]; do
    step=$((step + 1))
    echo "copied uid $((704000 + step)), INBOX"
    printf '{"type":"progress","value":0.%02d,"message":"message %d of 100"}\n' "$((step % 100))" "$step" >&3
    sleep "$(awk "BEGIN {print $sleep / 100}")"
  done
fi
case $host in
  mx07*) printf '\033[33mno answer after 30 s, trying again\033[0m\n' >&2
    echo "cannot connect to $host: connection timed out after 30 s" >&2; exit 3 ;;
  mx04*) echo "quota exceeded on target: mailbox needs $((number * 3)) MB, has $number MB" >&2; exit 4 ;;
esac
if [ $((number % 97)) = 0 ]; then echo "login refused for $user on $host" >&2; exit 5; fi
printf '{"type":"result","value":{"moved":%d}}\n' "$number" >&3
echo "moved $number messages"
"""


def run(directory: Path, listen: str) -> int:
    """Serve until Ctrl-C, or until this process is told to end; everything is below `directory`."""
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.default_int_handler)  # node and page end with this process, not after it
    plugins, url = directory / "plugins", sqlite_url(directory / "disbatch.db")
    plugins.mkdir()
    for notice in bundled.prepare(plugins):
        click.echo(f"notice: {notice}", err=True)
    _write_plugin(plugins / "mail")
    fill(url, plugins)
    here = [sys.executable, "-m", "disbatch_host"]
    node = [*here, "--store", url, "--plugins", str(plugins), "--node-id", "demo", "--max", "8", "--state-dir",
            str(directory / "state"), "--stop-grace", "0", "--log-level", "error"]  # fmt: skip
    web = [*here, "web", "--store", url, "--plugins", str(plugins), "--listen", listen, "--spool",
           str(directory / "spool"), "--log-level", "warning"]  # fmt: skip
    children = [subprocess.Popen(node), subprocess.Popen(web)]
    try:
        return children[1].wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)  # asked already
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _write_plugin(directory: Path) -> None:
    directory.mkdir()
    (directory / "plugin.json").write_text(json.dumps(_MANIFEST, indent=2))
    program = directory / "move.sh"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    (directory / "README.md").write_text(
        "# Mail::Move\n\nMoves one mailbox.\n\n```\ndisbatch-host task push mail …\n```\n"
    )


def fill(url: str, plugins: Path, tasks: int = _TASKS) -> None:
    """Queues of every state, and tasks, of which some will fail."""
    with Client.open(url, plugins=[plugins], by="demo@here", creates=True) as client:
        client.queues.create("mail", "Mail::Move", description="mailboxes of the old servers", maxthreads=6)
        client.queues.create("archive", "Archive::Store", description="no node has its plugin")
        client.queues.create("notify", "Mail::Move", description="paused by somebody")
        client.queues.pause("notify", why="mail server is down")
        client.push_many(
            "mail", [_mailbox(number) for number in range(tasks)], batch=NewBatch(name="wave-3", closes=True)
        )
        client.push("mail", {**_mailbox(5), "sleep": 120}, priority=10)
        client.push("mail", _mailbox(11), delay="2h")
        client.push_many("archive", [{"year": 2000 + number} for number in range(20)], checks=False)
        client.push_many("notify", [_mailbox(number) for number in range(40, 60)])
        for class_name, queue in (("Text::Outline", "outline"), ("Text::LineLengths", "lines")):
            if class_name in client.plugins.classes():
                client.queues.create(queue, class_name)
                client.push(queue, {"path": __file__})


def _mailbox(number: int) -> dict[str, Any]:
    return {
        "user": f"user{number:05}",
        "source_host": f"mx{number * 7919 % _HOSTS + 1:02}.example.org",
        "password": "not-to-be-seen",
        "mode": "move" if number % 3 else "copy",
    }
