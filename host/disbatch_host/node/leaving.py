"""The leave of a node whose runs go on without it: what is asked for, and what speaks against it.

Responsible for: the form of such a request, what the node's document says then, and whether the whole system goes down,
which takes the runs along. Must not know: runs, claims, how a node stops (`stopping`).
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from disbatch_host.documents.records import Document

_SYSTEMD = Path("/run/systemd/system")  # it is there where systemd is the first process: sd_booted(3)
_ANSWER_SECONDS = 2.0  # of systemd


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """That a node is to leave its runs. `by`: a person or a signal."""

    by: str
    why: str | None = None

    def document(self, now: datetime, away_for_seconds: float) -> Document:
        """`away` in the node's document."""
        until = now + timedelta(seconds=away_for_seconds)
        return {"until": until, "by": self.by, **({"why": self.why} if self.why else {})}


def is_system_going_down(
    systemd: Path = _SYSTEMD, *, path: str = "/usr/bin:/bin", answer_seconds: float = _ANSWER_SECONDS
) -> bool:
    """Whether the machine is being shut down or booted again, as far as that can be known: nothing outlives that. Takes
    a moment. A systemd that is there and does not answer has other things to do. `path`: where systemctl may be."""
    if not systemd.exists():
        return False
    program = shutil.which("systemctl", path=path)
    if program is None:
        return False
    try:
        done = subprocess.run(
            [program, "is-system-running"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=answer_seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return True
    except OSError:
        return False
    return done.stdout.strip() == b"stopping"
