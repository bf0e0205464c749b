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

import ctypes
import errno
import functools
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from disbatch_host.process.interface import Start, StartError

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
        library = _c_library()
        self._is_own = may_be_own and hasattr(library, "unshare") and library.unshare(_CLONE_FS) == 0
        self._current = _mask_of_this_thread()

    def is_now(self, mask: int) -> bool:
        """Whether programs that are started now get `mask`. False: it can be set only between fork and exec."""
        if self._is_own and self._current != mask:
            os.umask(mask)
            self._current = mask
        return self._current == mask


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
    return functools.partial(_c_library().syscall, action, number, default, None, _SIGNAL_BYTES)


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


def spawn(start: Start, descriptors: tuple[int, int, int, int], mask: ThreadMask) -> int:
    """Start `start` with `descriptors` as its 0, 1, 2 and 3, in a session and process group of its own. `mask` is the
    calling thread's.

    Returns the pid; the caller reaps it. Raises StartError if the program did not begin to run: the kernel's
    answer to exec is waited for. The descriptors stay open in this process.
    """
    posix_spawn = _posix_spawn()
    program = start.program
    try:
        if posix_spawn is None or program.limits or program.account is not None or not mask.is_now(program.umask):
            return _spawn_by_fork(start, descriptors)
        return _spawn_by_posix_spawn(posix_spawn, start, descriptors)
    except OSError as error:
        raise StartError(_why_not_started(start, error), errno=error.errno) from error
    except (ValueError, subprocess.SubprocessError) as error:  # a NUL in argv; a limit that cannot be set
        raise StartError(f"cannot start {start.program.argv[0]}: {error}") from error


def _why_not_started(start: Start, error: OSError) -> str:
    program = start.program.argv[0]
    if not start.directory.is_dir():
        return f"cannot start {program}: its working directory {start.directory} is not there"
    if error.errno == errno.ENOENT and Path(program).exists():
        return f"cannot start {program}: the interpreter that it names is not there"
    if error.errno == errno.ENOEXEC:
        return f'cannot start {program}: not a program of this machine, and no "#!" line says what runs it'
    return f"cannot start {program}: {os.strerror(error.errno or 0)}"


@lru_cache(maxsize=1)
def _c_library() -> ctypes.PyDLL:
    """For calls that return at once. The interpreter's lock is kept during them: under load, each time that it is
    given away and asked for again costs a change of threads.

    One for all: each library, like each type of array, is a class of its own, which only the garbage collector
    frees."""
    return ctypes.PyDLL(None)


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
    library = _c_library()
    attributes = ctypes.create_string_buffer(_OPAQUE_SIZE)
    library.posix_spawnattr_init(attributes)
    library.posix_spawnattr_setsigmask(attributes, bytes(_SIGSET_SIZE))
    every = b"\xff" * _SIGNAL_BYTES + bytes(_SIGSET_SIZE - _SIGNAL_BYTES)  # with those that `sigaddset` refuses
    library.posix_spawnattr_setsigdefault(attributes, every)
    flags = ctypes.c_short(_FLAG_SETSIGDEF | _FLAG_SETSIGMASK | _FLAG_SETSID)
    library.posix_spawnattr_setflags(attributes, flags)
    return attributes


def _spawn_by_posix_spawn(posix_spawn: Callable[..., int], start: Start, descriptors: tuple[int, int, int, int]) -> int:
    library = _c_library()
    actions = ctypes.create_string_buffer(_OPAQUE_SIZE)
    library.posix_spawn_file_actions_init(actions)
    try:
        # In this order: a source is never 0, 1 or 2, so none is overwritten before it has been copied; 3 comes last.
        for target, source in enumerate(descriptors):
            library.posix_spawn_file_actions_adddup2(actions, source, target)
        directory = os.fsencode(start.directory)
        library.posix_spawn_file_actions_addchdir_np(actions, directory)
        argv = _c_words(tuple(start.program.argv))
        environment = _c_strings(start.environment.encoded)
        pid = ctypes.c_int()
        failure = posix_spawn(
            ctypes.byref(pid), os.fsencode(start.program.argv[0]), actions, _attributes(), argv, environment
        )
    finally:
        library.posix_spawn_file_actions_destroy(actions)
    if failure:
        raise OSError(failure, os.strerror(failure))
    return pid.value


@lru_cache(maxsize=256)
def _c_words(words: tuple[str, ...]) -> ctypes.Array[ctypes.c_char_p]:
    return _c_strings([os.fsencode(word) for word in words])


def _c_strings(words: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    if b"\0" in b"".join(words):
        raise ValueError("an argument or environment value holds a NUL byte")
    return _type_of_strings(len(words) + 1)(*words, None)


@lru_cache(maxsize=256)
def _type_of_strings(count: int) -> type[ctypes.Array[ctypes.c_char_p]]:
    return ctypes.c_char_p * count


def _spawn_by_fork(start: Start, descriptors: tuple[int, int, int, int]) -> int:
    stdin, stdout, stderr, events = descriptors
    resets = [_reset_of(number) for number in _ignored_signals()]

    def prepare() -> None:
        # Runs in the child between fork and exec: nothing here may take a lock that another thread of the parent
        # could have held, so plain system calls only. 3 is open here, since the pipes were made before; it is never
        # Popen's own error pipe for the same reason.
        os.dup2(events, EVENT_DESCRIPTOR)
        for limit, value in start.program.limits.items():
            _, hard = resource.getrlimit(limit)
            possible = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (possible, possible))
        for reset in resets:
            reset()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    account = start.program.account
    process = subprocess.Popen(
        list(start.program.argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=start.directory,
        env=dict(start.environment.variables),
        pass_fds=(EVENT_DESCRIPTOR,),
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509  (see the comment inside)
        user=account.uid if account is not None else None,
        group=account.gid if account is not None else None,
        extra_groups=list(account.groups) if account is not None else None,
        umask=start.program.umask,
    )
    process.returncode = 0  # reaped by the caller: keeps Popen from waiting for it or warning about it
    return process.pid
