"""Streams of output: what becomes of a plugin's bytes, whatever they are and however they arrive."""

from __future__ import annotations

import codecs
import errno
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.documents.changes import INLINE_OUTPUT_MAX, OUTPUT_CHUNK_SIZE
from disbatch_host.run.output import OutputStream
from disbatch_host.run.spool import Spool
from disbatch_protocol.encodings import Encoding

MIB = 2**20


def fed(
    blocks: Sequence[bytes], max_bytes: int = 64 * MIB, encoding: Encoding = Encoding.UTF_8
) -> tuple[OutputStream, bytes]:
    """A finished stream, and its whole text as its readers put it together."""
    stream = OutputStream(max_bytes=max_bytes, encoding=encoding)
    pieces = []
    for block in blocks:
        stream.feed(block)
        pieces += stream.take_chunks(MIB)
    stream.finish()
    while chunks := stream.take_chunks(MIB):
        pieces += chunks
    assert [number for number, _ in pieces] == list(range(len(pieces)))
    assert all(len(data) == OUTPUT_CHUNK_SIZE for _, data in pieces[:-1])
    whole = b"".join(data for _, data in pieces) if stream.is_in_file else stream.inline_text().encode()
    assert len(stream.inline_text().encode()) <= INLINE_OUTPUT_MAX
    assert whole.startswith(stream.inline_text().encode())
    stream.close()
    return stream, whole


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.text(), st.lists(st.integers(0, 400), max_size=8))
def test_text_comes_through_unchanged_wherever_the_blocks_are_cut(text: str, cuts: list[int]) -> None:
    data = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    stream, whole = fed(cut(data, cuts))
    assert whole == data
    assert (stream.replaced, stream.dropped_bytes) == (0, 0)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_any_bytes_become_the_same_text_wherever_they_are_cut(data: bytes, cuts: list[int]) -> None:
    stream, whole = fed(cut(data, cuts))
    expected = codecs.decode(data, "utf-8", "replace")
    assert whole.decode() == expected
    assert stream.replaced == expected.count("\ufffd") - data.decode("utf-8", "ignore").count("\ufffd")
    assert stream.bytes_seen == len(data)


TEXTS = [one for one in Encoding if one is not Encoding.BINARY]
PYTHONS = {Encoding.SHIFT_JIS: "cp932", Encoding.EUC_KR: "cp949", Encoding.UTF_16: "utf-16-le"}


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8), st.sampled_from(TEXTS))
def test_any_bytes_in_any_encoding_become_the_same_text_wherever_they_are_cut(
    data: bytes, cuts: list[int], encoding: Encoding
) -> None:
    stream, whole = fed(cut(data, cuts), encoding=encoding)
    name = PYTHONS.get(encoding, encoding)
    if encoding is Encoding.UTF_16 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"  # Python's wants a mark, or takes the order of the machine
    expected = codecs.decode(data, name, "replace")
    assert whole.decode() == expected
    assert stream.replaced == expected.count("\ufffd") - codecs.decode(data, name, "ignore").count("\ufffd")


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff\ufffd"), max_size=60),
    st.integers(0, 120), st.lists(st.integers(0, 250), max_size=4),
    st.sampled_from([Encoding.UTF_8, Encoding.UTF_16LE, Encoding.UTF_16BE]),
)  # fmt: skip
def test_every_byte_is_in_the_text_or_counted_and_no_character_is_cut_visibly(
    text: str, limit: int, cuts: list[int], encoding: Encoding
) -> None:
    data = text.encode(encoding)
    stream, whole = fed(cut(data, cuts), max_bytes=limit, encoding=encoding)
    shown, found, rest = whole.decode().partition("disbatch-host: ")
    assert stream.replaced == 0 and bool(found) == (len(data) > limit)
    if found:
        head, tail = shown, rest.partition("\n")[2]
        head = head if text.startswith(head) and rest.startswith(f"{_left(data, head, tail, encoding)} ") else head[:-1]
        assert text.startswith(head) and text.endswith(tail)
        assert stream.dropped_bytes == _left(data, head, tail, encoding)


def _left(data: bytes, head: str, tail: str, encoding: Encoding) -> int:
    return len(data) - len(head.encode(encoding)) - len(tail.encode(encoding))


def test_a_mebibyte_stays_in_the_document_and_one_byte_more_does_not() -> None:
    assert not fed([b"x" * MIB])[0].is_in_file
    stream, whole = fed([b"x" * MIB, b"y"])
    assert stream.is_in_file
    assert whole == b"x" * MIB + b"y"
    assert stream.inline_text() == "x" * MIB


@pytest.mark.parametrize("character", ["é", "€", "𝄞"])
@pytest.mark.parametrize("shift", range(4))
def test_the_head_in_the_document_ends_with_a_whole_character(character: str, shift: int) -> None:
    data = b"x" * shift + character.encode() * (2 * MIB // len(character.encode()))
    stream, whole = fed([data])
    assert whole == data
    assert set(stream.inline_text()) == {"x", character} if shift else {character}
    assert INLINE_OUTPUT_MAX - len(stream.inline_text().encode()) < 4


def test_binary_is_counted_as_the_text_that_it_becomes() -> None:
    """A mebibyte of invalid bytes is three of U+FFFD, too much for the document."""
    stream, whole = fed([b"\xff" * MIB])
    assert stream.is_in_file
    assert stream.replaced == MIB
    assert whole == "\ufffd".encode() * MIB


@pytest.mark.parametrize(
    ("max_bytes", "block_size"),
    [
        *((size, block) for size in (0, 1, 7, 1000) for block in (1, 3, 4096, 5 * MIB)),
        (3 * MIB, 4096),
        (3 * MIB, 5 * MIB),
    ],
)
def test_past_max_output_head_and_tail_stay_and_the_gap_is_told_exactly(max_bytes: int, block_size: int) -> None:
    size = max_bytes * 3 + 5
    data = bytes(65 + position % 26 for position in range(size))
    stream, whole = fed([data[at : at + block_size] for at in range(0, size, block_size)], max_bytes)
    head, _, rest = whole.partition(b"disbatch-host: ")
    gap, _, tail = rest.partition(b"\n")
    missing = size - max_bytes
    assert gap.startswith(f"{missing} bytes of output are left out here".encode())
    assert head.rstrip(b"\n") == data[: max_bytes // 2]
    assert tail == data[size - (max_bytes - max_bytes // 2) :]
    assert (stream.bytes_seen, stream.dropped_bytes) == (size, missing)


def test_exactly_max_output_is_kept_whole() -> None:
    data = bytes(65 + position % 26 for position in range(3 * MIB))
    stream, whole = fed([data[:1000], data[1000:]], 3 * MIB)
    assert whole == data
    assert stream.dropped_bytes == 0


def test_a_character_that_the_gap_cuts_leaves_no_rubbish() -> None:
    stream, whole = fed(["€".encode() * 1000], 1000)
    assert "\ufffd" not in whole.decode()
    assert stream.replaced == 0


def test_a_spool_that_cannot_be_written_keeps_the_run_going_and_says_what_is_missing(tmp_path: object) -> None:
    from pathlib import Path

    stream = OutputStream(max_bytes=8 * MIB, spool_directory=Path(str(tmp_path)) / "gone")
    for _ in range(10):
        stream.feed(b"x" * MIB)
    stream.finish()
    kept = stream.inline_text()
    assert stream.bytes_seen == 10 * MIB
    assert stream.dropped_bytes == 10 * MIB - kept.count("x")
    assert 0 < len(kept) <= INLINE_OUTPUT_MAX
    stream.close()


def test_last_lines_are_those_of_the_end_even_of_a_long_stream() -> None:
    stream = OutputStream(max_bytes=64 * MIB)
    stream.feed(b"noise\n" * 300_000 + b"Traceback:\n  cause\n\n")
    stream.finish()
    assert stream.last_lines(2, 4096) == "Traceback:\n  cause"
    stream.close()


def test_memory_stays_small_while_a_gibibyte_passes() -> None:
    import tracemalloc

    stream = OutputStream(max_bytes=64 * MIB)
    block = b"0123456789abcdef" * 4096
    tracemalloc.start()
    for _ in range(2**30 // len(block)):
        stream.feed(block)
        stream.take_chunks(MIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stream.finish()
    assert stream.dropped_bytes == 2**30 - 64 * MIB
    assert peak < 8 * MIB
    stream.close()


class FullDisk:
    """The file system of the spools, as far as this program's writes go: full after so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        self.left = size
        write = Spool.write

        def write_if_there_is_room(spool: Spool, data: bytes, position: int) -> None:
            if self.left < len(data):
                raise OSError(errno.ENOSPC, "No space left on device")
            self.left -= len(data)
            write(spool, data, position)

        monkeypatch.setattr(Spool, "write", write_if_there_is_room)


@pytest.mark.parametrize("room", [0, MIB // 2, MIB + 1, 3 * MIB, 5 * MIB, 7 * MIB, 9 * MIB])
def test_a_disk_that_becomes_full_at_any_moment_costs_output_and_nothing_else(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, a spool that could be opened but not written left `in_file` true with nothing in the file, and a disk
    that became full in `finish` made it fail, which left the task Running."""
    FullDisk(monkeypatch, room)
    stream = OutputStream(max_bytes=6 * MIB)
    written = b"".join(b"%09d\n" % number for number in range(MIB))
    for start in range(0, len(written), 2**16):
        stream.feed(written[start : start + 2**16])
    stream.finish()
    chunks = b"".join(data for _, data in stream.take_chunks(100 * MIB))
    text = chunks if stream.is_in_file else stream.inline_text().encode()
    summary = stream.summary()
    assert summary["bytes"] == len(written) and 0 < summary["dropped_bytes"] < len(written)
    assert text.startswith(written[: 10 * 1000]), "how it began is there"
    said = re.search(rb"disbatch-host: (\d+) bytes of output are left out here \(the host could not keep it", text)
    assert said is not None
    kept = re.sub(rb"(?m)^disbatch-host: .*\n", b"", text)
    assert len(written) - len(kept) <= summary["dropped_bytes"] <= len(written) - len(kept) + 2000
    assert len(stream.inline_text().encode()) <= MIB
