"""The names of the encodings that a manifest can give its output (SPEC, section 3)."""

from __future__ import annotations

from enum import StrEnum


class Encoding(StrEnum):
    """How the bytes of an output stream become text."""

    UTF_8 = "utf-8"
    UTF_16 = "utf-16"  # with a byte order mark, else little endian
    UTF_16LE = "utf-16le"
    UTF_16BE = "utf-16be"
    LATIN_1 = "latin-1"
    CP1252 = "cp1252"
    CP437 = "cp437"
    SHIFT_JIS = "shift_jis"
    GB18030 = "gb18030"
    EUC_KR = "euc-kr"
    KOI8_R = "koi8-r"
    BINARY = "binary"  # not at all
