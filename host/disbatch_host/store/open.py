"""From a URL to a store, and what of a URL may be shown. The drivers are imported only when one of their URLs is
opened."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from disbatch_host.clock import Clock
from disbatch_host.errors import UsageError
from disbatch_host.store.base import Access, Store

_EXPECTED = "expected sqlite:///path/to/file.db or mongodb://host/database"


def open_store(url: str, clock: Clock, access: Access = Access.CREATE) -> Store:
    """The store of a URL, not yet opened. Raises UsageError, in one line without any password."""
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        from disbatch_host.store.sqlite import SqliteStore  # noqa: PLC0415

        return SqliteStore(_sqlite_path(url, rest), clock, access)
    if scheme in ("mongodb", "mongodb+srv") and separator:
        from disbatch_host.store.mongo import MongoStore  # noqa: PLC0415

        return MongoStore(url, clock)
    raise UsageError(f"{_EXPECTED}, found the store {redact(url)!r}{_hint(url)}")


def _hint(url: str) -> str:
    """What was probably meant."""
    if not url:
        return "; it is empty"
    if "://" in url:
        return ""
    if "@" in url or url.startswith("mongodb:"):
        return "; for a server write mongodb:// before user and host"
    return f"; for this file write sqlite://{Path(url.removeprefix('sqlite:')).expanduser().absolute()}"


# Options of a MongoDB URI that hold a secret, whatever comes with the next version of the driver.
_SECRET_OPTION = re.compile(
    r"([?&;])([^=&;?]*(?:password|token|secret|key)[^=&;?]*|authMechanismProperties)=([^&;]*)", re.IGNORECASE
)


def redact(url: str) -> str:
    """The URL without password and without secret options, for people and logs."""
    scheme, separator, rest = url.partition("://")
    if not separator:  # what of it is what, nobody can say
        before, at, rest = url.rpartition("@")
        return _without_options(f"***@{rest}" if at else before + rest)
    option = _SECRET_OPTION.search(rest)
    # The last @ before the options ends the credentials: a password may hold one, or a slash, that nobody has escaped.
    end = len(rest) if option is None or "@" not in rest[: option.start()] else option.start()
    credentials, at, host = rest[:end].rpartition("@")
    if at and _SECRET_OPTION.search(credentials) and ":" not in credentials.partition("?")[0]:
        return f"{scheme}://***"  # an @ in an option, or in a password that looks like one
    user, colon, _ = credentials.partition(":")
    return _without_options(f"{scheme}://{user}{':***' if colon else ''}{at}{host}{rest[end:]}")


def without_secrets(text: str, url: str) -> str:
    """A driver's words about a URL, without the secrets that are in it, as written or decoded."""
    _, _, rest = url.partition("://")
    found = [match[3] for match in _SECRET_OPTION.finditer(rest)]
    credentials, at, _ = rest.rpartition("@")
    if at:
        found.append(credentials.partition(":")[2])
    found += [unquote(secret) for secret in found]
    for secret in sorted(filter(None, found), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _without_options(url: str) -> str:
    return _SECRET_OPTION.sub(r"\1\2=***", url)


def _sqlite_path(url: str, rest: str) -> Path:
    if not rest.startswith("/") or not rest.strip("/"):
        name = rest.strip("/")
        hint = f"; for this file write sqlite://{Path(name).expanduser().absolute()}" if name else ""
        raise UsageError(f"{_EXPECTED} (three slashes, then the path), found the store {url!r}{hint}")
    path = Path(unquote(urlsplit(url).path))
    if str(path).startswith(("/~", "/./", "/../")):  # as people write them: sqlite:///~/queue.db, sqlite:///./queue.db
        path = Path(str(path)[1:]).expanduser()
    return path.absolute()
