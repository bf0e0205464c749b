"""The C library, for what Python does not offer.

Responsible for: loading it once. Must not know: what is called.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache


@lru_cache(maxsize=1)
def c_library() -> ctypes.PyDLL:
    """For calls that return at once. The interpreter's lock is kept during them: under load, each time that it is
    given away and asked for again costs a change of threads. `ctypes.get_errno` has the reason of one that failed.

    One for all: each library, like each type of array, is a class of its own, which only the garbage collector
    frees."""
    return ctypes.PyDLL(None, use_errno=True)
