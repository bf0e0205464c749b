"""Writing the node's document where the store refuses a part of it.

Responsible for: a heartbeat that is written whatever it contains: a node whose heartbeat is not written counts as dead,
and its tasks are taken from it. Must not know: the meaning of the parts.

Rules:
1. A store refuses a document as a whole. So the least is written first, then each part by itself, the one that matters
   most to others first; one that is refused is left empty.
2. A refused part is not tried again until it has changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from disbatch_host.documents.records import Document
from disbatch_host.errors import NodeIdInUseError, StoreUnreachableError
from disbatch_host.node.compartment import Troubles

Result = TypeVar("Result")

# Parts that may be left empty; other nodes need the first ones to decide whose tasks are whose.
_PARTS = ("heartbeat", "settings", "queuetypes", "set_aside", "passed_over", "troubles", "broken")


class Acceptance:
    """The parts of one node's document that its store accepts. Used in the event loop."""

    def __init__(self, troubles: Troubles) -> None:
        self._troubles = troubles
        self._refused: dict[str, Any] = {}  # parts, with the value that was refused

    async def write(
        self, document: Document, write: Callable[[Document], Awaitable[Result]], *, in_parts: bool = True
    ) -> Result:
        """Write it as far as the store accepts it; returns what the first `write` did that succeeded. `in_parts`:
        `write` may be called again after it has succeeded; else only the least is written after a refusal. Raises
        StoreError if not even that is possible."""
        document = self._without_refused(document)
        try:
            return await write(document)
        except (StoreUnreachableError, NodeIdInUseError):
            raise
        except Exception as error:
            accepted = {**document, **{name: _empty(document, name) for name in _PARTS if name in document}}
            result = await write(accepted)
            if not in_parts:
                self._troubles.report("document of the node", "its registration", error)
                return result
        for name in _PARTS:
            if name in document and document[name] != accepted[name]:
                try:
                    await write({**accepted, name: document[name]})
                except StoreUnreachableError:
                    raise
                except Exception as error:
                    self._refused[name] = document[name]
                    self._troubles.report("document of the node", name, error)
                else:
                    accepted[name] = document[name]
        return result

    def _without_refused(self, document: Document) -> Document:
        if not self._refused:
            return document
        self._refused = {name: value for name, value in self._refused.items() if document.get(name) == value}
        return {**document, **{name: _empty(document, name) for name in self._refused}}


def _empty(document: Document, name: str) -> Any:
    """A part with nothing in it that anybody else has written."""
    part = document[name]
    if isinstance(part, dict):
        return {name: [] if isinstance(value, list) else value for name, value in part.items()}
    return []
