"""What a node keeps in the store for its home: the id of the store, and the sessions of a node id."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.metrics.census import CensusTaker
from disbatch_host.node.home import next_session, store_id_of
from disbatch_host.node.home_directory import HomeUnusableError
from disbatch_host.store.contract import Store
from disbatch_host.store.open import open_store

PROCESSES, SESSIONS = 4, 25
# Opens the store, says so, waits for a line, and prints its id of the store and the sessions that it got.
ASKING = """
import json, sys
from disbatch_host.clock import SystemClock
from disbatch_host.node.home import next_session, store_id_of
from disbatch_host.store.open import open_store
store = open_store(sys.argv[1], SystemClock())
store.open()
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([store_id_of(store).hex(), [next_session(store, "n1") for _ in range(int(sys.argv[2]))]]))
store.close()
"""


def test_of_many_processes_each_finds_the_same_store_and_gets_sessions_of_its_own(store: Store, store_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASKING, store_url, str(SESSIONS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for one in processes:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    for one in processes:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    answers = [json.loads(one.communicate(timeout=60)[0]) for one in processes]
    assert {store_id for store_id, _ in answers} == {store_id_of(store).hex()}
    assert all(sessions == sorted(sessions) for _, sessions in answers), "they rise for each process"
    together = sorted(number for _, sessions in answers for number in sessions)
    assert together == list(range(1, PROCESSES * SESSIONS + 1)), "none is given twice, none is left out"


def test_an_id_of_a_store_stays(store: Store, second_store: Store) -> None:
    first = store_id_of(store)
    assert len(first) == 16
    assert store_id_of(second_store) == first == store_id_of(store)


def test_a_session_survives_the_node_document(store: Store) -> None:
    assert next_session(store, "n1") == 1
    assert store.put_node({"_id": "n1", "session": "a", "heartbeat": {}}, replacing=None)
    assert store.remove_node("n1", "a")
    assert next_session(store, "n1") == 2
    assert next_session(store, "n2") == 1, "each id has its own"


@pytest.mark.parametrize("odd", [None, True, -3, "7", 2.5, {"n": 1}])
def test_a_session_that_somebody_has_changed_to_something_else_begins_again(store: Store, odd: object) -> None:
    store.write_note("session of node n1", {"session": odd})
    assert [next_session(store, "n1"), next_session(store, "n1")] == [1, 2]


def test_a_session_note_without_a_number_is_as_good_as_none(store: Store) -> None:
    store.write_note("session of node n1", {"by": "somebody"})
    assert [next_session(store, "n1"), next_session(store, "n1")] == [1, 2]


@pytest.mark.parametrize("odd", [{"id": "not hex"}, {"id": "ab"}, {"id": 7}, {}])
def test_an_id_of_a_store_that_somebody_has_changed_is_not_replaced(store: Store, odd: dict[str, object]) -> None:
    """Another would be another store's, and its node would not find its runs."""
    store.write_note("store id", odd)
    with pytest.raises(HomeUnusableError, match="32 hex digits"):
        store_id_of(store)
    assert store.read_note("store id") == odd


def test_the_age_of_a_heartbeat_counts_again_once_a_node_is_no_longer_away(store: Store, store_url: str) -> None:
    """Its alert would go off at every upgrade."""
    until = {"n1": store.now() + timedelta(minutes=10), "n2": store.now() - timedelta(seconds=1)}
    for node_id, moment in until.items():
        node = {
            "_id": node_id,
            "session": "s",
            "version": "disbatch-host 0",
            "heartbeat": {},
            "away": {"until": moment},
        }
        assert store.put_node(node, replacing=None)
    taker = CensusTaker(lambda: open_store(store_url, SystemClock()), interval_seconds=0.0)
    census = taker.ask(wait_seconds=30)
    taker.stop()
    assert census is not None and census.heartbeat_age_seconds.keys() == {"n2"}
