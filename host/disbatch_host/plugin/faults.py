"""Faults of a plugin that the file system shows: in its files, program, interpreter, account and limits.

Responsible for: faults that only this machine can show: is the program there, may others write to it. Must not know:
what a manifest means, how a program is started, whether the kernel can execute it (`executable`).
"""

from __future__ import annotations

import functools
import grp
import json
import os
import pwd
import re
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from disbatch_protocol.faults import Fault, Severity
from disbatch_protocol.manifest import Manifest

_SHELL_SIGNS = re.compile(r"[\s|&;<>$`]")  # of a command written as if a shell read it


def locate_program(word: str, directory: Path, path: str) -> Path | None:
    if "/" in word:
        candidate = directory / word
        return candidate if os.path.exists(candidate) else None  # noqa: PTH110  (see `file_faults`)
    found = shutil.which(word, path=path)
    return Path(found) if found is not None else None


def program_faults(word: str, program: Path | None, directory: Path, path: str) -> Iterator[Fault]:
    pointer = "/command/0"
    if program is None and "/" in word:
        where = directory / word
        if os.path.islink(where):  # noqa: PTH114
            hint = "the link points to nothing"
        elif _SHELL_SIGNS.search(word):
            hint = (
                'there is no shell: write each argument as a string of its own, as in ["./run", "-v"]; '
                f'for pipes and the like write ["sh", "-c", {json.dumps(word)}]'
            )
        elif os.path.isfile(directory / "build.sh"):  # noqa: PTH113
            hint = f"build it: {shlex.quote(str(directory / 'build.sh'))}"
        else:
            hint = "copy it there or correct the path"
        yield Fault(pointer=pointer, message=f"expected a program at {where}, found nothing", hint=hint)
        return
    if program is None:
        message = f"expected a program {word!r} in PATH, found none"
        if _SHELL_SIGNS.search(word):
            hint = 'there is no shell: write each argument as a string of its own, as in ["gzip", "-t"]'
            yield Fault(pointer=pointer, message=message, hint=hint)
            return
        near = f'; write "./{word}" to run the one beside the manifest' if os.path.exists(directory / word) else ""  # noqa: PTH110
        yield Fault(pointer=pointer, message=message, hint=f"install it{near} (PATH is {path})")
        return
    if "/" in word and not word.startswith("/"):
        yield from file_faults(program, directory, pointer, "the program")
    elif not os.path.isfile(program):  # noqa: PTH113
        yield no_file_fault("the program", program, pointer)
        return
    elif word.startswith("/"):
        yield from writable_faults(program, pointer, "the program")


def requirement_faults(manifest: Manifest, path: str) -> Iterator[Fault]:
    for index, wanted in enumerate(manifest.requires):
        if shutil.which(wanted, path=path) is None:
            message = f"expected the program {wanted!r} in PATH, found none"
            yield Fault(pointer=f"/requires/{index}", message=message, hint=f"install it (PATH is {path})")


def account_faults(manifest: Manifest) -> Iterator[Fault]:
    if manifest.run_as is None:
        return
    user, group = manifest.run_as.user, manifest.run_as.group
    if os.geteuid() != 0:
        message = f"only a host that runs as root can change to user {user!r}, this one runs as {own_name()}"
        yield Fault(pointer="/run_as", message=message, hint="remove it, or run the host as root")
    try:
        pwd.getpwnam(user)
    except KeyError:
        message, hint = f"expected a user of this machine, found no {user!r}", "create the user, or name another one"
        yield Fault(pointer="/run_as", message=message, hint=hint)
    try:
        if group is not None:
            grp.getgrnam(group)
    except KeyError:
        message, hint = f"expected a group of this machine, found no {group!r}", "create the group, or name another one"
        yield Fault(pointer="/run_as", message=message, hint=hint)


def limit_faults(manifest: Manifest) -> Iterator[Fault]:
    user = manifest.run_as.user if manifest.run_as is not None else None
    if manifest.limits.processes is not None and os.geteuid() == 0 and user in (None, "root"):
        yield Fault(
            pointer="/limits/processes",
            message="expected a plugin that is not root's: the kernel's limit of processes does not hold for root",
            hint="add run_as, or run the host as another user",
            severity=Severity.WARNING,
        )


def file_faults(path: Path, directory: Path, pointer: str, what: str) -> Iterator[Fault]:
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(directory):
        message = f"expected {what} inside {directory}, found that {path} leads to {real}"
        yield Fault(pointer=pointer, message=message, hint="copy it into the plugin's directory")
        return
    # Not by methods of Path, which raise where a directory on the way may not be entered.
    if not os.path.isfile(real):  # noqa: PTH113
        yield no_file_fault(what, real, pointer)
        return
    yield from writable_faults(real, pointer, what)
    between = real.parents[: len(real.relative_to(directory).parts) - 1]  # the directory itself is looked at once
    for one in between:
        yield from writable_faults(one, pointer, f"the directory of {what}")


_KINDS: Mapping[int, str] = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def no_file_fault(what: str, path: Path, pointer: str) -> Fault:
    try:
        found = _KINDS.get(stat.S_IFMT(path.stat().st_mode), "something else")
    except OSError as error:
        message = f"expected {what} to be a regular file, found that {path} cannot be reached: {error.strerror}"
        return Fault(pointer=pointer, message=message, hint="let the links and directories on the way lead to it")
    message = f"expected {what} to be a regular file, found {found} at {path}"
    return Fault(pointer=pointer, message=message, hint="put a regular file there, or remove it")


def writable_faults(path: Path, pointer: str, what: str) -> Iterator[Fault]:
    """Anyone who may write a plugin decides what this host runs: that must be its owner, root or the host's user."""
    try:
        status = path.stat()
    except OSError:
        return
    everybody = bool(status.st_mode & stat.S_IWOTH)
    group = bool(status.st_mode & stat.S_IWGRP) and not _is_private_group(status.st_gid, status.st_uid, os.geteuid())
    if everybody or group:
        who = "everybody" if everybody else f"group {_group_name(status.st_gid)}"
        message = f"expected {what} to be writable by its owner only, found that {who} may write to {path}"
        yield Fault(
            pointer=pointer, message=message, hint=f"chmod {'o' if everybody else ''}{'g' if group else ''}-w {path}"
        )


@functools.lru_cache(maxsize=1024)
def _is_private_group(gid: int, owner: int, host_user: int) -> bool:
    """Whether nobody but root, the owner and the host's user is in the group: where each user has a group of their
    own, files are made group-writable (umask 002) and that gives nobody else anything."""
    try:
        names = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return False
    uids = {0, owner, host_user}
    return all(
        account.pw_uid in uids for account in pwd.getpwall() if account.pw_gid == gid or account.pw_name in names
    )


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
