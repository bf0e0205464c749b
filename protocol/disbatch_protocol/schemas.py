"""The JSON Schemas that come with the package: manifest, task, queue, node, event, config.

They lie in the wheel beside this module and in a checkout in its `schemas/` directory; the same files.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, cast

import orjson

NAMES = ("manifest", "task", "queue", "node", "event", "config")


@functools.lru_cache(maxsize=len(NAMES))
def load(name: str) -> dict[str, Any]:
    """The schema of this name, parsed. Shared by all callers: not to be changed."""
    if name not in NAMES:
        raise ValueError(f"expected one of {', '.join(NAMES)}, found {name!r}")
    return cast("dict[str, Any]", orjson.loads((directory() / f"{name}.json").read_bytes()))


def directory() -> Path:
    """Where the schemas lie."""
    package = Path(__file__).parent
    installed = package / "schemas"
    return installed if installed.is_dir() else package.parent.parent / "schemas"
