"""What a node publishes about a plugin, so that people can use its queues on machines without its directory.

Responsible for: what of a manifest others may see, the form in which a store holds it, and reading that again. Must not
know: stores, nodes, when anything is published.

Rules:
1. A field of the manifest is published because it is known to be harmless (`FIELDS`): never `env`, `run_as`, the
   command, or a field that this version does not know. Of `arguments` and `env_parameters`, only the placeholders are.
2. Values of secret parameters are not published: they are left out of examples, as are defaults of `writeOnly` parts.
   So an example need not fit its schema, nor is it checked when it is read.
3. The digest is that of what is published: two nodes whose manifests differ in `env` alone publish the same, and
   nobody can guess a password by it.
4. The manifest is a text of JSON: a store has names and numbers that it cannot hold.
5. What is read was written by anybody: it is parsed and checked as a manifest is, in bounded time.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.checking import CheckedSchema, Checks
from disbatch_protocol.faults import Fault
from disbatch_protocol.manifest import Manifest, parse_manifest
from disbatch_protocol.manifest_json import parse_json
from disbatch_protocol.masks import without
from disbatch_protocol.references import part_at, parts_of
from disbatch_protocol.templates import without_literals

FIELDS = (
    "protocol", "name", "version", "description", "homepage", "license", "mode", "parameters", "exit_codes", "timeout",
    "idle_timeout", "kill_grace", "stop_signal", "retry", "idempotent", "concurrency", "max_output", "env_pass", "cwd",
    "umask", "stdin", "encoding", "leave_running", "limits", "requires", "worker", "examples",
)  # fmt: skip
MANIFEST_MAX = 2**20  # bytes of what is published of one: a hundred times what people write
README_MAX = 64 * 2**10  # bytes; the rest is cut
_READMES = ("README.md", "README", "README.txt", "README.rst")
_COMMAND = ["published"]  # what a manifest must have, and is not published
_REFERENCES_MAX = 20  # from one part of a schema to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is published about one plugin."""

    class_name: str
    digest: str
    document: Mapping[str, Any] = field(repr=False)  # {class, version, manifest, readme, readme_is_cut}


class NotPublishableError(Exception):
    """There is too much to publish; the message says what."""


def publication_of(plugin: Plugin) -> Publication:
    """What a node publishes about a plugin; the README is read now. Raises NotPublishableError."""
    manifest, _ = parse_json(plugin.source)
    shown = {name: manifest[name] for name in FIELDS if name in manifest}
    shown["name"] = plugin.name
    if "arguments" in manifest:
        shown["arguments"] = [without_literals(one) for one in manifest["arguments"]]
    if "env_parameters" in manifest:
        shown["env_parameters"] = {
            name: without_literals(value) if {"{", "}"} & {*value} else value
            for name, value in manifest["env_parameters"].items()
        }
    if "parameters" in shown:
        shown["parameters"] = without_secret_defaults(shown["parameters"])
    if "examples" in shown:
        shown["examples"] = [_without_secrets(example, plugin.schema) for example in shown["examples"]]
    text = json.dumps(shown, separators=(",", ":"))
    if len(text) > MANIFEST_MAX:
        raise NotPublishableError(f"its manifest is not published: expected at most {MANIFEST_MAX} bytes, found more")
    readme, is_cut = readme_of(plugin.directory)
    document: dict[str, Any] = {"class": plugin.name, "version": plugin.manifest.version, "manifest": text}
    if readme:
        document |= {"readme": readme, "readme_is_cut": is_cut}
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return Publication(class_name=plugin.name, digest=digest, document=document)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPublication:
    """A publication as it was read."""

    manifest: Manifest
    document: Mapping[str, Any] = field(repr=False)  # the manifest as it was published
    schema: CheckedSchema = field(repr=False)
    readme: str = field(default="", repr=False)
    readme_is_cut: bool = False


def read_publication(class_name: str, note: Mapping[str, Any], checks: Checks) -> ReadPublication | str:
    """What a note says about a class; if it cannot be used, why, in words."""
    text, readme = note.get("manifest"), note.get("readme")
    if not isinstance(text, str) or len(text) > MANIFEST_MAX:
        return f"expected a manifest as a text of at most {MANIFEST_MAX} characters"
    document, faults = parse_json(text.encode("utf-8", "replace"))
    if not isinstance(document, dict):
        return "; ".join(map(str, faults)) or "expected a manifest that is a JSON object"
    data = json.dumps({**document, "command": _COMMAND}).encode()

    def without_examples(schema: Any, _: Any) -> Sequence[Fault]:
        return checks.manifest_faults(schema, None)

    parsed = parse_manifest(data, directory_name=class_name, check_parameters=without_examples)
    if parsed.manifest is None:
        return "; ".join(map(str, parsed.faults))
    if parsed.manifest.name != class_name:
        return f"expected the manifest of {class_name}, found that of {parsed.manifest.name}"
    return ReadPublication(
        manifest=parsed.manifest,
        document=document,
        schema=checks.schema(parsed.manifest.parameters, parsed.manifest.command_line),
        readme=readme[:README_MAX] if isinstance(readme, str) else "",
        readme_is_cut=note.get("readme_is_cut") is True,
    )


def _without_secrets(example: Any, schema: CheckedSchema) -> Any:
    if not isinstance(example, Mapping) or "parameters" not in example:
        return example
    parameters = example["parameters"]
    return {**example, "parameters": without(parameters, schema.secrets(parameters)) or {}}


def without_secret_defaults(schema: Any) -> Any:
    """The schema without the values that it gives for secrets. A parameter that has such a default is not required in
    what is published: the node fills it in."""
    found = copy.deepcopy(schema)
    for _, part in list(parts_of(found)):
        properties = part.get("properties")
        if isinstance(properties, Mapping) and isinstance(part.get("required"), list):
            filled = {name for name, one in properties.items() if _has_secret_default(found, one)}
            if filled:
                assert isinstance(part, dict)
                part["required"] = [name for name in part["required"] if name not in filled]
    for _, part in list(parts_of(found)):
        if part.get("writeOnly") is True:
            _forget_values(part)
    return found


def _has_secret_default(whole: Any, part: Any) -> bool:
    """Whether a part, or one that it refers to, is secret and has a default."""
    is_secret = has_default = False
    for _ in range(_REFERENCES_MAX):
        if not isinstance(part, Mapping):
            break
        is_secret |= part.get("writeOnly") is True
        has_default |= "default" in part
        if not isinstance(part.get("$ref"), str):
            break
        part = part_at(whole, part["$ref"])
    return is_secret and has_default


def _forget_values(secret: Mapping[str, Any]) -> None:
    for _, part in list(parts_of(secret)):
        assert isinstance(part, dict)
        for word in ("default", "examples"):
            part.pop(word, None)


def readme_of(directory: Path) -> tuple[str, bool]:
    """The text, and whether it was cut; empty if there is none that can be read. Only a file of the directory itself is
    read, and nothing is waited for: a link may lead to what nobody wants to publish."""
    for name in _READMES:
        try:
            descriptor = os.open(
                directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
            )
        except OSError:
            continue
        try:
            data = b""
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    data = file.read(README_MAX + 1)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        if data:
            return data[:README_MAX].decode("utf-8", "replace"), len(data) > README_MAX
    return "", False
