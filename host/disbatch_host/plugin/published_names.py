"""The names of the notes in which nodes publish what plugins are.

Responsible for: these names. Must not know: what is in the notes. It imports little, since most commands find none.
"""

from __future__ import annotations

import re

_NOTE = "plugin:"
_DIGEST = r"[0-9a-f]{64}"


def note_name(class_name: str, digest: str) -> str:
    """The name of the note that holds it."""
    return f"{_NOTE}{class_name}:{digest}"


def notes_prefix(class_name: str = "") -> str:
    """What the names of the notes of a class, or of all, begin with. Other classes may have such names, too."""
    return f"{_NOTE}{class_name}:" if class_name else _NOTE


def named_by(note: str) -> tuple[str, str] | None:
    """The class and the digest in the name of a note; None for any other note."""
    class_name, _, digest = note.removeprefix(_NOTE).rpartition(":")
    return (class_name, digest) if note.startswith(_NOTE) and class_name and re.fullmatch(_DIGEST, digest) else None
