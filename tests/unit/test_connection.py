"""`SocketLink`: frames on a socket without waiting, and finding the program."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from disbatch_host.process import connection
from disbatch_host.process.connection import SocketLink, SupervisorError
from disbatch_host.process.frames import FRAME_MAX, FrameError, Ping, Pong, Stdin, SupervisorBye
from disbatch_host.process.framing import FrameReader, encode
from disbatch_host.process.link import LinkClosedError


def pair() -> tuple[SocketLink, socket.socket]:
    own, other = socket.socketpair()
    return SocketLink(own), other


def test_more_than_the_socket_takes_waits_here_and_goes_with_receive() -> None:
    """The other side reads nothing until everything was said."""
    link, other = pair()
    frames = [Stdin(1, bytes([n % 256]) * 2**16) for n in range(100)]
    for frame in frames:
        link.send(frame)
    link.flush()
    heard: list[object] = []
    reader = FrameReader()
    while len(heard) < len(frames):
        heard += reader.feed(other.recv(2**20))
        assert link.receive() == []
    assert heard == frames
    link.close()
    other.close()


def test_it_reads_while_it_cannot_write() -> None:
    link, other = pair()
    link.send(Stdin(1, b"x" * 2**16))
    for _ in range(20):
        link.send(Stdin(1, b"x" * 2**16))
    link.flush()
    other.send(encode(Pong(7)))
    assert link.receive() == [Pong(7)]
    link.close()
    other.close()


def test_a_frame_beyond_its_limits_is_refused_and_nothing_of_it_is_sent() -> None:
    link, other = pair()
    with pytest.raises(FrameError):
        link.send(Stdin(1, b"x" * FRAME_MAX))
    link.send(Ping(1))
    link.flush()
    assert other.recv(2**20) == encode(Ping(1))
    link.close()
    other.close()


def test_the_last_words_come_before_the_end() -> None:
    link, other = pair()
    bye = SupervisorBye(1, b"another node is here")
    other.send(encode(Pong(1)) + encode(bye))
    other.close()
    assert link.receive() == [Pong(1), bye]
    with pytest.raises(LinkClosedError, match="another node is here"):
        link.receive()
    link.close()
    link.close()


def test_what_was_sent_to_a_closed_socket_does_not_hide_what_it_said_last() -> None:
    link, other = pair()
    other.send(encode(Pong(1)))
    other.close()
    link.send(Ping(2))
    link.flush()
    assert link.receive() == [Pong(1)]
    with pytest.raises(LinkClosedError):
        link.receive()
    link.close()


def test_a_broken_rule_is_an_error() -> None:
    link, other = pair()
    other.send(b"\0\0\0\0\0")
    with pytest.raises(FrameError):
        link.receive()
    link.close()
    other.close()


def test_where_nobody_listens_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connection.connect_in(tmp_path)
    stale = socket.socket(socket.AF_UNIX)
    directory = os.open(tmp_path, os.O_PATH)
    stale.bind(f"/proc/self/fd/{directory}/socket")
    os.close(directory)
    stale.close()
    with pytest.raises(ConnectionRefusedError):
        connection.connect_in(tmp_path)


def test_a_program_that_is_missing_or_does_not_work_is_said_in_words(tmp_path: Path) -> None:
    program = tmp_path / "program"
    assert "no C compiler" in str(connection.why_not_usable(program))
    program.write_text("#!/bin/sh\necho 'disbatch-supervisor: cannot work here: no pidfd' >&2; exit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert connection.why_not_usable(program) == "cannot work here: no pidfd"
    with pytest.raises(SupervisorError, match="no pidfd"):
        connection.start_in(tmp_path / "home", program)
    program.chmod(0o600)
    if os.geteuid() != 0:
        assert "cannot be executed" in str(connection.why_not_usable(program))
