"""Which classes are known anywhere: to the plugins here, and to the nodes of the cluster.

Responsible for: noticing a class that nothing runs before tasks wait for it. Must not know: how that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from disbatch_host.decide import readings
from disbatch_host.store.contract import Store
from disbatch_protocol.faults import near_name

if TYPE_CHECKING:
    from disbatch_host.plugin.catalog import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownClass:
    """A class that neither a plugin here nor a living node has."""

    name: str
    near: str | None  # the known one that was probably meant


def unknown_class(store: Store, catalog: Catalog | None, name: str) -> UnknownClass | None:
    """None if a plugin here or a living node has the class, even if it cannot be used at the moment."""
    known = set() if catalog is None else {*catalog.plugins, *(one.known_as for one in catalog.broken)}
    for node in store.nodes():
        if readings.is_alive(node) or readings.is_away(node):  # one that is away will be back
            known |= readings.classes_of(node) | readings.broken_of(node).keys()
    return None if name in known else UnknownClass(name=name, near=near_name(name, sorted(known)))
