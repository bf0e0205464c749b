"""`--metrics`: a real node is scraped over HTTP while it works, on both stores."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse

from acceptance.conftest import Terminal
from conftest import skip_or_fail
from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import Task
from disbatch_host.metrics.census import pause_after
from disbatch_host.metrics.counters import Metrics
from disbatch_host.metrics.exposition import OTHER, QUEUES_MAX
from disbatch_host.store.open import open_store
from disbatch_protocol.outcome import Conclusion, Outcome, Reason
from disbatch_protocol.status import Status
from helpers import nodes
from helpers.mongod import Mongod
from helpers.nodes import COMMAND, UNKNOWN_FORMAT, Cluster
from helpers.processes import assert_group_is_gone, wait_until
from helpers.stores import on_sqlite

QUICK_TO_COUNT = {"census_seconds": 0.1}


class Scrape:
    """What one answer of /metrics holds."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.types: dict[str, str] = {}
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in parse(text):
            self.types[family.name] = family.type
            assert family.documentation, family.name
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.samples, f"{key} comes twice"
                self.samples[key] = sample.value

    def get(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, frozenset(labels.items())))

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


def fetch(url: str, **headers: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def url_of(cluster: Cluster, node_id: str = "n1") -> str:
    """Where a node says that its metrics are."""
    found: list[str] = []

    def look() -> bool:
        found[:] = re.findall(r"metrics are served at (\S+)/metrics", cluster.log(node_id))
        return bool(found)

    wait_until(look, 20, "the node did not say where its metrics are")
    return found[-1]


def scrape(url: str) -> Scrape:
    status, content_type, text = fetch(f"{url}/metrics")
    assert status == 200 and content_type.startswith("text/plain; version=0.0.4"), (status, content_type)
    return Scrape(text)


def wait_for(url: str, name: str, value: float, **labels: str) -> Scrape:
    latest: list[Scrape] = []

    def look() -> bool:
        latest[:] = [scrape(url)]
        return latest[0].get(name, **labels) == value

    try:
        wait_until(look, 60, "")
    except AssertionError:
        pytest.fail(f"{name} {labels} did not become {value}:\n{latest[0].text if latest else ''}")
    return latest[0]


def test_everything_that_happens_is_counted(cluster: Cluster) -> None:
    gate = cluster.directory / "gate"
    cluster.plugin("Fine", "exit 0")
    cluster.plugin("Fails", "exit 3", retry={"max": 1, "delay": 0})
    cluster.plugin("Slow", "exec sleep 60", timeout=0.2)
    cluster.plugin("Hold", f"while ! test -e {gate}; do sleep 0.1; done")
    (cluster.plugin("Gone", "exit 0") / "run.sh").write_bytes(UNKNOWN_FORMAT)
    cluster.plugin("Broken", "exit 0", timeout="nonsense")
    cluster.push(cluster.queue("Fine", "q1"), *({} for _ in range(50)))
    cluster.push(cluster.queue("Fails", "q2", pause_on_failures="2/1d"), {}, {})
    cluster.queue("Fine", "q6", paused={"by": "me"})
    cluster.push(cluster.queue("Slow", "q3"), {})
    holding = cluster.push(cluster.queue("Hold", "q4", maxthreads=2), *({} for _ in range(5)))
    cluster.queue("Gone", "q5")
    cluster.push("nobody", {}, {})
    pace = {**QUICK_TO_COUNT, "failing_queues_seconds": 0.2}
    process = cluster.start("--metrics", "127.0.0.1:0", "--max-total", "20", "--heartbeat", "0.2", pace=pace)
    url = url_of(cluster)
    wait_for(url, "disbatch_tasks", 50, queue="q1", status="concluded")
    wait_for(url, "disbatch_tasks", 2, queue="q4", status="running")
    now = wait_for(url, "disbatch_node_runs", 2)
    assert now.get("disbatch_node_running", queue="q4") == 2 and now.get("disbatch_node_state", state="running") == 1
    assert now.get("disbatch_supervisor_processes", state="running") >= 2
    assert now.get("disbatch_runs_adopted_total") == 0
    assert now.get("disbatch_node_limit", queue="q4") == 2 and now.get("disbatch_node_limit_total") == 20

    def ended(queue: str, class_name: str, outcome: str, reason: str) -> float | None:
        labels = {"queue": queue, "class": class_name, "outcome": outcome, "reason": reason}
        return now.get("disbatch_runs_ended_total", **labels)

    assert ended("q1", "Fine", "success", "exited") == 50
    labels = {"class": "Fails", "outcome": "failure", "reason": "exited"}
    now = wait_for(url, "disbatch_runs_ended_total", 2, queue="q2", **labels)
    assert ended("q2", "Fails", "retry", "exited") == 2, "each attempt is a run"
    paused = wait_for(url, "disbatch_queue_paused", 1, queue="q2", by="failures")
    assert paused.get("disbatch_queue_paused", queue="q6", by="person") == 1
    assert paused.get("disbatch_queue_paused", queue="q1", by="failures") is None
    labels = {"class": "Slow", "outcome": "terminated", "reason": "timeout"}
    now = wait_for(url, "disbatch_runs_ended_total", 1, queue="q3", **labels)
    assert ended("q4", "Hold", "success", "exited") is None
    assert now.types["disbatch_runs_ended"] == "counter" and now.types["disbatch_run_seconds"] == "histogram"
    assert now.get("disbatch_run_seconds_count", **{"class": "Fine"}) == 50
    slow = now.get("disbatch_run_seconds_sum", **{"class": "Slow"})
    assert slow is not None and 0.2 <= slow < 20
    assert now.get("disbatch_run_seconds_bucket", **{"class": "Slow", "le": "0.1"}) == 0
    assert now.get("disbatch_task_wait_seconds_count", queue="q1") == 50
    assert now.get("disbatch_task_wait_seconds_count", queue="q2") == 2, (
        "a second attempt has waited for something else"
    )
    assert now.get("disbatch_tasks", queue="q4", status="created") == 3
    assert now.get("disbatch_tasks", queue="nobody", status="created") == 2
    oldest = now.get("disbatch_oldest_waiting_seconds", queue="nobody")
    assert oldest is not None and 0 < oldest < 60
    assert now.get("disbatch_oldest_waiting_seconds", queue="q1") is None
    age = now.get("disbatch_heartbeat_age_seconds", node="n1")
    assert age is not None and 0 <= age < 10
    writes = now.get("disbatch_store_write_seconds_count")
    assert writes is not None and writes > 5
    assert now.get("disbatch_store_away") == 0 and now.get("disbatch_store_records_waiting") == 0
    assert now.get("disbatch_plugins", state="usable") == 5 and now.get("disbatch_plugins", state="broken") == 1
    kind = cluster.url.partition(":")[0]
    [info] = [labels for (name, labels) in now.samples if name == "disbatch_host_info"]
    assert {"node": "n1", "store": kind}.items() <= dict(info).items() and "version" in dict(info)
    cluster.push("q5", *({} for _ in range(5)))
    now = wait_for(url, "disbatch_plugin_set_aside", 1, **{"class": "Gone"})
    assert (ended("q5", "Gone", "returned", "start_failed") or 0) >= 5, "those that were under way come on top"
    assert now.get("disbatch_run_seconds_count", **{"class": "Gone"}) == 0, "they never ran"
    gate.touch()
    wait_for(url, "disbatch_tasks", 5, queue="q4", status="concluded")
    for task_id in holding:
        assert str(task_id) not in scrape(url).text
    process.terminate()
    assert process.wait(30) == 0
    assert_group_is_gone(process.pid)
    with pytest.raises(OSError):
        fetch(f"{url}/metrics")


@on_sqlite
def test_what_is_there_and_what_is_not(cluster: Cluster) -> None:
    process = cluster.start("--metrics", "127.0.0.1:0")
    url = url_of(cluster)
    wait_until(lambda: fetch(f"{url}/healthz")[0] == 200, 20, "the node did not get well")
    assert fetch(f"{url}/healthz")[2] == "ok\n"
    assert fetch(f"{url}/")[0] == 404 and "/metrics" in fetch(f"{url}/")[2]
    request = urllib.request.Request(f"{url}/metrics", method="HEAD")
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200 and answer.read() == b""
    request = urllib.request.Request(f"{url}/metrics", method="POST", data=b"x")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request, timeout=20)
    status, content_type, text = fetch(f"{url}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert status == 200 and content_type.startswith("application/openmetrics-text")
    assert {family.name for family in parse_open_metrics(text)} >= {"disbatch_store_write_seconds", "disbatch_host"}
    process.terminate()
    assert process.wait(30) == 0


@on_sqlite
def test_connections_that_say_nothing_do_not_hold_up_others_nor_the_end(cluster: Cluster) -> None:
    process = cluster.start("--metrics", "127.0.0.1:0", pace={"silent_client_seconds": 0.5})
    url = url_of(cluster)
    wait_until(lambda: fetch(f"{url}/healthz")[0] == 200, 20, "the node did not get well")
    port = int(url.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    # Those beyond the bound are closed at once, the others after some seconds; then there is room again.
    for one in silent:
        one.settimeout(20)
        assert one.recv(1) == b""
    assert fetch(f"{url}/healthz")[0] == 200
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert b"400" in one.recv(1000)
    with socket.create_connection(("127.0.0.1", port)):
        process.terminate()
        assert process.wait(30) == 0
    assert "Traceback" not in cluster.log()


@pytest.mark.parametrize(
    "address",
    ["9100", "localhost", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "::1:9100", "http://a:9100", "a b:1"],
)
def test_what_is_no_address_is_refused_in_one_line(terminal: Terminal, address: str) -> None:
    line = terminal.refused(2, "--metrics", address)
    assert "--metrics: expected an address and a port like 127.0.0.1:9100, [::1]:9100 or :9100, found" in line
    (terminal.directory / "host.json").write_text(json.dumps({"metrics": address}))
    assert "/metrics: expected an address and a port" in terminal.refused(2, "--config", "host.json")


def test_an_address_that_is_not_of_this_machine_is_refused(terminal: Terminal) -> None:
    for address in ("192.0.2.1:9100", "no-such-host.invalid:9100"):
        assert "cannot be served" in terminal.refused(2, "--metrics", address)


def test_metrics_are_for_a_node_only(terminal: Terminal) -> None:
    assert "is for running a node" in terminal.refused(2, "--metrics", ":9100", "status")


@on_sqlite
def test_a_port_in_use_is_said_before_the_node_takes_its_id(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = cluster.start("--metrics", f"127.0.0.1:{port}", "--until-idle")
        assert process.wait(30) == 2
    lines = cluster.log().splitlines()
    assert len(lines) == 1 and f"port {port} cannot be served: it is in use" in lines[0]
    assert cluster.store.nodes() == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "", "localhost"])
@on_sqlite
def test_every_form_of_an_address(cluster: Cluster, host: str) -> None:
    if host == "[::1]" and not _has_ipv6():
        skip_or_fail("no IPv6 here")
    process = cluster.start("--metrics", f"{host}:0")
    port = url_of(cluster).rpartition(":")[2]
    reached = f"http://{host or '127.0.0.1'}:{port}"
    wait_until(lambda: fetch(f"{reached}/healthz")[0] == 200, 20, "the node did not get well")
    process.terminate()
    assert process.wait(30) == 0


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@on_sqlite
def test_hangup_leaves_the_port_as_it_is_and_says_so(cluster: Cluster) -> None:
    config = cluster.directory / "host.json"
    config.write_text(json.dumps({"metrics": "127.0.0.1:0", "max": 3}))
    process = cluster.start("--config", str(config))
    url = url_of(cluster)
    wait_until(lambda: fetch(f"{url}/healthz")[0] == 200, 20, "the node did not get well")
    config.write_text(json.dumps({"metrics": "127.0.0.1:1", "max": 4}))
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "max is 4" in cluster.log(), 20, "it was not read again")
    assert '"metrics" has changed; the change takes effect when the node is restarted' in cluster.log()
    assert fetch(f"{url}/metrics")[0] == 200
    process.terminate()
    assert process.wait(30) == 0


@on_sqlite
def test_nothing_is_served_and_nothing_imported_unless_asked_for(cluster: Cluster) -> None:
    look = "print([one for one in sys.modules if 'prometheus' in one])"
    code = f"import sys; import disbatch_host.cli.commands.run; {look}"
    done = subprocess.run([COMMAND[0], "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    cluster.plugin("A", "exit 0")
    cluster.run_one(cluster.queue("A"))
    assert "metrics" not in cluster.log()


@pytest.mark.mongodb
def test_a_store_that_is_away_is_seen(own_mongod: Callable[..., Mongod], tmp_path: Path) -> None:
    with own_mongod() as server:
        url = f"{server.database_url('away')}&serverSelectionTimeoutMS=500"  # the node's own is 3.5 s
        store = open_store(url, SystemClock())
        store.open()
        with nodes.cluster(url, store, tmp_path) as cluster:
            cluster.plugin("Hold", "echo begun; exec sleep 600")
            (task_id,) = cluster.push(cluster.queue("Hold"), {})
            process = cluster.start(
                "--metrics", "127.0.0.1:0", "--heartbeat", "0.2", "--dead-after", "1",
                pace={**QUICK_TO_COUNT, "last_retry_seconds": 0.5},
            )  # fmt: skip
            served = url_of(cluster)
            wait_until(lambda: cluster.task(task_id).document["stdout"] == "begun\n", 20, "did not begin")
            wait_for(served, "disbatch_tasks", 1, queue="Hold", status="running")
            group = cluster.task(task_id).run["pid"]
            server.kill()
            wait_until(lambda: fetch(f"{served}/healthz")[0] == 503, 30, "the node stayed healthy")
            assert "the store was last reached" in fetch(f"{served}/healthz")[2]
            os.kill(group, signal.SIGKILL)  # its end cannot be written
            away = wait_for(served, "disbatch_store_away", 1)
            records = away.get("disbatch_store_records_waiting")
            assert records is not None and records >= 1
            wait_until(lambda: "disbatch_tasks" not in scrape(served).names(), 30, "old numbers were shown as new")
            silent = scrape(served).get("disbatch_store_silent_seconds")
            assert silent is not None and silent > 1
            server.start()
            wait_until(lambda: fetch(f"{served}/healthz")[0] == 200, 60, "the node did not get well")
            wait_for(served, "disbatch_store_away", 0)
            wait_for(served, "disbatch_tasks", 1, queue="Hold", status="terminated")
            process.terminate()
            assert process.wait(30) == 0
        store.close()


def claimed(queue: object, now: datetime, **more: Any) -> Task:
    document = {"_id": "t", "queue": queue, "ctime": now - timedelta(seconds=5), "claim": {"at": now}, **more}
    return Task(id="t", queue=queue, status=int(Status.CLAIMED), node="n1", token="x", document=document)


def test_the_number_of_labels_is_bounded() -> None:
    metrics = Metrics("n1", store_kind="sqlite")
    conclusion = Conclusion(outcome=Outcome.SUCCESS, status=Status.CONCLUDED)
    now = datetime.now(UTC)
    for number in range(3 * QUEUES_MAX):
        metrics.observe_claim(claimed(f"q{number}", now))
        metrics.count_end(f"q{number}", f"C{number}", conclusion, Reason.EXITED, 0.5)
    found = Scrape(metrics.exposition("", None)[0].decode())
    ended = {labels for name, labels in found.samples if name == "disbatch_runs_ended_total"}
    assert len(ended) == QUEUES_MAX + 1
    labels = {"queue": OTHER, "class": OTHER, "outcome": "success", "reason": "exited"}
    assert found.get("disbatch_runs_ended_total", **labels) == 2 * QUEUES_MAX
    assert found.get("disbatch_task_wait_seconds_count", queue=OTHER) == 2 * QUEUES_MAX
    assert found.get("disbatch_task_wait_seconds_sum", queue="q1") == 5


def test_runs_that_go_on_are_counted_and_ended_ones_until_they_are_stored() -> None:
    class Supervisor:
        def counts(self) -> tuple[int, int]:
            return 3, 2

    metrics = Metrics("n1", store_kind="sqlite")
    metrics.watch_supervisor(Supervisor())
    metrics.count_adopted()
    found = Scrape(metrics.exposition("", None)[0].decode())
    assert found.get("disbatch_runs_adopted_total") == 1
    processes = [found.get("disbatch_supervisor_processes", state=state) for state in ("running", "ended")]
    assert processes == [3, 2]


def test_odd_names_of_queues_are_told_as_they_are() -> None:
    metrics = Metrics("n1", store_kind="sqlite")
    conclusion = Conclusion(outcome=Outcome.SUCCESS, status=Status.CONCLUDED)
    for queue in ('a"b\\c', "d\ne", "ü", ""):
        metrics.count_end(queue, "A", conclusion, Reason.EXITED, 1)
        text = metrics.exposition("", None)[0].decode()
        labels = {"queue": queue, "class": "A", "outcome": "success", "reason": "exited"}
        assert Scrape(text).get("disbatch_runs_ended_total", **labels) == 1


def test_counting_takes_a_twentieth_of_the_time_at_most() -> None:
    assert pause_after(0.01, 5.0) == 5.0
    for took in (0.3, 2.0, 60.0):
        assert took / (took + pause_after(took, 5.0)) <= 0.05
