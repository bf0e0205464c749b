"""The directory of files that people have sent, until they are imported.

Responsible for: receiving a file, what is kept beside it, finding it again, forgetting it. Must not know: HTTP
libraries, what a file is imported as.

Rules:
1. Directory and files are nobody's but their owner's (0700, 0600): there may be passwords in them.
2. What others have packed is unpacked only as far as it stays in proportion to its size.
3. The name of a file is random and made here. What its sender calls it is said, never used.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import orjson

from disbatch_host import __version__
from disbatch_host.client.importing import files
from disbatch_host.client.importing.files import OpenFile
from disbatch_host.errors import UsageError
from disbatch_host.web.problems import Code, Problem

BYTES_MAX = 2**30
KEPT_SECONDS = 24 * 3600.0
_RATIO_MAX = 200  # text is packed to a tenth of its size, or a fiftieth
_SMALL = 64 * 2**20  # what may be unpacked from anything
_UNPACKED_FACTOR = 10  # times the most that may be sent
_BLOCK = 2**20
_ID = re.compile("[0-9a-f]{32}")
_KINDS = ("upload", "json", "faults", "plan", "trial", "begun")
_VERSION = "written_by"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A file that has come."""

    id: str
    path: Path
    name: str  # as its sender calls it
    by: str
    sha256: str
    size: int
    at: float = 0.0  # when it had come, in seconds since 1970

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenFile]:
        """As an import reads it, under the name that its sender knows. Raises UsageError."""
        with files.opened(self.path) as found:
            yield replace(found, name=self.name, digest=bytes.fromhex(self.sha256))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "by": self.by, "sha256": self.sha256, "bytes": self.size}


class Spool:
    """One directory. Any thread may use it."""

    def __init__(self, directory: Path, *, bytes_max: int = BYTES_MAX) -> None:
        """Raises UsageError if it cannot be used."""
        self.directory = directory
        self.bytes_max = bytes_max
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--spool: {directory} cannot be used: {error.strerror}") from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise UsageError(f"--spool: {directory} cannot be written to; name another directory")

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Receiving]:
        """A file that is about to come; nothing of it is left unless it was finished. Raises Problem."""
        file_id = secrets.token_hex(16)
        try:
            descriptor = os.open(self.path_of(file_id), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _no_room(error) from error
        with os.fdopen(descriptor, "r+b") as file:
            receiving = Receiving(self, file_id, file)
            try:
                yield receiving
            finally:
                if not receiving.is_whole:
                    self.remove(file_id)

    def find(self, file_id: str) -> Received | None:
        """One that is here."""
        if _ID.fullmatch(file_id) is None:
            return None
        facts, path = self.beside(file_id, "json"), self.path_of(file_id)
        if facts is None:
            return None
        try:
            at = path.stat().st_mtime
        except OSError:
            return None
        return Received(
            id=file_id, path=path, name=facts["name"], by=facts["by"], sha256=facts["sha256"], size=facts["bytes"],
            at=at,
        )  # fmt: skip

    def of_person(self, by: str) -> list[Received]:
        """Those that somebody has sent, the newest first."""
        ids = [path.name.partition(".")[0] for path in self.directory.glob("*.json")]
        found = [one for one in map(self.find, ids) if one is not None and one.by == by]
        return sorted(found, key=lambda one: one.at, reverse=True)

    def remove(self, file_id: str) -> None:
        """It is needed no longer, nor is what was kept beside it; but for what became of it."""
        for kind in _KINDS:
            if kind != "begun":
                self._path(file_id, kind).unlink(missing_ok=True)

    def beside(self, file_id: str, kind: str) -> dict[str, Any] | None:
        """What is kept beside a file, if there is anything."""
        if _ID.fullmatch(file_id) is None:
            return None
        try:
            found: dict[str, Any] = orjson.loads(self._path(file_id, kind).read_bytes())
        except (OSError, ValueError):
            return None
        return found

    def own_beside(self, file_id: str, kind: str) -> dict[str, Any] | None:
        """What `put_beside` has kept; nothing of another version of this program, which may have another shape."""
        found = self.beside(file_id, kind)
        return None if found is None or found.pop(_VERSION, None) != __version__ else found

    def put_beside(self, file_id: str, kind: str, found: Mapping[str, Any]) -> None:
        """Keep this beside a file, in the place of what is there. Raises Problem if there is no room."""
        part = self._path(secrets.token_hex(16), kind)
        try:
            _write(part, {**found, _VERSION: __version__})
            part.replace(self._path(file_id, kind))
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _no_room(error) from error

    def begin(self, file_id: str, by: str, job_id: str) -> str:
        """The id of its one import: the first that anybody has given for it. Raises Problem."""
        part = self._path(secrets.token_hex(16), "begun")
        try:
            _write(part, {"id": job_id, "by": by})
            os.link(part, self._path(file_id, "begun"))  # all of it, or nothing
        except FileExistsError:
            found = self.beside(file_id, "begun")
            return job_id if found is None else str(found["id"])
        except OSError as error:
            raise _no_room(error) from error
        finally:
            part.unlink(missing_ok=True)
        return job_id

    def forget_old(self, besides: frozenset[str] = frozenset(), jobs: Sequence[str] = ()) -> None:
        """Remove what was sent long ago. `besides`: that is still needed; `jobs`: imports that are forgotten."""
        for job_id in jobs:
            self.faults_path(job_id).unlink(missing_ok=True)
        for path in self.directory.iterdir():
            file_id, _, kind = path.name.partition(".")
            if _ID.fullmatch(file_id) and kind in _KINDS and file_id not in besides:
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                        path.unlink()

    def tried_path(self, file_id: str) -> Path:
        """Where the rows of a file are kept that did not fit when it was last tried."""
        return self._path(file_id, "faults")

    def faults_path(self, job_id: str) -> Path:
        """Where the rows of an import are kept that do not fit."""
        return self.directory / f"{hashlib.sha256(job_id.encode()).hexdigest()[:32]}.faults"

    def too_large(self) -> Problem:
        return Problem(Code.TOO_LARGE, f"expected a file of at most {self.bytes_max:,} bytes (--upload-max)")

    def keep(self, received: Received) -> None:
        """Remember what is known of it."""
        _write(self._path(received.id, "json"), received.to_json())

    def path_of(self, file_id: str) -> Path:
        """Of its content."""
        return self._path(file_id, "upload")

    def _path(self, file_id: str, kind: str) -> Path:
        return self.directory / f"{file_id}.{kind}"


def _write(path: Path, found: Mapping[str, Any]) -> None:
    """A new file. Raises OSError."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(orjson.dumps(found))


class Receiving:
    """A file of which some has come."""

    def __init__(self, spool: Spool, file_id: str, file: IO[bytes]) -> None:
        self.is_whole = False
        self._spool = spool
        self._id = file_id
        self._file = file
        self._size = 0
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Raises Problem if it becomes too large, or there is no room."""
        self._size += len(data)
        if self._size > self._spool.bytes_max:
            raise self._spool.too_large()
        self._digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise _no_room(error) from error

    def finish(self, name: str, by: str) -> Received:
        """All of it has come. Raises Problem if it cannot be kept, or would become too large when it is unpacked."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._unpack()
            found = Received(
                id=self._id, path=self._spool.path_of(self._id), name=name, by=by, sha256=self._digest.hexdigest(),
                size=self._size,
            )  # fmt: skip
            self._spool.keep(found)
        except OSError as error:
            raise _no_room(error) from error
        self.is_whole = True
        return found

    def _unpack(self) -> None:
        """Raises Problem (rule 2)."""
        self._file.seek(0)
        if self._file.read(2) != b"\x1f\x8b":
            return
        self._file.seek(0)
        most = min(max(_SMALL, self._size * _RATIO_MAX), self._spool.bytes_max * _UNPACKED_FACTOR)
        size = 0
        try:
            with gzip.GzipFile(fileobj=self._file) as unpacked:
                while block := unpacked.read(_BLOCK):
                    size += len(block)
                    if size > most:
                        detail = f"the file becomes more than {most:,} bytes when it is unpacked; send it unpacked"
                        raise Problem(Code.TOO_LARGE, detail)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Problem(Code.FAULTS, f"the file cannot be unpacked: {error}; is it whole?") from error


def required(spool: Spool | None) -> Spool:
    """Raises Problem if this server takes no files."""
    if spool is None:
        raise Problem(Code.SPOOL, "this server has no directory for uploads; --spool names one")
    return spool


def _no_room(error: OSError) -> Problem:
    if error.errno in _NO_ROOM:
        return Problem(Code.SPOOL, f"the directory for uploads is full ({error.strerror}); --spool names another one")
    return Problem(Code.SPOOL, f"the file cannot be kept: {error.strerror}; --spool names another directory")
