"""What of a password others can see: in the arguments of this process, in a configuration file.

Responsible for: taking it out of the arguments, and saying in a sentence where it was found. Must not know: what a
store is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Sequence
from pathlib import Path

_ARG_START, _ARG_END = 48 - 3, 49 - 3  # proc(5), stat: fields, of which the first two are before the last parenthesis


def password_in(url: str) -> str:
    """The password of a URL, as it stands there; empty where there is none."""
    credentials, at, _ = url.partition("://")[2].rpartition("@")
    return credentials.partition(":")[2] if at else ""


def hide_passwords(arguments: Sequence[str]) -> None:
    """Overwrite the passwords of URLs among this process's arguments, as `ps` and /proc show them to everybody.

    Whoever looks in the moment before can still see them, so it is better not to give them there at all.
    """
    passwords = [password for one in arguments if (password := password_in(one))]
    if not passwords:
        return
    with contextlib.suppress(OSError, ValueError, IndexError):  # no /proc: then nobody can look there either
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        area = ctypes.string_at(start, end - start)
        for password in passwords:
            secret = os.fsencode(password)
            position = area.find(b":" + secret + b"@")
            while position >= 0:
                ctypes.memset(start + position + 1, ord("*"), len(secret))
                position = area.find(b":" + secret + b"@", position + 1)


def in_arguments(url: str) -> str | None:
    """What to say of a URL that was given as an argument."""
    if not password_in(url):
        return None
    return (
        "--store holds a password, which every user of this machine could read for a moment; "
        "give it in DISBATCH_STORE or in a configuration file of mode 0600"
    )


def in_file(url: str, path: Path) -> str | None:
    """What to say of a URL that stands in a file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if not password_in(url) or not mode & (stat.S_IRGRP | stat.S_IROTH):
        return None
    return f"{path} holds the password of the store and can be read by others; chmod 600 {path}"
