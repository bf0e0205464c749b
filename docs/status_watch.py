"""Draws `status-watch.svg`: what `disbatch-host status --watch` shows of real nodes on a temporary store.

    .venv/bin/python docs/status_watch.py docs/status-watch.svg

It takes half a minute. The programs are short shell scripts; one of three nodes is killed. Only the names of the
store and of the machines are put in afterwards.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from disbatch_host.cli.watch import dashboard
from disbatch_host.client.overview import Observer, Overview
from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import new_task
from disbatch_host.store.open import open_store

WIDTH, HEIGHT = 80, 29
STORE = "sqlite:///var/lib/disbatch/disbatch.db"
MACHINES = {"mig01": "alder", "mig02": "birch", "mig03": "cedar"}
WATCHED_SECONDS, LOOKS = 15.0, 8
KILLED_AFTER_SECONDS = 6.0

MOVE = """read -r line
for done in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    part=0.$((done * 5 / 10))$((done * 5 % 10))
    echo "{\\"type\\":\\"progress\\",\\"value\\":$part,\\"message\\":\\"$done of 20 folders\\"}" >&3
    sleep 1
done
"""
ENCODE = """read -r line
n=$(expr "$line" : '.*"n":\\([0-9]*\\)')
sleep 0.1
case $((n % 23)) in
    1) echo "/media/scan-$n.tif: no space left on device" >&2; exit 3 ;;
    2) name=$(expr "$line" : '.*"owner":"\\([^"]*\\)"'); echo "the quota of $name is used up" >&2; exit 4 ;;
esac
"""
PROGRAMS = {"Mail::Move": MOVE, "Media::Encode": ENCODE, "Send::Receipt": "read -r line; sleep 0.05"}
# The class, how many tasks, and how many run at once on a node.
QUEUES = {
    "newsletter": ("Send::Mial", 1200, 4),
    "import": ("Mail::Move", 5, 4),
    "mail": ("Mail::Move", 30, 2),
    "media": ("Media::Encode", 3000, 3),
    "receipts": ("Send::Receipt", 6000, 4),
}
OWNERS = ("Zoë Ünal", "matt@example.com", "van der Berg")


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        picture = drawn(seen_in(Path(name)))
    target.write_text(picture)


def seen_in(directory: Path) -> Overview:
    """What is seen of some queues and nodes after a while."""
    for name, program in PROGRAMS.items():
        write_plugin(directory / "plugins" / name.replace("::", "-"), name, program)
    store = open_store(f"sqlite://{directory}/disbatch.db", SystemClock())
    store.open()
    try:
        for queue, (class_name, count, at_once) in QUEUES.items():
            pinned = {"nodes_pin": ["db01"]} if queue == "import" else {}
            store.insert_queue({"_id": queue, "class": class_name, "maxthreads": at_once, **pinned})
            tasks = ({"n": number, "owner": OWNERS[number % len(OWNERS)]} for number in range(count))
            store.insert_tasks([new_task(queue, one, now=store.now()) for one in tasks])
        with nodes(directory) as running:
            observer = Observer(store, SystemClock())
            for look in range(LOOKS):
                time.sleep(WATCHED_SECONDS / LOOKS)
                if look * WATCHED_SECONDS / LOOKS >= KILLED_AFTER_SECONDS and running["mig03"].poll() is None:
                    running["mig03"].kill()
                seen = observer.look()
        return replace(
            seen, store=STORE, nodes=[replace(one, machine=MACHINES.get(one.name, one.machine)) for one in seen.nodes]
        )
    finally:
        store.close()


def write_plugin(directory: Path, name: str, program: str) -> None:
    directory.mkdir(parents=True)
    (directory / "run.sh").write_text(f"#!/bin/sh\n{program}\n")
    (directory / "run.sh").chmod(0o755)
    manifest = {"protocol": 1, "name": name, "command": ["./run.sh"]}
    (directory / "plugin.json").write_text(json.dumps(manifest))


@contextlib.contextmanager
def nodes(directory: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Three nodes, until they are no longer needed. What they run ends with them."""
    arguments = ["--store", f"sqlite://{directory}/disbatch.db", "--plugins", str(directory / "plugins")]
    arguments += ["--dead-after", "5s", "--stop-grace", "1s"]
    environment = {**os.environ, "DISBATCH_SUPERVISOR": "connection"}
    program = Path(sys.executable).with_name("disbatch-host")
    running = {
        name: subprocess.Popen(
            [program, *arguments, "--node-id", name, "--state-dir", str(directory / name)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for name in MACHINES
    }  # fmt: skip
    try:
        yield running
    finally:
        for one in running.values():
            one.terminate()
        for one in running.values():
            try:
                one.wait(30)
            except subprocess.TimeoutExpired:
                one.kill()


def drawn(seen: Overview) -> str:
    """The picture of a terminal."""
    console = Console(record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True)
    for line in dashboard.lay_out(seen, width=WIDTH, height=HEIGHT, every_seconds=1.0):
        console.print(line, no_wrap=True, crop=True)
    return console.export_svg(title="disbatch-host status --watch")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
