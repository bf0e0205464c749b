"""Text that every store can hold. Pure.

Responsible for: names of files, directories and machines on their way into a document: they are bytes that need not be
UTF-8, and Python's text for them then cannot be stored. Must not know: documents, stores.
"""

from __future__ import annotations

import os


def storable(name: object) -> str:
    r"""The name as text, with `\xe9` in place of a byte that is not UTF-8."""
    text = str(name)
    if text.isascii():
        return text
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character that was never a byte, from a JSON text
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
