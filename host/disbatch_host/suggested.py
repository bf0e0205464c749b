"""Commands that people are told to type, written so that each can be pasted into a shell.

Responsible for: their form, the quoting, and the options that this process was started with as far as the command needs
them: without `--store` it would ask another store. Must not know: which commands there are.

Rules:
1. What is known is written out; a word in capital letters stands for what only the reader knows (`queue create ID`).
2. What other people read, on a page or in the store, has nothing of this process: `command`, or `hint` where
   `started_with` is not in force, which it is for the commands of a terminal alone.
3. An option with a password is left out, since passwords are never printed.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar

PROGRAM = "disbatch-host"
Options = Mapping[str, str | Sequence[str]]  # by name, as they were given

_OF_STORE = ("store", "config")
_OF_PLUGINS = ("plugins", "config")
_WITH_PLUGINS = frozenset({"check", "exec", "new", "plugins"})  # the commands that are about them


def command(line: str, *words: object) -> str:
    """`line` is taken as it is, `words` are quoted: `command("task why", task_id)`."""
    return " ".join([PROGRAM, line, *(shlex.quote(str(one)) for one in words)])


def hint(line: str, *words: object, then: str = "") -> str:
    """Likewise, with the options of this process, in backquotes. `then`: the rest of the line, for the shell."""
    return f"`{' '.join([command(line, *words), *_options_for(line)])}{then}`"


def typed(line: str, *words: object) -> str:
    """As `hint`, without the backquotes."""
    return hint(line, *words)[1:-1]


def a_node(directories: Sequence[object]) -> str:
    """The command that runs a node with these directories of plugins, as `hint`."""
    return hint("--plugins", *_between("--plugins", directories)) if directories else hint("--plugins DIR")


def _between(option: str, values: Sequence[object]) -> list[object]:
    return [one for value in values for one in (option, value)][1:]


def plain_hint(line: str, *words: object) -> str:
    """As `hint`, with nothing of this process: for a text that is stored."""
    return f"`{command(line, *words)}`"


@contextlib.contextmanager
def started_with(options: Callable[[], Options]) -> Iterator[None]:
    """For the length of the block, what is suggested has these options. They are asked for when it is."""
    token = _OPTIONS.set(options)
    try:
        yield
    finally:
        _OPTIONS.reset(token)


def for_others() -> contextlib.AbstractContextManager[None]:
    """For the length of the block, what is suggested is read by other people, or elsewhere."""
    return started_with(dict)


def _options_for(line: str) -> list[str]:
    given = _OPTIONS.get()()
    found = []
    for name in _OF_PLUGINS if line.split(" ", maxsplit=1)[0] in _WITH_PLUGINS else _OF_STORE:
        values = given.get(name, ())
        for value in (values,) if isinstance(values, str) else values:
            found += [f"--{name}", shlex.quote(value)]
    return found


_OPTIONS: ContextVar[Callable[[], Options]] = ContextVar("started_with", default=dict)
