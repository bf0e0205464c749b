"""Where a run of the benches takes place: a temporary directory with the plugins, the stores, and what /proc says.

Must not know: what is measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pymongo

from helpers.mongod import Mongod, MongodMissing, start_mongod

# The task of all contenders: read the line, print one.
LINE_PROGRAM = '#!/bin/sh\nread -r line\necho "done $line"\n'

# The cheapest worker in a scripting language: no library, no JSON; the line is known to hold the parameter n.
PERL_WORKER = r"""#!/usr/bin/perl
open(my $events, '>&=', 3) or die;
<STDIN>;
syswrite $events, qq({"type":"ready","protocol":1}\n);
while (my $line = <STDIN>) {
    my ($n) = $line =~ /"n":(\d+)/;
    syswrite STDOUT, "done $n\n";
    syswrite $events, qq({"type":"done","exit":0}\n);
}
"""
PYTHON_WORKER = r"""#!/usr/bin/env python3
import os, re, sys
sys.stdin.buffer.readline()
os.write(3, b'{"type":"ready","protocol":1}\n')
for line in sys.stdin.buffer:
    os.write(1, b"done %s\n" % re.search(rb'"n":(\d+)', line)[1])
    os.write(3, b'{"type":"done","exit":0}\n')
"""


class Place:
    """Entered once for a whole run. `quick`: small numbers, to see that everything works."""

    def __init__(self, *, quick: bool, wants_mongodb: bool = True) -> None:
        self.quick = quick
        self._wants_mongodb = wants_mongodb
        self.mongod: Mongod | None = None
        self.notice: str | None = None  # why there is no MongoDB
        self._names = 0

    def __enter__(self) -> Place:
        self._stack = contextlib.ExitStack()
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="disbatch-bench-")))
        self.plugins = self.directory / "plugins"
        self.plugins.mkdir()
        self.plugin("line", LINE_PROGRAM)
        self.program = self.plugins / "line" / "run.sh"
        self.plugin("worker", PERL_WORKER if shutil.which("perl") else PYTHON_WORKER, mode="worker")
        if not self._wants_mongodb:
            return self
        try:
            self.mongod = self._stack.enter_context(start_mongod())
        except MongodMissing as error:
            self.notice = f"MongoDB is left out: {error}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def plugin(self, name: str, program: str, **manifest: Any) -> Path:
        """Write a plugin; the class is its name. A program without a first line of its own is a shell script."""
        home = self.plugins / name
        home.mkdir(mode=0o755, exist_ok=True)
        script = home / "run.sh"
        script.write_text(program if program.startswith("#!") else f"#!/bin/sh\n{program}\n")
        script.chmod(0o755)
        manifest_path = home / "plugin.json"
        manifest_path.write_text(json.dumps({"protocol": 1, "command": ["./run.sh"], "name": name, **manifest}))
        manifest_path.chmod(0o644)
        return home

    @property
    def kinds(self) -> Sequence[str]:
        """The stores that there are here."""
        return ["SQLite"] if self.mongod is None else ["SQLite", "MongoDB"]

    def new_name(self) -> str:
        self._names += 1
        return f"bench{self._names}"

    @contextlib.contextmanager
    def fresh_store(self, kind: str) -> Iterator[str]:
        """The URL of an empty store, removed at the end."""
        if kind == "SQLite":
            home = self.directory / self.new_name()
            yield f"sqlite://{home}/bench.db"
            shutil.rmtree(home, ignore_errors=True)
            return
        assert self.mongod is not None
        name = self.new_name()
        yield self.mongod.database_url(name)
        with pymongo.MongoClient[dict[str, Any]](self.mongod.url) as client:
            client.drop_database(name)


# --- the machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a living process with all its threads, ended ones included, but without its children."""
    clock = ctypes.c_int()
    # /proc/PID/stat has the same time in steps of 10 ms, which would be 1 % of a measurement.
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise ProcessLookupError(error, f"no CPU clock of process {pid}")
    return time.clock_gettime(clock.value)


def peak_memory_megabytes(pid: int) -> float:
    """The most memory that a living process has had in hand so far (VmHWM), in 10⁶ bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(f"process {pid} has no memory any more")


def machine_in_words(directory: Path) -> str:
    """What somebody who compares two tables wants to know; nothing that names this machine."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    kind = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=False)
    return (
        f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}, "
        f"data on {kind.stdout.strip() or 'an unknown file system'}, load {os.getloadavg()[0]:.1f} at the start"
    )
