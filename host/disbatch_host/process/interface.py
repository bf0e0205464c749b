"""Programs as the rest of the host sees them: what to start, how it may be stopped, what it wrote, how it ended.

Responsible for: the terms in which everybody else speaks of processes. Must not know: how they are started or read,
tasks, plugins.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from disbatch_host.errors import PluginError


class Stream(StrEnum):
    """What a child writes to: descriptors 1, 2 and 3."""

    STDOUT = "stdout"
    STDERR = "stderr"
    EVENTS = "events"


class StopReason(StrEnum):
    """Why this host stopped a process. Nothing else makes `ProcessEnd.stopped` anything but None."""

    TIMEOUT = "timeout"
    IDLE_TIMEOUT = "idle_timeout"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"
    LOST = "lost"  # somebody else owns the task by now
    REPLACED = "replaced"  # a worker that cannot go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """When and how a process is stopped. Seconds; None: never."""

    timeout_seconds: float | None = None  # from start to end
    idle_timeout_seconds: float | None = None  # longest silence on stdout, stderr and events
    kill_grace_seconds: float = 10.0  # from the stop signal to SIGKILL
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnd:
    """How a process ended. Exactly one of `exit_code` and `signal` is given."""

    exit_code: int | None
    signal: int | None
    stopped: StopReason | None  # why this host stopped it, where it did
    killed: bool  # it had to be SIGKILL
    # It ended, or closed its stdin, before it had read everything. Said only of more than a pipe holds: of less it
    # would depend on who was faster.
    stdin_unread: bool
    stdin_left_bytes: int  # of what was written to its stdin, how much it had not read; 0 where its stdin was closed
    output_held_open: bool  # somebody else still held its output after DRAIN_SECONDS
    cpu_seconds: float  # user and system, with the children that it has waited for
    # Largest resident size of one process of it, as the kernel counts it: from the fork on, so a program that stays
    # smaller than this host shows the host's size.
    peak_memory_bytes: int


_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
)


class StartError(PluginError):
    """A program could not be started; the message says which and why."""

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self._errno = errno

    @property
    def is_busy(self) -> bool:
        """Its file is being written just now; a moment later it may start."""
        return self._errno == errno.ETXTBSY

    @property
    def is_machines_fault(self) -> bool:
        """No descriptor, process, memory or room on a disk was left: not this program's fault, and any other would
        fail as well."""
        return self._errno in _SHORTAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user that a program runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables of a program. Programs of one plugin share nearly all of them, so they are encoded once."""

    variables: Mapping[str, str] = field(repr=False)
    encoded: tuple[bytes, ...] = field(repr=False)  # as exec takes them: NAME=value

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Environment:
        """An environment of these variables."""
        return cls(dict(variables), _encoded(variables))

    def extended(self, more: Mapping[str, str]) -> Environment:
        """With these as well; what is there under the same name is replaced."""
        variables = {**self.variables, **more}
        if len(variables) != len(self.variables) + len(more):
            return Environment.of(variables)
        return Environment(variables, self.encoded + _encoded(more))


def _encoded(variables: Mapping[str, str]) -> tuple[bytes, ...]:
    return tuple([os.fsencode(f"{name}={value}") for name, value in variables.items()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start."""

    argv: Sequence[str]  # argv[0] is the path of the program
    directory: Path
    environment: Environment = field(repr=False)
    limits: Mapping[int, int] = field(default_factory=dict)  # resource.RLIMIT_… → value, soft and hard alike
    account: Account | None = None


_FLAG_SETSIGDEF, _FLAG_SETSIGMASK, _FLAG_SETSID = 0x04, 0x08, 0x80  # <spawn.h>, the same in glibc and musl
