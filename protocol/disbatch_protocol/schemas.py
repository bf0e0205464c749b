"""The JSON Schemas that come with the package: manifest, task, queue, batch, node, event, worker, config,
doctor, failures.

They are beside this module in the wheel, and in the `schemas/` directory of a checkout; the same files.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, cast

import orjson

NAMES = ("manifest", "task", "queue", "batch", "node", "event", "worker", "config", "doctor", "failures")


@functools.lru_cache(maxsize=len(NAMES))
def load(name: str) -> dict[str, Any]:
    """The schema with this name, parsed. Shared by all callers: do not change it."""
    if name not in NAMES:
        raise ValueError(f"expected one of {', '.join(NAMES)}, found {name!r}")
    return cast("dict[str, Any]", orjson.loads((directory() / f"{name}.json").read_bytes()))


def directory() -> Path:
    """The directory of the schemas."""
    package = Path(__file__).parent
    installed = package / "schemas"
    return installed if installed.is_dir() else package.parent.parent / "schemas"
