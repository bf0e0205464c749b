"""`plugins show`, `queue show`, and pushes where no directory here has the plugin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from acceptance.conftest import Terminal
from disbatch_host.plugin import published, published_names
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.store.contract import Store
from helpers.nodes import write_plugin

Plugin = Callable[..., Path]
SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["user"],
    "properties": {"user": {"type": "string", "description": "whose\x1b[31m"}, "n": {"type": "integer", "default": 3},
                   "pin": {"type": "string", "writeOnly": True}},
}  # fmt: skip


def publish(
    store: Store, directory: Path, name: str, node_id: str = "mig01", version: str = "1.2", **more: Any
) -> None:
    """As a node does that has the plugin in a directory of its own machine."""
    home = write_plugin(directory / "far" / version, name, "exit 0", version=version, **more)
    (home / "README.md").write_text("Moves \x1b]0;one\x07 mailbox.\n")
    one = published.publication_of(load_plugins([directory / "far" / version]).plugins[name])
    store.write_note(published_names.note_name(name, one.digest), {**one.document, "at": store.now()})
    put(store, node_id, {"class": name, "version": version, "digest": one.digest})


def put(store: Store, node_id: str, kind: dict[str, Any], program: str = "disbatch-host 0.2.0") -> None:
    document = {"_id": node_id, "session": node_id, "version": program, "queuetypes": [kind]}
    assert store.put_node({**document, "heartbeat": {"pid": 7, "queues": []}}, replacing=None)


def test_a_class_of_other_machines_is_shown_checked_and_masked(
    on_store: Terminal, store: Store, tmp_path: Path
) -> None:
    on_store.fine("queue", "create", "mail", "--class", "Mail::Move")
    publish(store, tmp_path, "Mail::Move", parameters=SCHEMA, exit_codes={"3": "permanent"}, timeout="10m")
    shown = on_store.fine("plugins", "show", "Mail::Move")
    for text in ("as node mig01 publishes it", "10m", "3 permanent", "user", "string", "secret", "mailbox", "mail"):
        assert text in shown.out, text
    assert "\x1b" not in shown.out + shown.err and "\x07" not in shown.out
    (document,) = on_store.fine("plugins", "show", "Mail::Move", "--json").json
    assert [one["name"] for one in document["parameters"]] == ["user", "n", "pin"]
    assert document["nodes"][0]["id"] == "mig01" and document["source"]["nodes"] == ["mig01"]
    (queue,) = on_store.fine("queue", "show", "mail", "--json").json
    assert queue["plugin"]["parameters"] == document["parameters"]
    assert "whose" in on_store.fine("queue", "show", "mail").out
    line = on_store.refused(2, "task", "push", "mail", "-p", "usr=matt")
    assert "as nodes publish it" in line and 'did you mean "user"' in line
    on_store.fine("task", "push", "mail", "-p", "usr=matt", "--no-check")
    (pushed,) = on_store.fine("task", "push", "mail", "-p", "user=01067", "-p", "pin=1234", "--json").json
    assert (pushed["parameters"], pushed["secrets"]) == ({"user": "01067", "pin": "********"}, ["/pin"])
    (on_store.directory / "rows.csv").write_text("user,pin\na,1\nb,2\n")
    on_store.fine("task", "import", "mail", "rows.csv")
    (on_store.directory / "bad.csv").write_text("user,pim\na,1\n")
    refused = on_store("task", "import", "mail", "bad.csv")
    assert refused.code == 1 and "pim" in refused.err and "--map pim=pin" in refused.err


def test_several_versions_a_node_without_manifests_and_a_class_of_nobody_are_said(
    on_store: Terminal, store: Store, tmp_path: Path
) -> None:
    publish(store, tmp_path, "Mail", "mig01", "1.9", parameters=SCHEMA)
    publish(store, tmp_path, "Mail", "mig02", "1.10", parameters={"type": "object", "required": ["word"]})
    put(store, "old", {"class": "Mail", "version": "1.8"}, "disbatch-host 0.1.0")
    on_store.fine("queue", "create", "q", "--class", "Mail")
    shown = on_store.fine("plugins", "show", "Mail")
    assert "nodes have different parameters of Mail: 1.10 on mig02, 1.9 on mig01" in shown.err
    assert "node old publishes no manifest (disbatch-host 0.1.0)" in shown.err
    pushed = on_store("task", "push", "q", "-p", "user=x")
    assert pushed.code == 2 and "checked by 1.10" in pushed.err and "as node mig02 publishes it" in pushed.err
    put(store, "old2", {"class": "Older", "version": "1"}, "disbatch-host 0.1.0")
    older = on_store.fine("plugins", "show", "Older")
    assert "no node publishes what it takes" in older.out and "node old2 publishes no manifest" in older.err
    assert "did you mean 'Mail'" in on_store.refused(4, "plugins", "show", "Mial")


def test_a_plugin_here_is_shown_as_it_is_here_even_without_its_store(on_store: Terminal, plugin: Plugin) -> None:
    home = plugin("Here", "exit 0", version="7", parameters=SCHEMA)
    (home / "README").write_text("Only here.\n")
    for more, words in (((), ""), (("--store", "mongodb://127.0.0.1:1/x"), "what nodes publish is not known")):
        shown = on_store.fine("plugins", "show", "Here", *more)
        assert "plugins/Here/plugin.json" in shown.out and "Only here." in shown.out and words in shown.err
    assert "Here" in on_store.fine("plugins").out
    assert on_store.fine("plugins", "--json").json[0]["name"] == "Here"
    on_store.refused(2, "plugins", "shwo")
    on_store.refused(2, "plugins", "show")


def test_an_example_is_shown_without_its_secret_and_fits_once_that_is_given(
    on_store: Terminal, store: Store, tmp_path: Path
) -> None:
    """As Notify::Webhook: its URL is secret, required, and has a pattern that no mask fits."""
    url = {"type": "string", "pattern": "^https?://", "writeOnly": True}
    schema = {"type": "object", "required": ["url"], "properties": {"url": url, "text": {"type": "string"}}}
    example = {"name": "hello", "parameters": {"url": "https://x.example/s3cret", "text": "hi"}}
    publish(store, tmp_path, "Hook", parameters=schema, examples=[example])
    shown = on_store.fine("plugins", "show", "Hook")
    assert 'example hello: {"text": "hi"} and a secret: url\n' in shown.out
    assert "s3cret" not in shown.out and "***" not in shown.out and shown.err == ""
    (document,) = on_store.fine("plugins", "show", "Hook", "--json").json
    assert document["examples"] == [{"name": "hello", "parameters": {"text": "hi"}}]
    on_store.fine("queue", "create", "hook", "--class", "Hook")
    assert "url" in on_store.refused(2, "task", "push", "hook", json.dumps(document["examples"][0]["parameters"]))
    on_store.fine("task", "push", "hook", '{"text": "hi"}', "-p", "url=https://y.example/")
