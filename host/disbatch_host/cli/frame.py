"""The framework of the commands: the common options, those of a node, and groups of commands.

Responsible for: turning the table of settings into options, and finding commands in their modules. Must not know:
which commands there are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from disbatch_host import suggested
from disbatch_host.cli.kinds import OneOf, Whole
from disbatch_host.errors import UsageError
from disbatch_host.settings.table import SETTINGS, Kind, Setting

PROGRAM = suggested.PROGRAM
INTERRUPTED = 130  # a shell's exit code for a program ended by SIGINT

Function = TypeVar("Function", bound=Callable[..., Any])
_Option = Callable[[Any], Any]


def common_options(function: Function) -> Function:
    """The options that every command takes, before or after it; the last value wins."""
    options = [
        *(_option_of(one, expose_value=False, callback=_remember) for one in SETTINGS if one.is_for_every_command),
        click.option("--json", is_flag=True, expose_value=False, callback=_remember, help=_JSON_HELP),
        click.option("--debug", is_flag=True, expose_value=False, callback=_remember, help=_DEBUG_HELP),
    ]
    return _with(options, function)


def node_options(function: Function) -> Function:
    """The options for running a node."""
    return _with([_option_of(one) for one in SETTINGS if not one.is_for_every_command], function)


_JSON_HELP = "Print JSON, one document per line."
_DEBUG_HELP = "Show a traceback if something fails."


def _with(options: Iterable[_Option], function: Function) -> Function:
    for option in reversed(list(options)):
        function = option(function)
    return function


def _option_of(setting: Setting, **more: Any) -> _Option:
    if setting.kind is Kind.FLAG:
        return click.option(setting.option, is_flag=True, help=setting.help, **more)
    if setting.kind is Kind.CHOICE:
        more["type"] = OneOf(setting.choices)
    elif setting.kind is Kind.COUNT:
        more["type"] = Whole(1)
    is_multiple = setting.kind is Kind.DIRECTORIES
    return click.option(setting.option, metavar=setting.metavar, multiple=is_multiple, help=setting.help, **more)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    options: dict[str, Any] = context.find_root().ensure_object(dict)
    name = str(parameter.name)
    if value in (None, (), False):
        return
    if value == "" or (parameter.multiple and "" in value):
        raise UsageError(
            f"--{name}: expected {parameter.make_metavar(context)}, found an empty text; is a variable unset?"
        )
    options[name] = (*options.get(name, ()), *value) if parameter.multiple else value


class Subcommands(click.Group):
    """A group of commands; called without one, it prints one line that lists them.

    `elsewhere`: commands in modules of their own, imported when called; name → module.attribute below
    `cli.commands`. `furnish` adds completion to a command's parameters when a shell asks for it.
    """

    def __init__(self, *arguments: Any, elsewhere: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(*arguments, **{"no_args_is_help": False, **more})
        self._elsewhere = elsewhere or {}
        self.furnish: Callable[[click.Command, str | None], Any] | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._elsewhere})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._elsewhere.get(cmd_name)
        return super().get_command(ctx, cmd_name) if place is None else imported(*place.split("."))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0] if args else ""
        if word and not word.startswith("-") and not ctx.resilient_parsing and word not in self.list_commands(ctx):
            from disbatch_host.cli import hints  # noqa: PLC0415  (only for a mistake)

            hint = hints.for_subcommand(word, ctx.command_path, self.list_commands(ctx))
            raise UsageError(f"no command {word!r} after '{ctx.command_path}'; {hint}")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and self.furnish is not None:
            self.furnish(command, self.name)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if error.ctx is ctx and error.message.startswith("Missing command"):
                there_are = ", ".join(self.list_commands(ctx))
                raise UsageError(f"expected a command after '{ctx.command_path}': one of {there_are}") from None
            raise


def imported(module: str, attribute: str) -> click.Command:
    """A command from a module below `cli.commands`, imported now."""
    command: click.Command = getattr(importlib.import_module(f"disbatch_host.cli.commands.{module}"), attribute)
    return command
