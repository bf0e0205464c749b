"""From a URL to a store. The drivers are imported only when one of their URLs is opened."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from disbatch_host.clock import Clock
from disbatch_host.errors import UsageError
from disbatch_host.store.base import Store

_EXPECTED = "expected sqlite:///path/to/file.db or mongodb://host/database"


def open_store(url: str, clock: Clock) -> Store:
    """The store of a URL, not yet opened. Raises UsageError, in one line without any password."""
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        from disbatch_host.store.sqlite import SqliteStore  # noqa: PLC0415

        return SqliteStore(_sqlite_path(url, rest), clock)
    if scheme in ("mongodb", "mongodb+srv") and separator:
        from disbatch_host.store.mongo import MongoStore  # noqa: PLC0415

        return MongoStore(url, clock)
    hint = ""
    if not separator:
        hint = f"; for a file write sqlite:///{url.lstrip('/')}" if url else "; it is empty"
    raise UsageError(f"{_EXPECTED}, found the store {redact(url)!r}{hint}")


def redact(url: str) -> str:
    """The URL without its password, for people and logs."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    # The last @ ends the credentials: a password may hold one, or a slash, that nobody has escaped.
    credentials, at, host = rest.rpartition("@")
    if not at:
        return url
    user, colon, _ = credentials.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}@{host}"


def _sqlite_path(url: str, rest: str) -> Path:
    if not rest.startswith("/") or not rest.strip("/"):
        raise UsageError(f"{_EXPECTED} (three slashes, then the path), found the store {url!r}")
    path = Path(unquote(urlsplit(url).path))
    if str(path).startswith(("/~", "/./", "/../")):  # as people write them: sqlite:///~/queue.db, sqlite:///./queue.db
        path = Path(str(path)[1:]).expanduser()
    return path.absolute()
