"""How many rows of its source became tasks, and how many did not, is told when a batch is done, on both stores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.client import batch_members
from disbatch_host.client.batch_members import Member, NewBatch
from disbatch_host.documents import batch as batches
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.records import new_task
from disbatch_host.errors import UsageError
from disbatch_host.plugin.catalog import Catalog, load_plugins
from disbatch_host.store import batch_ends
from disbatch_host.store.contract import Store
from helpers.stores import NOW

CLASSIC = ("total", "concluded", "failed", "cancelled", "orphaned", "causes")


def catalog(tmp_path: Path, parameters: str) -> Catalog:
    """One plugin, Tell, that takes these."""
    home = tmp_path / "tell"
    home.mkdir()
    manifest = f'{{"protocol": 1, "name": "Tell", "command": ["./tell.sh"], "parameters": {parameters}}}'
    (home / "plugin.json").write_text(manifest)
    (home / "tell.sh").write_text("#!/bin/sh\n")
    (home / "tell.sh").chmod(0o755)
    return load_plugins([tmp_path])


STRICT = '{"type": "object", "additionalProperties": false, "properties": {%s}}'
BEFORE = STRICT % ", ".join(f'"{name}": {{}}' for name in ("to", "batch", "seconds", *CLASSIC))
OWN = STRICT % ", ".join(f'"{name}": {{}}' for name in ("batch", "seconds", "existing", *CLASSIC))
ANY = '{"type": "object"}'


def begun(store: Store, known: Catalog, *, name: str | None = None, **given: Any) -> Member:
    if store.find_queue("tell") is None:
        store.insert_queue({"_id": "tell", "class": "Tell"})
    new = NewBatch(name=name, on_done="tell", on_done_parameters=given)
    return batch_members.begin(store, new, "me@here", source={"kind": "import"}, catalog=known)


def told(store: Store, member: Member) -> Mapping[str, Any]:
    batch = batch_ends.read(store, member.id)
    assert batch is not None
    done = batch_ends.finish(store, batch)
    assert done is not None and done.has_created
    on_done = Batch.from_document(store.get_batch(member.id) or {}).on_done or {}
    task = store.get_task(on_done["task"])
    assert task is not None
    return dict(task.document["parameters"])


def test_a_plugin_that_takes_it_is_told_how_many_rows_became_tasks_and_how_many_did_not(
    store: Store, tmp_path: Path
) -> None:
    member = begun(store, catalog(tmp_path, ANY), to="ann")
    store.insert_tasks([{**new_task("q", {}, now=NOW, batch=member.id), "status": 1} for _ in range(3)])
    member.close(2, existing=4, skipped=5)  # one of the three was created by a run of the others
    parameters = told(store, member)
    assert {name: parameters[name] for name in batches.TOLD_OF_SOURCE} == {"created": 2, "existing": 4, "skipped": 5}
    assert (parameters["total"], parameters["concluded"], parameters["to"]) == (3, 3, "ann")


@pytest.mark.parametrize(("parameters", "names"), [(BEFORE, set()), (OWN, {"existing"})])
def test_a_plugin_written_before_is_told_what_it_takes(
    store: Store, tmp_path: Path, parameters: str, names: set[str]
) -> None:
    """A copy of Notify::Mail of the version before refuses parameters that it does not know."""
    member = begun(store, catalog(tmp_path, parameters))
    member.close(0, existing=1, skipped=1)
    assert set(told(store, member)) == {"batch", "seconds", *CLASSIC, *names}


def test_a_parameter_that_the_person_gave_is_not_replaced(store: Store, tmp_path: Path) -> None:
    member = begun(store, catalog(tmp_path, ANY), skipped="yes")
    member.close(0, skipped=7)
    parameters = told(store, member)
    assert parameters["skipped"] == "yes" and parameters["created"] == 0


def test_of_several_sources_it_is_the_sum(store: Store, tmp_path: Path) -> None:
    known = catalog(tmp_path, ANY)
    begun(store, known, name="march").close(0, existing=1, skipped=2)
    again = batch_members.begin(
        store, NewBatch(name="march", closes=True), "me@here", source={"kind": "import"}, catalog=known
    )
    store.insert_tasks([{**new_task("q", {}, now=NOW, batch="march"), "status": 1} for _ in range(3)])
    again.close(3, existing=10, skipped=20)
    parameters = told(store, again)
    assert {name: parameters[name] for name in batches.TOLD_OF_SOURCE} == {"created": 3, "existing": 11, "skipped": 22}


def test_a_batch_of_the_version_before_is_joined_although_its_plugin_is_told_more_now(
    store: Store, tmp_path: Path
) -> None:
    known = catalog(tmp_path, ANY)
    begun(store, known, name="march", to="ann")
    batch = batch_ends.read(store, "march")
    assert batch is not None and batch.on_done is not None and batch.state is BatchState.OPEN
    on_done = {name: value for name, value in batch.on_done.items() if name != "tells"}
    assert store.change_batch("march", {"on_done": on_done}, only_if={"state": "open"})
    assert begun(store, known, name="march", to="ann").id == "march"
    with pytest.raises(UsageError, match="another on_done"):
        begun(store, known, name="march", to="bob")
