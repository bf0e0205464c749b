"""Passwords that others can see: in this process's arguments, or in a configuration file.

Responsible for: removing them from the arguments, and a sentence that says where one was found. Must not know: what a
store is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from disbatch_host.store.url import without_passwords

_LIKE_URL = r"://.*@|^[^=]*:[^=]*@"  # parameters (NAME=VALUE) are shown as they were given
_ARG_START, _ARG_END = 48 - 3, 49 - 3  # proc(5), stat: fields; the first two come before the last parenthesis


def password_in(url: str) -> str:
    """The password in a URL, still encoded; empty if there is none."""
    before, separator, rest = url.partition("://")
    credentials, at, _ = (rest if separator else before).rpartition("@")
    return credentials.partition(":")[2] if at else ""


def stores_in(arguments: Sequence[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Everything in them that may be the URL of a store, well or badly typed."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, is_equal, value = argument.partition("=")
        if before == "--store":
            yield argument
        elif option == "--store" and is_equal:
            yield value
        elif re.search(_LIKE_URL, argument):
            yield argument
    if url := environ.get("DISBATCH_STORE"):
        yield url


def hide_passwords(arguments: Sequence[str]) -> None:
    """Overwrite the passwords of URLs in this process's arguments, which `ps` and /proc show to everybody.

    They can be read until this runs, so it is better not to pass them as arguments at all.
    """
    passwords = [password for one in arguments if (password := password_in(one))]
    if not passwords:
        return
    with contextlib.suppress(OSError, ValueError, IndexError):  # no /proc: then nobody can read it there either
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        area = ctypes.string_at(start, end - start)
        for password in passwords:
            secret = os.fsencode(password)
            position = area.find(b":" + secret + b"@")
            while position >= 0:
                ctypes.memset(start + position + 1, ord("*"), len(secret))
                position = area.find(b":" + secret + b"@", position + 1)


def without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of this process without those that can't be shown: a store whose URL has a password."""
    return {name: one for name, one in options.items() if name != "store" or without_passwords(one, [one]) == one}


def in_arguments(url: str) -> str | None:
    """The warning for a URL that was given as an argument."""
    if not password_in(url):
        return None
    return (
        "--store holds a password, which every user of this machine could read for a moment; "
        "give it in DISBATCH_STORE or in a configuration file of mode 0600"
    )


def in_file(url: str, path: Path) -> str | None:
    """The warning for a URL in a file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if not password_in(url) or not mode & (stat.S_IRGRP | stat.S_IROTH):
        return None
    return f"{path} holds the password of the store and can be read by others; chmod 600 {path}"
