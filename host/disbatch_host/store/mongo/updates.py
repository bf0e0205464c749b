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
from collections.abc import Sequence

from pymongo import UpdateOne
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.records import Document
from disbatch_host.store.mongo import driver_errors, forms

log = logging.getLogger(__name__)


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
