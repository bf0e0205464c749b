"""The limits of a queue that hold across all nodes of a cluster: `maxtotal` and `rate`. See `Limits`."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo import errors as driver

from disbatch_host.documents.changes import Want
from disbatch_host.documents.records import Document, QueueId
from disbatch_protocol.quantities import Rate


class Limits:
    """The limits across all nodes: a document for each queue that has one, {held, rate_from, granted,
    granted_at}.

    `held.<node>` is how many of the queue's tasks a node may have in hand: never less than it has. It is written before
    tasks are claimed and lowered after they have ended, so the sum is never too low, even if a node dies.
    Absolute numbers: a write whose answer was lost does no harm when it is made again.

    `rate_from`, in milliseconds of the server's clock: the time from which a whole burst could be granted if nothing
    were granted until then (GCRA, "theoretical arrival time"). Each grant moves it by one interval.
    """

    def __init__(self, limits: Any) -> None:
        self._limits = limits

    def grant(
        self, node_id: str, want: Want, count: int, in_hand: int, dates: MutableMapping[QueueId, datetime]
    ) -> int:
        """How many of `count` tasks this node may claim now, besides the `in_hand` that it has. With a rate, `dates`
        then has the moment of the grant: by it, the rate holds exactly, however long the claim itself takes."""
        if count <= 0:
            if want.maxtotal is not None:
                self.tell(node_id, want.queue, in_hand)
            return 0
        granted: Any = count
        if want.maxtotal is not None:
            held = {"$objectToArray": {"$ifNull": ["$held", {}]}}
            others = {"$filter": {"input": held, "cond": {"$ne": ["$$this.k", node_id]}}}
            of_others = {"$sum": {"$map": {"input": others, "in": "$$this.v"}}}
            granted = {"$max": [0, {"$min": [count, {"$subtract": [want.maxtotal - in_hand, of_others]}]}]}
        stages: list[Document] = [{"$set": {"granted": granted}}]
        if want.rate is not None:
            stages += [*_rate_stages(want.rate), {"$set": {"granted_at": "$$NOW"}}]
        if want.maxtotal is not None:
            stages.append({"$set": {"held": {"$mergeObjects": ["$held", {node_id: {"$add": [in_hand, "$granted"]}}]}}})
        for is_last in (False, True):
            try:
                document = self._limits.find_one_and_update(
                    {"_id": want.queue},
                    stages,
                    projection={"granted": 1, "granted_at": 1},
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            except driver.DuplicateKeyError:  # another node made the document at the same moment
                if is_last:
                    raise
            else:
                if want.rate is not None:
                    dates[want.queue] = document["granted_at"]
                return int(document["granted"])
        raise AssertionError("the loop returns or raises")

    def tell(self, node_id: str, queue: QueueId, in_hand: int) -> None:
        """Record that the node has this many of this queue in hand."""
        place = f"held.{node_id}"
        if in_hand > 0:
            self._limits.update_one({"_id": queue}, {"$set": {place: in_hand}}, upsert=True)
        else:
            self._limits.update_one({"_id": queue, place: {"$exists": True}}, {"$unset": {place: ""}})

    def hold(self, node_id: str, in_hand: Mapping[QueueId, int]) -> None:
        place = f"held.{node_id}"
        left = [queue for queue, count in in_hand.items() if count > 0]
        self._limits.update_many({"_id": {"$nin": left}, place: {"$exists": True}}, {"$unset": {place: ""}})
        for queue in left:
            self.tell(node_id, queue, in_hand[queue])


def _rate_stages(rate: Rate) -> list[Document]:
    """Limit the number `granted` so far to what the rate allows now."""
    interval = rate.interval_seconds * 1000
    burst = rate.burst
    now = {"$toDouble": {"$toLong": "$$NOW"}}
    # Not before now: unused grants are not saved up. And not further away than grants alone can move it: a clock that
    # was wrong, or an earlier slower rate, must not stop the queue for long.
    begin = {"$min": [{"$max": [{"$ifNull": ["$rate_from", 0.0]}, now]}, {"$add": [now, burst * interval]}]}
    allowed = {"$floor": {"$add": [burst, {"$divide": [{"$subtract": [now, "$rate_from"]}, interval]}]}}
    return [
        {"$set": {"rate_from": begin}},
        {"$set": {"granted": {"$max": [0, {"$min": ["$granted", allowed]}]}}},
        {"$set": {"rate_from": {"$add": ["$rate_from", {"$multiply": ["$granted", interval]}]}}},
    ]
