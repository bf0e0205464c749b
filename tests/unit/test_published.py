"""What is published of a plugin: everything that people need, and nothing that is the machine's or secret."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.plugin import published, published_names
from disbatch_host.plugin.catalog import Plugin, load_plugins
from disbatch_host.plugin.checking import Checks
from disbatch_host.plugin.new import bundled
from disbatch_protocol.masks import MASK
from helpers.nodes import write_plugin

SECRET = "hunter2-of-the-machine"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["user", "pin", "token", "key"],
    "properties": {
        "user": {"type": "string", "default": "matt", "examples": ["ann"]},
        "pin": {"type": "string", "writeOnly": True, "examples": [SECRET]},
        "token": {"type": "string", "writeOnly": True, "default": SECRET},
        "key": {"$ref": "#/$defs/key"},
        "login": {"type": "object", "writeOnly": True, "properties": {"word": {"default": SECRET}}},
    },
    "$defs": {"key": {"type": "string", "writeOnly": True, "default": SECRET}},
}


def plugin_of(directory: Path, name: str = "Mail::Move", **manifest: Any) -> Plugin:
    write_plugin(directory, name, "exit 0", **manifest)
    return load_plugins([directory]).plugins[name]


def read(one: published.Publication) -> published.ReadPublication:
    found = published.read_publication(one.class_name, one.document, Checks())
    assert not isinstance(found, str), found
    return found


def test_what_people_need_is_published_and_reads_back(tmp_path: Path) -> None:
    plugin = plugin_of(
        tmp_path, version="1.2", description="moves", timeout="10m", retry={"max": 3}, exit_codes={"3": "permanent"},
        parameters=SCHEMA, concurrency=4, limits={"memory": "1G"}, idempotent=True,
    )  # fmt: skip
    (plugin.directory / "README.md").write_text("# Moves\n")
    one = published.publication_of(plugin)
    found = read(one)
    for name in ("version", "description", "timeout_seconds", "retry", "exit_codes", "concurrency", "limits"):
        assert getattr(found.manifest, name) == getattr(plugin.manifest, name), name
    assert (found.manifest.name, found.readme, found.readme_is_cut) == ("Mail::Move", "# Moves\n", False)
    good = {"user": "ann", "pin": "1", "login": {"word": "x"}}
    assert found.schema.check(good) == () and [one.pointer for one in found.schema.check({"user": 1})] != []
    assert found.schema.secrets({**good, "key": "k"}) == plugin.schema.secrets({**good, "key": "k"})
    name = published_names.note_name(one.class_name, one.digest)
    assert published_names.named_by(name) == ("Mail::Move", one.digest) and name.startswith(
        published_names.notes_prefix("Mail::Move")
    )
    assert published_names.named_by("store id") is None and published_names.named_by("plugin:Mail:12") is None


def test_nothing_of_the_machine_and_no_secret_is_published(tmp_path: Path) -> None:
    example = {"name": "plain", "parameters": {"user": "ann", "pin": SECRET, "token": SECRET, "key": SECRET}}
    more = {"run_as": "root"} if os.geteuid() == 0 else {}  # only root may become somebody else
    plugin = plugin_of(
        tmp_path, parameters=SCHEMA, env={"WORD": SECRET, "OTHER": "/opt/private"}, examples=[example],
        command=["./run.sh", "--word", SECRET], **more, **{"x-note": SECRET},
    )  # fmt: skip
    one = published.publication_of(plugin)
    text = json.dumps(dict(one.document))
    assert SECRET not in text and "private" not in text and str(tmp_path) not in text and "run_as" not in text
    document = json.loads(one.document["manifest"])
    assert document["examples"][0]["parameters"] == {"user": "ann"}
    assert document["parameters"]["required"] == ["user", "pin"], "what has a secret default need not be given"
    assert document["parameters"]["properties"]["user"]["default"] == "matt"
    assert plugin.manifest.parameters == SCHEMA, "the plugin's own is as it was"


def test_a_machine_without_the_plugin_knows_of_which_parameters_no_words_are_made(tmp_path: Path) -> None:
    """And nothing that stands between them: it is as private as the command."""
    more = {"type": "object", "properties": {name: {} for name in "abl"}}
    plugin = plugin_of(
        tmp_path, protocol=2, parameters=more, stdin="null", env_parameters={"A": "a", "B": f"{SECRET}{{b}}"},
        arguments=[
            SECRET, f"--token={SECRET}{{a}}", ["{b}"], {"if": "b", "then": [SECRET]}, {"word": "{a}", "dash": True},
            {"each": "l", "words": [f"{SECRET}{{}}", "{{}}"]},
        ],
    )  # fmt: skip
    one = published.publication_of(plugin)
    assert SECRET not in json.dumps(dict(one.document)) and "token" not in one.document["manifest"]
    found = read(one)
    for parameters in (
        {"a": "x"},
        {"a": "-x", "b": True},
        {},
        {"a": "x", "b": "-x"},
        {"a": {}},
        {"a": "x", "l": [None]},
        {"a": "x" * 131_040},
        {"a": "x" * 131_041, "b": True},
        {"a": "x", "b": "\0"},
    ):
        expected = [(fault.pointer, fault.message) for fault in plugin.schema.check(parameters)]
        assert [(fault.pointer, fault.message) for fault in found.schema.check(parameters)] == expected, parameters


def test_the_digest_follows_what_is_published_and_nothing_else(tmp_path: Path) -> None:
    digests = []
    for number, more in enumerate(
        ({}, {"env": {"A": "1"}}, {"env": {"A": "2"}}, {"version": "2"}, {"parameters": {"type": "object"}})
    ):
        digests.append(published.publication_of(plugin_of(tmp_path / str(number), "P", **more)).digest)
    assert digests[0] == digests[1] == digests[2] and len(set(digests)) == 3


@pytest.mark.parametrize(
    ("make", "text", "is_cut"),
    [
        (lambda path: path.write_bytes(b"\xff ok"), "\ufffd ok", False),
        (lambda path: path.write_text("x" * (published.README_MAX + 1)), "x" * published.README_MAX, True),
        (lambda path: path.symlink_to("/etc/passwd"), "", False),
        (os.mkfifo, "", False),
        (lambda path: path.mkdir(), "", False),
    ],
    ids=["bytes", "long", "link", "fifo", "directory"],
)
def test_a_readme_of_any_kind_costs_nothing_else(tmp_path: Path, make: Any, text: str, is_cut: bool) -> None:
    plugin = plugin_of(tmp_path, "P")
    make(plugin.directory / "README.md")
    document = published.publication_of(plugin).document
    assert (document.get("readme", ""), document.get("readme_is_cut", False)) == (text, is_cut)


def test_too_much_to_publish_is_said(tmp_path: Path) -> None:
    plugin = plugin_of(tmp_path, "P", description="x" * (published.MANIFEST_MAX + 1))
    with pytest.raises(published.NotPublishableError, match="not published"):
        published.publication_of(plugin)


@pytest.mark.parametrize(
    ("note", "words"),
    [
        ({}, "expected a manifest as a text"),
        ({"manifest": {"name": "P"}}, "expected a manifest as a text"),
        ({"manifest": "{"}, "not valid JSON"),
        ({"manifest": "[1]"}, "JSON object"),
        ({"manifest": "\ud800"}, "JSON"),
        ({"manifest": '{"protocol": 1, "name": "Q"}'}, "found that of Q"),
        ({"manifest": '{"protocol": 1, "name": "P", "timeout": []}'}, "timeout"),
        ({"manifest": '{"protocol": 1, "name": "P", "parameters": {"$ref": "http://x/"}}'}, "nothing is fetched"),
        ({"manifest": '{"protocol": 1, "name": "P", "parameters": {"type": "objekt"}}'}, "not a valid JSON Schema"),
    ],
)
def test_what_anybody_has_written_in_place_of_a_publication_is_a_sentence(note: dict[str, Any], words: str) -> None:
    found = published.read_publication("P", note, Checks())
    assert isinstance(found, str) and words in found


URL = {"type": "string", "pattern": "^https?://", "format": "uri", "writeOnly": True}


def test_an_example_whose_secret_is_required_and_has_a_pattern_can_be_read(tmp_path: Path) -> None:
    """A mask did not fit the pattern, and so the whole publication of Notify::Webhook could not be used."""
    lists = {"type": "array", "items": {"type": "string", "minLength": 20, "writeOnly": True}}
    schema = {
        "type": "object",
        "required": ["url"],
        "properties": {"url": URL, "n": {"type": "integer"}, "keys": lists},
    }
    example = {"name": "one", "parameters": {"url": "https://x.example/secret", "n": 1, "keys": ["k" * 20, "l" * 20]}}
    found = read(published.publication_of(plugin_of(tmp_path, parameters=schema, examples=[example])))
    assert [one.parameters for one in found.manifest.examples] == [{"n": 1, "keys": []}]
    assert [one.pointer for one in found.schema.check({"n": 1})] == ["/url"] or found.schema.check({"n": 1})


def test_what_a_node_of_an_older_version_has_published_with_masks_can_be_read(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["url"], "properties": {"url": URL}}
    one = published.publication_of(plugin_of(tmp_path, parameters=schema))
    document = {**json.loads(one.document["manifest"]), "examples": [{"name": "one", "parameters": {"url": MASK}}]}
    old = published.Publication(
        class_name=one.class_name, digest=one.digest, document={**one.document, "manifest": json.dumps(document)}
    )
    assert read(old).manifest.examples[0].parameters == {"url": MASK}


def test_the_bundled_plugins_publish_what_can_be_read(tmp_path: Path) -> None:
    names = [home.name for home in sorted((bundled.source_directory() / "python").iterdir()) if home.is_dir()]
    for name in names:
        if (bundled.source_directory() / "python" / name / "plugin.json").exists():
            shutil.copytree(bundled.source_directory() / "python" / name, tmp_path / name)
    plugins = load_plugins([tmp_path]).plugins
    assert {"Notify::Mail", "Notify::Webhook"} <= plugins.keys()
    for plugin in plugins.values():
        read(published.publication_of(plugin))
