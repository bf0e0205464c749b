"""The output of a run on its way into the task: decoded, bounded, and ready to be written in pieces.

Responsible for: turning the bytes of one stream into the text of the document (its first 1 MiB) and, if there is more,
into the pieces of an output file; keeping head and tail if it exceeds `max_output`. Must not know: processes, stores,
tasks, what an encoding is (`decoding`).

Rules:
1. Memory is bounded whatever is printed: at most INLINE_OUTPUT_MAX and a small buffer per stream; the rest waits in
   unlinked spool files of at most `max_output`, so a slow store never stops a plugin.
2. Output becomes text across block borders; bytes that are not valid in its encoding become U+FFFD and are counted.
   Output that is `binary` goes into the file as it is, and the document has a line that says so.
3. Past `max_output` the head stays, the tail is a ring, and the middle becomes one line that says how much is missing.
   The head is the first half, the tail the second: how it began and how it ended explain most failures. Limits count
   the plugin's bytes. Every one of them is either kept or counted as dropped, also those of a character that is cut.
4. A spool that cannot be written (disk full) ends the keeping, never the run: the rest is counted and reported.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from disbatch_host.documents.changes import INLINE_OUTPUT_MAX, OUTPUT_CHUNK_SIZE
from disbatch_host.run.decoding import Decoder
from disbatch_host.run.spool import Spool
from disbatch_host.run.tail import Tail
from disbatch_protocol.encodings import Encoding
from disbatch_protocol.quantities import format_size

log = logging.getLogger(__name__)

_GAP_LINE_MAX = 512  # bytes that the line about a gap may need
_UNSPOOLED_MAX = 2**20 + 2 * _GAP_LINE_MAX  # bytes: nothing of a tail in memory is lost, whatever the disk does


class OutputStream:
    """One of a run's two output streams. Feed it bytes; ask it for text and pieces; finish it once."""

    def __init__(
        self, *, max_bytes: int, spool_directory: Path | None = None, encoding: Encoding = Encoding.UTF_8
    ) -> None:
        self._max_bytes = max_bytes
        self._spool_directory = spool_directory
        self._encoding = encoding
        self._is_text = encoding is not Encoding.BINARY
        self._decoder: Decoder | None = None  # made with the first byte of text: many programs print nothing
        self._head_left = max_bytes // 2
        self._head_bytes = max_bytes // 2  # that the head has, once it is full
        self._is_cut = False  # bytes were missing when they came
        self._tail: Tail | None = None  # made when the head is full
        self._inline = bytearray()  # valid UTF-8
        self._spool: Spool | None = None  # the whole text so far, once it has outgrown the document
        self._spool_size = 0
        self._unspooled = bytearray()  # the end of the text if the disk takes no more
        self._taken = 0  # bytes of the spool that `take_chunks` has handed out
        self._chunk_number = 0
        self._ends_with_newline = True
        self._spool_fault: str | None = None
        self._is_finished = False
        self.bytes_seen = 0  # written by the plugin
        self.dropped_bytes = 0  # of those, not kept
        self.version = 0  # grows with every change of the inline text

    @property
    def replaced(self) -> int:
        """How many U+FFFD stand for bytes that were not valid in the stream's encoding."""
        return 0 if self._decoder is None else self._decoder.replaced

    @property
    def _text_decoder(self) -> Decoder:
        if self._decoder is None:
            self._decoder = Decoder(self._encoding)
        return self._decoder

    @property
    def is_in_file(self) -> bool:
        """Whether the document holds only the beginning, or only a line about it, and the pieces hold everything."""
        return self._spool is not None

    @property
    def pending_chunk_bytes(self) -> int:
        """How many bytes wait to be taken as pieces."""
        return self._spool_size + len(self._unspooled) - self._taken

    @property
    def inline_size(self) -> int:
        """Of the part that the document holds, in bytes."""
        return len(self._inline)

    @property
    def held_bytes(self) -> int:
        """How much its next write may take: the document's part, and the bytes that wait to be taken as pieces."""
        return len(self._inline) + self.pending_chunk_bytes

    @property
    def delivered_bytes(self) -> int:
        """How many of the bytes that the plugin wrote, counted from the first, are in what `inline_text` and
        `take_chunks` have handed out: once that is durable, they need not be reported again. Never too many. Until
        `finish`."""
        if not self._is_text:
            return self._taken
        # Each U+FFFD, which has three bytes, stands for one byte or more; a piece may end within a character.
        text_bytes = len(self._inline) if self._spool is None else self._taken - 3
        of_plugin, of_text = self._text_decoder.bytes_of_text
        return max(0, text_bytes - 2 * self.replaced) * of_plugin // of_text

    def feed(self, data: bytes) -> None:
        """Take more of the stream, any block of bytes."""
        self.bytes_seen += len(data)
        if not self._is_text:
            self.version += 1  # of the line that counts them
        if self._head_left:
            head = data[: self._head_left]
            self._head_left -= len(head)
            self._keep(head)
            data = data[len(head) :]
        if data:
            if self._tail is None:
                self._tail = Tail(self._max_bytes - self._max_bytes // 2, self._spool_directory)
            try:
                self._tail.append(data)
            except OSError as error:
                self._lose_spool(error)

    def skip(self, count: int) -> None:
        """The plugin wrote so many bytes that nobody has kept. What was kept of the tail so far lies before them, and
        so does the head now."""
        self.bytes_seen += count
        self.version += not self._is_text
        self._is_cut = True
        if self._head_left:
            self._head_bytes -= self._head_left
            self._head_left = 0
        if self._tail is None:
            self._tail = Tail(self._max_bytes - self._max_bytes // 2, self._spool_directory)
        self._tail.skip(count)

    def finish(self) -> None:
        """End the stream: everything that waits in the tail and in the decoder belongs to the text now."""
        if self._is_finished:
            return
        self._is_finished = True
        if not self.bytes_seen:
            return
        missing = self._tail.missing_bytes if self._tail is not None else 0
        self.dropped_bytes += missing
        blocks: Iterable[bytes] = () if self._tail is None else self._tail.blocks()
        if self.dropped_bytes:
            blocks = self._without_cut_characters(blocks)
        if self.dropped_bytes:
            self._keep_gap_line(is_room_certain=self._spool_fault is None)
        dropped_before = self.dropped_bytes
        for block in blocks:
            self._keep(block)
        self._keep(b"", final=True)
        if self.dropped_bytes > dropped_before:  # the disk became full only now
            self._keep_gap_line(is_room_certain=False)
        if self._tail is not None:
            self._tail.close()

    def inline_text(self) -> str:
        """The part that the document holds now: all of it, or its first 1 MiB; of `binary` output, a line about it."""
        if not self._is_text:
            return self._line_instead_of_text()
        return self._inline.decode("utf-8")

    def last_lines(self, lines: int, max_bytes: int) -> str:
        """The last lines that are at hand, for an error message; none is cut at its beginning, unless it is the only
        one. Before `finish`, only of the document's part."""
        if not self._is_text:
            return ""
        if self._spool is not None:
            size = self._spool_size + len(self._unspooled)
            recent = self._read_spool(max_bytes, max(0, size - max_bytes))
        else:
            size = len(self._inline)
            recent = bytes(self._inline[-max_bytes:])
        found = recent.decode("utf-8", "ignore").rstrip().splitlines()
        if size > max_bytes and len(found) > 1:
            del found[0]
        return "\n".join(found[-lines:])

    def take_chunks(self, max_bytes: int) -> list[tuple[int, bytes]]:
        """The next pieces (number, data) of up to `max_bytes` together; each is handed out once. Only whole pieces
        until the stream is finished."""
        chunks = []
        taken = 0
        while self._spool is not None and taken < max_bytes:
            size = min(OUTPUT_CHUNK_SIZE, self.pending_chunk_bytes)
            if size == 0 or (size < OUTPUT_CHUNK_SIZE and not self._is_finished):
                break
            chunks.append((self._chunk_number, self._read_spool(size, self._taken)))
            self._chunk_number += 1
            self._taken += size
            taken += size
        return chunks

    def summary(self) -> dict[str, Any]:
        """For `run.output` in the document."""
        summary: dict[str, Any] = {"bytes": self.bytes_seen, "in_file": self.is_in_file}
        if self._encoding is not Encoding.UTF_8:
            summary["encoding"] = str(self._encoding)
        if self.dropped_bytes:
            summary["dropped_bytes"] = self.dropped_bytes
        if self.replaced:
            summary["replaced"] = self.replaced
        return summary

    def close(self) -> None:
        """Release the spool. Closing twice is fine."""
        if self._tail is not None:
            self._tail.close()
        if self._spool is not None:
            self._spool.close()

    def _keep(self, data: bytes, *, final: bool = False) -> None:
        self._keep_clean(self._text_decoder.decode(data, final=final) if self._is_text else data)

    def _keep_clean(self, clean: bytes) -> None:
        """Keep bytes that are valid UTF-8, or of `binary` output."""
        if not clean:
            return
        self._ends_with_newline = clean.endswith(b"\n")
        if not self._is_text:
            if self._spool is None and not self._open_spool():
                self.dropped_bytes += len(clean)
                return
        elif self._spool is None:
            if len(self._inline) + len(clean) <= INLINE_OUTPUT_MAX:
                self._inline += clean
                self.version += 1
                return
            if not self._open_spool():
                self.dropped_bytes += len(clean)
                return
            self._inline += clean[: INLINE_OUTPUT_MAX - len(self._inline)]
            _cut_to_characters(self._inline)
            self.version += 1
        self._write_spool(clean)

    def _open_spool(self) -> bool:
        if self._spool_fault is not None:
            return False
        spool = None
        try:
            spool = Spool(self._spool_directory)
            spool.write(bytes(self._inline), 0)
        except OSError as error:
            if spool is not None:
                spool.close()
            self._lose_spool(error)
            return False
        self._spool = spool
        self._spool_size = len(self._inline)
        return True

    def _read_spool(self, size: int, position: int) -> bytes:
        assert self._spool is not None
        data = self._spool.read(min(size, max(0, self._spool_size - position)), position)
        start = position + len(data) - self._spool_size
        return data if len(data) == size else data + bytes(self._unspooled[start : start + size - len(data)])

    def _write_spool(self, clean: bytes) -> None:
        assert self._spool is not None
        if self._spool_fault is None:
            try:
                self._spool.write(clean, self._spool_size)
                self._spool_size += len(clean)
                return
            except OSError as error:
                self._lose_spool(error)
        if self._is_finished and len(self._unspooled) + len(clean) <= _UNSPOOLED_MAX:
            self._unspooled += clean
        else:
            self.dropped_bytes += len(clean)

    def _lose_spool(self, error: OSError) -> None:
        if self._spool_fault is None:
            self._spool_fault = error.strerror or str(error)
            log.error("output can no longer be kept on disk: %s", self._spool_fault)
        if not self._is_finished:  # else the tail is being read just now
            self._head_left = 0
            if self._tail is None:
                self._tail = Tail(0, self._spool_directory)
            self._tail.discard()

    def _without_cut_characters(self, blocks: Iterable[bytes]) -> Iterable[bytes]:
        """The blocks of the tail after a gap. What is left of characters that the gap cuts belongs to the gap."""
        if not self._is_text:
            return blocks
        self.dropped_bytes += self._text_decoder.skip_incomplete()
        if self._tail is None or not self._tail.missing_bytes:
            return blocks
        found = iter(blocks)
        first = next(found, b"")
        position = self._head_bytes + self._tail.begins_at
        rest = self._text_decoder.bytes_before_character(first, position)
        self.dropped_bytes += rest
        return itertools.chain((first[rest:],), found)

    def _keep_gap_line(self, *, is_room_certain: bool) -> None:
        if not self._is_text:
            return  # a line between bytes that are not text would only spoil them: the document's line says it
        if not is_room_certain:
            self._make_room_for_gap_line()
        self._keep_clean(self._gap_line().encode())

    def _make_room_for_gap_line(self) -> None:
        if self._spool is not None:
            return
        before = len(self._inline)
        del self._inline[INLINE_OUTPUT_MAX - _GAP_LINE_MAX :]
        _cut_to_characters(self._inline)
        self._ends_with_newline = self._inline.endswith(b"\n")
        self.dropped_bytes += before - len(self._inline)

    def _gap_line(self) -> str:
        start = "" if self._ends_with_newline else "\n"
        return f"{start}disbatch-host: {self.dropped_bytes} bytes of output are left out here ({self._why_dropped})\n"

    @property
    def _why_dropped(self) -> str:
        if self._spool_fault is not None:
            return f"the host could not keep it: {self._spool_fault}"
        if self._is_cut and self.bytes_seen <= self._max_bytes:
            return "they could not be kept until the host could read them"
        return f"max_output is {format_size(self._max_bytes)}"

    def _line_instead_of_text(self) -> str:
        if not self.bytes_seen:
            return ""
        left_out = f"; {self.dropped_bytes:,} of them are left out ({self._why_dropped})" if self.dropped_bytes else ""
        return f"disbatch-host: {self.bytes_seen:,} bytes, not text{left_out}\n"


def _cut_to_characters(text: bytearray) -> None:
    """Remove an incomplete character from the end of otherwise valid UTF-8."""
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte & 0xC0 == 0x80:
            continue  # inside a character: look for its first byte
        length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        if length > back:
            del text[-back:]
        return
