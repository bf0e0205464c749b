"""The way from a URL to a store. The drivers are imported only when one of their URLs is opened.

Rule: of a URL that does not lead to a store nothing is shown but what `url.redact` shows, and nothing of it is guessed:
a `?` or `#` in the name of a file would make two stores one, an @ may stand behind a password.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import unquote

from disbatch_host.clock import Clock
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store
from disbatch_host.store.contract.answers import Access
from disbatch_host.store.url import HIDDEN, redact, sqlite_url

_EXPECTED = "expected sqlite:///path/to/file.db or mongodb://host/database"
# Characters that mean something in other programs' URLs of a file, and what to write for them in its name.
_ENCODED = {"?": "%3F", "#": "%23", "@": "%40"}


def open_store(url: str, clock: Clock, access: Access = Access.CREATE) -> Store:
    """The store of a URL, not yet opened. Raises UsageError, in one line without any password."""
    scheme, separator, _ = url.partition("://")
    if scheme == "sqlite" and separator:
        from disbatch_host.store.sqlite import SqliteStore  # noqa: PLC0415

        return SqliteStore(sqlite_file(url), clock, access)
    if scheme in ("mongodb", "mongodb+srv") and separator:
        from disbatch_host.store.mongo import MongoStore  # noqa: PLC0415

        return MongoStore(url, clock, access)
    raise UsageError(f"{_EXPECTED}, found the store {redact(url)!r}{_hint(url)}")


def sqlite_file(url: str) -> Path:
    """The path in a sqlite:// URL. Raises UsageError, in one line without any password."""
    rest = url.partition("://")[2]
    for character, encoded in _ENCODED.items():
        if character in rest:
            what = "user and no password" if character == "@" else "options"
            raise UsageError(
                f'{_EXPECTED}, found "{character}" in the store {redact(url)!r}; a file has no {what}: for a '
                f'"{character}" in its name write {encoded}'
            )
    name = rest.strip("/")
    if not rest.startswith("/") or not name:
        hint = _hint_of_file(url, name)
        raise UsageError(f"{_EXPECTED} (three slashes, then the path), found the store {redact(url)!r}{hint}")
    try:
        # Four slashes are what other programs want before a whole path; the path is the same.
        text = unquote(f"/{rest.lstrip('/')}", errors="strict")
        text.encode()
    except UnicodeError:
        raise UsageError(f"{_EXPECTED} with a path in UTF-8, found other bytes in it; rename the file") from None
    if "\0" in text:
        raise UsageError(f"{_EXPECTED}, found a %00 in the store {redact(url)!r}; no name of a file can hold it")
    if text.rpartition("/")[2] in ("", ".", ".."):
        raise UsageError(f"{_EXPECTED}, found a directory in the store {redact(url)!r}; name a file in it")
    if text.lstrip("/").startswith((":memory:", "file:")):
        raise UsageError(
            f"{_EXPECTED}, found the store {redact(url)!r}; each process opens the tasks' file by its path: write that"
        )
    path = Path(text)
    try:
        if text.startswith(("/~", "/./", "/../")):  # as people write it: sqlite:///~/queue.db, sqlite:///./queue.db
            path = Path(text[1:]).expanduser()
        return path.absolute()
    except (RuntimeError, OSError) as error:
        what = "no home directory is known" if isinstance(error, RuntimeError) else "the working directory is gone"
        raise UsageError(f"{what}, but the store {redact(url)!r} begins there; write the whole path") from error


def _hint(url: str) -> str:
    """The URL that was probably meant."""
    if not url:
        return "; it is empty"
    scheme, separator, rest = url.partition("://")
    if scheme == "file" and separator and rest.startswith("/"):
        return _hint_of_file(url, rest)
    if separator:
        return ""
    if "@" in url or url.startswith("mongodb:"):
        return "; for a server write mongodb:// before user and host"
    return _hint_of_file(url, url.removeprefix("sqlite:").removeprefix("file:"))


def _hint_of_file(url: str, name: str) -> str:
    """The URL of the file that was probably meant, if its name may be shown."""
    if not name or HIDDEN in redact(url):
        return ""
    with contextlib.suppress(RuntimeError, OSError):  # no home, or no working directory: then there is no hint
        return f"; for this file write {sqlite_url(Path(name).expanduser().absolute())}"
    return ""
