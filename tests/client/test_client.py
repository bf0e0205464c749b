"""Opening a client: which store, which plugins, who asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import disbatch_host.client
from disbatch_host.client import Client, Selection
from disbatch_host.client.pushing import ParametersError
from disbatch_host.errors import StoreError, UsageError
from disbatch_host.store.contract import Store
from helpers.nodes import write_plugin


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without plugins, and an environment that names nothing."""
    for name in ("DISBATCH_STORE", "DISBATCH_PLUGINS", "DISBATCH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def test_an_opened_client_talks_to_the_store_and_closes_it(store_url: str, store: Store) -> None:
    with Client.open(store_url) as client:
        client.queues.create("q", "mail")
        task_id = client.push("q", {"user": "matt"}).id
        client.cancel(task_id)
    client.close()  # closing twice is fine
    assert store.find_queue("q") is not None
    task = store.get_task(task_id)
    assert task is not None
    user, _, machine = str(task.run["cancelled"]["by"]).partition("@")
    assert user and machine


def test_who_asks_may_be_named(store_url: str, store: Store) -> None:
    with Client.open(store_url, by="cron@db01") as client:
        client.queues.create("q", "mail")
        assert dict(client.queues.pause("q").paused or {})["by"] == "cron@db01"


def test_a_client_on_an_open_store_leaves_it_open(store: Store) -> None:
    with Client(store, None, "me@here") as client:
        client.queues.create("q", "mail")
    assert store.find_queue("q") is not None


def test_a_file_is_made_only_where_that_is_meant(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/new.db"
    with pytest.raises(StoreError):
        Client.open(url)
    assert not (tmp_path / "new.db").exists()
    with Client.open(url, creates=True) as client:
        client.queues.create("q", "mail")
    with Client.open(url) as client:
        assert [one.queue.id for one in client.queues.list()] == ["q"]


def test_without_a_url_the_variables_and_the_default_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client.open() as client:
        assert client.count(Selection()) == 0  # the default store is not there, and looks empty
    monkeypatch.setenv("DISBATCH_STORE", f"sqlite://{tmp_path}/named.db")
    with Client.open(creates=True) as client:
        assert "named.db" in client.store.description


def test_plugins_say_which_parameters_fit(store_url: str, store: Store, place: Path) -> None:
    store.insert_queue({"_id": "q", "class": "mail"})
    write_plugin(place / "elsewhere", "mail", "exit 0", parameters={"type": "object", "required": ["user"]})
    with Client.open(store_url) as client:
        client.push("q", {})
    with Client.open(store_url, plugins=["elsewhere"]) as client, pytest.raises(ParametersError):
        client.push("q", {})
    (place / "elsewhere").rename(place / "plugins")  # the default directory
    with Client.open(store_url) as client, pytest.raises(ParametersError):
        client.push("q", {})
    with pytest.raises(UsageError, match="plugin directory .* is not there"):  # noqa: RUF043
        Client.open(store_url, plugins=["elsewhere"])


def test_what_the_package_exports_is_there_and_typed() -> None:
    for name in disbatch_host.client.__all__:
        assert getattr(disbatch_host.client, name) is not None
    with pytest.raises(AttributeError):
        _ = disbatch_host.client.Nope


@pytest.mark.parametrize(
    "module", ["finding", "history", "queues", "why", "waiting", "pushing", "opening", "requests", "times"]
)
def test_a_module_that_does_not_change_the_status_of_tasks_starts_without_manifests(module: str) -> None:
    """Commands that only look, push or wait are started in loops."""
    code = f"import sys, disbatch_host.client.{module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    forbidden = {"disbatch_protocol.manifest", "disbatch_protocol.outcome", "disbatch_host.client.client"}
    forbidden |= {"disbatch_host.documents.transitions", "disbatch_host.plugin.catalog", "click", "rich", "pymongo"}
    assert not forbidden & loaded
