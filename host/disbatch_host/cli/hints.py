"""What was probably meant by a command line that is wrong.

Responsible for: one hint for a wrong command, option or argument; none where nothing is near. Must not know: what the
commands do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import click

from disbatch_protocol.faults import near_name

# Commands as other programs call them.
_OTHER_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "add": "task push",
        "enqueue": "task push",
        "follow": "task output ID --follow",
        "init": "new",
        "log": "task output",
        "logs": "task output",
        "ls": "task list",
        "ps": "status",
        "purge": "task delete",
        "rerun": "task retry",
        "restart": "task retry",
        "result": "task show",
        "results": "task export",
        "submit": "task push",
        "tail": "task output ID --follow",
        "top": "status --watch",
        "watch": "status --watch",
        "worker": "--plugins DIR (a node is run without a command)",
        "workers": "node list",
    }
)
_WITHOUT_A_COMMAND = frozenset({"run", "serve", "start"})


def for_command(name: str, known: Iterable[str], groups: Mapping[str, Iterable[str]]) -> str:
    """For a command that does not exist. `groups`: those of the known ones that have commands below them."""
    known = list(known)
    if name in _WITHOUT_A_COMMAND:
        return "a node is run without a command: `disbatch-host --plugins DIR`"
    below = [group for group, names in groups.items() if name in names]
    if below:
        return f"did you mean '{below[0]} {name}'?"
    if name in _OTHER_WORDS:
        return f"did you mean '{_OTHER_WORDS[name]}'?"
    near = near_name(name, known)
    if near is not None:
        return f"did you mean {near!r}?"
    for group, names in groups.items():
        if near := near_name(name, names):
            return f"did you mean '{group} {near}'?"
    return f"the commands are {', '.join(known)}"


def for_subcommand(name: str, path: str, known: Iterable[str]) -> str:
    """For a command that does not exist in a group; `path` is the group's."""
    known = list(known)
    near = near_name(name, known) or next(
        (other.split()[1] for word, other in _OTHER_WORDS.items() if word == name and path.endswith(other.split()[0])),
        None,
    )
    return f"did you mean {near!r}?" if near in known else f"one of {', '.join(known)}"


def in_words(error: click.UsageError) -> str:
    """The message of an error that click has found, with our hint in the place of click's own: that one calls `--store`
    near to `--last`."""
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        options = {
            option.lstrip("-"): option
            for parameter in error.ctx.command.get_params(error.ctx)
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        }
        near = near_name(error.option_name.lstrip("-"), options)
        hint = f"; did you mean '{options[near]}'?" if near else ""
        return f"No such option '{error.option_name}'{hint}"
    if message.startswith("Got unexpected extra argument") and error.ctx is not None:
        parameters = error.ctx.command.get_params(error.ctx)
        takes_queue = any("--queue" in one.opts for one in parameters)
        extra = message.partition("(")[2].rpartition(")")[0].split()
        if takes_queue and len(extra) == 1 and not any(isinstance(one, click.Argument) for one in parameters):
            return f"{message}; did you mean '--queue {extra[0]}'?"
    return message
