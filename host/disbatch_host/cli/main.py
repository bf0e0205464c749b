"""The entry point: the tree of commands, the options that all of them take, and how every error ends.

Rules (cli contract):
1. `--store`, `--config`, `--plugins`, `--json` and `--debug` are taken before or after the subcommand.
2. An error is one line on stderr, whatever raised it, with the exit code of its family; a traceback only with --debug.
3. Modules of commands are imported when one of their commands is called: `task push` in a loop must start quickly.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from disbatch_host import __version__
from disbatch_host.cli.exposure import hide_passwords
from disbatch_host.errors import DisbatchError, ExitCode, UsageError
from disbatch_protocol.faults import near_name

_PROGRAM = "disbatch-host"
_INTERRUPTED = 130  # as a shell says it of a program ended by SIGINT

# Where each command lives: name → (module, attribute, one line for --help).
_COMMANDS = {
    "check": ("check", "check", "Validate plugins."),
    "plugins": ("check", "plugins", "Show what a node here would serve."),
    "new": ("new", "new", "Write a new plugin, in the language of your choice."),
    "exec": ("exec", "exec_", "Run one task of a plugin, without node and database."),
    "demo": ("demo", "demo", "Show the whole thing on a temporary store with the bundled plugins."),
    "queue": ("queue", "queue", "Create, list, show, change and delete queues."),
    "task": ("task", "task", "Push, list and show tasks, their output, and wait for them."),
    "node": ("nodes", "node", "List and show nodes."),
    "status": ("status", "status", "Show what waits, runs and has ended, and which nodes are alive."),
}

Function = TypeVar("Function", bound=Callable[..., Any])


def common_options(function: Function) -> Function:
    """The options that every command takes, before or after it; what is given last wins."""
    for option in reversed(
        (
            click.option("--store", metavar="URL", expose_value=False, callback=_remember, help=_HELP["store"]),
            click.option("--config", metavar="FILE", expose_value=False, callback=_remember, help=_HELP["config"]),
            click.option(
                "--plugins", metavar="DIR", multiple=True, expose_value=False, callback=_remember, help=_HELP["plugins"]
            ),
            click.option("--json", is_flag=True, expose_value=False, callback=_remember, help=_HELP["json"]),
            click.option("--debug", is_flag=True, expose_value=False, callback=_remember, help=_HELP["debug"]),
        )
    ):
        function = option(function)
    return function


_HELP = {
    "store": "Where the tasks are: sqlite:///path/to/file.db or mongodb://host/database.",
    "config": "A JSON file with the options' names as keys.",
    "plugins": "A directory of plugins; may be given several times. Default: ./plugins.",
    "json": "Print JSON, one document a line.",
    "debug": "Show a traceback where something fails.",
}


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    options: dict[str, Any] = context.find_root().ensure_object(dict)
    if value not in (None, (), False):
        options[str(parameter.name)] = value


class _Commands(click.Group):
    """Finds a command's module when the command is called, and the near name of one that there is not."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"disbatch_host.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in _COMMANDS:
            near = near_name(name, _COMMANDS)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(_COMMANDS)}"
            raise UsageError(f"no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table, so that --help does not import every module.
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Exit codes: 0 done, 1 the thing asked about failed, 2 wrong use, 3 the store cannot be reached or refuses, "
        "4 no such queue, task, node or plugin, 5 node id in use.\n\n"
        "\b\nShell completion (or zsh_source, fish_source):\n"
        '  eval "$(_DISBATCH_HOST_COMPLETE=bash_source disbatch-host)"'
    ),
)
@common_options
@click.option("--node-id", metavar="ID", help="Of this node; unique in the cluster. Default: from the host name.")
@click.option(
    "--max", type=click.IntRange(1), metavar="N", help="Most tasks at once of a queue without maxthreads (10)."
)
@click.option("--max-total", type=click.IntRange(1), metavar="N", help="Most tasks at once on this node.")
@click.option("--force", is_flag=True, help="Take over a node id that looks alive.")
@click.option(
    "--stop-grace", metavar="S", help="On an orderly stop, how long running tasks may go on (default: to their end)."
)
@click.option("--heartbeat", metavar="S", help="Interval of the heartbeat (1).")
@click.option("--dead-after", metavar="S", help="Age of its heartbeat at which others take this node for dead (30).")
@click.option("--until-idle", is_flag=True, help="Leave when no task of a queue it serves is waiting or running.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged (info).")
@click.version_option(__version__, prog_name=_PROGRAM)
@click.pass_context
def cli(context: click.Context, /, **node_options: Any) -> int | None:
    """Run a Disbatch execution node, or talk to a cluster with one of the commands.

    Without a command, a node runs until SIGTERM or Ctrl-C:

    \b
      disbatch-host --plugins ./plugins
      disbatch-host queue create mail --class Mail::Move
      disbatch-host task push mail -p user=matt
    """
    if context.invoked_subcommand is not None:
        given = [f"--{name.replace('_', '-')}" for name, value in node_options.items() if value not in (None, False)]
        if given:
            raise UsageError(
                f"{', '.join(given)} is for running a node, not for the command {context.invoked_subcommand!r}"
            )
        return None
    from disbatch_host.cli.run import run  # noqa: PLC0415

    return run(context.ensure_object(dict), node_options)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    hide_passwords(arguments)
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    is_debugging = "--debug" in arguments
    # Commands say what there is to say themselves; only a node logs (cli.run), and whoever asks for details.
    logging.getLogger("disbatch_host").addHandler(logging.NullHandler())
    if is_debugging:
        logging.basicConfig(level=logging.DEBUG)
        logging.getLogger("pymongo").setLevel(logging.INFO)
    try:
        result = cli.main(args=arguments, prog_name=_PROGRAM, standalone_mode=False, obj={})
        sys.stdout.flush()
    except click.exceptions.Abort:
        return _INTERRUPTED
    except click.ClickException as error:
        return _say(_of_click(error), ExitCode.USAGE)
    except DisbatchError as error:
        if is_debugging:
            traceback.print_exc()
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough (`| head`). Keep the interpreter from flushing into the pipe once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except Exception as error:
        if is_debugging:
            raise
        return _say(
            f"unexpected {type(error).__name__}: {error}; this is a defect, --debug shows where", ExitCode.FAILED
        )
    return int(result) if isinstance(result, int) else ExitCode.DONE


def _say(message: str, code: int) -> int:
    line = " ".join(message.split())
    click.echo(f"{click.style(f'{_PROGRAM}:', fg='red')} {line}", err=True)
    return int(code)


def _of_click(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else _PROGRAM
    message = error.format_message().rstrip(".")
    return f"{message} (see '{path} --help')"
