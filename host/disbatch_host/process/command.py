"""The command `disbatch-supervisor`: the program that lies in the package, where a shell or a container can find it.

Responsible for: becoming it. Must not know: what it does.
"""

from __future__ import annotations

import os
import sys

from disbatch_host.process import connection


def main() -> None:
    """Execute the program with the arguments of this process. Ends with 1, and one line, if that is not possible."""
    program = connection.program_path()
    try:
        os.execv(program, [str(program), *sys.argv[1:]])
    except OSError as error:
        why = "this installation has none (it had no C compiler)" if not program.exists() else error.strerror
        raise SystemExit(f"disbatch-supervisor: {program} cannot be executed: {why}") from None
