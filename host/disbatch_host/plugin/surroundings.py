"""What decides, besides its file, how a plugin's program is started: its directory and its PATH.

Must not know: formats of programs, first lines.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from disbatch_protocol.manifest import Cwd, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What decides, besides the file, how a program is started."""

    directory: Path  # the plugin's, in which it starts unless `is_elsewhere`
    is_elsewhere: bool  # it starts in a new directory with nothing in it
    path: str  # its PATH

    @classmethod
    def of(cls, manifest: Manifest, *, directory: Path, path: str) -> Surroundings:
        """Those of a plugin's program."""
        return cls(directory=directory, is_elsewhere=manifest.cwd is Cwd.WORK, path=path)

    def found(self, word: str) -> Path | None:
        """The file that a path leads to in a process of this plugin; None if it cannot lead to any."""
        if not word.startswith("/") and self.is_elsewhere:
            return None
        where = self.directory / word
        return where if os.path.lexists(where) else None

    def where(self, word: str) -> str:
        """The place that a path means, in words."""
        return f"{word} in a new work directory" if self.found(word) is None and self.is_elsewhere else word
