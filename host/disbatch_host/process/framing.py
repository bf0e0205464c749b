"""The bytes of the frames.

Responsible for: making bytes of a frame and frames of bytes, and checking every length of what the other side sends.
Must not know: what a frame means.

A frame is a u32 (the number of bytes that follow), a u8 (its type) and a body, all little endian. A body is a fixed
part and then, one after the other, the blobs whose lengths (u32) are the last numbers of the fixed part. A list is a
blob: a u32 count and the items, each a u32 length and its bytes. Durations are microseconds (u64), 0 means none;
`killed_after` is an i64, below 0 means none. Text is UTF-8; paths, arguments and variables are the system's bytes.

Rules:
1. A frame has at most FRAME_MAX bytes. Bytes after the known fields are ignored, frames of an unknown type are skipped:
   a later version appends, and never changes what is there.
2. Frames that an older supervisor must be emptied with never change: HELLO, KEPT_PLUGIN, RUN, READY, SAID, EVENTS, END,
   GONE, ACK, STOP, KILL, STDIN_EOF, WINDOW, BYE.
3. Anything else that a frame of a known type says wrongly is a broken rule, `FrameError`: the connection is closed, and
   runs go on.
4. The sender keeps the limits. What a single task exceeds is an error of that task, before a frame is made of it.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from disbatch_host.process.frames import (
    FRAME_MAX,
    NOTE_MAX,
    PART_MAX,
    PLUGIN_NOTE_MAX,
    Ack,
    Closed,
    End,
    Events,
    Frame,
    FrameError,
    Gone,
    Hello,
    KeptPlugin,
    KillRun,
    Log,
    Look,
    NodeBye,
    NotStarted,
    Ping,
    Plugin,
    Pong,
    Ready,
    Run,
    Said,
    Start,
    Started,
    Stdin,
    StdinEof,
    StopRun,
    SupervisorBye,
    SupervisorHello,
    Task,
    Window,
)


class _Form:
    """The bytes of one type of frame."""

    def __init__(self, number: int, record: type[Any], fixed: str, limits: Sequence[int] = ()) -> None:
        """`fixed`: the numbers before the lengths of the blobs, as `struct` has them; `limits`: of each blob."""
        self.record = record
        self._body = struct.Struct(f"<{fixed}{len(limits)}I")
        self._start = struct.Struct(f"<IB{fixed}{len(limits)}I")
        self.number = number
        self._limits = limits
        self._numbers = len(record._fields) - len(limits)

    def encode(self, frame: Any) -> bytes:
        """Raises FrameError for a blob or a whole that is too large."""
        numbers = self._numbers
        if not self._limits:
            return self._start.pack(self._body.size + 1, self.number, *frame)
        blobs = frame[numbers:]
        lengths = [len(blob) for blob in blobs]
        size = self._body.size + 1 + sum(lengths)
        if any(map(operator.gt, lengths, self._limits)):
            for length, limit, name in zip(lengths, self._limits, self.record._fields[numbers:], strict=True):
                if length > limit:
                    raise FrameError(f"expected {name} of at most {limit} bytes, found {length}")
        if size > FRAME_MAX:
            raise FrameError(f"expected a frame of at most {FRAME_MAX} bytes, found {size}")
        return b"".join((self._start.pack(size, self.number, *frame[:numbers], *lengths), *blobs))

    def decode(self, data: memoryview) -> Any:
        """`data`: the body. Raises FrameError."""
        try:
            numbers = self._body.unpack_from(data)
        except struct.error:
            name = self.record.__name__
            raise FrameError(f"expected {name} with {self._body.size} bytes or more, found {len(data)}") from None
        if not self._limits:
            return tuple.__new__(self.record, numbers)  # `_make` without its steps in Python: each task has some
        lengths = numbers[self._numbers :]
        position = self._body.size
        blobs = []
        for length, limit in zip(lengths, self._limits, strict=True):
            if not length:
                blobs.append(b"")
                continue
            if length > limit or length > len(data) - position:
                raise FrameError(f"{self.record.__name__} has a blob of {length} bytes, more than there may be")
            blobs.append(bytes(data[position : position + length]))
            position += length
        return tuple.__new__(self.record, (*numbers[: self._numbers], *blobs))


_ANY = FRAME_MAX
_ID_MAX = 1024  # bytes of an id or a key
_WORDS_MAX = 4096
_LEFT_MAX = 2**16

_FORMS = {
    Hello: _Form(1, Hello, "HHQQ", (_ID_MAX, _ID_MAX, _ID_MAX)),
    Plugin: _Form(2, Plugin, "IBQQQIIIB", (_WORDS_MAX, _ANY, _ANY, _LEFT_MAX, 4096, PLUGIN_NOTE_MAX)),
    Start: _Form(3, Start, "QIQQQQQB", (NOTE_MAX, _ANY, _WORDS_MAX, PART_MAX)),
    Task: _Form(4, Task, "QIQQQQQ", (NOTE_MAX, PART_MAX)),
    Stdin: _Form(5, Stdin, "Q", (PART_MAX,)),
    StdinEof: _Form(6, StdinEof, "Q"),
    StopRun: _Form(7, StopRun, "QB"),
    KillRun: _Form(8, KillRun, "QB"),
    Window: _Form(9, Window, "QBQQ"),
    Ack: _Form(10, Ack, "QQQQB"),
    Ping: _Form(11, Ping, "Q"),
    NodeBye: _Form(12, NodeBye, "B"),
    Look: _Form(13, Look, "", (_ID_MAX,)),
    SupervisorHello: _Form(129, SupervisorHello, "HIQQQIQ", (_ID_MAX, _WORDS_MAX, _ID_MAX)),
    KeptPlugin: _Form(130, KeptPlugin, "I", (PLUGIN_NOTE_MAX,)),
    Run: _Form(131, Run, "QIIQBQIQQQQQQQQ", (NOTE_MAX, NOTE_MAX)),
    Ready: _Form(132, Ready, ""),
    Started: _Form(133, Started, "QIQ"),
    NotStarted: _Form(134, NotStarted, "QiBB"),
    Said: _Form(135, Said, "QBQ", (PART_MAX,)),
    Events: _Form(136, Events, "QQQQBQQQQ", (PART_MAX,)),
    Closed: _Form(137, Closed, "QB"),
    End: _Form(138, End, "QIQiBBqQQQQQIQQQQQQ", (PART_MAX, PART_MAX, PART_MAX, _LEFT_MAX, _LEFT_MAX)),
    Gone: _Form(139, Gone, "Q"),
    Pong: _Form(140, Pong, "Q"),
    SupervisorBye: _Form(141, SupervisorBye, "B", (_WORDS_MAX,)),
    Log: _Form(142, Log, "B", (_WORDS_MAX,)),
}
_DECODERS: dict[int, Callable[[memoryview], Any]] = {form.number: form.decode for form in _FORMS.values()}
_LENGTH = struct.Struct("<I")
_ITEM = struct.Struct("<II")


def encode(frame: Frame) -> bytes:
    """A frame as bytes, with its length. Raises FrameError if it exceeds a limit."""
    return _FORMS[type(frame)].encode(frame)


class FrameReader:
    """Cuts what comes from a connection into frames. After a FrameError it is of no more use."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now; those of unknown types are left out. Raises FrameError."""
        data = self._rest + data if self._rest else data
        view, position = memoryview(data), 0
        try:
            while len(data) - position >= _LENGTH.size:
                (size,) = _LENGTH.unpack_from(data, position)
                if not 1 <= size <= FRAME_MAX:
                    raise FrameError(f"expected a frame of 1 to {FRAME_MAX} bytes, found one of {size}")
                begin = position + _LENGTH.size
                if len(data) - begin < size:
                    break
                position = begin + size
                decode = _DECODERS.get(data[begin])
                if decode is not None:
                    yield decode(view[begin + 1 : position])
        finally:
            self._rest = data[position:]


def packed(items: Sequence[bytes]) -> bytes:
    """A list as a blob."""
    parts = [_LENGTH.pack(len(items))]
    for item in items:
        parts += (_LENGTH.pack(len(item)), item)
    return b"".join(parts)


def unpacked(blob: bytes) -> list[bytes]:
    """The items of a list. Raises FrameError."""
    return _unpacked(blob)[0]


def unpacked_two(blob: bytes) -> tuple[list[bytes], list[bytes]]:
    """The items of a list, and those of the one behind it, if there is one. Raises FrameError."""
    first, end = _unpacked(blob)
    return first, _unpacked(blob[end:])[0] if end < len(blob) else []


def _unpacked(blob: bytes) -> tuple[list[bytes], int]:
    """The items, and where the list ends."""
    items, position = [], _LENGTH.size
    try:
        (count,) = _LENGTH.unpack_from(blob)
        for _ in range(count):
            (size,) = _LENGTH.unpack_from(blob, position)
            position += _LENGTH.size + size
            if position > len(blob):
                raise FrameError("a list is longer than its blob")
            items.append(blob[position - size : position])
    except struct.error:
        raise FrameError("a list is longer than its blob") from None
    return items, position


class Left(NamedTuple):
    """A process of a run: one that was ended after its first process, or could not be."""

    pid: int
    uid: int
    name: str


def packed_processes(processes: Sequence[Left]) -> bytes:
    """`left_over` or `ended` of an End."""
    return packed([_ITEM.pack(one.pid, one.uid) + one.name.encode() for one in processes])


def unpacked_processes(blob: bytes) -> list[Left]:
    """The same back. Raises FrameError."""
    found = []
    for item in unpacked(blob):
        if len(item) < _ITEM.size:
            raise FrameError(f"a process is described by {_ITEM.size} bytes or more, found {len(item)}")
        pid, uid = _ITEM.unpack_from(item)
        found.append(Left(pid, uid, item[_ITEM.size :].decode("utf-8", "replace")))
    return found
