"""The file of tokens: who may sign in, with which role, and until when.

    {"key": "<base64>", "tokens": [{"id": "k3v9", "name": "ann", "role": "operate", "sha256": "…", "created": "…"}]}

Responsible for: making, finding and removing tokens, and the key that sessions are signed with. Must not know: HTTP.

Rules:
1. The file holds a digest of each token, which is shown once. A token is random, so a plain SHA-256 is enough.
2. People who can write tasks must not be able to give themselves rights: the file is nobody's but its owner's (0600,
   or less), and is never in the store.
3. It is read again when it has changed. One that has become unusable lets nobody in, and says why.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from disbatch_host import suggested
from disbatch_host.errors import FieldError, NotFoundError, UsageError
from disbatch_host.web.role import Role
from disbatch_protocol.document import rfc3339
from disbatch_protocol.faults import near_name

DEFAULT_FILE = Path("/etc/disbatch/web.json")

_PREFIX = "dsb"
_ID_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that is taken for another
_ID_LENGTH = 6
_SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_OTHERS_BITS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is kept of a token."""

    id: str
    name: str  # of the person or program that has it
    role: Role
    digest: str  # SHA-256 of the whole token, in hex
    queues: tuple[str, ...] = ()  # empty: all
    created: datetime | None = None
    expires: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        return self.expires is None or now < self.expires

    def to_json(self) -> dict[str, Any]:
        """Without its digest."""
        return {
            "id": self.id,
            "name": self.name,
            "role": self.role.word,
            "queues": list(self.queues),
            "created": None if self.created is None else rfc3339(self.created),
            "expires": None if self.expires is None else rfc3339(self.expires),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """All tokens at one moment, and the key of sessions."""

    key: bytes
    tokens: tuple[Token, ...] = ()

    def of_secret(self, text: str) -> Token | None:
        """The token that somebody shows, whether it is still valid or not."""
        digest = digest_of(text)
        found = None
        for one in self.tokens:  # all of them, so that the time says nothing
            if hmac.compare_digest(one.digest, digest):
                found = one
        return found

    def get(self, token_id: str) -> Token | None:
        return next((one for one in self.tokens if one.id == token_id), None)


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def new_token(
    name: str, role: Role, *, queues: Sequence[str] = (), now: datetime, expires: datetime | None = None
) -> tuple[Token, str]:
    """A new token, and its text, which nothing but its owner keeps. Raises FieldError for a name that logs and
    documents cannot show."""
    if _NAME.fullmatch(name) is None:
        raise FieldError(
            "name",
            f"expected 1 to 64 letters, digits and . _ @ -, beginning with a letter or digit, found {name!r:.80}",
        )
    token_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
    text = f"{_PREFIX}_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    token = Token(
        id=token_id, name=name, role=role, digest=digest_of(text), queues=tuple(queues), created=now, expires=expires
    )
    return token, text


def new_key() -> bytes:
    return secrets.token_bytes(_SECRET_BYTES)


class TokenFile:
    """The file at a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at: tuple[int, int, int, int] | None = None
        self._tokens: Tokens | None = None

    def current(self) -> Tokens:
        """What the file says now; it is read if it has changed. Raises UsageError if it cannot be used."""
        try:
            facts = self.path.stat()
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from error
        mark = (
            facts.st_ino,
            facts.st_size,
            facts.st_mtime_ns,
            facts.st_ctime_ns,
        )  # the last one of chmod and chown, too
        if self._tokens is None or mark != self._read_at:
            self._tokens, self._read_at = None, mark  # one that has become unusable lets nobody in
            self._tokens = self._read()
        return self._tokens

    def forget(self) -> None:
        """Read it again at the next request, whether it looks changed or not."""
        self._tokens = None

    def add(self, token: Token) -> None:
        """Create the file if there is none. Raises UsageError."""
        with self._changing() as tokens:
            self._write(replace(tokens, tokens=(*tokens.tokens, token)))

    def remove(self, named: str) -> list[Token]:
        """Remove the token with this id, or all with this name; returns them. Raises NotFoundError, UsageError."""
        with self._changing() as tokens:
            gone = [one for one in tokens.tokens if named in (one.id, one.name)]
            if not gone:
                known = [name for one in tokens.tokens for name in (one.id, one.name)]
                near = near_name(named, known)
                hint = (
                    f"did you mean {near!r}?"
                    if near
                    else f"{suggested.plain_hint('web token list --tokens', self.path)} shows them"
                )
                raise NotFoundError(f"no token {named!r:.80} in {self.path}; {hint}")
            self._write(replace(tokens, tokens=tuple(one for one in tokens.tokens if one not in gone)))
            return gone

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Tokens]:
        """Nobody else changes it meanwhile."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(
                f"{self.path.parent} cannot be used: {error.strerror}; name another file by --tokens"
            ) from error
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield self._read() if self.path.exists() else Tokens(key=new_key())
        finally:
            os.close(directory)

    def _read(self) -> Tokens:
        try:
            with self.path.open("rb") as file:
                require_private(self.path, os.fstat(file.fileno()))
                return _tokens_of(orjson.loads(file.read()))
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:  # orjson's own is a ValueError
            raise UsageError(
                f"{self.path} is not a file of tokens; delete it, and "
                f"{suggested.plain_hint('web token add NAME --tokens', self.path)} makes one"
            ) from error

    def _write(self, tokens: Tokens) -> None:
        document = {
            "key": base64.b64encode(tokens.key).decode(),
            "tokens": [{**one.to_json(), "sha256": one.digest} for one in tokens.tokens],
        }
        try:
            with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=".web-", delete=False) as file:  # is 0600
                file.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(self.path)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}") from error


def require_private(path: Path, facts: os.stat_result) -> None:
    """Raises UsageError for a file that others could read or write."""
    if facts.st_uid not in (0, os.geteuid()):
        raise UsageError(f"{path} belongs to another user ({facts.st_uid}); expected root or the user of this process")
    if facts.st_mode & _OTHERS_BITS:
        mode = stat.S_IMODE(facts.st_mode)
        raise UsageError(f"{path} may be used by others (mode {mode:04o}); `chmod 600 {path}` keeps it private")


def _tokens_of(document: Mapping[str, Any]) -> Tokens:
    return Tokens(
        key=base64.b64decode(document["key"], validate=True),
        tokens=tuple(_token_of(one) for one in document["tokens"]),
    )


def _token_of(entry: Mapping[str, Any]) -> Token:
    queues = entry.get("queues") or []
    if not isinstance(queues, list) or not all(isinstance(one, str) for one in queues):
        raise TypeError
    return Token(
        id=str(entry["id"]),
        name=str(entry["name"]),
        role=Role[str(entry["role"]).upper()],
        digest=str(entry["sha256"]),
        queues=tuple(queues),
        created=_moment(entry.get("created")),
        expires=_moment(entry.get("expires")),
    )


def _moment(text: Any) -> datetime | None:
    if text is None:
        return None
    found = datetime.fromisoformat(str(text))
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
