"""A revision of the project as its users have it: checked out, installed into an environment of its own, and run.

Must not know: any module of the project. A revision is driven through its command line alone, so that those whose
modules are elsewhere can be compared.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKTREE = (".", "WORKTREE")  # what the files in the working tree are called, committed or not
_COMMAND_SECONDS = 300.0


class RevisionError(Exception):
    """There is no such revision, or it cannot be installed."""


class Revision:
    """One installed revision. `label` tells it from others: its name and the commit."""

    def __init__(self, label: str, directory: Path) -> None:
        self.label = label
        self.program = directory / "venv" / "bin" / "disbatch-host"
        self.directory = directory
        self.env = _environment(directory)
        self.state = directory / "state" / "disbatch"  # of its nodes, by that environment

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run one of its commands to its end; what it printed."""
        done = subprocess.run(
            [self.program, *arguments],
            input=stdin, capture_output=True, text=True, env=self.env, cwd=self.directory, timeout=_COMMAND_SECONDS,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{self.label}: disbatch-host {' '.join(arguments)}:\n{done.stderr[-4000:]}"
        return done.stdout


def resolve(name: str) -> str | None:
    """The commit that a name stands for; None for the working tree. Raises RevisionError."""
    if name in WORKTREE:
        return None
    done = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False)
    if done.returncode:
        raise RevisionError(f"expected a revision of this repository or one of {', '.join(WORKTREE)}, got {name!r}")
    return done.stdout.decode().strip()


def install(name: str, directory: Path) -> Revision:
    """Put a revision into `directory`, with a virtual environment. Takes some seconds. Raises RevisionError."""
    commit = resolve(name)
    source = directory / "source"
    source.mkdir(parents=True)
    if commit is None:
        _copy_worktree(source)
    else:
        _check_out(commit, source)
    venv.create(directory / "venv", with_pip=True)
    # Not editable, as users install it. pip keeps what it builds and loads in its cache, which all revisions share.
    pip = (directory / "venv" / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    done = subprocess.run(
        [*pip, "install", source], capture_output=True, text=True, check=False, env=_environment(directory)
    )
    if done.returncode:
        raise RevisionError(f"pip cannot install {name!r}:\n{done.stderr[-4000:]}")
    described = "working tree" if commit is None else commit[:10]
    return Revision(described if name in (described, *WORKTREE) else f"{name} ({described})", directory)


def _check_out(commit: str, source: Path) -> None:
    archive = source.with_suffix(".tar")
    _git("archive", "--format=tar", f"--output={archive}", commit)
    with tarfile.open(archive) as tar:
        tar.extractall(source, filter="data")
    archive.unlink()


def _copy_worktree(source: Path) -> None:
    """The files that git would commit, as they are now."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    for name in {os.fsdecode(one) for one in listed.split(b"\0") if one}:
        if (ROOT / name).is_file():  # else it has been deleted
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)


def _git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, check=check)


def _environment(directory: Path) -> Mapping[str, str]:
    """That of this process, without what would lead to other modules, another store or somebody's state directory."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DISBATCH_", "PYTHON")) and name not in ("VIRTUAL_ENV", "STATE_DIRECTORY")
    }
    return {**kept, "XDG_STATE_HOME": str(directory / "state")}
