"""What the log says of an error: its code and last line, and no secret of the task in it, whole or cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.node.end_log import line_of, masked
from disbatch_protocol.masks import MASK


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (None, ""),
        ("first\nuser matt not found\n", "user matt not found"),
        ("disbatch-host: it ended with exit code 3", "it ended with exit code 3"),
        ("Traceback\nMemoryError\ndisbatch-host: limits.memory is 64 MiB", "MemoryError; limits.memory is 64 MiB"),
        ("disbatch-host: signal ABRT\ndisbatch-host: limits.memory is 64 MiB", "signal ABRT; limits.memory is 64 MiB"),
    ],
)
def test_the_line_of_an_error_has_the_words_of_both(message: str | None, line: str) -> None:
    """The hint at a limit of memory stood alone, without a word of the program's."""
    assert line_of(message) == line


@pytest.mark.parametrize(
    ("text", "secrets", "left"),
    [
        ("user matt not found", [], "user matt not found"),
        ("login with hunter2 failed", ["hunter2"], f"login with {MASK} failed"),
        ("nter2 was refused", ["hunter2"], f"{MASK} was refused"),  # the beginning of the line was cut
        ("refused: hunte", ["hunter2"], f"refused: {MASK}"),
        ("hunter22 and hunter2", ["hunter2", "hunter22"], f"{MASK} and {MASK}"),
        ("er2 is too short a part to be told", ["hunter2"], "er2 is too short a part to be told"),
        ("nothing", [""], "nothing"),
    ],
)
def test_secrets_are_masked_whole_and_cut(text: str, secrets: list[str], left: str) -> None:
    assert masked(text, secrets) == left


@given(st.text(max_size=40), st.text(min_size=1, max_size=20), st.text(max_size=40))
def test_no_secret_is_left(before: str, secret: str, after: str) -> None:
    left = masked(f"{before}{secret}{after}", [secret])
    assert secret not in left or secret in MASK or secret in f"{before}{MASK}{after}"
