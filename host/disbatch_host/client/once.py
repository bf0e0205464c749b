"""Requests that are carried out once, however often they are sent: each has a key that its sender has chosen.

Responsible for: the note that says so. Must not know: HTTP, what is done.

Rules:
1. The note is written before anything is created, with the ids that it will have. Who sends the request again after
   the server was killed gets the same things, created now or then.
2. A request in which something was wrong leaves no note: it has created nothing, and may be mended.
3. While somebody carries it out it has a lease, by the store's clock. Until that is over the same request is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from disbatch_host.documents.records import Document, TaskId
from disbatch_host.errors import ChangedMeanwhileError, FieldError, StoreError, UsageError
from disbatch_host.store.contract import Store

KEPT_SECONDS = 24 * 3600.0
KEY_MAX = 128  # characters
_PREFIX = "web.once."
_SHARDS = 256  # by the first two digits of a name; one of them is looked through at a time
_READ_MAX = 20_000


class KeyReusedError(UsageError):
    """The key stands for another request."""


class StillRunningError(ChangedMeanwhileError):
    """The same request is being carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An answer that was given."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Once:
    """One request with a key."""

    def __init__(self, who: str, key: str, request: Any, *, lease_seconds: float) -> None:
        """`request`: all of it that may differ, as JSON. Raises FieldError for a key that cannot be one."""
        if not 0 < len(key) <= KEY_MAX or not key.isprintable():
            raise FieldError("key", f"expected 1 to {KEY_MAX} printable characters, found {len(key):,} characters")
        self._name = _PREFIX + _digest([who, key])
        self._request = _digest(request)
        self._lease = timedelta(seconds=lease_seconds)
        self._token = secrets.token_hex(8)
        self._note: Document | None = None  # as it is in the store, once it is there
        self._is_mine = False

    def answer(self, store: Store) -> Kept | None:
        """What was answered before; None: it is to be carried out. Raises StillRunningError and KeyReusedError."""
        note = self._note = store.read_note(self._name)
        if note is None or _is_over(note, store.now()):
            return None
        if note["request"] != self._request:
            raise KeyReusedError("the same key was sent with another request; choose a new one")
        if "answer" in note:
            found = orjson.loads(note["answer"])
            return Kept(status=found["status"], body=found["body"], headers=found["headers"])
        if note["lease"] is not None and note["lease"] > store.now():
            raise StillRunningError(_RUNNING)
        return None

    def ids(self, store: Store, count: int) -> list[TaskId]:
        """From here on things are created: with these ids, which are the same whenever it is sent again. Raises
        StillRunningError if somebody else has begun with it just now."""
        if self._is_mine and self._note is not None:
            return self._all_ids(store, self._note, count)
        now = store.now()
        before = self._note
        kept = [] if before is None or _is_over(before, now) else before["ids"]
        texts = [*kept, *(str(one) for one in store.new_ids(max(0, count - len(kept))))]
        note = {"request": self._request, "at": now, "token": self._token, "lease": now + self._lease, "ids": texts}
        guard: dict[str, Any] = {"is_new": True} if before is None else {"replacing": {"token": before["token"]}}
        if not store.write_note(self._name, note, **guard):
            raise StillRunningError(_RUNNING)
        self._note, self._is_mine = note, True
        return self._all_ids(store, note, count)

    def finish(self, store: Store, answer: Kept) -> None:
        """It was carried out, with this answer."""
        if self._is_mine:
            text = orjson.dumps({"status": answer.status, "body": answer.body, "headers": dict(answer.headers)})
            self._write(store, {"answer": text.decode(), "lease": None})

    def give_up(self, store: Store) -> None:
        """It was not, or not wholly: sending it again goes on with the same ids."""
        if self._is_mine:
            with contextlib.suppress(StoreError):  # the lease ends by itself
                self._write(store, {"lease": None})

    def _write(self, store: Store, fields: Mapping[str, Any]) -> None:
        assert self._note is not None
        self._note = {**self._note, **fields}
        store.write_note(self._name, self._note, replacing={"token": self._token})

    @staticmethod
    def _all_ids(store: Store, note: Mapping[str, Any], count: int) -> list[TaskId]:
        found = [store.parse_id(one) for one in note["ids"][:count]]
        return [one for one in found if one is not None]


_RUNNING = "the same request, with the same key, is being carried out; send it again in a moment"


def forget_old(store: Store, shard: int) -> int:
    """Remove the notes of a shard that are kept no longer; returns how many. A number beyond the last shard counts from
    the first again."""
    now, gone = store.now(), 0
    for name in store.note_names(f"{_PREFIX}{shard % _SHARDS:02x}", _READ_MAX):
        note = store.read_note(name)
        if note is not None and _is_over(note, now):
            gone += store.write_note(name, None, replacing={"token": note.get("token")})
    return gone


def _is_over(note: Mapping[str, Any], now: datetime) -> bool:
    return not isinstance(note.get("at"), datetime) or note["at"] + timedelta(seconds=KEPT_SECONDS) <= now


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
