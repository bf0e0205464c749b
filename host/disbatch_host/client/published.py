"""What the nodes of a cluster publish about their plugins: the form, the help and the checks of machines that have no
plugin directory.

Responsible for: which publication of a class counts, and which nodes have which version. Must not know: how one is
made, how it is shown.

Rules:
1. A plugin in a directory here wins over everything that is published.
2. Of what is published that of living nodes counts; where they have several versions, the newest: the highest version,
   digit groups compared as numbers, then what was published last. Without a living node, that of nodes that are gone.
3. A publication that cannot be read or used costs only itself.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from disbatch_host.decide import readings
from disbatch_host.documents.records import Document, NodeRecord
from disbatch_host.errors import StoreRefusedError
from disbatch_host.plugin.published_names import named_by, note_name, notes_prefix
from disbatch_host.store.contract import Store

if TYPE_CHECKING:  # reading manifests takes longer than most commands do
    from disbatch_host.plugin.catalog import Catalog, Plugin
    from disbatch_host.plugin.checking import CheckedSchema, Checks
    from disbatch_host.plugin.published import ReadPublication
    from disbatch_protocol.manifest import Manifest

    AnyPlugin: TypeAlias = "Plugin | PublishedPlugin"

_VERSIONS_MAX = 20  # of one class that are read
_NAMES_MAX = 2000  # of notes, of this class and of others whose names begin like it


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPlugin:
    """A plugin as nodes publish it. `Plugin` has its name, manifest and schema alike."""

    name: str
    digest: str
    nodes: tuple[str, ...] | None  # the living ones that name it; empty: none does any more; None: nobody has looked
    published: datetime | None
    document: Mapping[str, Any] = field(repr=False)  # its manifest as it was published
    manifest: Manifest = field(repr=False)
    schema: CheckedSchema = field(repr=False)
    readme: str = field(default="", repr=False)
    readme_is_cut: bool = False

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def origin(self) -> str:
        """Where it is known from: `node mig01 publishes`."""
        if self.nodes is None:
            return "nodes publish"
        return _nodes_in_words(self.nodes) if self.nodes else "a node that is gone has published"


@dataclass(frozen=True, slots=True, kw_only=True)
class HavingNode:
    """A living node that has a plugin of the class."""

    id: str
    program: str  # its version
    version: str  # of the plugin
    digest: str | None  # None: it publishes nothing about it
    broken: str | None = None  # why it cannot use the plugin
    set_aside: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Everything that a cluster says about a class."""

    class_name: str
    plugins: tuple[PublishedPlugin, ...] = ()  # the one that counts first
    nodes: tuple[HavingNode, ...] = ()
    faults: tuple[str, ...] = ()  # why publications cannot be used

    @property
    def newest(self) -> PublishedPlugin | None:
        return self.plugins[0] if self.plugins else None

    @property
    def silent(self) -> tuple[HavingNode, ...]:
        """The nodes that have the class and publish nothing about it."""
        return tuple(one for one in self.nodes if one.digest is None and one.broken is None)

    @property
    def differing(self) -> str | None:
        """Which living nodes have parameters of which version, if not all have the same; None if they do."""
        alive = [one for one in self.plugins if one.nodes]
        if all(one.document.get("parameters") == alive[0].document.get("parameters") for one in alive[1:]):
            return None
        return ", ".join(f"{one.version or '(no version)'} on {', '.join(one.nodes or ())}" for one in alive)


def is_published(store: Store, class_name: str) -> bool:
    """Whether anything is, of any age: found without reading it."""
    return bool(class_name and _digests(store, class_name))


def published_of(store: Store, class_name: str) -> Published:
    """What living nodes publish about a class, and, where none of them does, what others have published."""
    if not class_name:
        return Published(class_name=class_name)
    digests = _digests(store, class_name)
    return _published(store, class_name, digests, store.nodes())


def newest_of(store: Store, class_name: str) -> Published:
    """The same for a caller that only wants the plugin that counts: nodes are asked for only where there are several,
    so that `nodes` may be empty."""
    digests = _digests(store, class_name) if class_name else []
    return _published(store, class_name, digests, store.nodes() if len(digests) > 1 else None)


def known_plugin(store: Store, catalog: Catalog | None, class_name: str) -> AnyPlugin | None:
    """The plugin of a class: of a directory here, else as nodes publish it (rules 1 and 2)."""
    here = None if catalog is None else catalog.plugins.get(class_name)
    return newest_of(store, class_name).newest if here is None else here


def schemas_of(store: Store, class_name: str) -> list[CheckedSchema]:
    """The schemas of everything that is published about a class: for secrets, which none of them may show."""
    digests = _digests(store, class_name) if class_name else []
    return [one.schema for one in _published(store, class_name, digests, None).plugins]


def origin_of(plugin: AnyPlugin) -> str:
    """Of a plugin that is only published, who publishes it; empty for one of a directory here."""
    return f"as {plugin.origin} it" if isinstance(plugin, PublishedPlugin) else ""


def _digests(store: Store, class_name: str) -> list[str]:
    named = map(named_by, store.note_names(notes_prefix(class_name), _NAMES_MAX))
    return [digest for one in named if one is not None for name, digest in [one] if name == class_name]


def _published(store: Store, class_name: str, digests: Sequence[str], nodes: Sequence[NodeRecord] | None) -> Published:
    """`nodes`: None where nobody has looked."""
    having = tuple(_having(class_name, nodes or ()))
    named: dict[str, list[str]] = {}
    for node in having:
        if node.digest is not None:
            named.setdefault(node.digest, []).append(node.id)
    wanted = [one for one in digests if one in named] or digests
    found, faults = [], []
    if wanted:
        from disbatch_host.plugin.published import read_publication  # noqa: PLC0415

        checks = _checks()
        for digest, note in _notes(store, class_name, wanted):
            read = note if isinstance(note, str) else read_publication(class_name, note, checks)
            if isinstance(read, str):
                faults.append(
                    f"what {_nodes_in_words(named.get(digest, ()))} about {class_name} cannot be used: {read}"
                )
                continue
            assert not isinstance(note, str)
            by = None if nodes is None else tuple(named.get(digest, ()))
            found.append(_plugin_of(class_name, digest, by, note, read))
    found.sort(key=lambda one: (_version_key(one.version), one.published or _NEVER), reverse=True)
    return Published(class_name=class_name, plugins=tuple(found), nodes=having, faults=tuple(faults))


@functools.lru_cache(maxsize=1)
def _checks() -> Checks:
    """One for the whole process: a server must not start a child for each request that needs a slow check."""
    from disbatch_host.plugin.checking import Checks  # noqa: PLC0415

    return Checks()


_NEVER = datetime(1, 1, 1, tzinfo=UTC)


def _notes(store: Store, class_name: str, digests: Sequence[str]) -> Iterator[tuple[str, Document | str]]:
    for digest in digests[:_VERSIONS_MAX]:
        try:
            note = store.read_note(note_name(class_name, digest))
        except StoreRefusedError as error:
            yield digest, str(error)
            continue
        if isinstance(note, Mapping):  # it may have been removed just now
            yield digest, dict(note)


def _plugin_of(
    class_name: str, digest: str, nodes: tuple[str, ...] | None, note: Mapping[str, Any], read: ReadPublication
) -> PublishedPlugin:
    at = note.get("at")
    return PublishedPlugin(
        name=class_name,
        digest=digest,
        nodes=nodes,
        published=at if isinstance(at, datetime) and at.tzinfo is not None else None,
        document=read.document,
        manifest=read.manifest,
        schema=read.schema,
        readme=read.readme,
        readme_is_cut=read.readme_is_cut,
    )


def _having(class_name: str, nodes: Sequence[NodeRecord]) -> Iterator[HavingNode]:
    for node in nodes:
        if not readings.is_alive(node) and not readings.is_away(node):
            continue
        versions, broken = readings.versions_of(node), readings.broken_of(node)
        if class_name in versions or class_name in broken:
            yield HavingNode(
                id=node.id,
                program=str(node.document.get("version") or "unknown"),
                version=versions.get(class_name, ""),
                digest=readings.digests_of(node).get(class_name),
                broken=broken.get(class_name) if class_name not in versions else None,
                set_aside=readings.set_aside_of(node).get(class_name),
            )


def _version_key(version: str) -> list[tuple[int, int, str]]:
    """1.10 is above 1.9."""
    return [
        (1, int(one[:18]), "") if one.isdecimal() and one.isascii() else (0, 0, one)
        for one in re.findall(r"[0-9]+|[^0-9.]+", version)
    ]


def _nodes_in_words(nodes: Sequence[str]) -> str:
    if not nodes:
        return "a node has published"
    return f"node {nodes[0]} publishes" if len(nodes) == 1 else f"nodes {', '.join(nodes)} publish"
