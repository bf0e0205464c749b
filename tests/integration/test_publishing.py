"""Nodes publish what their plugins take: once for each change, and what nobody names any more goes."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

from disbatch_host.client.published import published_of
from disbatch_host.decide import readings
from disbatch_host.node.duties.publishing import KEPT_FOR
from disbatch_host.plugin import published_names
from disbatch_host.store.contract import Store
from disbatch_host.store.sqlite import SqliteStore
from helpers import nodes
from helpers.nodes import Cluster
from helpers.processes import wait_until

PACE = {"plugin_scan_seconds": 0.1, "publishing_seconds": 0.5, "rest_seconds": 0.3, "interval_check_seconds": 0.1}
OLD = KEPT_FOR + timedelta(hours=1)


def digests_of(store: Store, node_id: str = "n1") -> dict[str, str]:
    node = store.get_node(node_id)
    return {} if node is None else readings.digests_of(node)


def notes_of(store: Store) -> set[str]:
    return set(store.note_names("plugin:"))


def test_a_node_publishes_what_it_takes_and_removes_what_nobody_names(cluster: Cluster) -> None:
    store = cluster.store
    schema = {"type": "object", "required": ["user"]}
    cluster.plugin("Mail", "exit 0", version="1", parameters=schema, env={"WORD": "s3cret-word"})
    gone, young = (published_names.note_name("Mail", digit * 64) for digit in "01")
    odd = published_names.note_name("Gone", "2" * 64)
    store.write_note(gone, {"at": store.now() - OLD, "manifest": "{}"})
    store.write_note(young, {"at": store.now(), "manifest": "{}"})
    store.write_note(odd, {"at": "yesterday"})
    store.write_note("plugin:not ours", {"at": store.now() - OLD})
    cluster.start(pace=PACE)
    wait_until(lambda: digests_of(store), 30, "nothing is named")
    (plugin,) = (one for one in published_of(store, "Mail").plugins if one.nodes)
    assert (plugin.version, plugin.nodes, plugin.document["parameters"]) == ("1", ("n1",), schema)
    assert "s3cret-word" not in repr(store.read_note(published_names.note_name("Mail", plugin.digest)))
    wait_until(lambda: not {gone, odd} & notes_of(store), 30, "what nobody names is still there")
    assert {young, "plugin:not ours"} <= notes_of(store), "somebody may just be about to name it; it is not ours"
    store.write_note(published_names.note_name("Mail", plugin.digest), None)
    wait_until(lambda: published_of(store, "Mail").newest, 30, "a note that was removed is not written again")
    cluster.plugin("Mail", "exit 0", version="2", parameters=schema)
    wait_until(lambda: digests_of(store).get("Mail") not in (None, plugin.digest), 30, "the change is not published")
    assert published_names.note_name("Mail", digests_of(store)["Mail"]) in notes_of(store)


def test_a_note_that_the_store_refuses_costs_only_itself(
    sqlite: SqliteStore, sqlite_file: Path, tmp_path: Path
) -> None:
    connection = sqlite3.connect(sqlite_file)
    connection.execute(
        "CREATE TRIGGER no BEFORE INSERT ON notes WHEN NEW.name LIKE 'plugin:Bad:%' BEGIN SELECT RAISE(ABORT, ''); END"
    )
    connection.commit()
    with nodes.cluster(f"sqlite://{sqlite_file}", sqlite, tmp_path / "") as cluster:
        for name in ("Bad", "Good"):
            cluster.plugin(name, "exit 0")
        cluster.queue("Bad")
        cluster.start(pace=PACE)
        wait_until(lambda: digests_of(sqlite), 30, "nothing is named")
        assert digests_of(sqlite).keys() == {"Good"}

        def troubles() -> list[Any]:
            node = sqlite.get_node("n1")
            return [] if node is None else readings.troubles_of(node)

        wait_until(lambda: any("publishing of plugin, Bad" in one for one in troubles()), 30, "nobody says so")
        (task_id,) = cluster.push("Bad", {})
        wait_until(lambda: cluster.task(task_id).status == 1, 30, "its tasks do not run")
        connection.execute("DROP TRIGGER no")
        connection.commit()
        connection.close()
        wait_until(lambda: digests_of(sqlite).keys() == {"Bad", "Good"}, 30, "it is not tried again")
