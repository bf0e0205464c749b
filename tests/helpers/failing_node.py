"""A node whose own code fails once a file is there: `python failing_node.py NODE URL PLUGINS TRIGGER PLACE`.

PLACE `store`: in the thread of the store, with something that is not an Exception. `loop`: in the event loop.
`nowhere`: it does not fail. Its pace is that of a node which waits less for dead ones.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from disbatch_host import logs
from disbatch_host.clock import SystemClock
from disbatch_host.node.node import run_node
from disbatch_host.node.pace import Pace
from disbatch_host.settings.values import NodeSettings
from disbatch_host.store.open import open_store


class Broken(BaseException):
    """No compartment contains it."""


class FailingStore:
    """A store that is asked for what is due once a second."""

    def __init__(self, store: Any, trigger: Path) -> None:
        self._store = store
        self._trigger = trigger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def due(self, *arguments: Any) -> Any:
        if self._trigger.exists():
            raise Broken
        return self._store.due(*arguments)


class FailingClock(SystemClock):
    """A clock that the event loop asks all the time."""

    def __init__(self, trigger: Path) -> None:
        self._trigger = trigger

    def monotonic(self) -> float:
        if threading.current_thread() is threading.main_thread() and self._trigger.exists():
            self._trigger.unlink()  # once: the node has to be able to end
            raise Broken
        return super().monotonic()


def main() -> int:
    node_id, url, plugins, trigger, place = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
    state = Path(sys.argv[6]) if len(sys.argv) > 6 else None
    logs.set_up("info", "text", node_id=node_id)
    store: Any = open_store(url, SystemClock())
    settings = NodeSettings(
        node_id=node_id,
        plugins=[plugins],
        heartbeat_seconds=0.3,
        dead_after_seconds=2.0,
        stop_grace_seconds=0.0,
        state_directory=state,
    )
    pace = Pace(sweep_seconds=0.2, confirm_seconds=1.0)
    if place == "store":
        return run_node(settings, FailingStore(store, trigger), pace=pace)
    return run_node(settings, store, clock=FailingClock(trigger) if place == "loop" else SystemClock(), pace=pace)


if __name__ == "__main__":
    sys.exit(main())
