"""What people ask of a cluster, whichever front end shows it: no terminal, no HTTP, no printing.

The names below are public. Each is imported on first use, so that a command that needs one module of this
package does not load the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from disbatch_host.client.batch_members import NewBatch
    from disbatch_host.client.client import Client
    from disbatch_host.client.finding import Selection
    from disbatch_host.client.importing.importer import Rules

__all__ = ["Client", "NewBatch", "Rules", "Selection"]

_HOMES = {"Client": "client", "NewBatch": "batch_members", "Rules": "importing.importer", "Selection": "finding"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
