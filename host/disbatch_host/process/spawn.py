"""Starting a program: argv, directory, environment, the four descriptors, limits and account.

Responsible for: one call that either returns the pid of a running program, leader of its own session, or says why it
could not be started. Must not know: what happens to the process afterwards.

Rules:
1. Two ways, one behavior (tests hold both to it). The fast one is the C library's `posix_spawn`, which does not copy
   the parent's page tables (vfork); Python's own `os.posix_spawn` cannot change the directory, hence ctypes. The slow
   one is `subprocess.Popen` (fork), needed for `limits` and an account, if the C library is too old, or if the thread
   cannot have a file mode mask of its own (`ThreadMask`).
2. Descriptor 3 of the child is the write end of the event pipe; `subprocess` alone cannot give a descriptor another
   number, `posix_spawn` and a `preexec_fn` can.
3. Nothing else is inherited. Python marks its own descriptors close-on-exec; `this_process.close_others_on_exec` does
   it once for those that this process itself inherited.
4. No signal is ignored. Ignored ones stay ignored in a started program: Python ignores PIPE and XFSZ, `nohup` HUP, a
   shell's background job INT and QUIT. 32 and 33 are the C library's own; its `posix_spawn` leaves them ignored unless
   their bits are set, which its `sigaddset` refuses, and its `sigaction` does not reset them either.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import resource
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from disbatch_host.c_library import c_library
from disbatch_host.process.flags import Has
from disbatch_host.process.frames import FrameError, Plugin, Step
from disbatch_host.process.framing import unpacked
from disbatch_host.process.interface import Account

EVENT_DESCRIPTOR = 3

_STATUS_SIZE = 2**13  # bytes of /proc/PID/status, which has about 1,500
_RT_SIGACTION: Mapping[str, int] = MappingProxyType(  # the number of this system call
    {"x86_64": 13, "aarch64": 134, "riscv64": 134}
)
_CLONE_FS = 0x200  # <sched.h>


class ThreadMask:
    """The file mode mask (umask) of the programs that one thread starts. Made and used in that thread.

    A mask belongs to a process, and the files that the other threads make must not change with every program. Linux
    lets a thread leave the others in this (and in the working directory, which each start sets); a container may
    forbid it.
    """

    def __init__(self, *, may_be_own: bool = True) -> None:
        library = c_library()
        self._is_own = may_be_own and hasattr(library, "unshare") and library.unshare(_CLONE_FS) == 0
        self._current = _mask_of_this_thread()

    def can_be(self, mask: int) -> bool:
        """Whether `set_to` can give programs this mask. False: it can be set only between fork and exec."""
        return self._is_own or self._current == mask

    @contextlib.contextmanager
    def set_to(self, mask: int) -> Iterator[None]:
        """Programs that are started meanwhile get `mask`; the thread's own files afterwards have what they had."""
        if self._current == mask:
            yield
            return
        before = os.umask(mask)
        try:
            yield
        finally:
            os.umask(before)


def _mask_of_this_thread() -> int | None:
    """None if the kernel does not tell (before Linux 4.7)."""
    return _own_status(b"Umask:", base=8)


def _ignored_signals() -> list[int]:
    """The signals that this process ignores, and a program that it starts would."""
    ignored = _own_status(b"SigIgn:", base=16)
    if ignored is None:
        return [int(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}]
    return [number for number in range(1, 65) if ignored >> number - 1 & 1]


@lru_cache(maxsize=64)
def _reset_of(number: int) -> Callable[[], object]:
    """Gives a signal its default action in a child, between fork and exec."""
    if number in signal.valid_signals():
        return functools.partial(signal.signal, number, signal.SIG_DFL)
    action = _RT_SIGACTION.get(os.uname().machine)
    if action is None:
        return lambda: None
    default = bytes(_OPAQUE_SIZE)  # a struct sigaction of zeros
    return functools.partial(c_library().syscall, action, number, default, None, _SIGNAL_BYTES)


def _own_status(name: bytes, *, base: int) -> int | None:
    """A line of this thread's /proc/PID/status; None if there is none."""
    try:
        descriptor = os.open("/proc/thread-self/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.read(descriptor, _STATUS_SIZE)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    _, found, rest = status.partition(name)
    return int(rest.split(None, 1)[0], base) if found else None


class SpawnError(Exception):
    """A program did not begin to run."""

    def __init__(self, number: int, step: Step) -> None:
        super().__init__(os.strerror(number))
        self.errno = number
        self.step = step


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything that is the same for all processes of one plugin, as it is handed to the system."""

    argv: list[bytes]
    directory: bytes
    environment: list[bytes] = field(repr=False)  # NAME=value
    limits: Sequence[tuple[int, int, int]] = ()  # resource.RLIMIT_…, soft, hard
    account: Account | None = None
    umask: int = 0o022
    flags: int = 0  # flags.Has
    stop_signal: int = signal.SIGTERM
    grace_seconds: float = 10.0
    drain_seconds: float = 2.0

    @classmethod
    def of(cls, frame: Plugin) -> Launch:
        """As a frame has it. Raises FrameError."""
        try:
            groups = tuple(one[0] for one in struct.iter_unpack("<I", frame.groups))
            limits = list(struct.iter_unpack("<IQQ", frame.limits))
        except struct.error as error:
            raise FrameError(f"PLUGIN {frame.number}: {error}") from None
        account = Account(uid=frame.uid, gid=frame.gid, groups=groups) if frame.flags & Has.ACCOUNT else None
        return cls(
            argv=unpacked(frame.argv),
            directory=frame.directory,
            environment=unpacked(frame.environment),
            limits=limits,
            account=account,
            umask=frame.umask,
            flags=frame.flags,
            stop_signal=frame.stop_signal,
            grace_seconds=frame.grace / 1_000_000,
            drain_seconds=frame.drain / 1_000_000,
        )


def spawn(
    launch: Launch,
    *,
    directory: bytes,
    variables: list[bytes],
    words: Sequence[bytes] = (),
    descriptors: tuple[int, int, int, int],
    mask: ThreadMask,
) -> int:
    """Start a program with `descriptors` as its 0, 1, 2 and 3, in a session and process group of its own. `variables`:
    its own, besides those of `launch`; the last one of a name counts. `words`: behind those of `launch`. `mask` is the
    calling thread's.

    Returns the pid; the caller reaps it. Raises SpawnError if the program did not begin to run: the kernel's answer to
    exec is waited for. The descriptors stay open in this process.
    """
    posix_spawn = _posix_spawn()
    environment = launch.environment + variables
    try:
        if posix_spawn is None or launch.limits or launch.account is not None or not mask.can_be(launch.umask):
            return _spawn_by_fork(launch, words, directory, environment, descriptors)
        with mask.set_to(launch.umask):
            return _spawn_by_posix_spawn(posix_spawn, launch, words, directory, environment, descriptors)
    except OSError as error:
        step = Step.EXEC if Path(os.fsdecode(directory)).is_dir() else Step.DIRECTORY
        raise SpawnError(error.errno or errno.EIO, step) from error
    except ValueError as error:  # a NUL byte
        raise SpawnError(errno.EINVAL, Step.EXEC) from error
    except subprocess.SubprocessError as error:
        raise SpawnError(errno.EPERM, Step.LIMITS) from error


@lru_cache(maxsize=1)
def _posix_spawn() -> Callable[..., int] | None:
    """The call that waits for exec, during which the other threads go on. None unless the C library has everything
    that is needed (glibc 2.29, musl 1.1.24)."""
    library = ctypes.CDLL(None)
    needed = ("posix_spawn", "posix_spawn_file_actions_addchdir_np", "posix_spawnattr_setsigdefault")
    return library.posix_spawn if all(hasattr(library, name) for name in needed) else None


_FLAG_SETSIGDEF, _FLAG_SETSIGMASK, _FLAG_SETSID = 0x04, 0x08, 0x80  # <spawn.h>, the same in glibc and musl
_SIGSET_SIZE, _SIGNAL_BYTES = 128, 8  # of sigset_t; signals 1 to 64 are its first bits
_OPAQUE_SIZE = 1024  # bytes; posix_spawnattr_t is 336 and the file actions 80 on x86-64 glibc


@lru_cache(maxsize=1)
def _attributes() -> ctypes.Array[ctypes.c_char]:
    """The attributes of every spawn: own session, no blocked signal, no ignored signal. Never changed afterwards."""
    library = c_library()
    attributes = ctypes.create_string_buffer(_OPAQUE_SIZE)
    library.posix_spawnattr_init(attributes)
    library.posix_spawnattr_setsigmask(attributes, bytes(_SIGSET_SIZE))
    every = b"\xff" * _SIGNAL_BYTES + bytes(_SIGSET_SIZE - _SIGNAL_BYTES)  # with those that `sigaddset` refuses
    library.posix_spawnattr_setsigdefault(attributes, every)
    flags = ctypes.c_short(_FLAG_SETSIGDEF | _FLAG_SETSIGMASK | _FLAG_SETSID)
    library.posix_spawnattr_setflags(attributes, flags)
    return attributes


def _spawn_by_posix_spawn(
    posix_spawn: Callable[..., int],
    launch: Launch,
    words: Sequence[bytes],
    directory: bytes,
    environment: Sequence[bytes],
    descriptors: tuple[int, int, int, int],
) -> int:
    library = c_library()
    actions = ctypes.create_string_buffer(_OPAQUE_SIZE)
    library.posix_spawn_file_actions_init(actions)
    try:
        # In this order: a source is never 0, 1 or 2, so none is overwritten before it has been copied; 3 comes last.
        for target, source in enumerate(descriptors):
            library.posix_spawn_file_actions_adddup2(actions, source, target)
        library.posix_spawn_file_actions_addchdir_np(actions, directory)
        argv = _c_strings([*launch.argv, *words]) if words else _c_words(tuple(launch.argv))
        variables = _c_strings(environment)
        pid = ctypes.c_int()
        failure = posix_spawn(ctypes.byref(pid), launch.argv[0], actions, _attributes(), argv, variables)
    finally:
        library.posix_spawn_file_actions_destroy(actions)
    if failure:
        raise OSError(failure, os.strerror(failure))
    return pid.value


@lru_cache(maxsize=256)
def _c_words(words: tuple[bytes, ...]) -> ctypes.Array[ctypes.c_char_p]:
    return _c_strings(words)


def _c_strings(words: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    if b"\0" in b"".join(words):
        raise ValueError("an argument or environment value holds a NUL byte")
    return _type_of_strings(len(words) + 1)(*words, None)


@lru_cache(maxsize=256)
def _type_of_strings(count: int) -> type[ctypes.Array[ctypes.c_char_p]]:
    return ctypes.c_char_p * count


def _spawn_by_fork(
    launch: Launch,
    words: Sequence[bytes],
    directory: bytes,
    environment: Sequence[bytes],
    descriptors: tuple[int, int, int, int],
) -> int:
    stdin, stdout, stderr, events = descriptors
    resets = [_reset_of(number) for number in _ignored_signals()]

    def prepare() -> None:
        # Runs in the child between fork and exec: nothing here may take a lock that another thread of the parent
        # could have held, so plain system calls only. 3 is open here, since the pipes were made before; it is never
        # Popen's own error pipe for the same reason.
        os.dup2(events, EVENT_DESCRIPTOR)
        for limit, *wanted in launch.limits:
            _, hard = resource.getrlimit(limit)
            soft, hard = [value if hard == resource.RLIM_INFINITY else min(value, hard) for value in wanted]
            resource.setrlimit(limit, (soft, hard))
        for reset in resets:
            reset()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    account = launch.account
    process = subprocess.Popen(
        [*launch.argv, *words],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=directory,
        env=dict(one.split(b"=", 1) for one in environment),
        pass_fds=(EVENT_DESCRIPTOR,),
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509  (see the comment inside)
        user=account.uid if account is not None else None,
        group=account.gid if account is not None else None,
        extra_groups=list(account.groups) if account is not None else None,
        umask=launch.umask,
    )
    process.returncode = 0  # reaped by the caller: keeps Popen from waiting for it or warning about it
    return process.pid
