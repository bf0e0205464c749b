"""A node as the command line runs it, but with a pace of its own: `python -m helpers.paced_node STORE PLUGINS METRICS
PACE`, where PACE is JSON with the intervals that are not the usual ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from disbatch_host.cli.commands.run import run
from disbatch_host.node.pace import Pace
from helpers.nodes import Cluster


def start_paced_node(cluster: Cluster, metrics: str, **pace: float) -> subprocess.Popen[str]:
    """Node n1 in the background."""
    command = [sys.executable, "-m", "helpers.paced_node", cluster.url, str(cluster.plugins), metrics, json.dumps(pace)]
    with (cluster.directory / "n1.log").open("a") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    cluster.processes.append(process)
    return process


def main(store: str, plugins: str, metrics: str, pace: str) -> int:
    options: dict[str, Any] = {"store": store, "plugins": (plugins,)}
    return run(options, {"node_id": "n1", "metrics": metrics}, pace=Pace(**json.loads(pace)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
