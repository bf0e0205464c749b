"""`disbatch-host demo --web`: a page over a store whose tasks run, and fail; all of it ends together."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.processes import wait_until


def of_directory(directory: Path) -> list[int]:
    """Processes that have it in their command or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.fsencode(directory) in _told(entry):
                found.append(int(entry.name))
    return found


def _told(process: Path) -> bytes:
    return (process / "cmdline").read_bytes() + (process / "environ").read_bytes()


def runs_something(directory: Path) -> bool:
    for pid in of_directory(directory):
        with contextlib.suppress(OSError):
            if b"move.sh" in _told(Path(f"/proc/{pid}")):
                return True
    return False


@contextlib.contextmanager
def demo(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "disbatch_host", "demo", "--web", "--listen", "127.0.0.1:0"]
    # What takes long to build is not what this is about.
    environment = {**os.environ, "TMPDIR": str(directory), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()
            for pid in of_directory(directory):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_demo_of_the_page_ends_with_its_node_and_its_server_however_it_is_told(
    tmp_path: Path, sent: signal.Signals
) -> None:
    with demo(tmp_path) as process:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(f"{address[0]}/login", timeout=20) as page:
            assert page.status == 200
        wait_until(lambda: runs_something(tmp_path), 30, "its node runs nothing")
        process.send_signal(sent)
        assert process.wait(30) == 0
        wait_until(lambda: of_directory(tmp_path) == [], 10, "something of the demo is left")
        assert list(tmp_path.iterdir()) == []
