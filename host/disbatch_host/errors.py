"""The host's errors: one root, a family for each party that can fix them, and an exit code for each (cli contract).

Rules:
1. The message is the one line that a person sees: what was expected, what was found, what to do.
2. No message holds a password, a parameter or an environment value.
3. The stores translate their drivers' exceptions here, at their edge; nothing above a store knows a driver.
4. A lost race is not an error but a return value of the call that lost it.
5. The words for an error of Python or of a library name its kind and its place in our code, and repeat nothing: their
   messages quote the values that they met.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import IntEnum
from pathlib import PurePath
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """Exit codes of every command (cli contract)."""

    DONE = 0
    FAILED = 1  # the thing asked about failed
    USAGE = 2  # wrong use
    STORE = 3  # the store cannot be reached, or refuses
    NOT_FOUND = 4  # no such queue, task, node or plugin
    NODE_ID_IN_USE = 5


class DisbatchError(Exception):
    """Root of everything that the host raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class UsageError(DisbatchError):
    """The person at the terminal, or a configuration file, asked for something impossible."""

    exit_code = ExitCode.USAGE


class FieldError(UsageError):
    """A field or option was given a value that it cannot have; a command reports it under the name of its option."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class OutputError(DisbatchError):
    """A command's output cannot be written to its destination: a full disk, a closed stdout."""

    exit_code = ExitCode.FAILED


class PluginError(DisbatchError):
    """A plugin cannot be used as it is; its author can fix it."""

    exit_code = ExitCode.FAILED


class TaskFaultError(DisbatchError):
    """A task cannot be run as it is, whatever its plugin: its id or its parameters cannot be handed to a program. It
    costs that task alone, which is concluded as failed."""


class BatchClosedError(UsageError):
    """A batch that is not open, or has stopped, takes no more tasks."""


class ChangedMeanwhileError(DisbatchError):
    """Somebody else has changed what was to be changed, since it was read; nothing was written."""


class NotFoundError(DisbatchError):
    """No such queue, task, batch, node or plugin."""

    exit_code = ExitCode.NOT_FOUND


class NodeIdInUseError(DisbatchError):
    """The node id is held by a node that is, or may be, alive."""

    exit_code = ExitCode.NODE_ID_IN_USE


class RowsRefusedError(DisbatchError):
    """Rows of an import do not fit; the import stopped before them, or created nothing at all."""


class NodeUnreachableError(DisbatchError):
    """A node cannot do what it was asked to do: it is dead, it is stopping, or it belongs to another program."""


class NodeNotGoneError(DisbatchError):
    """A node cannot be deleted: it is alive, or still holds tasks."""


class StoreError(DisbatchError):
    """Root of the errors that a store reports."""

    exit_code = ExitCode.STORE


class StoreUnreachableError(StoreError):
    """The store is not answering; the same call may succeed later."""


class StoreUnwritableError(StoreUnreachableError):
    """The store is there but cannot write at the moment (disk full, read-only, I/O error); once somebody makes room or
    fixes it, the same call succeeds."""


class StoreLostError(StoreUnreachableError):
    """The file of the store is no longer at its path: it was deleted, moved or replaced. If the same file comes back,
    the same call succeeds; anything written before that would go where nobody sees it."""


class StoreRefusedError(StoreError):
    """The store answers and refuses (missing rights, a value that it does not accept, not a database); trying again
    changes nothing. `created`: the ids of those tasks of a refused call that exist all the same."""

    def __init__(self, message: str, *, created: Iterable[Any] = ()) -> None:
        super().__init__(message)
        self.created = tuple(created)


class ForeignIndexError(StoreRefusedError):
    """A unique index that this program did not make refuses a document; the message names the index."""


class ChangesRefusedError(StoreRefusedError):
    """The store refuses some changes of a batch because of their content or of their documents. All others were
    carried out, or lost a race."""

    def __init__(self, reasons: Mapping[Any, StoreRefusedError], lost: AbstractSet[Any]) -> None:
        """`reasons`: of each refused change, by its key; `lost`: the keys of those that lost a race."""
        first = next(iter(reasons.values()))
        super().__init__(str(first) if len(reasons) == 1 else f"{first} ({len(reasons)} changes)")
        self.reasons = dict(reasons)
        self.lost = set(lost)

    @property
    def not_carried_out(self) -> set[Any]:
        """The keys of the changes that were not carried out, whatever the cause."""
        return self.lost | self.reasons.keys()


class StoreTooNewError(StoreError):
    """The database was written by a newer version of this program."""


class DuplicateIdError(UsageError):
    """The `_id` of a new document exists already."""


_OURS = frozenset({"disbatch_host", "disbatch_protocol"})  # the packages of this program


def in_words(error: Exception) -> str:
    """What went wrong, on one line: our own error's message; of any other error nothing that it may quote (rule 5)."""
    match error:
        case DisbatchError():
            return " ".join(str(error).split())
        case RecursionError():
            what = "something is nested too deeply"
        case MemoryError():
            what = "it needs more memory than there is"
        case OSError(strerror=str(reason)):
            what = reason
        case _:
            what = type(error).__name__
    steps = [(PurePath(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    ours = [f"{path.name}:{line}" for path, line in steps if not _OURS.isdisjoint(path.parts)]
    return f"{what} ({ours[-1]})" if ours else what
