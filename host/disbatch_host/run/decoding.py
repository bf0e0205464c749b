"""A plugin's bytes as text: the encodings that a manifest can name (SPEC, section 3).

Responsible for: turning the bytes of one stream into UTF-8, wherever they are cut, and counting those that are not
valid. Must not know: how much of it is kept, and where.

Rules:
1. Bytes that are not valid in their encoding become U+FFFD: one for each maximal subpart (Unicode, section 3.9).
2. `utf-16` is UTF-16 in the order that its byte order mark gives, which is not part of the text; without one, little
   endian.
3. A name means what it means on the web and on Windows: `shift_jis` is code page 932, `euc-kr` 949.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from types import MappingProxyType

from disbatch_protocol.encodings import Encoding

_REPLACEMENT = "\ufffd"
_REPLACEMENT_BYTES = _REPLACEMENT.encode()
_PYTHON_NAMES: Mapping[Encoding, str] = MappingProxyType(
    {
        Encoding.UTF_8: "utf-8",
        Encoding.UTF_16: "utf-16-le",  # until its mark says otherwise
        Encoding.UTF_16LE: "utf-16-le",
        Encoding.UTF_16BE: "utf-16-be",
        Encoding.LATIN_1: "latin-1",
        Encoding.CP1252: "cp1252",
        Encoding.CP437: "cp437",
        Encoding.SHIFT_JIS: "cp932",
        Encoding.GB18030: "gb18030",
        Encoding.EUC_KR: "cp949",
        Encoding.KOI8_R: "koi8-r",
    }
)
_MARK_SIZE = 2  # bytes
_LITTLE_MARK, _BIG_MARK = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
_OF_TWO_BYTES = (Encoding.UTF_16, Encoding.UTF_16LE, Encoding.UTF_16BE)


class Decoder:
    """From the bytes of a stream, block by block, to UTF-8. Not for `binary`."""

    __slots__ = ("_encoding", "_inner", "_mark", "_name", "replaced")

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._name = _PYTHON_NAMES[encoding]
        self._inner: codecs.IncrementalDecoder | None = None  # UTF-8: made with the first byte that is not ASCII
        self._mark: bytes | None = b"" if encoding is Encoding.UTF_16 else None  # what is known of it so far
        self.replaced = 0  # how many U+FFFD stand for bytes that were not valid

    @property
    def bytes_of_text(self) -> tuple[int, int]:
        """At least how many bytes (a) stand for how many bytes of text (b): a * len(text) // b were certainly read."""
        return (1, 1) if self._encoding is Encoding.UTF_8 else (1, 3)

    def decode(self, data: bytes, *, final: bool = False) -> bytes:
        """More of the stream as UTF-8; a character that is not complete waits for its rest. `final`: there is none."""
        if self._inner is None and self._encoding is Encoding.UTF_8 and data.isascii():
            return data
        if self._mark is not None:
            data = self._mark + data
            if len(data) < _MARK_SIZE and not final:
                self._mark = data
                return b""
            data = self._without_mark(data)
        if self._inner is None:
            self._inner = self._new("replace")
        before = self._inner.getstate()
        text = self._inner.decode(data, final)
        if _REPLACEMENT in text:
            self.replaced += text.count(_REPLACEMENT) - self._written_as_such(before, data, final)
        return text.encode("utf-8")

    def skip_incomplete(self) -> int:
        """Forget a character that is not complete, because what follows is missing; how many bytes it had."""
        if self._mark:
            skipped, self._mark = len(self._mark), None
            return skipped
        if self._inner is None:
            return 0
        skipped = len(self._inner.getstate()[0])
        self._inner.reset()
        return skipped

    def bytes_before_character(self, block: bytes, position: int) -> int:
        """How many bytes at the beginning of `block`, which is at `position` of the stream after a gap, belong to a
        character whose beginning is missing. In encodings where that cannot be told, 0."""
        if self._encoding is Encoding.UTF_8:
            rest = 0
            while rest < min(3, len(block)) and block[rest] & 0xC0 == 0x80:
                rest += 1
            return rest
        if self._encoding not in _OF_TWO_BYTES:
            return 0
        rest = position % 2
        high_byte = block[rest + (0 if self._name == "utf-16-be" else 1) :][:1]
        is_second_half = bool(high_byte) and 0xDC <= high_byte[0] <= 0xDF
        return min(len(block), rest + 2 if is_second_half else rest)

    def _without_mark(self, data: bytes) -> bytes:
        self._mark = None
        if data.startswith(_BIG_MARK):
            self._name = "utf-16-be"
        return data[_MARK_SIZE:] if data.startswith((_LITTLE_MARK, _BIG_MARK)) else data

    def _new(self, errors: str) -> codecs.IncrementalDecoder:
        return codecs.getincrementaldecoder(self._name)(errors)

    def _written_as_such(self, before: tuple[bytes, int], data: bytes, final: bool) -> int:
        """How many U+FFFD the plugin itself has written in `data`."""
        if self._encoding is Encoding.UTF_8:
            return (before[0] + data).count(_REPLACEMENT_BYTES)
        other = self._new("ignore")
        other.setstate(before)
        return other.decode(data, final).count(_REPLACEMENT)
