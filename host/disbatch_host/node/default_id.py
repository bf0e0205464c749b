"""The id of a node that was given none.

Responsible for: choosing one from the host name that no node of another program has, and keeping it. Must not know: how
an id is taken (`membership`).

Rule: Disbatch 4 calls a node by the name of its host, so on the same host our default would be that name, and each of
the two programs would consider the other's tasks its own. So an id that a node of another program has is not chosen. A
choice that was made once is made again, even if that other node no longer has a document.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from disbatch_host.documents.records import NodeRecord
from disbatch_host.errors import NodeIdInUseError
from disbatch_host.settings.forms import NODE_ID_PATTERN
from disbatch_host.store.contract import Store

_SUFFIX = "d"
_LENGTH_MAX = 8  # den-1.0


def foreign_holder(nodes: Sequence[NodeRecord], node_id: str) -> NodeRecord | None:
    """The node of another program that goes by this id, in its document or in the tasks that it has."""
    others = (one for one in nodes if not one.is_ours and one.session is None)  # only ours have sessions
    return next((one for one in others if node_id in (one.id, one.document.get("node"))), None)


def choose(store: Store, wanted: str, state_directory: Path | None) -> str:
    """The id for a node on this store: the one that was chosen before, else `wanted` or one that is like it."""
    kept = None if state_directory is None else _Kept(state_directory, f"{store.description} {wanted}")
    chosen = None if kept is None else kept.read()
    longer = [f"{wanted[: _LENGTH_MAX - count]}{_SUFFIX * count}" for count in range(1, _LENGTH_MAX)]
    nodes = store.nodes()
    for node_id in (*([] if chosen is None else [chosen]), wanted, *longer):
        if foreign_holder(nodes, node_id) is None:
            if kept is not None and node_id not in (wanted, chosen):
                kept.write(node_id)
            return node_id
    raise NodeIdInUseError(f"node id {wanted!r} is that of a node of another program; choose another with --node-id")


class _Kept:
    """The file that remembers a choice: one for each store and wanted id."""

    def __init__(self, directory: Path, purpose: str) -> None:
        self._path = directory / f"node-id-{zlib.crc32(purpose.encode()):08x}"

    def read(self) -> str | None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = self._path.read_text().strip()
            return text if NODE_ID_PATTERN.fullmatch(text) else None
        return None

    def write(self, node_id: str) -> None:
        # Without it the choice is made again, which comes to the same as long as the other node has its document.
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            new.write_text(f"{node_id}\n")
            new.replace(self._path)
