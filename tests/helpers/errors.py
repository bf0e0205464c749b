"""The error of a task, for tests to which its cause in short does not matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain(error: Any) -> dict[str, Any] | None:
    """An error without its group; None without an error."""
    return {name: value for name, value in error.items() if name != "group"} if isinstance(error, Mapping) else None
