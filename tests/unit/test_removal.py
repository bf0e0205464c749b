"""Directory trees that removing cannot cope with: deep, wide, without rights, with links that lead out."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from disbatch_host.plugin import removal
from disbatch_host.plugin.removal import RemovalError, remove_tree
from disbatch_host.plugin.work_directories import WorkDirectories, text_of

NOBODY = 65534
AS_NOBODY = """
import os, sys
from pathlib import Path
from disbatch_host.plugin.removal import RemovalError, remove_tree
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    remove_tree(Path(sys.argv[1]))
except RemovalError as error:
    print(error.path, error)
"""


def make_deep(top: Path, depth: int, *, mode: int | None = None) -> None:
    """A chain of directories, each with a file, made without a long path. With `mode`, they have that, and belong to
    nobody."""
    top.mkdir()
    at = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        if mode is not None:
            os.chown("file", NOBODY, NOBODY, dir_fd=at)
            os.fchown(at, NOBODY, NOBODY)
            os.fchmod(at, mode)
        os.close(at)
        at = below
    os.close(at)


@pytest.mark.parametrize("depth", [1, 1200, pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_a_deep_tree_is_removed_without_a_stack_or_descriptors_that_grow(tmp_path: Path, depth: int) -> None:
    top = tmp_path / "top"
    make_deep(top, depth)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        remove_tree(top)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_wide_tree_with_odd_names_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for number in range(60):
        below = top / f"d{number}" / "e"
        below.mkdir(parents=True)
        for name in (b"\xff\xfe", b"line\nbreak", b".hidden", b"x" * 255):
            (below / os.fsdecode(name)).touch()
    for number in range(1000):
        (top / f"f{number}").touch()
        (top / f"empty{number}").mkdir()
    os.mkfifo(top / "fifo")
    remove_tree(top)
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    (top / "link").symlink_to(outside)
    (top / "d" / "link").symlink_to(outside, target_is_directory=True)
    (top / "d" / "loop").symlink_to(top)
    (top / "dangling").symlink_to("/no/such")
    remove_tree(top)
    assert [one.name for one in tmp_path.iterdir()] == ["outside"] and (outside / "kept").exists()
    link = tmp_path / "itself"
    link.symlink_to(outside)
    with pytest.raises(RemovalError):
        remove_tree(link)
    assert (outside / "kept").exists() and link.is_symlink()


def test_one_that_is_not_there_is_removed_already(tmp_path: Path) -> None:
    remove_tree(tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may use."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(prefix="disbatch-test-", dir="/tmp") as name:
        Path(name).chmod(0o1777)
        yield Path(name)


def give(*paths: Path) -> None:
    for path in paths:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def remove_as_nobody(top: Path) -> str:
    """What it says, if something is left."""
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(top)], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("mode", [0o500, 0o000, 0o100, 0o600])
def test_the_owner_of_directories_without_rights_removes_them(public: Path, mode: int) -> None:
    """Go's module cache is such a tree: its directories may not be written."""
    top = public / "top"
    package = top / "mod" / "x@v1"
    (package / "deep").mkdir(parents=True)
    (package / "x.go").write_text("package x\n")
    (package / "x.go").chmod(0o444)
    (package / "deep" / "y").touch()
    give(top, *top.rglob("*"))
    for one in (package / "deep", package, top / "mod", top):
        one.chmod(mode)
    assert remove_as_nobody(top) == ""
    assert list(public.iterdir()) == []


@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_the_owner_of_a_deep_tree_without_rights_removes_it(public: Path, mode: int) -> None:
    make_deep(public / "top", 3000, mode=mode)
    assert remove_as_nobody(public / "top") == ""
    assert list(public.iterdir()) == []


def test_something_of_another_user_is_left_under_its_own_name_and_said(public: Path) -> None:
    top = public / "top"
    for name in ("mine", "theirs"):
        (top / name).mkdir(parents=True)
        (top / name / "file").touch()
    give(top, top / "mine", top / "mine" / "file")
    assert remove_as_nobody(top) == f"{top} Permission denied\n"
    assert (top / "theirs" / "file").exists() and not (top / "mine").exists()


def test_another_file_system_in_a_tree_is_left_alone(tmp_path: Path) -> None:
    mounted = tmp_path / "top" / "d" / "mounted"
    mounted.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(mounted)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (mounted / "kept").touch()
        with pytest.raises(RemovalError) as caught:
            remove_tree(tmp_path / "top")
        assert caught.value.path == tmp_path / "top"
        (kept,) = (tmp_path / "top").rglob("kept")
        assert kept.exists()
    finally:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            if str(tmp_path) in line:
                subprocess.run(["umount", line.split()[1]], check=True)


def test_many_trees_are_removed_at_once_and_a_large_one_keeps_no_small_one_waiting(tmp_path: Path) -> None:
    async def remove() -> None:
        directories = WorkDirectories(tmp_path)
        made = [directories.make(f"task/{number}\0{'x' * 300}", None) for number in range(50)]
        assert all(one.parent == tmp_path and one.stat().st_mode & 0o777 == 0o700 for one in made)
        for one in made:
            (one / "file").touch()
            directories.remove(one)
        await directories.finish(60)
        await directories.finish(60)

    asyncio.run(remove())
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_host_left_half_removed_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / f"{removal.ASIDE_PREFIX}4194305-0a"  # no process has a number that high
    in_hand = tmp_path / f"{removal.ASIDE_PREFIX}1-0a"  # of a process that is there
    kept = tmp_path / "disbatch-abc-xyz"
    for one in (left, in_hand, kept):
        (one / "d").mkdir(parents=True)
    (tmp_path / f"{removal.ASIDE_PREFIX}4194305-link").symlink_to(kept)

    async def remove() -> None:
        directories = WorkDirectories(tmp_path)
        directories.remove_leftovers()
        await directories.finish(60)

    asyncio.run(remove())
    assert not left.exists() and (in_hand / "d").exists() and (kept / "d").exists()


def test_a_path_that_is_not_utf_8_is_said_with_its_bytes() -> None:
    assert text_of(Path(os.fsdecode(b"/tmp/pl\xe9/x"))) == "/tmp/pl\\xe9/x"
