"""The parts of the contract that only look: what wakes when others have written, and what a store says about itself.

Must not know: any driver.
"""

from __future__ import annotations

from typing import Protocol

from disbatch_host.store.contract.answers import StoreCondition


class Watcher(Protocol):
    """Wakes its own thread when tasks or queues may have changed."""

    @property
    def is_listening(self) -> bool:
        """Whether nothing has changed, as far as the store can tell, since a `wait` last returned True. False before
        the first one, and as long as changes are found only by looking. May be asked in any thread."""

    def wait(self, timeout_seconds: float) -> bool:
        """True as soon as something may have changed, False after the timeout. May wake for no reason; never raises:
        a watcher that cannot watch sleeps for the timeout."""

    def close(self) -> None:
        """Soon ends a `wait` in another thread. Closing twice is fine."""


class Examined(Protocol):
    """A look at the store itself."""

    def condition(self) -> StoreCondition:
        """Changes nothing, and works for a store opened with `Access.LOOK`, whatever its layout."""
