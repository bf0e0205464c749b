"""What a class takes and how it runs, as far as that is known here: of a directory here, or as nodes publish it.

Responsible for: gathering it. Must not know: how it is shown.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from disbatch_host import suggested
from disbatch_host.client.parameter_table import ParameterRow, rows_of
from disbatch_host.client.published import Published, PublishedPlugin, published_of
from disbatch_host.decide import readings
from disbatch_host.errors import NotFoundError
from disbatch_host.plugin.catalog import Catalog, Plugin
from disbatch_host.plugin.published import readme_of, without_secret_defaults
from disbatch_host.store.contract import Store
from disbatch_protocol.faults import near_name
from disbatch_protocol.manifest import Manifest
from disbatch_protocol.masks import without
from disbatch_protocol.outcome import ExitRule


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginHelp:
    """One class. `plugin` is None where nodes have it and nobody says anything about it."""

    class_name: str
    plugin: Plugin | PublishedPlugin | None
    published: Published
    queues: tuple[str, ...] = ()  # of this class
    readme: str = field(default="", repr=False)
    readme_is_cut: bool = False

    @property
    def is_here(self) -> bool:
        """Whether it is known from a directory here."""
        return isinstance(self.plugin, Plugin)

    @property
    def manifest(self) -> Manifest | None:
        return None if self.plugin is None else self.plugin.manifest

    @property
    def rows(self) -> tuple[ParameterRow, ...]:
        """Its parameters."""
        return () if self.plugin is None else rows_of(self.plugin.manifest.parameters, self.plugin.schema)

    @property
    def examples(self) -> list[dict[str, Any]]:
        """Of its manifest, without secrets, which nodes of an older version publish masked: name and parameters."""
        if self.plugin is None:
            return []
        secrets = self.plugin.schema.secrets
        return [
            {"name": one.name, "parameters": without(one.parameters, secrets(one.parameters)) or {}}
            for one in self.plugin.manifest.examples
        ]

    def to_json(self) -> dict[str, Any]:
        """As `plugins show --json` prints it."""
        return {
            "class": self.class_name,
            **(_manifest_document(self.plugin.manifest) if self.plugin is not None else {}),
            "source": self._source(),
            "parameters": [row.document for row in self.rows],
            "examples": self.examples,
            "readme": self.readme,
            "readme_is_cut": self.readme_is_cut,
            "queues": list(self.queues),
            "nodes": [dataclasses.asdict(one) for one in self.published.nodes],
            "versions": [
                {
                    "version": one.version,
                    "digest": one.digest,
                    "nodes": list(one.nodes or ()),
                    "published": one.published,
                }
                for one in self.published.plugins
            ],
            "faults": list(self.published.faults),
        }

    def _source(self) -> dict[str, Any] | None:
        if isinstance(self.plugin, Plugin):
            return {"manifest": str(self.plugin.manifest_path)}
        return None if self.plugin is None else {"digest": self.plugin.digest, "nodes": list(self.plugin.nodes or ())}


def plugin_help(store: Store | None, catalog: Catalog | None, class_name: str) -> PluginHelp:
    """Everything that is known about a class. Without a store, only what is here. Raises NotFoundError, which names a
    similar class, if neither a directory here nor a node has it."""
    here = None if catalog is None else catalog.plugins.get(class_name)
    published = Published(class_name=class_name) if store is None else published_of(store, class_name)
    plugin = published.newest if here is None else here
    if plugin is None and not published.nodes and not published.faults:
        raise NotFoundError(_not_found(store, catalog, class_name))
    queues = () if store is None else tuple(str(one.id) for one in store.queues() if one.class_name == class_name)
    if isinstance(plugin, Plugin):
        readme, is_cut = readme_of(plugin.directory)
    else:
        readme, is_cut = ("", False) if plugin is None else (plugin.readme, plugin.readme_is_cut)
    return PluginHelp(
        class_name=class_name, plugin=plugin, published=published, queues=queues, readme=readme, readme_is_cut=is_cut
    )


def _not_found(store: Store | None, catalog: Catalog | None, class_name: str) -> str:
    known: set[str] = set() if catalog is None else set(catalog.plugins)
    if catalog is not None and any(one.known_as == class_name for one in catalog.broken):
        checks = suggested.hint("check", class_name)
        return f"plugin {class_name} cannot be used here, and no node has it; {checks} says why"
    for node in () if store is None else store.nodes():
        if readings.is_alive(node) or readings.is_away(node):
            known |= readings.classes_of(node)
    near = near_name(class_name, sorted(known))
    here, of_nodes = suggested.hint("plugins"), suggested.hint("node list")
    hint = f"did you mean {near!r}?" if near else f"{here} shows those here, {of_nodes} those of nodes"
    return f"no plugin {class_name!r}, neither in a directory here nor on a living node; {hint}"


def _manifest_document(manifest: Manifest) -> dict[str, Any]:
    """Without what is of the machine that it is on: its command, environment and account."""
    return {
        "version": manifest.version,
        "description": manifest.description,
        "homepage": manifest.homepage,
        "license": manifest.license,
        "mode": str(manifest.mode),
        "idempotent": manifest.idempotent,
        "concurrency": manifest.concurrency,
        "timeout_seconds": manifest.timeout_seconds,
        "idle_timeout_seconds": manifest.idle_timeout_seconds,
        "kill_grace_seconds": manifest.kill_grace_seconds,
        "max_output_bytes": manifest.max_output_bytes,
        "retry": dataclasses.asdict(manifest.retry),
        "limits": {name: value for name, value in dataclasses.asdict(manifest.limits).items() if value is not None},
        "requires": list(manifest.requires),
        "exit_codes": {
            codes: {"outcome": str(rule.outcome), **({} if rule.status is None else {"status": rule.status})}
            for codes, rule in exit_codes_of(manifest)
        },
        "schema": without_secret_defaults(manifest.parameters),
    }


def exit_codes_of(manifest: Manifest) -> list[tuple[str, ExitRule]]:
    """The exit codes that have a meaning of their own, neighbors with the same one together: `10-19`."""
    spans: list[tuple[int, int, ExitRule]] = []
    for code, rule in sorted(manifest.exit_codes.items()):
        if spans and spans[-1][1] == code - 1 and spans[-1][2] == rule:
            spans[-1] = (spans[-1][0], code, rule)
        else:
            spans.append((code, code, rule))
    return [(str(first) if first == last else f"{first}-{last}", rule) for first, last, rule in spans]
