"""The removal of a directory tree that a program made, whatever it made of it.

Responsible for: trees of any depth and width, without recursion and with little memory; directories that may not be
read or written, as far as their owner can change that. Must not know: what the directory was for, threads.

Rules:
1. No link is followed, and no other file system is entered: only entries of the tree itself are removed.
2. Depth costs nothing: the children of a directory are moved up to the top before it is removed. So no path and no
   stack grows with the depth, and each directory is moved at most once. Nothing is made, which a full disk may refuse.
3. Permissions are changed only by a host that is not root: root needs none changed, and must not change any where
   another user's program may still be exchanging files for links.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ASIDE_PREFIX = "disbatch-removed-"  # of the name that a tree has while it is removed; then the pid of the host

Result = TypeVar("Result")

_AT_ONCE = 1000  # names read from the top in one go: memory does not grow with the width
_KEPT_MAX = 100  # entries that cannot be removed, after which nothing more is tried
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RemovalError(Exception):
    """Something of the tree is left. The message says why; `path` is where it is now."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(why)
        self.path = path


def remove_tree(path: Path) -> None:
    """Remove a directory with everything in it; nothing to do if it is not there. It is renamed first, so that it is
    gone for others at once. Raises RemovalError if something is left, again under its own name if possible."""
    aside = path.with_name(f"{ASIDE_PREFIX}{os.getpid()}-{os.urandom(8).hex()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    except OSError:  # its parent may not be written: then it stays itself, but what is in it goes
        aside = path
    try:
        remove_aside(aside)
    except RemovalError as error:
        with contextlib.suppress(OSError):
            aside.rename(path)
            raise RemovalError(path, str(error)) from error
        raise


def remove_aside(aside: Path) -> None:
    """The same for a tree that has its other name already. Raises RemovalError."""
    try:
        top = _open(aside, None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RemovalError(aside, _words(error)) from error
    try:
        why = _Flattening(top).work()
        if why is None:
            aside.rmdir()
    except FileNotFoundError:
        return  # somebody else has removed it as well
    except OSError as error:
        raise RemovalError(aside, _words(error)) from error
    finally:
        os.close(top)
    if why is not None:
        raise RemovalError(aside, why)


class _Flattening:
    """Takes a tree apart: everything in it is removed, or moved to its top and removed there."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._device = os.fstat(top).st_dev
        mark = os.urandom(8).hex()
        self._new_names = (f".{mark}-{number}" for number in itertools.count())
        self._kept: dict[str, str] = {}  # entries of the top that cannot be removed, and why

    def work(self) -> str | None:
        """Returns why something is left; None if nothing is."""
        while len(self._kept) < _KEPT_MAX and (found := self._next_entries()):
            for name, is_directory in found:
                try:
                    if is_directory:
                        self._remove_directory(name)
                    else:
                        os.unlink(name, dir_fd=self._top)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    self._kept[name] = _words(error)
        return next(iter(self._kept.values()), None)

    def _next_entries(self) -> list[tuple[str, bool]]:
        with os.scandir(self._top) as entries:
            left = ((one.name, one.is_dir(follow_symlinks=False)) for one in entries if one.name not in self._kept)
            return list(itertools.islice(left, _AT_ONCE))

    def _remove_directory(self, name: str) -> None:
        """Remove a directory of the top; those in it are in the top afterwards."""
        directory = _open(name, self._top)
        try:
            if os.fstat(directory).st_dev != self._device:
                raise OSError(errno.EXDEV, "another file system is mounted in it")
            is_changing = True
            while is_changing:
                is_changing = self._take_apart(directory)
                try:
                    os.rmdir(name, dir_fd=self._top)
                except OSError as error:
                    # Some file systems leave out entries when others are removed while they are listed.
                    if error.errno not in _NOT_EMPTY or not is_changing:
                        raise
                else:
                    return
        finally:
            os.close(directory)

    def _take_apart(self, directory: int) -> bool:
        """Remove the files of a directory and move its directories up; returns whether there were any. Raises OSError
        if one of them stays in it."""
        fault: OSError | None = None
        is_changing = False
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        self._move_up(entry.name, directory)
                    else:
                        os.unlink(entry.name, dir_fd=directory)
                    is_changing = True
                except FileNotFoundError:
                    pass
                except OSError as error:
                    fault = error
        if fault is not None:
            raise fault
        return is_changing

    def _move_up(self, name: str, directory: int) -> None:
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
        else:
            return
        new_name = next(self._new_names)
        # A directory that gets another parent must be writable itself.
        _allowed(lambda: os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=self._top), name, directory)


def _open(name: str | Path, parent: int | None) -> int:
    """A directory, opened with all rights to it, as far as rule 3 lets the host take them."""
    directory = _allowed(lambda: os.open(name, _OPEN, dir_fd=parent), name, parent)
    if os.geteuid() != 0 and os.fstat(directory).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        try:
            os.fchmod(directory, stat.S_IRWXU)
        except OSError:
            os.close(directory)
            raise
    return directory


def _allowed(action: Callable[[], Result], name: str | Path, parent: int | None) -> Result:
    """Do something with a directory; an owner who has no right to that takes it (rule 3)."""
    try:
        return action()
    except PermissionError:
        if os.geteuid() == 0:
            raise
    # The directory itself, and never what a link leads to: it is opened first.
    directory = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        Path(f"/proc/self/fd/{directory}").chmod(stat.S_IRWXU)
    finally:
        os.close(directory)
    return action()


def _words(error: OSError) -> str:
    return error.strerror or str(error)
