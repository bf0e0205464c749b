"""What somebody may do."""

from __future__ import annotations

from enum import IntEnum


class Role(IntEnum):
    """What somebody may do; each includes the ones before."""

    READ = 1  # every GET
    OPERATE = 2  # create, cancel and retry tasks, pause queues, drain nodes
    ADMIN = 3  # create, change and delete queues, delete tasks, stop and delete nodes

    @property
    def word(self) -> str:
        return self.name.lower()
