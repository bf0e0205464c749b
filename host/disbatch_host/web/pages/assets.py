"""The style sheet, the scripts and the icon: files with hashed names, which browsers keep for a year.

Responsible for: their names, and finding one by its name. Must not know: pages.

Rules:
1. A module that imports another one (`from "./lines.js"`) is served with the hashed name of that one in its place, so a
   change of either changes what browsers ask for. Modules import each other in no circle.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parents[1] / "static"
CACHE = "public, max-age=31536000, immutable"
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_DIGITS = 10
_SPACE = re.compile(rb"/\*.*?\*/|\n", re.DOTALL)  # of the style sheet, in which each line ends with a sign
_IMPORT = re.compile(rb'(\bfrom |\bimport )"\./([\w.-]+\.js)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file."""

    name: str  # app-3f0a1b2c4d.css
    kind: str  # its media type
    data: bytes


@functools.cache
def assets() -> dict[str, Asset]:
    """All of them, by the names that they have on disk."""
    found: dict[str, Asset] = {}

    def named(path: Path) -> Asset:
        if path.name not in found:
            data = path.read_bytes()
            if path.suffix == ".js":
                data = _IMPORT.sub(lambda one: b'%s"./%s"' % (one[1], name_of(DIRECTORY / one[2].decode())), data)
            elif path.suffix == ".css":
                data = _SPACE.sub(b"", data)
            digest = hashlib.sha256(data).hexdigest()[:_DIGITS]
            name = f"{path.name.removesuffix(path.suffix)}-{digest}{path.suffix}"
            found[path.name] = Asset(name=name, kind=_KINDS[path.suffix], data=data)
        return found[path.name]

    def name_of(path: Path) -> bytes:
        return named(path).name.encode()

    for path in sorted(DIRECTORY.iterdir()):
        if path.suffix in _KINDS:
            named(path)
    return found


@functools.cache
def by_hashed_name() -> dict[str, Asset]:
    return {one.name: one for one in assets().values()}
