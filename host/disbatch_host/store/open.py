"""The way from a URL to a store. The drivers are imported only when one of their URLs is opened."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from disbatch_host.clock import Clock
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Access, Store
from disbatch_host.store.url import redact

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
    """The URL that was probably meant."""
    if not url:
        return "; it is empty"
    if "://" in url:
        return ""
    if "@" in url or url.startswith("mongodb:"):
        return "; for a server write mongodb:// before user and host"
    return f"; for this file write sqlite://{Path(url.removeprefix('sqlite:')).expanduser().absolute()}"


def _sqlite_path(url: str, rest: str) -> Path:
    if not rest.startswith("/") or not rest.strip("/"):
        name = rest.strip("/")
        hint = f"; for this file write sqlite://{Path(name).expanduser().absolute()}" if name else ""
        raise UsageError(f"{_EXPECTED} (three slashes, then the path), found the store {url!r}{hint}")
    path = Path(unquote(urlsplit(url).path))
    if str(path).startswith(("/~", "/./", "/../")):  # as people write it: sqlite:///~/queue.db, sqlite:///./queue.db
        path = Path(str(path)[1:]).expanduser()
    return path.absolute()
