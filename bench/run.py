"""Speed of the engine against `xargs -P8` and a bare capture loop, all in one run: ratios carry over, seconds do not.

    python bench/run.py [--tasks N] [--rounds N] [--mongodb URL]

The plugin is the same for all: a three-line sh script that reads its line and prints one.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from disbatch_host import model
from disbatch_host.clock import SystemClock
from disbatch_host.store.open import open_store

AT_ONCE = 8
PROGRAM = '#!/bin/sh\nread -r line\necho "done $line"\n'


def xargs(directory: Path, tasks: int) -> float:
    """The script alone, its stdin empty."""
    lines = "\n".join(["x"] * tasks)
    began = time.perf_counter()
    subprocess.run(
        ["xargs", "-P", str(AT_ONCE), "-n", "1", f"{directory}/plugins/line/line.sh"],
        input=lines, text=True, stdout=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return tasks / (time.perf_counter() - began)


def capture_loop(directory: Path, tasks: int) -> float:
    """Eight threads of Python that start the script and keep its output in memory."""

    def one(_: int) -> bytes:
        return subprocess.run(
            [f"{directory}/plugins/line/line.sh"], input=b"{}\n", capture_output=True, check=True
        ).stdout

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        assert sum(1 for _ in pool.map(one, range(tasks))) == tasks
    return tasks / (time.perf_counter() - began)


def node(url_of: Callable[[Path], str]) -> Callable[[Path, int], float]:
    """A node on a store, from the first claim to the last durable end."""

    def measure(directory: Path, tasks: int) -> float:
        clock = SystemClock()
        store = open_store(url_of(directory), clock)
        store.open()
        queue = store.insert_queue({"class": "line", "maxthreads": AT_ONCE})
        store.insert_tasks([model.new_task(queue, {"n": number}, now=clock.now()) for number in range(tasks)])
        command = [sys.executable, "-m", "disbatch_host", "--store", url_of(directory), "--node-id", "bench"]
        command += ["--plugins", str(directory / "plugins"), "--until-idle", "--log-level", "error"]
        subprocess.run(command, check=True)
        ended = [task.run for task in store.find_tasks(model.TaskFilter(queue=queue, statuses=frozenset({1})))]
        assert len(ended) == tasks
        seconds = max(run["ended"] for run in ended) - min(run["started"] for run in ended)
        store.delete_queue(queue)
        store.close()
        return tasks / seconds.total_seconds()

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mongodb", metavar="URL", help="a database to use; its tasks are left in it")
    options = parser.parse_args()
    contenders: dict[str, Callable[[Path, int], float]] = {
        "xargs -P8": xargs,
        "capture loop, 8 threads": capture_loop,
        "disbatch-host, SQLite": node(lambda directory: f"sqlite://{directory}/bench.db"),
    }
    if options.mongodb:
        contenders["disbatch-host, MongoDB"] = node(lambda _: options.mongodb)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory(prefix="disbatch-bench-") as temporary:
        directory = Path(temporary)
        home = directory / "plugins" / "line"
        home.mkdir(parents=True, mode=0o755)
        (home / "line.sh").write_text(PROGRAM)
        (home / "line.sh").chmod(0o755)
        (home / "plugin.json").write_text('{"protocol": 1, "command": ["./line.sh"]}')
        (home / "plugin.json").chmod(0o644)
        for _ in range(options.rounds):  # in turn, so that a slow minute of the machine is everybody's
            for name, measure in contenders.items():
                rates[name].append(measure(directory, options.tasks))
    base = statistics.median(rates["xargs -P8"])
    print(f"{options.tasks} tasks, median of {options.rounds} rounds")
    for name, values in rates.items():
        median = statistics.median(values)
        span = f"from {min(values):.0f} to {max(values):.0f}"
        print(f"{name:26} {median:8.0f} tasks/s  {median / base:5.2f} x xargs  ({span})")


if __name__ == "__main__":
    main()
