"""Batches of updates in one trip to the server, as cheap as possible.

Responsible for: sending a batch of updates of single documents, and sending it again if the answer was lost. Must not
know: what they change.

Rules:
1. The driver's own retry is not used: for it the server keeps a record of every single update of a batch, which is a
   tenth of the whole cost of a short task. Every update here has a guard, so the batch itself is sent again, once.
2. An update that the first try carried out no longer matches its guard the second time, or sets the same values again.
   So if fewer match than were sent, the caller looks at the documents. If another process changed one in between, it
   looks like an update that was refused; if the first try is carried out last, the output of a run is set back until
   the run says more, or ends.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import bson
from pymongo import UpdateOne
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.records import Document
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.mongo import driver_errors, forms

log = logging.getLogger(__name__)

_COMMAND_BYTES_MAX = 16 * 2**20  # and some more, by the server's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The result of a batch."""

    all_found: bool  # each of them found its document, by its guard, at the last try
    refused: Mapping[int, StoreRefusedError]  # by position: those that cannot be carried out as they are


class Updates:
    """Sends the updates of one collection."""

    def __init__(self, collection: Collection[Document]) -> None:
        self._collection = collection

    def send(self, updates: Sequence[forms.Update], *, ordered: bool) -> bool:
        """Returns whether each of them found its document, by its guard, at the last try. `ordered`: one after the
        other. Raises the driver's exceptions; any of the updates may have been carried out then."""
        if not updates:
            return True
        try:
            matched = self._send_up_to_twice(updates, ordered=ordered)
        except driver.DocumentTooLarge:
            # More than fits into one command: the driver sends it in parts, and itself refuses anything too large.
            writes = [UpdateOne(*one) for one in updates]
            matched = self._collection.bulk_write(writes, ordered=ordered).matched_count
        return matched == len(updates)

    def send_each(self, updates: Sequence[forms.Update], *, ordered: int, required: int = 0) -> Sent:
        """Send them so that one that the server refuses, or that cannot be encoded, does not stop the others.
        `ordered`: how many of the first are carried out one after the other, before the rest. If one of the first
        `required` is refused, its exception is raised, and nothing after it was carried out."""
        refused: dict[int, StoreRefusedError] = {}
        left = range(len(updates))
        all_found = True
        while left:
            is_ordered = left[0] < ordered
            try:
                all_found &= self.send([updates[place] for place in left], ordered=is_ordered)
                break
            except driver.BulkWriteError as error:
                found = {left[index]: why for index, why in driver_errors.refusals(error).items()}
                if not found or min(found) < required:
                    raise
                refused |= found
                left = range(min(found) + 1, len(updates)) if is_ordered else range(0)
                all_found = False
            except Exception as error:
                if not driver_errors.is_not_sent(error):
                    raise
                found = _not_encoded([updates[place] for place in left], first=left[0])
                if not found or min(found) < required:
                    raise
                refused |= found
                others = [place for place in left if place not in found]
                sent = self.send_each(
                    [updates[place] for place in others],
                    ordered=len(others) if is_ordered else 0,
                    required=max(0, required - left[0]),
                )
                refused |= {others[place]: why for place, why in sent.refused.items()}
                return Sent(all_found=all_found and sent.all_found, refused=refused)
        return Sent(all_found=all_found, refused=refused)

    def _send_up_to_twice(self, updates: Sequence[forms.Update], *, ordered: bool) -> int:
        try:
            return self._send(updates, ordered=ordered)
        except driver.PyMongoError as error:
            if not driver_errors.is_worth_another_try(error):
                raise
            log.debug("updates are sent again: %s", error)
            return self._send(updates, ordered=ordered)

    def _send(self, updates: Sequence[forms.Update], *, ordered: bool) -> int:
        command = {
            "update": self._collection.name,
            "updates": [{"q": guard, "u": change} for guard, change in updates],
            "ordered": ordered,
            "writeConcern": self._collection.write_concern.document,
        }
        reply = self._collection.database.command(command, codec_options=forms.CODEC)
        concern = reply.get("writeConcernError")
        if reply.get("writeErrors") or concern:
            raise driver.BulkWriteError({**reply, "writeConcernErrors": [concern] if concern else []})
        return int(reply["n"])


def _not_encoded(updates: Sequence[forms.Update], *, first: int) -> dict[int, StoreRefusedError]:
    """The reasons of those updates that cannot be encoded, by their positions from `first`."""
    found: dict[int, StoreRefusedError] = {}
    for place, (guard, change) in enumerate(updates, first):
        try:
            size = len(bson.encode({"q": guard, "u": change}, codec_options=forms.CODEC))
        except driver_errors.NOT_ENCODED as error:
            found[place] = driver_errors.not_encoded(error)
        else:
            if size > _COMMAND_BYTES_MAX:
                found[place] = StoreRefusedError(driver_errors.TOO_LARGE)
    return found
