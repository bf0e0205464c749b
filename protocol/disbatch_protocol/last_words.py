"""The line of a program's output that says why it failed. Pure.

Responsible for: choosing among the last lines of stderr, or the lines of a message. Must not know: where the text comes
from, what is made of the line.

Rules:
1. Each line is looked at by itself and only a part of it, so the time is linear in the text, whatever is in it.
2. A line that is a guess is better than none: where all lines are noise, the last one that is not blank is taken.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

_LOOKED_AT = 300  # characters of a line; what makes it noise is at its beginning

# Lines that follow the reason or repeat that there is one. A progress bar is one that a program has ended with a line
# feed; the earlier states of one, overwritten by carriage returns, are cut before.
_NOISE = (
    r"Traceback \(most recent call last\)",
    r"During handling of the above exception|The above exception was the direct cause",
    r"(?:Killed|Terminated|Aborted|Hangup|Quit|Interrupt)(?: \(core dumped\))?\.?\s*$",
    r"[^:]{1,200}: line [0-9]+: +[0-9]+ (?:Killed|Terminated|Hangup|Quit)\b",  # bash, of a child
    r"\++ ",  # set -x
    r"exit status [0-9]+\s*$",
    r"g?make(?:\[[0-9]+\])?: (?:\*\*\*|Leaving directory|Entering directory)",
    r"npm (?:ERR!|error)",
    r"goroutine [0-9]+ \[|created by |main\.main\(\)\s*$",  # Go
    r"note: run with `RUST_BACKTRACE",
    r"Node\.js v[0-9]",
    r"Stack trace:|#[0-9]+ |\.\.\. [0-9]+ more\s*$|at [^ ]+ ?\(",  # PHP, Java, JavaScript
    r"[^A-Za-z]{0,40}\b[0-9]{1,3}(?:\.[0-9]+)? ?%[ |\[(=#>\u2500-\u25ff]",  # a progress bar
    r"\[[=#>. -]{5,}\]",
)


@functools.cache
def _noise() -> re.Pattern[str]:
    return re.compile("|".join(_NOISE))


def meaningful_line(text: str) -> str:
    """The line that says why, without blanks around it; empty if all of the text is blank.

    The exception of the last Python traceback; the `panic:` above a Go routine; else the last line that is not noise,
    rather one that is not indented.
    """
    lines = [one for line in text.split("\n") if (one := _as_seen(line)).strip()]
    found = _of_traceback(lines) or _of_panic(lines) or _last_of(lines)
    return found.strip()


def _as_seen(line: str) -> str:
    """What a terminal shows of a line that was written over again and again."""
    if "\r" not in line:
        return line
    return next((part for part in reversed(line.split("\r")) if part.strip()), "")


def _of_traceback(lines: Sequence[str]) -> str:
    """Its message may have further lines, and so the last one is not always the one with the type."""
    begin = _last_that_begins(lines, "Traceback (most recent call last)")
    if begin is None:
        return ""
    return next((one for one in lines[begin + 1 :] if not one[0].isspace()), "")


def _of_panic(lines: Sequence[str]) -> str:
    begin = _last_that_begins(lines, "panic: ", "fatal error: ")
    if begin is None or not any(one.startswith("goroutine ") for one in lines[begin:]):
        return ""
    return lines[begin]


def _last_that_begins(lines: Sequence[str], *words: str) -> int | None:
    return next((at for at in range(len(lines) - 1, -1, -1) if lines[at].startswith(words)), None)


def _last_of(lines: Sequence[str]) -> str:
    said = [one for one in lines if not _is_noise(one)]
    flush = (one for one in reversed(said) if not one[0].isspace())
    return next(flush, "") or (said[-1] if said else lines[-1] if lines else "")


def _is_noise(line: str) -> bool:
    head = line.strip()[:_LOOKED_AT]
    return not any(one.isalpha() for one in head) or _noise().match(head) is not None
