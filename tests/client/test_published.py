"""What nodes publish is used where no directory here has the plugin: checks, secrets, help; on both stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.documents import NEVER_ALIVE, put_node, put_task
from disbatch_host.client import Client
from disbatch_host.client.masking import Masker
from disbatch_host.client.plugin_help import plugin_help
from disbatch_host.client.published import newest_of, published_of
from disbatch_host.client.pushing import ParametersError
from disbatch_host.errors import NotFoundError
from disbatch_host.plugin import published, published_names
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.store.contract import Store
from disbatch_protocol.masks import MASK
from helpers.nodes import write_plugin


def schema_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}


LONG_ALIVE = {"dead_after_seconds": 3600}  # on a machine that is busy with other tests
TEXT = {"type": "string"}
PIN = {"type": "string", "writeOnly": True}


def publish(store: Store, directory: Path, version: str, schema: Any, name: str = "Mail", **more: Any) -> str:
    """As a node does; returns the digest."""
    write_plugin(directory / version, name, "exit 0", version=version, parameters=schema, **more)
    one = published.publication_of(load_plugins([directory / version]).plugins[name])
    store.write_note(published_names.note_name(name, one.digest), {**one.document, "at": store.now()})
    return one.digest


def put_having(store: Store, node_id: str, version: str, digest: str | None, **more: Any) -> None:
    kind = {"class": "Mail", "version": version, **({} if digest is None else {"digest": digest})}
    put_node(store, node_id, f"s-{node_id}", queuetypes=[kind], **{"settings": LONG_ALIVE, **more})


def test_parameters_are_checked_by_what_nodes_publish_unless_that_is_here(store: Store, tmp_path: Path) -> None:
    digest = publish(store, tmp_path, "1", schema_of(user=TEXT))
    put_having(store, "n1", "1", digest)
    client = Client(store, None, "me@here")
    client.queues.create("mail", "Mail")
    with pytest.raises(ParametersError, match=r'do not fit plugin Mail, as nodes publish it: .*"user"'):
        client.push("mail", {"usr": "matt"})
    client.push("mail", {"usr": "matt"}, checks=False)
    assert client.push("mail", {"user": "matt"}).is_new
    with pytest.raises(ParametersError):
        client.push_many("mail", [{"user": "a"}, {}])
    write_plugin(tmp_path / "here", "Mail", "exit 0", parameters=schema_of(word=TEXT))
    here = Client(store, load_plugins([tmp_path / "here"]), "me@here")
    assert here.push("mail", {"word": "x"}).is_new, "a directory here wins"


def test_the_newest_version_of_living_nodes_counts(store: Store, tmp_path: Path) -> None:
    digests = {version: publish(store, tmp_path, version, schema_of(**{f"v{version[2:]}": TEXT}))
               for version in ("1.9", "1.10", "1.11")}  # fmt: skip
    put_having(store, "n9", "1.9", digests["1.9"])
    put_having(store, "n10", "1.10", digests["1.10"])
    put_having(store, "n11", "1.11", digests["1.11"], settings=NEVER_ALIVE)
    put_having(store, "old", "1.8", None)
    found = published_of(store, "Mail")
    assert [one.version for one in found.plugins] == ["1.10", "1.9"] and found.faults == ()
    assert found.differing == "1.10 on n10, 1.9 on n9"
    assert [one.id for one in found.silent] == ["old"]
    counts = newest_of(store, "Mail").newest
    assert counts is not None and (counts.version, counts.nodes) == ("1.10", ("n10",))
    for node_id in ("n9", "n10"):
        store.remove_node(node_id, f"s-{node_id}")
    left = newest_of(store, "Mail").newest
    assert left is not None and left.version == "1.11" and left.origin == "a node that is gone has published"
    assert published_of(store, "Mai").plugins == () and published_of(store, "").plugins == ()


def test_classes_whose_names_begin_alike_are_not_mixed_up(store: Store, tmp_path: Path) -> None:
    for name in ("Mail", "Mail::Move", "Mail:x"):
        publish(store, tmp_path / name.replace(":", "_"), "1", schema_of(**{name.lower(): TEXT}), name)
    for name in ("Mail", "Mail::Move", "Mail:x"):
        (found,) = published_of(store, name).plugins
        assert list(found.document["parameters"]["properties"]) == [name.lower()]


def test_secrets_of_every_published_version_are_masked(store: Store, tmp_path: Path) -> None:
    publish(store, tmp_path, "1", {"type": "object", "properties": {"pin": PIN}})
    publish(store, tmp_path, "2", {"type": "object", "properties": {"word": PIN}})
    store.insert_queue({"_id": "q", "class": "Mail"})
    found = store.get_task(put_task(store, parameters={"pin": "1234", "word": "swordfish", "user": "matt"}))
    assert found is not None
    assert Masker(store, None).document(found)["parameters"] == {"pin": MASK, "word": MASK, "user": "matt"}


def test_what_somebody_has_written_there_costs_only_itself(store: Store, tmp_path: Path) -> None:
    digest = publish(store, tmp_path, "1", schema_of(user=TEXT))
    for number, note in enumerate(({"manifest": "{"}, {"odd": 1}, {"manifest": 7, "at": "yesterday"})):
        store.write_note(published_names.note_name("Mail", f"{number}" * 64), note)
    store.write_note("plugin:Mail:short", {})
    put_node(store, "n1", queuetypes=[{"class": "Mail", "digest": digest}, {"class": "Mail", "digest": 5}, "x"])
    put_node(store, "n2", "s2", queuetypes=[{"class": "Mail", "digest": "0" * 64}])
    found = published_of(store, "Mail")
    assert [one.digest for one in found.plugins] in ([digest], [])
    assert any("n2" in one for one in found.faults)
    store.insert_queue({"_id": "q", "class": "Mail"})
    with pytest.raises(ParametersError):
        Client(store, None, "me@here").push("q", {"usr": 1})


def test_help_has_everything_of_a_class_or_says_that_nobody_has_it(store: Store, tmp_path: Path) -> None:
    schema = schema_of(
        user={**TEXT, "description": "whose", "examples": ["ann"]}, pin={**PIN, "default": "pin-of-default"}
    )
    schema["properties"]["to"] = {"type": "object", "required": ["host"], "properties": {"host": {"enum": ["a", "b"]}}}
    example = {"name": "plain", "parameters": {"user": "x", "pin": "pin-of-example"}}
    digest = publish(store, tmp_path, "1", schema, exit_codes={"3-5": "permanent"}, examples=[example])
    put_having(store, "n1", "1", digest)
    store.insert_queue({"_id": "q", "class": "Mail"})
    found = plugin_help(store, None, "Mail").to_json()
    rows = {one["name"]: one for one in found["parameters"]}
    assert rows["user"] == {"name": "user", "types": "string", "required": True, "secret": False,
                            "description": "whose", "examples": ["ann"]}  # fmt: skip
    assert rows["pin"] == {"name": "pin", "types": "string", "required": False, "secret": True}
    assert (rows["to.host"]["types"], rows["to.host"]["required"], rows["to"]["required"]) == (
        "one of a, b",
        True,
        False,
    )
    assert found["examples"] == [{"name": "plain", "parameters": {"user": "x"}}]
    assert (found["queues"], found["exit_codes"]) == (["q"], {"3-5": {"outcome": "permanent"}})
    assert "pin-of" not in repr(found)
    put_node(store, "n2", "s2", queuetypes=[{"class": "Old", "version": "1"}])
    silent = plugin_help(store, None, "Old")
    assert silent.plugin is None and [one.id for one in silent.published.silent] == ["n2"]
    with pytest.raises(NotFoundError, match="did you mean 'Mail'"):
        plugin_help(store, None, "Mial")
