"""The health of the store, as this node last saw it; logged once when it fails, and once when it works again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from disbatch_host.errors import StoreError, StoreUnreachableError, StoreUnwritableError
from disbatch_host.node.compartment import Troubles

log = logging.getLogger(__name__)


class StoreHealth:
    """Whether the store works. Used in the event loop."""

    def __init__(self, on_trouble: Callable[[], None], troubles: Troubles) -> None:
        """`on_trouble` is called each time that the store cannot be reached; what it refuses is one of the
        `troubles`."""
        self._troubles = troubles
        self._on_trouble = on_trouble
        self._is_trouble_said = False

    def report_trouble(self, error: StoreError) -> None:
        """Something could not be done."""
        if not isinstance(error, StoreUnreachableError):
            self._troubles.report("store", "a request", error)
            return
        self._on_trouble()
        if not self._is_trouble_said:
            self._is_trouble_said = True
            what = "cannot be written" if isinstance(error, StoreUnwritableError) else "does not answer"
            log.warning("the store %s, nothing is claimed until it works again: %s", what, error)

    def report_write(self) -> None:
        """Something was written. A read alone proves nothing: a full disk allows it."""
        if self._is_trouble_said:
            self._is_trouble_said = False
            log.warning("the store takes writes again")
