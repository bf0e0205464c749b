"""The health of the store, as this node last saw it; logged once when it fails, and once when it works again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from disbatch_host.errors import StoreError, StoreLostError, StoreUnreachableError, StoreUnwritableError
from disbatch_host.node.compartment import Troubles

log = logging.getLogger(__name__)


class StoreHealth:
    """Whether the store works. Used in the event loop; `loss` in any thread."""

    def __init__(self, on_trouble: Callable[[], None], troubles: Troubles) -> None:
        """`on_trouble` is called each time that the store cannot be reached; what it refuses is one of the
        `troubles`."""
        self._troubles = troubles
        self._on_trouble = on_trouble
        self._said: type[StoreError] | None = None  # the kind of trouble that was logged last
        self._lost_at = 0.0
        self.loss: str | None = None  # the store's file is not where it was: what was seen; it may still come back

    @property
    def lost_seconds(self) -> float | None:
        """How long its file has been gone; None if it is not."""
        return None if self.loss is None else time.monotonic() - self._lost_at

    def report_trouble(self, error: StoreError) -> None:
        """Something could not be done."""
        if not isinstance(error, StoreUnreachableError):
            self._troubles.report("store", "a request", error)
            return
        self._on_trouble()
        if isinstance(error, StoreLostError):
            if self.loss is None:
                self._lost_at = time.monotonic()
            self.loss = str(error)
        if self._said is None or (isinstance(error, StoreLostError) and self._said is not StoreLostError):
            self._said = type(error)
            what = "cannot be written" if isinstance(error, StoreUnwritableError) else "does not answer"
            what = "is gone" if isinstance(error, StoreLostError) else what
            log.warning("the store %s, nothing is claimed until it works again: %s", what, error)

    def report_write(self) -> None:
        """Something was written. A read alone proves nothing: a full disk allows it."""
        self.loss = None
        if self._said is not None:
            self._said = None
            log.warning("the store takes writes again")
