"""A file that appears under its name only when it is complete.

Responsible for: the temporary name beside it, compression according to its name, and syncing it to disk. Must not
know: the content.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from disbatch_host.errors import OutputError, UsageError

_BUFFER = 2**18


@contextlib.contextmanager
def complete_file(name: str | os.PathLike[str], *, packs: bool = True) -> Iterator[IO[bytes]]:
    """A file, open for the length of the block, compressed if its name ends in `.gz`, unless `packs` is False. It gets
    its name when the block succeeds; until then it has a temporary one beside it. Pipes and devices are written
    directly.

    Raises UsageError for a directory, OutputError if the file cannot be written."""
    name = os.fspath(name)
    path = Path(name)
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            if path.is_dir():
                raise UsageError(f"expected the name of a file, found a directory: {name}")
            with path.open("wb", buffering=_BUFFER) as out:
                yield out
            return
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb", buffering=_BUFFER) as plain:
                if packs and name.endswith(".gz"):
                    import gzip  # noqa: PLC0415

                    with gzip.GzipFile(filename="", mode="wb", fileobj=plain, compresslevel=6) as packed:
                        yield packed  # type: ignore[misc]
                else:
                    yield plain
                plain.flush()
                os.fsync(plain.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"file {name} cannot be written: {error.strerror}") from error
