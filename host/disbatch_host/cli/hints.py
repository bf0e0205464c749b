"""What was probably meant by a command line that is wrong.

Responsible for: one hint for a wrong command, option or argument; none where nothing is near. Must not know: what the
commands do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import click

from disbatch_host import suggested
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
# Commands below a group, likewise.
_SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "del": "delete",
        "describe": "show",
        "get": "show",
        "info": "show",
        "kill": "cancel",
        "ls": "list",
        "remove": "delete",
        "rm": "delete",
        "status": "show",
        "unpause": "resume",
    }
)
_WITHOUT_A_COMMAND = frozenset({"run", "serve", "start"})


def for_command(name: str, known: Iterable[str], groups: Mapping[str, Iterable[str]]) -> str:
    """For a command that does not exist. `groups`: those of the known ones that have commands below them."""
    known = list(known)
    if name in _WITHOUT_A_COMMAND:
        return f"a node is run without a command: {suggested.a_node([])}"
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
    if (same := _SYNONYMS.get(name)) in known:
        return f"did you mean {same!r}?"
    group, _, below = _OTHER_WORDS.get(name, "").partition(" ")
    other = below.split(" ")[0]
    if other in known and path.endswith(group):
        return f"did you mean {other!r}?"
    if other.isalpha() and group.isalpha():
        return f"did you mean '{group} {below}'?"
    near = near_name(name, known)
    return f"did you mean {near!r}?" if near in known else f"one of {', '.join(known)}"


def in_words(error: click.UsageError) -> str:
    """The message of an error that click has found, in the form of all others: what was expected, what was found, what
    to do. Its own hints call `--store` near to `--last`."""
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        options = {
            option.lstrip("-"): option
            for parameter in error.ctx.command.get_params(error.ctx)
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        }
        near = near_name(error.option_name.lstrip("-"), options)
        if near is None and (elsewhere := _filter_elsewhere(error.option_name, error.ctx)) is not None:
            return f"{error.ctx.command_path!r} does not take {error.option_name}; {elsewhere}"
        hint = f"; did you mean '{options[near]}'?" if near else ""
        return f"No such option '{error.option_name}'{hint}"
    if isinstance(error, click.MissingParameter) and error.param is not None and error.ctx is not None:
        return _missing(error.param, error.ctx)
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{_name_of(error.param)}: {error.message.rstrip('.')}"
    if isinstance(error, click.BadOptionUsage):
        if "not take a value" in message:
            return f"{error.option_name}: expected no value after it, found one; write {error.option_name} alone"
        return f"{error.option_name}: expected a value after it, found nothing"
    if message.startswith("Got unexpected extra argument") and error.ctx is not None:
        parameters = error.ctx.command.get_params(error.ctx)
        takes_queue = any("--queue" in one.opts for one in parameters)
        extra = message.partition("(")[2].rpartition(")")[0]
        message = f"expected {_arguments_of(error.ctx)} after '{error.ctx.command_path}', found {extra} as well"
        if takes_queue and len(extra.split()) == 1 and not any(isinstance(one, click.Argument) for one in parameters):
            return f"{message}; did you mean '--queue {extra}'?"
    return message


def _filter_elsewhere(option: str, context: click.Context) -> str | None:
    """For a filter of tasks that a command does not take: the command that does."""
    from disbatch_host.cli import selection  # noqa: PLC0415  (only for this mistake)

    _, _, path = context.command_path.partition(" ")
    group, _, name = path.partition(" ")
    if group not in ("task", "batch") or not selection.takes(option):
        return None
    if group == "batch":
        root = context.find_root().command
        tasks = root.get_command(context, "task") if isinstance(root, click.Group) else None
        same = tasks.get_command(context, name) if isinstance(tasks, click.Group) else None
        if same is not None and any(option in one.opts for one in same.params):
            return f"{suggested.hint(f'task {name} --batch ID', option, *_VALUE_OF.get(option, ['VALUE']))} does"
    return f"{suggested.hint('task list', option, *_VALUE_OF.get(option, ['VALUE']))} shows such tasks with their ids"


_VALUE_OF = {"--failed": [], "--where": ["PATH=VALUE"], "--status": ["failed"]}


def path_of(arguments: Sequence[str], command: click.Command) -> str:
    """The command that is called, as it was typed, for an error of click that does not name it."""
    path = []
    context = click.Context(command)
    for word in arguments:
        if isinstance(command, click.Group) and word in command.list_commands(context):
            path.append(word)
            command = command.get_command(context, word) or command
    return " ".join(path)


def _missing(parameter: click.Parameter, context: click.Context) -> str:
    expected = getattr(parameter.type, "expected", None)
    if isinstance(parameter, click.Argument):
        more = f", {expected}" if expected else ""
        return f"expected {_name_of(parameter)}{more} after '{context.command_path}', found nothing"
    return f"{_name_of(parameter)}: expected {expected or parameter.make_metavar(context)}, found nothing"


def _arguments_of(context: click.Context) -> str:
    names = [_name_of(one) for one in context.command.get_params(context) if isinstance(one, click.Argument)]
    return f"only {' '.join(names)}" if names else "no argument"


def _name_of(parameter: click.Parameter) -> str:
    """The longest form of an option, or the name of an argument."""
    if isinstance(parameter, click.Argument):
        return parameter.metavar or str(parameter.name).upper()
    return max(parameter.opts, key=len)
