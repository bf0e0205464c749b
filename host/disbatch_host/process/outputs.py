"""The three pipes that a program writes to: stdout, stderr and events.

Responsible for: reading them in blocks and telling what was read, in the right order. Must not know: what the bytes
mean, when the run ends.

Rules:
1. Reading is in blocks, whatever the lines.
2. Descriptor 3 is a different pipe from the output: between reading a block of events and telling it, everything that
   stdout and stderr hold is read and told. So everything that was written before the events comes before them.
3. The output of a short run is not watched: its end finds all of it. A full pipe holds the program up until then,
   so it is watched soon.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from disbatch_host.process.frames import Output
from disbatch_host.process.pipes import BUSY_PIPE_SIZE, READ_SIZE, OutputPipe
from disbatch_host.process.watching import Watching

_OUTPUTS = tuple(Output)


class Ends(NamedTuple):
    """How far each stream has been read."""

    stdout: int
    stderr: int
    events: int


class Listener(Protocol):
    """Is told what comes."""

    def on_block(self, stream: Output, offset: int, data: bytes) -> None:
        """A block that begins at this offset of the stream."""

    def on_close(self, stream: Output) -> None:
        """The program, and every other process that had it, has closed a stream."""


class Outputs:
    """See the module."""

    def __init__(self, descriptors: Iterable[int], watching: Watching, listener: Listener) -> None:
        """`descriptors`: of stdout, stderr and events; never blocking."""
        self._pipes = tuple([OutputPipe(*one) for one in zip(_OUTPUTS, descriptors, strict=True)])
        self._watching = watching
        self._listener: Listener | None = listener
        self._open = len(self._pipes)
        self.last_activity = watching.now()

    @property
    def are_closed(self) -> bool:
        return not self._open

    @property
    def ends(self) -> Ends:
        return Ends(*[pipe.offset for pipe in self._pipes])

    def watch(self) -> None:
        """From now on tell what comes when it comes. Doing it twice is fine."""
        for pipe in self._pipes:
            if pipe.descriptor >= 0 and not pipe.is_watched:
                pipe.is_watched = True
                self._watching.readable(pipe.descriptor, functools.partial(self._on_readable, pipe))

    def read(self) -> None:
        """Tell what is there now, but no more than the pipes hold: a busy background process must not keep us."""
        self._read(self._pipes)

    def close(self) -> None:
        """Tell nothing more. Closing twice is fine."""
        self._listener = None  # each holds the other, which only the garbage collector would free
        for pipe in self._pipes:
            if pipe.descriptor >= 0:
                self._close(pipe)

    def _on_readable(self, pipe: OutputPipe) -> None:
        data = pipe.read()
        if data is None:
            return
        if pipe.stream is Output.EVENTS:  # rule 2
            self._read(self._pipes[:2])
        if data and len(data) == READ_SIZE:
            pipe.enlarge()
        self._tell(pipe, data)

    def _read(self, pipes: Iterable[OutputPipe]) -> None:
        for pipe in pipes:
            for _ in range(BUSY_PIPE_SIZE // READ_SIZE + 1):
                data = pipe.read() if pipe.descriptor >= 0 else None
                if data is None:
                    break
                self._tell(pipe, data)

    def _tell(self, pipe: OutputPipe, data: bytes) -> None:
        if not data:
            self._close(pipe)
            if self._listener is not None:
                self._listener.on_close(pipe.stream)
            return
        self.last_activity = self._watching.now()
        offset = pipe.offset
        pipe.offset = offset + len(data)
        if self._listener is not None:
            self._listener.on_block(pipe.stream, offset, data)

    def _close(self, pipe: OutputPipe) -> None:
        self._open -= 1
        if pipe.is_watched:
            self._watching.forget(pipe.descriptor)
        pipe.close()
