"""The style sheet, the scripts and the icon: files with hashed names, which browsers keep for a year.

Responsible for: their names, and finding one by its name. Must not know: pages.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parents[1] / "static"
CACHE = "public, max-age=31536000, immutable"
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_DIGITS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file."""

    name: str  # app-3f0a1b2c4d.css
    kind: str  # its media type
    data: bytes


@functools.cache
def assets() -> dict[str, Asset]:
    """All of them, by the names that they have on disk."""
    found = {}
    for path in sorted(DIRECTORY.iterdir()):
        if path.suffix in _KINDS:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()[:_DIGITS]
            name = f"{path.name.removesuffix(path.suffix)}-{digest}{path.suffix}"
            found[path.name] = Asset(name=name, kind=_KINDS[path.suffix], data=data)
    return found


@functools.cache
def by_hashed_name() -> dict[str, Asset]:
    return {one.name: one for one in assets().values()}
