"""MongoDB, or the way to it, fails under load in every way that is known: running tasks go on, what they say is kept
within bounds and written once, each program runs once, each follow-up task comes once."""

from __future__ import annotations

import contextlib
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pymongo.errors
import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.store.open import open_store
from disbatch_protocol.status import Status
from helpers import nodes
from helpers.mongod import Mongod
from helpers.processes import peak_memory, wait_until
from helpers.proxy import Proxy

pytestmark = [pytest.mark.mongodb, pytest.mark.timeout(300)]  # on a machine that is busy with much else

# Short, so that a black hole is noticed while the test waits. Direct: the set's own list of members knows no proxy.
OPTIONS = "directConnection=true&socketTimeoutMS=1000&serverSelectionTimeoutMS=1000&connectTimeoutMS=1000"
MANY_LINES = 250_000  # `seq` of them is more than the document holds, so it goes into a file
LOST_ANSWERS = 3  # in a row: the driver asks once more by itself, then the node must find out what was carried out


@pytest.fixture
def server(own_mongod: Callable[..., Mongod]) -> Iterator[Mongod]:
    """One of its own: it is killed."""
    with own_mongod() as server:
        yield server


@pytest.fixture
def proxy(server: Mongod) -> Iterator[Proxy]:
    with Proxy(server.port) as one:
        yield one


@pytest.fixture
def cluster(server: Mongod, tmp_path: Path) -> Iterator[nodes.Cluster]:
    url = server.database_url("away")
    store = open_store(url, SystemClock())
    store.open()
    with nodes.cluster(url, store, tmp_path) as one:
        yield one
    store.close()


class Load:
    """Short tasks with follow-ups, tasks with output for a file, and tasks that talk all the time."""

    def __init__(self, cluster: nodes.Cluster) -> None:
        self.cluster = cluster
        self.trace = cluster.directory / "trace"
        self.trace.touch()
        self.gate = cluster.directory / "gate"
        start, end = (f'echo "{word} $DISBATCH_TASK_ID" >>{self.trace}' for word in ("start", "end"))
        follow_up = (
            """printf '{"type":"tasks","tasks":[{"queue":"Next","parameters":{"of":"%s"}}]}\\n' $DISBATCH_TASK_ID >&3"""
        )
        cluster.plugin("Step", f"{start}; echo out $DISBATCH_TASK_ID; {follow_up}; {end}")
        cluster.plugin("Next", f"{start}; cat; {end}")
        cluster.plugin("Big", f"{start}; seq {MANY_LINES}; {end}")
        talk = f"i=0; while ! test -e {self.gate}; do echo $i; i=$((i + 1)); sleep 0.1; done; echo last $i"
        cluster.plugin("Talk", f"{start}; {talk}; {end}")
        cluster.queue("Step", maxthreads=4)
        cluster.queue("Next", maxthreads=2)
        cluster.queue("Big", maxthreads=2)
        cluster.queue("Talk", maxthreads=3)
        self.steps: list[Any] = []
        self.bigs: list[Any] = []
        self.talks = cluster.push("Talk", {}, {}, {})

    def push(self, steps: int, bigs: int) -> None:
        self.steps += self.cluster.push("Step", *({} for _ in range(steps)))
        self.bigs += self.cluster.push("Big", *({} for _ in range(bigs)))

    def starts(self) -> int:
        return self.trace.read_bytes().count(b"start")

    def wait_for_more(self, count: int = 8) -> None:
        wanted = self.starts() + count
        wait_until(lambda: self.starts() >= wanted, 60, "nothing goes on")

    def finish(self) -> None:
        self.gate.touch()
        wait_until(lambda: self.concluded() == 2 * len(self.steps) + len(self.bigs) + 3, 90, "not all are concluded")

    def concluded(self) -> int:
        counts = self.cluster.store.count_by_status().values()
        return sum(count.get(Status.CONCLUDED, 0) for count in counts)

    def check_account(self) -> None:
        tasks = {str(task.id): task for task in self.cluster.tasks()}
        following = Counter(task.document["parameters"]["of"] for task in self.cluster.tasks(queue="Next"))
        assert following == Counter(str(task_id) for task_id in self.steps)
        starts, ends = self.marks("start"), self.marks("end")
        assert starts == ends == Counter(dict.fromkeys(tasks, 1)), "each program has run once, to its end"
        for task in tasks.values():
            assert (task.status, task.run["attempt"]) == (Status.CONCLUDED, 1)
            # A claim that the node has not heard of was given back, and says so.
            assert all((one["reason"], one["attempt_used"]) == ("start_failed", False) for one in task.attempts)
            assert "follow_ups" not in task.document
        for task_id in self.steps:
            assert tasks[str(task_id)].document["stdout"] == f"out {task_id}\n"
        whole = "".join(f"{number}\n" for number in range(1, MANY_LINES + 1)).encode()
        for task_id in self.bigs:
            assert self.cluster.output(task_id) == whole
        for task_id in self.talks:
            *counted, last = tasks[str(task_id)].document["stdout"].splitlines()
            assert counted == [str(number) for number in range(len(counted))] and last == f"last {len(counted)}"

    def marks(self, word: str) -> Counter[str]:
        return Counter(line.split()[1] for line in self.trace.read_text().splitlines() if line.startswith(word))


def through(proxy: Proxy) -> str:
    return f"mongodb://127.0.0.1:{proxy.port}/away?{OPTIONS}"


def network_faults(proxy: Proxy, load: Load, chance: random.Random) -> dict[str, Callable[[], None]]:
    """Each brings about its fault while tasks run, and mends it."""

    def drop() -> None:
        for _ in range(3):
            proxy.drop_all()
            load.wait_for_more(2)

    def during(fault: Callable[[], None]) -> None:
        wanted = proxy.noticed + chance.randint(1, 6)
        fault()
        wait_until(lambda: proxy.noticed >= wanted, 60, "the node does not notice")
        proxy.mend()

    def lose_answers(command: str) -> None:
        proxy.cut_answers(LOST_ANSWERS, to=command.encode() + b"\0\6\0\0\0tasks\0")
        wait_until(lambda: proxy.answers_cut == LOST_ANSWERS, 60, "no answer was cut")

    return {
        "dropped": drop,
        "refused": lambda: during(proxy.refuse),
        "black hole": lambda: during(proxy.swallow),
        "answers to updates": lambda: lose_answers("update"),
        "answers to inserts": lambda: lose_answers("insert"),
        "answers to finds": lambda: lose_answers("find"),
    }


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_however_the_network_fails_everything_runs_once_and_is_written_once(
    cluster: nodes.Cluster, proxy: Proxy, rounds: int
) -> None:
    load = Load(cluster)
    chance = random.Random(rounds)
    node = cluster.start("--heartbeat", "0.5", url=through(proxy))
    wait_until(lambda: load.starts() >= 3, 60, "the node does not begin")
    faults = network_faults(proxy, load, chance)
    for _ in range(rounds):
        for name in chance.sample(sorted(faults), len(faults)):
            load.push(25, 1)
            load.wait_for_more()
            faults[name]()
    load.finish()
    load.check_account()
    node.terminate()
    assert node.wait(60) == 0


def server_faults(server: Mongod, load: Load, chance: random.Random) -> dict[str, Callable[[], None]]:
    def until_it_is_noticed() -> None:
        before = load.cluster.log().count("the store is away")
        wait_until(lambda: load.cluster.log().count("the store is away") > before, 60, "the node does not notice")

    def kill() -> None:
        server.kill()
        if chance.random() < 0.5:  # else it is back before anybody could tell
            until_it_is_noticed()
        server.start()

    def step_down() -> None:
        with pymongo.MongoClient(server.url) as client:
            with contextlib.suppress(pymongo.errors.AutoReconnect):
                client.admin.command({"replSetStepDown": 1, "force": True})
            assert_eventually_primary(client)

    def slow() -> None:
        server.signal(signal.SIGSTOP)
        until_it_is_noticed()
        server.signal(signal.SIGCONT)

    return {"killed": kill, "stepped down": step_down, "slow": slow}


def assert_eventually_primary(client: pymongo.MongoClient[Any]) -> None:
    def is_primary() -> bool:
        with contextlib.suppress(pymongo.errors.PyMongoError):
            return bool(client.admin.command("hello")["isWritablePrimary"])
        return False

    wait_until(is_primary, 60, "it was not elected again")


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_however_the_server_fails_everything_runs_once_and_is_written_once(
    cluster: nodes.Cluster, server: Mongod, rounds: int
) -> None:
    load = Load(cluster)
    chance = random.Random(rounds)
    options = OPTIONS.replace("directConnection=true", "replicaSet=rs0")
    node = cluster.start("--heartbeat", "0.5", url=f"mongodb://127.0.0.1:{server.port}/away?{options}")
    wait_until(lambda: load.starts() >= 3, 60, "the node does not begin")
    faults = server_faults(server, load, chance)
    for _ in range(rounds):
        for name in chance.sample(sorted(faults), len(faults)):
            load.push(25, 1)
            load.wait_for_more()
            faults[name]()
    load.finish()
    load.check_account()
    node.terminate()
    assert node.wait(60) == 0


@pytest.mark.parametrize("count", [16, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_what_many_tasks_say_while_the_store_is_away_waits_on_disk(
    cluster: nodes.Cluster, proxy: Proxy, count: int
) -> None:
    """The incident: each run handed over its next 8 MiB, and all of them stayed in memory until the store was back."""
    size = 12 * 2**20
    gate = cluster.directory / "gate"
    said = cluster.directory / "said"
    said.touch()
    talk = f"head -c {size} /dev/zero | tr '\\0' x; echo said >>{said}"
    cluster.plugin("Much", f"echo begun; while ! test -e {gate}; do sleep 0.1; done; {talk}")
    ids = cluster.push(cluster.queue("Much", maxthreads=count), *({} for _ in range(count)))
    node = cluster.start(url=through(proxy))
    wait_until(lambda: all(cluster.task(one).document["stdout"] for one in ids), 60, "not all have begun")
    before = peak_memory(node.pid)
    proxy.refuse()
    gate.touch()
    wait_until(lambda: said.read_text().count("said") == count, 60, "not all have said it")
    wait_until(lambda: "the store is away" in cluster.log(), 60, "the node does not say that the store is away")
    proxy.mend()
    cluster.wait_for_all(within_seconds=300)
    grown = peak_memory(node.pid) - before
    for task_id in ids:
        pieces = cluster.store.read_output(task_id, cluster.task(task_id).run["token"], "stdout")
        assert sum(len(piece) for piece in pieces) == size + len("begun\n")
    # What is in the document of each, twice (as kept, and as handed over), and what all runs together hand over.
    assert grown < count * 2.5 * 2**20 + 80 * 2**20
    node.terminate()
    assert node.wait(60) == 0
