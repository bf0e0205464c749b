"""Starting a program: argv, directory, environment, the four descriptors, limits and account.

Responsible for: one call that either returns the pid of a running program, leader of its own session, or says why it
could not be started. Must not know: what happens to the process afterwards.

Rules:
1. Two ways, one behavior (tests hold both to it). The fast one is the C library's `posix_spawn`, which does not copy
   the parent's page tables (vfork); Python's own `os.posix_spawn` cannot change the directory, hence ctypes. The slow
   one is `subprocess.Popen` (fork), needed for `limits` and an account, or if the C library is too old.
2. Descriptor 3 of the child is the write end of the event pipe; `subprocess` alone cannot give a descriptor another
   number, `posix_spawn` and a `preexec_fn` can.
3. Nothing else is inherited. Python marks its own descriptors close-on-exec; `this_process.close_others_on_exec` does
   it once for those that this process itself inherited.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from disbatch_host.process.interface import Start, StartError

EVENT_DESCRIPTOR = 3

# Ignored signals stay ignored in a started program. Python ignores PIPE and XFSZ, `nohup` HUP, a shell's background
# job INT and QUIT; a plugin expects none of that.
_SIGNALS_TO_RESET = tuple(
    getattr(signal, f"SIG{name}")
    for name in [
        "HUP",
        "INT",
        "QUIT",
        "PIPE",
        "ALRM",
        "TERM",
        "USR1",
        "USR2",
        "CHLD",
        "TSTP",
        "TTIN",
        "TTOU",
        "XCPU",
        "XFSZ",
    ]
)


def spawn(start: Start, descriptors: tuple[int, int, int, int]) -> int:
    """Start `start` with `descriptors` as its 0, 1, 2 and 3, in a session and process group of its own.

    Returns the pid; the caller reaps it. Raises StartError if the program did not begin to run: the kernel's
    answer to exec is waited for. The descriptors stay open in this process.
    """
    library = _posix_spawn_library()
    try:
        if library is None or start.program.limits or start.program.account is not None:
            return _spawn_by_fork(start, descriptors)
        return _spawn_by_posix_spawn(library, start, descriptors)
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
def _posix_spawn_library() -> ctypes.CDLL | None:
    """The C library if it has everything that is needed (glibc 2.29, musl 1.1.24), else None."""
    library = ctypes.CDLL(None, use_errno=True)
    needed = ("posix_spawn", "posix_spawn_file_actions_addchdir_np", "posix_spawnattr_setsigdefault")
    return library if all(hasattr(library, name) for name in needed) else None


_FLAG_SETSIGDEF, _FLAG_SETSIGMASK, _FLAG_SETSID = 0x04, 0x08, 0x80  # <spawn.h>, the same in glibc and musl
_OPAQUE_SIZE = 1024  # bytes; posix_spawnattr_t is 336 and the file actions 80 on x86-64 glibc


@lru_cache(maxsize=1)
def _attributes() -> ctypes.Array[ctypes.c_char]:
    """The attributes of every spawn: own session, no blocked signal, no ignored signal. Never changed afterwards."""
    library = ctypes.CDLL(None)
    attributes = ctypes.create_string_buffer(_OPAQUE_SIZE)
    signals = ctypes.create_string_buffer(128)  # sigset_t
    library.posix_spawnattr_init(attributes)
    library.sigemptyset(signals)
    library.posix_spawnattr_setsigmask(attributes, signals)
    for number in _SIGNALS_TO_RESET:
        library.sigaddset(signals, int(number))
    library.posix_spawnattr_setsigdefault(attributes, signals)
    flags = ctypes.c_short(_FLAG_SETSIGDEF | _FLAG_SETSIGMASK | _FLAG_SETSID)
    library.posix_spawnattr_setflags(attributes, flags)
    return attributes


def _spawn_by_posix_spawn(library: ctypes.CDLL, start: Start, descriptors: tuple[int, int, int, int]) -> int:
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
        failure: int = library.posix_spawn(
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
    return (ctypes.c_char_p * (len(words) + 1))(*words, None)


def _spawn_by_fork(start: Start, descriptors: tuple[int, int, int, int]) -> int:
    stdin, stdout, stderr, events = descriptors

    def prepare() -> None:
        # Runs in the child between fork and exec: nothing here may take a lock that another thread of the parent
        # could have held, so plain system calls only. 3 is open here, since the pipes were made before; it is never
        # Popen's own error pipe for the same reason.
        os.dup2(events, EVENT_DESCRIPTOR)
        for limit, value in start.program.limits.items():
            _, hard = resource.getrlimit(limit)
            possible = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (possible, possible))
        for number in _SIGNALS_TO_RESET:
            signal.signal(number, signal.SIG_DFL)
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
    )
    process.returncode = 0  # reaped by the caller: keeps Popen from waiting for it or warning about it
    return process.pid
