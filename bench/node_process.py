"""A node in the background, started from the command line as users start it.

Must not know: which revision of the project the command belongs to, or how to read a store.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import usage

START_SECONDS = 30.0  # for a node to appear in the store
STOP_SECONDS = 60.0


class NodeProcess:
    """Stopped in an orderly way at the end of the block. Its log is shown where it fails to start."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        url: str,
        plugins: Path,
        log: Path,
        node_id: str,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        state: Path | None = None,
    ) -> None:
        """`command`: what comes before the options. `env`: the whole environment; None: this process's own. `state`:
        the state directory that it leads to, where the node's supervisor may be found."""
        self.id = node_id
        given = ["--store", url, "--plugins", str(plugins), "--node-id", node_id, "--log-level", "warning"]
        self._argv = [*command, *given, *options]
        self._env = env
        self._state = state
        self._log_path = log

    def __enter__(self) -> Self:
        self._log = self._log_path.open("w+b")
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=self._env
        )
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def supervisor_pid(self) -> int | None:
        """The process that runs its programs now; None: the node does."""
        return usage.supervisor_of(self.pid, self._state)

    def wait_for_heartbeat(self, read: Callable[[str], Any]) -> None:
        """Until its document is in the store, its services run, and it has looked at the queues once. `read`: from a
        node's id to the `heartbeat` of its document, None where there is none."""
        deadline = time.monotonic() + START_SECONDS
        while not self._has_looked(read):
            assert time.monotonic() < deadline, f"the node did not start:\n{self._log_text()}"
            time.sleep(0.01)

    def _has_looked(self, read: Callable[[str], Any]) -> bool:
        assert self._process.poll() is None, f"the node has ended:\n{self._log_text()}"
        heartbeat = read(self.id)
        return isinstance(heartbeat, Mapping) and bool(heartbeat.get("queues"))

    def stop(self) -> None:
        """Ask it to finish its tasks and leave."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(STOP_SECONDS)

    def _log_text(self) -> str:
        self._log.seek(0)
        return self._log.read()[-4000:].decode(errors="replace")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            if self._process.poll() is None:
                supervisor = self.supervisor_pid
                self._process.kill()
                self._process.wait()
                if supervisor is not None:
                    with contextlib.suppress(ProcessLookupError):  # one that ends with its node
                        os.kill(supervisor, signal.SIGTERM)  # stops the runs, which could go on without the node
            self._log.close()
