"""Secrets are masked wherever they are known: by the document, by its run, and by the plugins at hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from client.documents import put_task
from disbatch_host.client import Client
from disbatch_host.client.masking import Masker
from disbatch_host.documents.records import Task
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.store.contract import Store
from disbatch_protocol.masks import MASK
from helpers.nodes import write_plugin

SCHEMA = {"type": "object", "properties": {"pin": {"type": "string", "writeOnly": True}}}
PARAMETERS = {"pin": "1234", "word": "swordfish", "user": "matt"}


def task(store: Store, **fields: Any) -> Task:
    found = store.get_task(put_task(store, parameters=PARAMETERS, **fields))
    assert found is not None
    return found


def test_what_the_document_or_its_run_names_as_secret_is_masked_without_any_plugin(store: Store) -> None:
    masker = Masker(store, None)
    assert masker.document(task(store, secrets=["/word"]))["parameters"] == {**PARAMETERS, "word": MASK}
    ran = task(store, run={"secrets": ["/pin"]})
    assert masker.document(ran)["parameters"] == {**PARAMETERS, "pin": MASK}
    assert masker.document(task(store))["parameters"] == PARAMETERS


def test_what_the_plugin_of_the_queue_or_of_the_run_calls_secret_is_masked_as_well(
    store: Store, tmp_path: Path
) -> None:
    write_plugin(tmp_path, "mail", "exit 0", parameters=SCHEMA)
    store.insert_queue({"_id": "q", "class": "mail"})
    masker = Masker(store, load_plugins([tmp_path]))
    assert masker.document(task(store, secrets=["/word"]))["parameters"] == {"pin": MASK, "word": MASK, "user": "matt"}
    moved = task(store, queue="gone", run={"plugin": {"class": "mail"}})
    assert masker.document(moved)["parameters"] == {**PARAMETERS, "pin": MASK}
    assert masker.document(task(store, queue="gone"))["parameters"] == PARAMETERS


def test_of_a_document_that_cannot_be_read_no_parameter_is_shown(store: Store) -> None:
    damaged = dataclasses.replace(task(store), fault="it holds a date beyond the year 9999")
    shown = Masker(store, None).document(damaged)
    assert (shown["parameters"], shown["fault"]) == (None, damaged.fault)
    assert "swordfish" not in repr(shown)


def test_a_client_masks_a_task_or_the_one_of_an_id(client: Client) -> None:
    found = task(client.store, secrets=["/word"])
    assert client.masked(found) == client.masked(str(found.id))
    assert client.masked(found)["parameters"] == {**PARAMETERS, "word": MASK}
