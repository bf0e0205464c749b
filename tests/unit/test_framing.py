"""The bytes of the frames: what is sent is what is read, however it is cut, and nothing else passes."""

from __future__ import annotations

import contextlib
import inspect
import struct
from typing import Any, NamedTuple, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.process import frames
from disbatch_host.process.frames import FRAME_MAX, NOTE_MAX, PART_MAX, FrameError, Said, Start, Stdin
from disbatch_host.process.framing import (
    FrameReader,
    Left,
    encode,
    packed,
    packed_processes,
    unpacked,
    unpacked_processes,
)

FRAMES = [
    one for _, one in inspect.getmembers(frames, inspect.isclass) if issubclass(one, tuple) and one is not NamedTuple
]
NUMBERS = {"errno", "status", "killed_after"}  # these are signed


def frame_of(kind: Any, fill: int) -> Any:
    """A frame of this kind with small numbers and texts, all different."""
    hints = get_type_hints(kind)
    values: list[Any] = []
    for place, (name, hint) in enumerate(hints.items()):
        if hint is bytes:
            values.append(bytes([fill % 256]) * place)
        else:
            values.append(-1 - place if name in NUMBERS and fill % 2 else (fill + place) % 200)
    return kind(*values)


@pytest.mark.parametrize("kind", FRAMES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("fill", [0, 1, 77])
def test_what_is_sent_is_what_is_read_however_it_is_cut(kind: Any, fill: int) -> None:
    frame, other = frame_of(kind, fill), frame_of(kind, fill + 1)
    data = encode(frame) + encode(other)
    for size in (1, 3, len(data)):
        reader, found = FrameReader(), []
        for at in range(0, len(data), size):
            found += list(reader.feed(data[at : at + size]))
        assert found == [frame, other]


@pytest.mark.parametrize("kind", FRAMES, ids=lambda kind: kind.__name__)
def test_a_frame_that_is_too_short_breaks_a_rule_and_one_that_is_longer_does_not(kind: Any) -> None:
    data = encode(frame_of(kind, 5))
    body = data[5:]
    longer = struct.pack("<IB", len(body) + 4, data[4]) + body + b"more"
    assert list(FrameReader().feed(longer)) == [frame_of(kind, 5)]
    if body:
        shorter = struct.pack("<IB", len(body), data[4]) + body[:-1]
        with pytest.raises(FrameError, match=kind.__name__):
            list(FrameReader().feed(shorter))


def test_unknown_types_are_skipped_and_impossible_sizes_are_not() -> None:
    ping = encode(frames.Ping(7))
    assert list(FrameReader().feed(struct.pack("<IB", 4, 200) + b"abc" + ping)) == [frames.Ping(7)]
    for size in (0, FRAME_MAX + 1, 2**32 - 1):
        with pytest.raises(FrameError, match="frame of 1 to"):
            list(FrameReader().feed(struct.pack("<I", size) + ping))


def test_limits_are_kept_by_the_sender_and_checked_by_the_reader() -> None:
    encode(Said(1, 1, 0, b"x" * PART_MAX))
    for frame, name in ((Stdin(1, b"x" * (PART_MAX + 1)), "data"), (Said(1, 1, 0, b"x" * (PART_MAX + 1)), "data")):
        with pytest.raises(FrameError, match=f"{name} of at most {PART_MAX} bytes"):
            encode(frame)
    start = frame_of(Start, 3)
    with pytest.raises(FrameError, match=f"note of at most {NOTE_MAX}"):
        encode(start._replace(note=b"n" * (NOTE_MAX + 1)))
    data = bytearray(encode(Stdin(1, b"abc")))
    data[13:17] = struct.pack("<I", 4)  # the length of its data, which has three bytes
    with pytest.raises(FrameError, match="more than there may be"):
        list(FrameReader().feed(bytes(data)))


@given(st.binary(max_size=400))
def test_no_bytes_make_the_reader_fail_otherwise(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        list(FrameReader().feed(data))


@given(st.lists(st.binary(max_size=20), max_size=8), st.integers(1, 30))
def test_lists_are_read_as_they_were_made_and_not_when_they_are_cut(items: list[bytes], cut: int) -> None:
    blob = packed(items)
    assert unpacked(blob) == items
    with pytest.raises(FrameError):
        unpacked(blob[: -min(cut, len(blob))])


def test_processes_are_described_with_their_names() -> None:
    processes = [Left(1, 0, "init"), Left(4711, 1000, "café")]
    assert unpacked_processes(packed_processes(processes)) == processes
    with pytest.raises(FrameError, match="8 bytes or more"):
        unpacked_processes(packed([b"short"]))
