"""The identity of this machine, as far as nodes need to tell it from others.

Responsible for: a name for the machine that changes with each boot, and whether pids mean the same here. Must not know:
stores, single processes.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Machine:
    """The machine that this process runs on. Two boots of one machine are two machines here: no process survives."""

    name: str
    boot_id: str

    @classmethod
    def this(cls) -> Machine:
        try:
            boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:  # hidden from a container; then only the name tells machines apart
            boot_id = ""
        name = os.fsencode(socket.gethostname()).decode("utf-8", "backslashreplace")  # it goes into documents
        return cls(name, boot_id)

    @cached_property
    def document(self) -> dict[str, str]:
        """The machine as it is written into a node's document."""
        return {"name": self.name, "boot_id": self.boot_id, "pid_namespace": pid_namespace()}

    def is_same(self, document: object) -> bool:
        """Whether a node's `host` is this machine, in this boot, and its pids mean the same here."""
        return (
            isinstance(document, dict)
            and bool(self.boot_id)
            and all(document.get(name) == value for name, value in self.document.items())
        )

    def is_earlier_boot(self, document: object) -> bool:
        """Whether a node's `host` is, by its name, this machine before it was booted again."""
        return (
            isinstance(document, dict)
            and bool(self.boot_id)
            and document.get("name") == self.name
            and document.get("boot_id") not in (None, "", self.boot_id)
        )


def pid_namespace() -> str:
    """Names the set of processes whose pids mean the same: containers on one machine each have their own."""
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""
