"""The errors of the host: one root, families by who can mend them, each with the exit code of the terminal contract.

Rules:
1. The message is the one line that a person sees: what was expected, what was found, what to do.
2. No message holds a password, a parameter or an environment value.
3. The stores translate their drivers' exceptions here, at their edge; nothing above a store knows a driver.
4. A lost race is no error: it is a return value of the call that lost it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of every command (cli contract)."""

    DONE = 0
    FAILED = 1  # the thing asked about failed
    USAGE = 2  # wrong use
    STORE = 3  # the store cannot be reached or refuses
    NOT_FOUND = 4  # no such queue, task, node or plugin
    NODE_ID_IN_USE = 5


class DisbatchError(Exception):
    """Root of everything that the host raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class UsageError(DisbatchError):
    """The person at the terminal, or a configuration file, asked for something that cannot be."""

    exit_code = ExitCode.USAGE


class FieldError(UsageError):
    """The value of one field, or option, cannot be what was given; a command says it under the name of its option."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class OutputError(DisbatchError):
    """What a command has to say cannot be written where it should go: a full disk, a closed stdout."""

    exit_code = ExitCode.FAILED


class PluginError(DisbatchError):
    """A plugin cannot be used as it is; its author can mend it."""

    exit_code = ExitCode.FAILED


class NotFoundError(DisbatchError):
    """No such queue, task, node or plugin."""

    exit_code = ExitCode.NOT_FOUND


class NodeIdInUseError(DisbatchError):
    """The node id is held by a node that is, or may be, alive."""

    exit_code = ExitCode.NODE_ID_IN_USE


class RowsRefusedError(DisbatchError):
    """Rows of an import do not fit; it has stopped before them, or has created nothing at all."""


class NodeUnreachableError(DisbatchError):
    """A node cannot do what is asked of it: it is dead, it is stopping, or it belongs to another program."""


class NodeNotGoneError(DisbatchError):
    """A node cannot be deleted: it is alive, or tasks are still in its hands."""


class StoreError(DisbatchError):
    """Root of what a store reports."""

    exit_code = ExitCode.STORE


class StoreUnreachableError(StoreError):
    """The store does not answer now; the same call may succeed later."""


class StoreUnwritableError(StoreUnreachableError):
    """The store is there but can take no write now (disk full, read-only, I/O error); somebody has to make room or
    mend it, then the same call succeeds."""


class StoreRefusedError(StoreError):
    """The store answers and says no (rights, a value that it does not take, not a database); trying again changes
    nothing."""


class StoreTooNewError(StoreError):
    """The database was written by a newer version of this program."""


class DuplicateIdError(UsageError):
    """An id that was to be created exists already."""
