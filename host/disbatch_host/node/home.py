"""The home of a node: the directory in which its supervisor lives, and with it runs that go on without the node.

Responsible for: whether a node has one, and the two numbers from the store by which a supervisor knows its node: the
id of the store and the session. Must not know: what a supervisor does, runs, what makes a directory usable
(`home_directory`).

Rules:
1. A supervisor belongs to one store: two stores on one machine never meet in a directory, whatever the node ids. The
   id of a store is made once and never changes.
2. The session of a node id only rises, and is kept apart from the node's document, which is deleted with its release.
   Where it was lost, or an older back-up of the store is here, it begins above what the supervisor has known.
3. Without a home a node works all the same; its runs end with it, and its log says why.
4. A node does not start in another home than the one where runs of its id go on: it would have to kill them.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from disbatch_host.decide import readings
from disbatch_host.documents.records import NodeRecord
from disbatch_host.errors import NodeIdInUseError
from disbatch_host.node.home_directory import HomeUnusableError, NodeLock, made_usable, supervisors_in
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.process.home import SupervisorHome
from disbatch_host.process.machine import Machine
from disbatch_host.settings.values import NodeSettings
from disbatch_host.store.contract import Store

log = logging.getLogger(__name__)

LOCK_SECONDS = 5.0  # for a node of this id that is just ending
_STORE_ID_NOTE = "store id"
_STORE_ID_SIZE = 16
_SHOWN_DIGITS = 8  # of the store's id, in the name of a directory


async def find_home(
    settings: NodeSettings,
    store_thread: StoreThread,
    lock: NodeLock,
    *,
    why_no_program: str | None = None,
    wait_seconds: float = LOCK_SECONDS,
) -> SupervisorHome | None:
    """The home of a node that starts and may have its id (`Membership.find_holder`), with the next session; None if its
    runs end with it. `lock`: taken, and to be held as long as the node lives. `why_no_program`: why there can be no
    supervisor that outlives the node, if that is known; said elsewhere.

    With `force`, the lock may still be the older node's, which ends once its connection or its id is taken over: wait
    for it then (`NodeLock.wait`).

    Raises NodeIdInUseError if another process holds the lock for longer than `wait_seconds`, and StoreError.
    """
    if settings.until_idle or not settings.may_keep_runs or why_no_program is not None:
        return None
    try:
        if os.getpid() == 1:
            raise HomeUnusableError("it is the first process of a container, and everything in that ends with it")
        if settings.state_directory is None:
            raise HomeUnusableError("there is no state directory; name one with --state-dir")
        store_id = await store_thread.call(store_id_of)
        name = f"{settings.node_id}-{store_id.hex()[:_SHOWN_DIGITS]}"
        directory = made_usable(settings.state_directory, name)
        lock.open(directory)
    except HomeUnusableError as error:
        log.warning("runs of this node end with it: %s", error)
        return None
    if not await lock.wait(0.0 if settings.force else wait_seconds) and not settings.force:
        raise NodeIdInUseError(
            f"node id {settings.node_id!r} is in use by process {lock.holder() or 'unknown'} of this machine, which "
            f"holds {lock.path}; end it, choose another id with --node-id, or take this one over with --force"
        )
    session = await store_thread.call(lambda store: next_session(store, settings.node_id))
    return SupervisorHome(
        directory=directory,
        store_id=store_id,
        node_id=settings.node_id.encode(),
        session=session,
        keep_seconds=settings.keep_for_seconds,
    )


def require_the_same(holder: NodeRecord | None, home: SupervisorHome | None, machine: Machine) -> None:
    """Raises NodeIdInUseError if the node that had the id before has left runs in another home of this machine: nobody
    could go on with them, and they would be killed. `home`: of the node that starts."""
    left = None if holder is None else holder.document.get("home")
    if holder is None or not isinstance(left, str) or not machine.is_same(holder.document.get("host")):
        return
    kept = readings.kept_of(holder)
    if not kept or (home is not None and str(home.directory) == left):
        return
    inhabited = supervisors_in(Path(left))
    if not inhabited:
        return
    raise NodeIdInUseError(
        f"node {holder.id} has {kept} run{'' if kept == 1 else 's'} in {left}, which this one cannot go on with (its "
        f"runs {'end with it' if home is None else f'are in {home.directory}'}); start it as before, end them with "
        f"disbatch-supervisor --stop {inhabited[0]}, or give them up with --force"
    )


def store_id_of(store: Store) -> bytes:
    """The 16 bytes that tell a store from every other one; made by the first who asks. Raises HomeUnusableError if
    somebody has changed the note to something else."""
    note = store.read_note(_STORE_ID_NOTE)
    if note is None:  # of several who make it, one succeeds, and all read what that has made
        store.write_note(_STORE_ID_NOTE, {"id": secrets.token_hex(_STORE_ID_SIZE)}, is_new=True)
        note = store.read_note(_STORE_ID_NOTE)
    store_id = _bytes_of(note)
    if store_id is None:
        raise HomeUnusableError(f"expected the note {_STORE_ID_NOTE!r} of the store to have an id of 32 hex digits")
    return store_id


def next_session(store: Store, node_id: str, *, above: int = 0) -> int:
    """The number of a new session of a node id: higher than every earlier one, even if several ask at once, and than
    `above`."""
    name = f"session of node {node_id}"
    while True:
        note = store.read_note(name)
        before = None if note is None else note.get("session")
        # Something that is not a number was written by a person: begin again, as after the note was removed.
        session = before + 1 if isinstance(before, int) and not isinstance(before, bool) and before > 0 else 1
        session = max(session, above + 1)
        document = {"session": session}
        if store.write_note(name, document, is_new=True) if note is None else _replaced(store, name, note, document):
            return session


def _replaced(store: Store, name: str, note: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    return store.write_note(name, dict(document), replacing={"session": note.get("session")})


def _bytes_of(note: Mapping[str, Any] | None) -> bytes | None:
    text = None if note is None else note.get("id")
    try:
        store_id = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return None
    return store_id if len(store_id) == _STORE_ID_SIZE else None
