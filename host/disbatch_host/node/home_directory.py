"""The directory of a node's home: that it can be used, and the lock that one node at a time holds in it.

Responsible for: making and examining it, and `node.lock`. Must not know: stores, supervisors, why a node wants one.

Rules:
1. A directory that cannot be used is found before anything is started in it: it must be this user's alone, on a file
   system of this machine, and take files, locks and sockets.
2. Calls about a socket go through a descriptor of the directory, since its path may be longer than an address.
3. The lock is the kernel's: it ends with its process, however that ends. The pid in the file is for people.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import socket
import stat
import time
from pathlib import Path

from disbatch_host.process.home import directories

LOCK = "node.lock"
SUPERVISOR_LOCK = "supervisor.lock"  # see docs/supervisor.md

_LOOK_SECONDS = 0.05  # between two attempts to take the lock
# File systems that several machines share: a process id, a lock or a socket there says nothing about this machine.
SHARED_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "gpfs", "lustre", "nfs", "nfs4",
     "ocfs2", "smb3", "smbfs"}
)  # fmt: skip


class HomeUnusableError(Exception):
    """There can be no home for runs that outlive their node; the message says why, after "because" or a colon."""


def made_usable(parent: Path, name: str) -> Path:
    """The directory of this name, made where it is missing. Raises HomeUnusableError, with what to do."""
    directory = parent / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HomeUnusableError(f"{directory} cannot be made: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise HomeUnusableError(
                f"expected {directory} to be a directory of this user alone, found one of user {status.st_uid} with "
                f"mode {stat.S_IMODE(status.st_mode):04o}; remove it"
            )
        kind = file_system_of(status.st_dev)
        if kind in SHARED_FILE_SYSTEMS:
            raise HomeUnusableError(
                f"{directory} is on a file system that machines share ({kind}); name a local directory with --state-dir"
            )
        _require_sockets(directory, descriptor)
    finally:
        os.close(descriptor)
    return directory


def supervisors_in(home: Path) -> list[Path]:
    """Where in a home supervisors live, or may live. It may be anything that somebody has written."""
    return [directory for directory in directories(home) if _has_supervisor(directory)]


def _has_supervisor(directory: Path) -> bool:
    """Whether one lives there, which holds its own lock, or may live there: one of another user cannot be seen."""
    try:
        lock = os.open(directory / SUPERVISOR_LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False


def file_system_of(device: int, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The kind of the file system with this device number; None if that is not known."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.split(" ", 3)[2:3] == [wanted]:
            return line.partition(" - ")[2].partition(" ")[0]
    return None


def _require_sockets(directory: Path, descriptor: int) -> None:
    name = f"probe-{os.getpid()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=descriptor)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(f"/proc/self/fd/{descriptor}/{name}")
        os.unlink(name, dir_fd=descriptor)
    except OSError as error:
        raise HomeUnusableError(f"{directory} takes no sockets: {error.strerror}") from error


class NodeLock:
    """`node.lock` in a home: held by one process at a time. Not taken where there is no home."""

    def __init__(self) -> None:
        self.path = Path()
        self.is_held = False
        self._file: int | None = None

    def open(self, directory: Path) -> None:
        """Say where it is. Raises HomeUnusableError if there can be no lock."""
        self.release()
        self.path = directory / LOCK
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self.path, flags, 0o600)
            self._try()
        except OSError as error:
            self.release()
            raise HomeUnusableError(f"{self.path} cannot be locked: {error.strerror}") from error

    async def wait(self, seconds: float) -> bool:
        """Take it, waiting so long for who holds it. Returns whether it is held."""
        until = time.monotonic() + seconds
        while self._file is not None and not self.is_held and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)
            self._try()
        return self.is_held

    def holder(self) -> int | None:
        """The process that took it last, as far as that is known."""
        if self._file is None:
            return None
        found = re.fullmatch(rb"(\d{1,10})\n", os.pread(self._file, 16, 0))
        return None if found is None else int(found[1])

    def release(self) -> None:
        """Twice is fine."""
        self.is_held = False
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _try(self) -> None:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, b"%d\n" % os.getpid(), 0)
        self.is_held = True
