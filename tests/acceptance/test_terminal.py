"""How things look on a real terminal: ids whole, one line a thing, colors only where they are wanted."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.conftest import PROGRAM, Terminal

Plugin = Callable[..., Path]


def on_terminal(terminal: Terminal, columns: int, *arguments: str, **environment: str) -> str:
    """What a command shows on a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    settings = {name: value for name, value in terminal.environment.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [str(PROGRAM), *arguments], cwd=terminal.directory, stdin=slave, stdout=slave, stderr=slave,
        env={**settings, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while True:
        try:
            block = os.read(master, 65536)
        except OSError:  # as Linux says that the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(master)
    assert process.wait(30) == 0, shown
    return shown.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture
def failed(terminal: Terminal, plugin: Plugin) -> Terminal:
    plugin("bad", "echo 'fatal: /no/such/mailbox/of/anybody could not be opened' >&2; exit 3")
    terminal.fine("queue", "create", "a-queue-with-a-long-name", "--class", "bad")
    terminal.fine("task", "push", "a-queue-with-a-long-name", "-", stdin="{}\n{}\n")
    terminal.fine("--until-idle")
    return terminal


def test_a_wide_terminal_shows_a_line_a_task(failed: Terminal) -> None:
    lines = plain(on_terminal(failed, 160, "task", "list")).splitlines()
    assert len(lines) == 3 and all(line.endswith("could not be opened") for line in lines[1:])


@pytest.mark.parametrize("columns", [60, 80])
def test_a_narrow_terminal_shows_ids_whole_and_the_error_below(failed: Terminal, columns: int) -> None:
    ids = [one["_id"] for one in failed.fine("task", "list", "--json").json]
    lines = plain(on_terminal(failed, columns, "task", "list")).splitlines()
    assert [line[:24] for line in lines[1::2]] == ids
    assert all(line.startswith("    fatal: /no/such/mailbox") and len(line) <= columns for line in lines[2::2])


def test_colors_are_left_out_where_they_are_not_wanted(failed: Terminal) -> None:
    assert "\x1b[" in on_terminal(failed, 80, "task", "list")
    assert "\x1b[" not in on_terminal(failed, 80, "task", "list", NO_COLOR="1")


def test_a_server_that_does_not_answer_is_waited_for_audibly(terminal: Terminal) -> None:
    url = "mongodb://u:s3cret@127.0.0.1:1/x?serverSelectionTimeoutMS=2500"
    with pytest.raises(AssertionError) as failure:
        on_terminal(terminal, 80, "status", "--store", url)
    text = str(failure.value)
    assert "connecting to mongodb://u:***@127.0.0.1:1/x?serverSelectionTimeoutMS=2500 ..." in text
    assert "s3cret" not in text


def test_binary_output_goes_into_a_file_and_not_to_a_terminal(terminal: Terminal, plugin: Plugin) -> None:
    plugin("picture", "printf '\\377\\330\\033]0;owned\\007'", encoding={"stdout": "binary"})
    terminal.fine("queue", "create", "q", "--class", "picture")
    task_id = terminal.fine("task", "push", "q").out.strip()
    terminal.fine("--until-idle")
    with pytest.raises(AssertionError) as failure:
        on_terminal(terminal, 200, "task", "output", task_id)
    assert "owned" not in str(failure.value) and f"disbatch-host task output {task_id} > FILE" in str(failure.value)
    assert on_terminal(terminal, 80, "task", "output", task_id, "--stderr") == ""
    printed = subprocess.run(
        [str(PROGRAM), "task", "output", task_id], cwd=terminal.directory, env=terminal.environment,
        capture_output=True, check=True,
    )  # fmt: skip
    assert printed.stdout == b"\xff\xd8\x1b]0;owned\x07"
    assert "is not text" in terminal.refused(2, "task", "output", task_id, "--json")
    shown = terminal.fine("task", "show", task_id).out
    assert "disbatch-host: 12 bytes, not text" in shown and "> FILE" in shown


def test_a_program_tried_by_hand_has_the_mask_and_the_input_that_it_has_on_a_node(
    terminal: Terminal, plugin: Plugin
) -> None:
    plugin("asks", 'umask; if read -r answer; then echo "$answer"; else echo none; fi', protocol=2, stdin="null")
    mask = os.umask(0o077)
    try:
        assert terminal.as_process.fine("exec", "asks").out == "0022\nnone\n"
    finally:
        os.umask(mask)
    assert "stdin      /dev/null" in terminal.fine("exec", "asks", "--show-input").out


def test_a_check_shows_which_trial_is_running(terminal: Terminal, plugin: Plugin) -> None:
    """Incident: a plugin that hung kept a terminal without a word for 70 s."""
    plugin("Slow", "sleep 0.3", examples=[{"name": "takes its time", "parameters": {}}])
    assert "trying Slow: example takes its time" in plain(on_terminal(terminal, 80, "check", "--run", "Slow"))
