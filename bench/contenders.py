"""What this project is measured against: the limit of the machine, and peers that run the same script.

Responsible for: running each as its own documentation says, its queue filled before, and saying what is missing. Must
not know: anything of this project.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import json
import os
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo

from helpers.processes import wait_until
from place import Place, free_port

AT_ONCE = 8
WAIT_SECONDS = 600.0  # for a peer to be through
_HERE = Path(__file__).parent


# --- the limit


def xargs(place: Place, tasks: int, at_once: int = AT_ONCE) -> float:
    """The script alone, its stdin empty, its output thrown away."""
    lines = "x\n" * tasks
    began = time.perf_counter()
    subprocess.run(
        ["xargs", "-P", str(at_once), "-n", "1", str(place.program)],
        input=lines, text=True, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    return tasks / (time.perf_counter() - began)


def xargs_cpu(place: Place, tasks: int) -> float:
    """Seconds of CPU that a task takes there, `xargs` included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    xargs(place, tasks)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / tasks


def capture_loop(place: Place, tasks: int) -> float:
    """Eight threads of Python that start the script and keep its output in memory."""

    def one(number: int) -> bytes:
        return subprocess.run([place.program], input=b'{"n":%d}\n' % number, capture_output=True, check=True).stdout

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        assert sum(1 for _ in pool.map(one, range(tasks))) == tasks
    return tasks / (time.perf_counter() - began)


# --- gearman


def gearman_is_missing() -> str | None:
    if _gearmand() and shutil.which("gearman"):
        return None
    return "gearman is left out: it is not installed (apt-get install gearman-job-server gearman-tools)"


def _gearmand() -> str | None:
    return shutil.which("gearmand", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def gearmand(place: Place) -> Iterator[int]:
    """A job server on a free port; what it holds is in memory only."""
    binary = _gearmand()
    assert binary is not None
    port = free_port()
    with _process(
        [binary, "--listen", "127.0.0.1", "--port", str(port), "--log-file", "none",
         "--pid-file", str(place.directory / f"{place.new_name()}.pid")]
    ):  # fmt: skip
        wait_until(lambda: _gearman_status(port) is not None, 10, "gearmand did not start")
        yield port


def gearman_workers(place: Place, port: int, count: int) -> contextlib.ExitStack:
    """`gearman -w` starts the script for each job, gives it the data as stdin and sends its output back."""
    stack = contextlib.ExitStack()
    command = ["gearman", "-h", "127.0.0.1", "-p", str(port), "-w", "-f", "line", "--", str(place.program)]
    for _ in range(count):
        stack.enter_context(_process(command))
    return stack


def gearman(workers: int) -> Callable[[Place, int], float]:
    """The exec worker; the queue is filled in the background before the workers are there."""

    def measure(place: Place, tasks: int) -> float:
        with gearmand(place) as port:
            lines = "".join(f'{{"n":{number}}}\n' for number in range(tasks))
            fill = ["gearman", "-h", "127.0.0.1", "-p", str(port), "-b", "-n", "-f", "line"]
            subprocess.run(fill, input=lines, text=True, stdout=subprocess.DEVNULL, check=True)
            waiting = _gearman_status(port)
            assert waiting == tasks, f"expected {tasks} jobs in gearmand, found {waiting}"
            began = time.perf_counter()
            with gearman_workers(place, port, workers):
                deadline = began + WAIT_SECONDS
                while _gearman_status(port) != 0:
                    assert time.perf_counter() < deadline, "gearman is not through"
                    time.sleep(0.005)
                return tasks / (time.perf_counter() - began)

    return measure


def _gearman_status(port: int) -> int | None:
    """Jobs of the function `line` that are waiting or running; None where nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"status\n")
            answer = connection.makefile("rb")
            count = 0
            for line in iter(answer.readline, b".\n"):
                if not line:
                    return None
                name, total, *_ = line.split(b"\t")
                count += int(total) if name == b"line" else 0
            return count
    except OSError:
        return None


class GearmanClient:
    """As much of the binary protocol as one foreground job needs; `gearman -f` would cost more than the job."""

    _SUBMIT, _COMPLETE, _FAIL = 7, 13, 14

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._answers = self._connection.makefile("rb")

    def run(self, data: bytes) -> None:
        """Until the job is done."""
        body = b"line\0\0" + data
        self._connection.sendall(b"\0REQ" + struct.pack(">II", self._SUBMIT, len(body)) + body)
        while True:
            kind, length = struct.unpack(">4xII", self._answers.read(12))
            self._answers.read(length)
            assert kind != self._FAIL, "gearman's worker failed"
            if kind == self._COMPLETE:
                return

    def close(self) -> None:
        self._answers.close()
        self._connection.close()


# --- peers in Python

PEER_WORKERS = 4


def huey_is_missing() -> str | None:
    if importlib.util.find_spec("huey"):
        return None
    return "Huey is left out: it is not installed (pip install huey)"


def huey_sqlite(place: Place, tasks: int) -> float:
    """Huey on SQLite as its manual sets it up, 4 processes; results are kept."""
    home = place.directory / place.new_name()
    home.mkdir()
    environment = _peer_environment(BENCH_HUEY_FILE=f"{home}/huey.db", BENCH_PROGRAM=str(place.program))
    fill = [sys.executable, "-c", "import peer_huey; peer_huey.main()", str(tasks)]  # not -m: tasks are named by module
    with _output_of(fill, environment) as filler:
        assert filler.stdout is not None and filler.stdin is not None
        assert filler.stdout.readline() == b"filled\n", "Huey's queue could not be filled"
        consumer = [sys.executable, "-m", "huey.bin.huey_consumer", "peer_huey.huey", "-k", "process"]
        with _process([*consumer, "-w", str(PEER_WORKERS), "--quiet"], environment):
            filler.stdin.close()
            first, last = json.loads(filler.stdout.readline())
    shutil.rmtree(home, ignore_errors=True)
    return tasks / (last - first)


def celery_is_missing(place: Place) -> str | None:
    if not importlib.util.find_spec("celery"):
        return "Celery is left out: it is not installed (pip install celery pymongo)"
    return None if place.mongod is not None else "Celery is left out: there is no MongoDB"


def celery_mongodb(place: Place, tasks: int) -> float:
    """Celery's prefork pool of 4, MongoDB as broker and for the results."""
    assert place.mongod is not None
    name = place.new_name()
    environment = _peer_environment(BENCH_MONGODB=place.mongod.database_url(name), BENCH_PROGRAM=str(place.program))
    worker = [sys.executable, "-m", "celery", "-A", "peer_celery", "worker", "--pool", "prefork"]
    worker += ["-c", str(PEER_WORKERS), "--loglevel", "ERROR", "--without-gossip", "--without-mingle"]
    with pymongo.MongoClient[dict[str, Any]](place.mongod.url) as client:
        results = client[name]["celery_taskmeta"]
        try:
            subprocess.run([sys.executable, "-m", "peer_celery", str(tasks)], env=environment, check=True)
            with _process(worker, environment):
                wait_until(lambda: results.estimated_document_count() >= tasks, WAIT_SECONDS, "Celery is not through")
                times = [json.loads(one["result"]) for one in results.find({"status": "SUCCESS"})]
        finally:
            client.drop_database(name)
    assert len(times) == tasks, f"expected {tasks} results of Celery, found {len(times)}"
    return tasks / (max(ended for _, ended, _ in times) - min(started for started, *_ in times))


def _peer_environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_HERE), **more}


# --- processes of ours


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """In the background, quiet, and ended with the block."""
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _output_of(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def percentile(values: list[float], part: int) -> float:
    """p50, p99, …"""
    return statistics.quantiles(values, n=100, method="inclusive")[part - 1]
