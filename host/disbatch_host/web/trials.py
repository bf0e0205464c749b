"""Trials of files that were sent: all rows are looked at, and nothing is created.

Responsible for: trials that nobody waits for, how far one has come, and what came of the last one of a file. Must not
know: HTTP, stores, which rows fit.

Rules:
1. What a trial finds holds for one plan (the digest of what is asked for). With another plan it is another trial.
2. Nothing depends on one: where its server did not finish it, the next look at it begins it again.
3. Each has a thread of its own, in which it waits for its turn: few look at rows at once.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from disbatch_host.client.importing.importer import Progress
from disbatch_host.client.importing.requested import Prepared, Trial
from disbatch_host.errors import DisbatchError, in_words
from disbatch_host.web.bad_rows import BadRows, fault_json
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.spool import Received, Spool

log = logging.getLogger(__name__)

SAMPLES = 3  # tasks that are shown
_AT_ONCE = 2
_EACH_MAX = 4  # of one person, those that wait for their turn among them
_TURN_SECONDS = 0.5  # between looks whether one is to stop that waits for its turn
_STOP_SECONDS = 5.0
_NOT_KEPT_MAX = 100


class _StoppedError(Exception):
    """Nobody wants it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A trial as it is now."""

    state: str  # waiting, running, done, failed
    rows: int = 0  # so far
    share: float = 0.0  # of the file, from 0 to 1
    seconds: float = 0.0
    found: Mapping[str, Any] = field(default_factory=dict)  # of one that is done
    error: str = ""  # of one that has failed

    @property
    def is_under_way(self) -> bool:
        return self.state in ("waiting", "running")


@dataclass(kw_only=True)
class _UnderWay:
    """One that has not ended."""

    plan: str
    by: str
    began: float = field(default_factory=time.monotonic)
    has_turn: bool = False
    rows: int = 0
    share: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def as_tried(self) -> Tried:
        state = "running" if self.has_turn else "waiting"
        return Tried(state=state, rows=self.rows, share=self.share, seconds=time.monotonic() - self.began)


def digest_of(wanted: Mapping[str, Any]) -> str:
    """Of a plan."""
    return hashlib.sha256(orjson.dumps(dict(wanted), option=orjson.OPT_SORT_KEYS)).hexdigest()


def tried(
    prepared: Prepared, received: Received, spool: Spool, most_samples: int,
    on_progress: Callable[[int, float], object] = lambda rows, share: None,
) -> Trial:  # fmt: skip
    """What would come of an import; the rows that do not fit are kept. `on_progress` gets the number of rows so far,
    and the share of the file. Raises UsageError, OSError."""
    bad = BadRows(spool.tried_path(received.id))
    try:
        with received.opened() as file:

            def advance(progress: Progress) -> None:
                on_progress(progress.rows, file.source.share_read)

            trial = prepared.tried(file, most_samples, on_fault=bad.add, on_progress=advance)
        bad.keep()
        return trial
    finally:
        bad.drop()


class Trials:
    """Those of one server. Any thread may use it."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._under_way: dict[str, _UnderWay] = {}  # by file
        self._not_kept: dict[str, tuple[str, Tried]] = {}  # by file: its plan, and that nothing is known of it
        self._is_closed = False

    def begin(self, received: Received, prepared: Prepared, plan: str, who: Principal) -> None:
        """Begin one, unless it is under way; another of the same file is stopped. Raises Problem."""
        with self._lock:
            before = self._under_way.get(received.id)
            if self._is_closed or (before is not None and before.plan == plan):
                return
            others = sum(one.by == who.by for one in self._under_way.values() if one is not before)
            if others >= _EACH_MAX:
                detail = f"{_EACH_MAX} files of {who.name} are being checked, and no more may be at once"
                raise Problem(Code.TOO_MANY, detail, headers={"Retry-After": "5"})
            if before is not None:
                before.stop.set()
            self._not_kept.pop(received.id, None)
            one = self._under_way[received.id] = _UnderWay(plan=plan, by=who.by)
            one.thread = threading.Thread(
                target=self._carry_out, args=(one, received, prepared), name="trial", daemon=True
            )
            one.thread.start()

    def find(self, file_id: str, plan: str) -> Tried | None:
        """The one of this plan; None: there is none, or its server did not finish it."""
        with self._lock:
            one = self._under_way.get(file_id)
            if one is not None and one.plan == plan:
                return one.as_tried()
            plan_before, failed = self._not_kept.get(file_id, ("", None))
            if failed is not None and plan_before == plan:
                return failed
        found = self._spool.own_beside(file_id, "trial")
        if found is None or found.pop("plan") != plan:
            return None
        return Tried(**found)

    def stop(self, file_id: str) -> None:
        """Nobody wants that of this file any more."""
        with self._lock:
            one = self._under_way.get(file_id)
            if one is not None:
                one.stop.set()

    def close(self) -> None:
        """Stop all."""
        with self._lock:
            self._is_closed = True
            all_of_them = list(self._under_way.values())
        for one in all_of_them:
            one.stop.set()
        until = time.monotonic() + _STOP_SECONDS
        for one in all_of_them:
            if one.thread is not None:
                one.thread.join(max(0.0, until - time.monotonic()))

    def _carry_out(self, one: _UnderWay, received: Received, prepared: Prepared) -> None:
        try:
            while not self._places.acquire(timeout=_TURN_SECONDS):
                if one.stop.is_set():
                    return
            try:
                one.has_turn = True
                self._keep(one, received, self._told(one, received, prepared))
            finally:
                self._places.release()
        except _StoppedError:
            pass
        except Exception as error:  # whatever it is, it must cost this trial alone
            why = error.detail if isinstance(error, Problem) else in_words(error)
            log.warning("the trial of a file has failed: %s", why)
            self._remember(one, received, why)
        finally:
            with self._lock:
                if self._under_way.get(received.id) is one:
                    del self._under_way[received.id]

    def _remember(self, one: _UnderWay, received: Received, error: str) -> None:
        """Where there is no room for what came of it, every look at it would begin it again."""
        with self._lock:
            while len(self._not_kept) >= _NOT_KEPT_MAX:
                del self._not_kept[next(iter(self._not_kept))]
            self._not_kept[received.id] = one.plan, Tried(state="failed", error=error)

    def _told(self, one: _UnderWay, received: Received, prepared: Prepared) -> dict[str, Any]:
        """What is kept of it."""

        def advance(rows: int, share: float) -> None:
            one.rows, one.share = rows, share
            if one.stop.is_set():
                raise _StoppedError

        told: dict[str, Any] = {"state": "done"}
        try:
            found = tried(prepared, received, self._spool, SAMPLES, advance)
            told["found"] = _in_json(found)
        except _StoppedError:
            raise
        except DisbatchError as error:
            told = {"state": "failed", "error": in_words(error)}
        except Exception as error:
            log.warning("the trial of a file has failed: %s", in_words(error))
            told = {"state": "failed", "error": f"it could not be checked: {in_words(error)}"}
        return {**told, "rows": one.rows, "share": one.share, "seconds": round(time.monotonic() - one.began, 3)}

    def _keep(self, one: _UnderWay, received: Received, told: Mapping[str, Any]) -> None:
        with self._lock:  # a later one of the same file must not be overwritten
            if not one.stop.is_set() and self._spool.find(received.id) is not None:
                self._spool.put_beside(received.id, "trial", {**told, "plan": one.plan})


def _in_json(trial: Trial) -> dict[str, Any]:
    found = {
        "rows": trial.rows, "fit": trial.rows - trial.faulty, "faulty": trial.faulty,
        "faults": [*map(fault_json, trial.faults)], "sample": [dict(one) for one in trial.sample],
        "secret_columns": list(trial.secret_columns), "notices": trial.notices,
        "lines": trial.lines,
    }  # fmt: skip
    plain: dict[str, Any] = orjson.loads(orjson.dumps(found, default=str, option=orjson.OPT_NON_STR_KEYS))
    return plain
