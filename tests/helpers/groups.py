"""A control group (cgroup v2) for a test, delegated as systemd would do it, and supervisors in it."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import supervisors
from helpers.processes import wait_until

_numbers = itertools.count()


def mount() -> Path | None:
    """Where cgroup v2 is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    return None


@contextlib.contextmanager
def made(*, with_memory: bool = False, is_delegated: bool = True) -> Iterator[Path]:
    """A group in which nothing is. Skips where none can be made."""
    above = mount()
    if above is None:
        pytest.skip("no cgroup v2 is mounted")
    group = above / f"disbatch-test-{os.getpid()}-{next(_numbers)}"
    try:
        group.mkdir()
        if is_delegated:
            os.setxattr(group, "user.delegate", b"1")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no control group can be made in {above}: {error.strerror}")
    try:
        if with_memory and "memory" not in (group / "cgroup.controllers").read_text().split():
            pytest.skip(f"the kernel does not limit memory in {above}")
        yield group
    finally:
        (group / "cgroup.kill").write_text("1")
        wait_until(lambda: "populated 0" in (group / "cgroup.events").read_text(), 10, f"{group} has processes")
        for one in sorted(below(group), reverse=True):
            one.rmdir()
        group.rmdir()


def below(group: Path) -> list[Path]:
    """All groups in it."""
    return [Path(path) / name for path, names, _ in os.walk(group) for name in names]


def names_below(group: Path) -> list[str]:
    """Without those of the supervisors, which are named by their ids."""
    return sorted(str(one.relative_to(group)).partition("/")[2] or one.name for one in below(group))


def enter(group: Path, pid: int = 0) -> None:
    (group / "cgroup.procs").write_text(str(pid or os.getpid()))


def supervisor_in(group: Path, directory: Path) -> Path:
    """A program that is the supervisor, in this group."""
    wrapper = directory / f"supervisor-in-{group.name}"
    wrapper.write_text(f'#!/bin/sh\necho $$ >{group}/cgroup.procs\nexec {supervisors.program()} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper
