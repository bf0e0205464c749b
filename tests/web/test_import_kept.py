"""What the steps of an import keep: the import that a file was promised, and secrets that were given before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from disbatch_host.client import Client, Selection
from disbatch_host.web.spool import Spool
from helpers import web
from helpers.browsing import Visitor
from helpers.importing import begin_import, check, checked, choose, people, seen_until, through
from helpers.nodes import write_plugin
from helpers.web import Web

SECRET = "planted-5ecret"


def signed(server: Web) -> Visitor:
    visitor = Visitor(server)
    assert visitor.sign_in("operate").status == 200
    return visitor


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def alone(living_url: str, client: Client, plugins: Path, spool: Path) -> Iterator[Web]:
    """A server with a spool of its own."""
    with web.serving(living_url, [plugins], spool=spool) as one:
        yield one


def test_an_import_that_was_promised_and_never_begun_can_be_begun(alone: Web, client: Client, spool: Path) -> None:
    """A server that was killed between the two left a file that led to an import which nobody knew."""
    client.queues.create("promised", "Greet")
    visitor = signed(alone)
    found = check(visitor, "promised", people(3), {})
    (sent,) = [one for one in spool.iterdir() if one.suffix == ".upload"]
    promised = str(client.store.new_ids(1)[0])
    assert Spool(spool).begin(sent.stem, "operate@web", promised) == promised
    assert "people.csv" in visitor.get("/queues/promised/import").text
    assert re.search(r"Sent by you.*people\.csv", visitor.get("/imports").text, re.DOTALL)
    address = begin_import(visitor, found).headers["location"]
    assert address == f"/imports/{promised}"
    assert seen_until(visitor, address, lambda one: ">done</span>" in one.text).status == 200
    assert client.count(Selection(queue="promised")) == 3


def test_what_another_version_has_kept_of_a_file_is_as_if_it_were_not_there(
    alone: Web, client: Client, spool: Path
) -> None:
    """After an upgrade, a plan with a field that is gone made each step of its import an internal error for a day."""
    client.queues.create("upgraded", "Greet")
    visitor = signed(alone)
    check(visitor, "upgraded", people(3), {})
    (sent,) = [one for one in spool.iterdir() if one.suffix == ".upload"]
    for kind in ("plan", "trial"):
        path = sent.with_suffix(f".{kind}")
        kept = orjson.loads(path.read_bytes())
        path.write_bytes(orjson.dumps({**kept, "written_by": "0.0.9", "a_field_that_is_gone": True}))
    for step in ("map", "check"):
        seen = visitor.get(f"/queues/upgraded/import?upload={sent.stem}&step={step}")
        assert seen.status in (200, 303), (step, seen.text)
    assert visitor.get("/queues/upgraded/import").status == 200
    assert visitor.get("/imports").status == 200


def test_secrets_within_what_all_tasks_get_stay_when_columns_are_chosen_again(
    living_url: str, client: Client, tmp_path: Path, spool: Path
) -> None:
    auth = {"type": "object", "properties": {"login": {"type": "string"}, "key": {"type": "string", "writeOnly": True}}}
    schema = {"type": "object", "properties": {"user": {"type": "string"}, "auth": auth, "other": auth}}
    write_plugin(tmp_path, "Deep", "true", parameters={**schema, "additionalProperties": False})
    name = "deep"
    client.queues.create(name, "Deep")
    with web.serving(living_url, [tmp_path / "Deep"], spool=spool) as server:
        visitor = signed(server)
        address = visitor.send_file(f"/queues/{name}/import", "user\nann\n", "a.csv").headers["location"]
        secrets = {"/auth/login": "me", "/auth/key": SECRET, "/other/key": SECRET}
        fields = choose(visitor.get(address.replace("step=file", "step=map"))).fields
        kept = [one for one in fields if one[0] not in (*secrets, "key")]
        assert {one for one, _ in fields} >= set(secrets)
        checked(visitor, visitor.post(f"/queues/{name}/import/map", [*kept, *secrets.items(), ("key", "9" * 5000)]))
        again = visitor.get(address.replace("step=file", "step=map"))
        assert SECRET not in again.text
        found = checked(visitor, visitor.post(f"/queues/{name}/import/map", choose(again).fields))
        through(visitor, found)
    (task,) = client.find(Selection(queue=name))
    given = {"user": "ann", "auth": {"login": "me", "key": SECRET}, "other": {"key": SECRET}}
    assert task.document["parameters"] == given


def test_a_trial_that_cannot_be_kept_is_told_and_not_begun_by_every_look(
    alone: Web, client: Client, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client.queues.create("full", "Greet")
    visitor = signed(alone)
    address = visitor.send_file("/queues/full/import", people(3), "people.csv").headers["location"]
    (sent,) = [one for one in spool.iterdir() if one.suffix == ".upload"]
    sent.with_suffix(".trial").mkdir()  # so that nothing can be put there
    form = choose(visitor.get(address.replace("step=file", "step=map")))
    found = checked(visitor, visitor.post(form.action, form.fields))
    assert "cannot be kept" in found.text
    for _ in range(3):
        assert "cannot be kept" in visitor.get(address.replace("step=file", "step=check")).text
    assert sum("the trial of a file has failed" in one.message for one in caplog.records) == 1
    sent.with_suffix(".trial").rmdir()
    again = checked(visitor, visitor.post(form.action, form.fields))
    assert re.search(r"<b>3</b> fit\b", again.text)
