"""Nodes whose wall clock is wrong, or jumps while they run.

`python -m helpers.odd_clocks` runs a real node in a process of its own, whose clock is as far from the machine's as the
file CLOCK says, in seconds, read at each look at the clock: what a test writes into it takes effect at once.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

from disbatch_host import logs
from disbatch_host.clock import SystemClock
from disbatch_host.node.node import run_node
from disbatch_host.node.pace import Pace
from disbatch_host.settings.values import NodeSettings
from disbatch_host.store.open import open_store
from helpers.nodes import Cluster


class OddClock:
    """The machine's clocks, with the wall clock put off by what a file says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._system = SystemClock()

    def set(self, seconds: float) -> None:
        """Put it off by so many seconds from now on."""
        new = self.path.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self.path)

    def now(self) -> datetime:
        return self._system.now() + timedelta(seconds=float(self.path.read_text()))

    def monotonic(self) -> float:
        return self._system.monotonic()

    def since_boot(self) -> float:
        return self._system.since_boot()


def start_node(
    cluster: Cluster, node_id: str, clock: Path, *, heartbeat_seconds: float, dead_after_seconds: float
) -> subprocess.Popen[str]:
    """A node with this clock, in the background."""
    log = (cluster.directory / f"{node_id}.log").open("a")
    arguments = [
        cluster.url,
        str(cluster.plugins),
        node_id,
        str(clock),
        str(heartbeat_seconds),
        str(dead_after_seconds),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.odd_clocks", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        start_new_session=True,
    )
    log.close()
    cluster.processes.append(process)
    return process


def main(url: str, plugins: str, node_id: str, clock: str, heartbeat: str, dead_after: str) -> int:
    logs.set_up("debug", "text", node_id=node_id)
    logging.getLogger("disbatch_host.store").setLevel(logging.INFO)
    settings = NodeSettings(
        node_id=node_id,
        plugins=(Path(plugins),),
        heartbeat_seconds=float(heartbeat),
        dead_after_seconds=float(dead_after),
    )
    odd = OddClock(Path(clock))
    # Nodes look for dead ones every five seconds, and watch each for four: too long for a test that has to see several.
    pace = Pace(sweep_seconds=0.2, confirm_seconds=1.0)
    return run_node(settings, open_store(url, odd), clock=odd, pace=pace)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
