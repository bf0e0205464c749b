"""Paths of requests: from the bytes of a request line to names, and the routes that they lead to.

Responsible for: one spelling of every path, the base path, names in paths. Must not know: what a route does.

Rules:
1. The path counts as it was sent, and each segment is unquoted once: a name may hold a slash, or `%2F`.
2. Everything behind this sees one spelling, with every segment quoted. Links made from it are right as they are.
3. Some proxies unquote a path on its way, so that a name with a slash is several segments. Where no route has so many,
   a name may stretch over some; an address that nothing is at stays one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

_NAME = re.compile(r"\{(\w+)\}")


def canonical(raw: bytes, errors: str = "strict") -> str:
    """The one spelling of a path. Raises ValueError if it is not in UTF-8. `errors`: as for `bytes.decode`."""
    return "/".join(quoted(unquote_to_bytes(one).decode(errors=errors)) for one in raw.split(b"/"))


def is_text(raw: bytes) -> bool:
    """Whether every name in a path is in UTF-8."""
    try:
        canonical(raw)
    except ValueError:
        return False
    return True


def quoted(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def below(base: str, path: str) -> str:
    """What a path says below the base path, whether it begins with it or a proxy has stripped it. Empty: it is the base
    path, without a slash at its end."""
    prefix = canonical(base.encode())
    if base and (path == prefix or path.startswith(f"{prefix}/")):
        return path[len(prefix) :]
    return path


def names(found: Mapping[str, Any]) -> dict[str, str]:
    """The names that a route has found in a path."""
    return {name: unquote(str(value)) for name, value in found.items()}


def shown(path: str) -> str:
    """A path for a person to read."""
    return unquote(path)


def stretched(path: str) -> str | None:
    """A route's path, its first name over several segments; None: it has no name."""
    changed, count = _NAME.subn(r"{\1:path}", path, count=1)
    return changed if count else None


def fixed_length(path: str) -> int:
    """How much of a route's path is no name: of several that fit, the longest is meant."""
    return len(_NAME.sub("", path))
