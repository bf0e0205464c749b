"""What happens to the file of a SQLite store that others have in use."""

from __future__ import annotations

import shutil
from pathlib import Path


def delete_all(file: Path) -> None:
    """With its log and its index."""
    for one in file.parent.glob(f"{file.name}*"):
        one.unlink()


def replace(file: Path) -> None:
    """As a backup that is put back does it."""
    copy = file.with_name("copy.db")
    shutil.copyfile(file, copy)
    copy.rename(file)


def move_directory(file: Path) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))
