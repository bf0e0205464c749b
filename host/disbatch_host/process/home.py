"""Where the supervisors of a node live, if they outlive the node, and whom they belong to.

Responsible for: the form, the directories beside the first one, and the error of a supervisor that is not for a node.
Must not know: how a directory is chosen, where the numbers come from.

A home is a directory. A supervisor lives in it, or, where the one that lives there is of an earlier version or of other
surroundings and has runs, in the directory `2` below it, and so on: see `supervised`, rule 5.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorHome:
    """A supervisor belongs to a directory, a store and a node id; its node, to a session."""

    directory: Path  # 0700, this user's; its socket, lock and log are there
    store_id: bytes  # 16 bytes
    node_id: bytes
    session: int  # higher than that of every node of this id before
    keep_seconds: float  # how long its runs may go on without a node

    def at(self, directory: Path) -> SupervisorHome:
        """The same in one of `directories`."""
        return dataclasses.replace(self, directory=directory)


class SupervisorRefusedError(Exception):
    """The supervisor in the directory is another node's, or another store's, or does not answer; the message says
    which. `session`: the highest that it has known, if it is not lower than the one that was refused."""

    def __init__(self, message: str, *, session: int | None = None) -> None:
        super().__init__(message)
        self.session = session


def directories(home: Path) -> list[Path]:
    """Where supervisors live or have lived, first the home itself; also where there is none, or it may not be read."""
    try:
        numbers = sorted(int(one.name) for one in home.iterdir() if one.name.isdecimal() and one.is_dir())
    except (OSError, ValueError):
        numbers = []
    return [home, *(home / str(number) for number in numbers)]


def another_directory(home: Path) -> Path:
    """One more of `directories`. Raises OSError if it cannot be made."""
    numbers = [int(one.name) for one in directories(home)[1:]]
    directory = home / str(max(numbers, default=1) + 1)
    directory.mkdir(mode=0o700)
    return directory
