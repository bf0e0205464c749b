"""The entry point: the tree of commands, the common options, and how every error ends.

Rules (cli contract):
1. `--store`, `--config`, `--plugins`, `--json` and `--debug` are taken before or after the subcommand.
2. An error is one line on stderr, whatever raised it, with the exit code of its family; a traceback only with --debug.
3. Modules of commands are imported when one of their commands is called: `task push` in a loop must start quickly.
4. Output that cannot be written is such an error too (exit code 1), unless its reader has seen enough (`| head`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from disbatch_host import __version__, suggested
from disbatch_host.cli import render, terminal
from disbatch_host.cli.exposure import hide_passwords, stores_in, without_secrets
from disbatch_host.cli.frame import INTERRUPTED, PROGRAM, Subcommands, common_options, imported, node_options
from disbatch_host.errors import DisbatchError, ExitCode, UsageError
from disbatch_host.store.url import without_passwords

# Where each command lives: name → (module, attribute, one line for --help).
_COMMANDS = {
    "check": ("check", "check", "Validate plugins."),
    "plugins": ("plugins", "plugins", "Show the plugins that a node here would serve, or what one takes."),
    "new": ("new", "new", "Write a new plugin, in the language of your choice."),
    "exec": ("exec", "exec_", "Run one task of a plugin, without a node or a database."),
    "demo": ("demo", "demo", "Show the whole thing on a temporary store with the bundled plugins."),
    "queue": ("queue", "queue", "Create, list, show, change, pause and delete queues."),
    "task": ("task", "task", "Push, list, show, cancel, retry and delete tasks, and wait for them."),
    "batch": ("batch", "batch", "List, show, wait for, retry, cancel and delete batches of tasks."),
    "node": ("node", "node", "List and show nodes, drain and stop them."),
    "status": ("status", "status", "Show the tasks of each queue by status, and which nodes are alive."),
    "web": ("web", "web", "Serve the page and the REST API, or make tokens for them."),
    "doctor": ("doctor", "doctor", "Look at this machine and its store, and say what to do about what is wrong."),
    "completion": ("completion", "completion", "Print the script for shell completion of commands and ids."),
}

_GROUPS = ("task", "queue", "batch", "node", "web")


class _Commands(click.Group):
    """Imports a command's module when the command is called, and suggests a similar name for an unknown one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        return imported(module, attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in _COMMANDS:
            from disbatch_host.cli import hints  # noqa: PLC0415  (only for a mistake)

            raise UsageError(f"no command {name!r}; {hints.for_command(name, _COMMANDS, self._groups(ctx))}")
        found, command, rest = super().resolve_command(ctx, args)
        if command is not None and ctx.resilient_parsing:  # for shell completion
            from disbatch_host.cli import known_names  # noqa: PLC0415

            known_names.furnish(command, None)
            if isinstance(command, Subcommands):
                command.furnish = known_names.furnish
        return found, command, rest

    def _groups(self, ctx: click.Context) -> dict[str, list[str]]:
        """The commands that have others below them."""
        groups = {}
        for name in _GROUPS:
            command = self.get_command(ctx, name)
            if isinstance(command, click.Group):
                groups[name] = command.list_commands(ctx)
        return groups

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
        f"{suggested.plain_hint('completion --help')} explains shell completion of commands, options and ids."
    ),
)
@common_options
@node_options
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def cli(context: click.Context, /, **for_node: Any) -> int | None:
    """Run a Disbatch execution node, or talk to a cluster with one of the commands.

    Without a command, a node runs until SIGTERM or Ctrl-C, then starts no more tasks and finishes the running ones.
    A second Ctrl-C asks those to stop at once (programs that ignore it are killed after their plugin's kill_grace,
    10 s), a third kills them.

    \b
      disbatch-host --plugins ./plugins
      disbatch-host queue create mail --class Mail::Move
      disbatch-host task push mail -p user=matt
    """
    if context.invoked_subcommand is not None:
        given = [f"--{name.replace('_', '-')}" for name, value in for_node.items() if value not in (None, False)]
        if given:
            raise UsageError(
                f"{', '.join(given)} is for running a node, not for the command {context.invoked_subcommand!r}"
            )
        return None
    from disbatch_host.cli.commands.run import run  # noqa: PLC0415

    return run(context.ensure_object(dict), for_node)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its exit code."""
    _open_missing_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    hide_passwords(arguments)
    code = _flush(_run(arguments))
    logging.shutdown()
    # Everything is closed and written. A normal interpreter exit would wait for idle threads of pymongo,
    # half a second for each command.
    os._exit(code)


def _run(arguments: list[str]) -> int:
    given: dict[str, Any] = {}
    with terminal.guarded(), suggested.started_with(lambda: without_secrets(given)):
        return _run_guarded(arguments, given)


def _run_guarded(arguments: list[str], given: dict[str, Any]) -> int:
    is_debugging = "--debug" in arguments
    urls = tuple(stores_in(arguments, os.environ))
    # Commands print what matters themselves; only nodes log (cli.run), and commands with --debug.
    logging.getLogger("disbatch_host").addHandler(logging.NullHandler())
    if is_debugging:
        logging.basicConfig(level=logging.DEBUG)
        logging.getLogger("pymongo").setLevel(logging.INFO)
    try:
        if os.environ.get("_DISBATCH_HOST_COMPLETE"):
            return _complete()
        _check_text(arguments)
        result = cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False, obj=given, color=_color())
        sys.stdout.flush()
    except click.exceptions.Abort:  # Ctrl-C, or "no" to a question before anything was done
        return INTERRUPTED
    except click.ClickException as error:
        return _say(_of_click(error, arguments), ExitCode.USAGE, urls)
    except DisbatchError as error:
        if is_debugging:
            _say_traceback(urls)
        return _say(str(error), error.exit_code, urls)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as left:
        # click leaves with 1 once nobody reads the output any more: its reader has seen enough (`| head`).
        return ExitCode.DONE if left.code == 1 else int(left.code or 0)
    except BrokenPipeError:
        return ExitCode.DONE
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in _OUTPUT_ERRORS:
            return _say(_unwritable(error), ExitCode.FAILED)
        if is_debugging:
            _say_traceback(urls)
        if _is_here_gone() and isinstance(error, FileNotFoundError):
            return _say("expected a current directory, found none", ExitCode.USAGE)
        if isinstance(error, OSError) and error.filename is not None:  # it is not this program that is wrong
            return _say(f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}", ExitCode.FAILED, urls)
        if isinstance(error, RuntimeError) and "home directory" in str(error):  # of a path that begins with ~
            return _say(_NO_HOME, ExitCode.USAGE)
        what = f"unexpected {type(error).__name__}: {error}; this is a bug, --debug shows where"
        return _say(what, ExitCode.FAILED, urls)
    return int(result) if isinstance(result, int) else ExitCode.DONE


def _complete() -> int:
    """Answer a shell that asks, through variables, how a line may continue."""
    from disbatch_host.cli.commands import completion  # noqa: PLC0415

    completion.register()
    try:
        cli.main(args=[], prog_name=PROGRAM, obj={})
    except SystemExit as done:
        return int(done.code or 0)
    except Exception:  # a traceback would appear in the middle of the command line
        return ExitCode.FAILED
    return ExitCode.DONE


# Errors of writing to a descriptor. Errors about files that we open name them; those of stores are translated.
_OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EAGAIN})


def _unwritable(error: OSError) -> str:
    why = "it is closed" if error.errno == errno.EBADF else error.strerror
    return f"the output cannot be written: {why}"


def _open_missing_streams() -> None:
    """If this process was started without one of its three streams (`>&-`), the next file to be opened would get
    its number. stdin: nothing to read. stdout: writing fails. stderr: discarded."""
    modes = {"stdin": ("r", os.O_RDONLY), "stdout": ("w", os.O_RDONLY), "stderr": ("w", os.O_WRONLY)}
    for number, (name, (mode, flags)) in enumerate(modes.items()):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _flush(code: int) -> int:
    """Flush the output. If that fails, discard it: the interpreter would try again and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            is_new = stream is sys.stdout and code == ExitCode.DONE and not isinstance(error, BrokenPipeError)
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if is_new:
                code = _say(_unwritable(error), ExitCode.FAILED)
    return code


def _check_text(arguments: list[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            byte = ord(argument[error.start]) & 0xFF
            raise UsageError(f"expected arguments in UTF-8, found byte {byte:#x} in one") from error


def _say(message: str, code: int, urls: Sequence[str] = ()) -> int:
    """`urls`: whatever may be the URL of a store, and whose secrets may be in the message."""
    line = " ".join(without_passwords(message, urls).split())
    if code != ExitCode.DONE and _is_here_gone():
        line += "; the current directory was deleted or replaced, so change to one that is there (cd)"
    with contextlib.suppress(OSError):  # nobody is left to tell
        click.echo(f"{render.style(f'{PROGRAM}:', 'red')} {line}", err=True, color=_color())
    return int(code)


def _say_traceback(urls: Sequence[str]) -> None:
    with contextlib.suppress(OSError):
        click.echo(without_passwords(traceback.format_exc(), urls), err=True, nl=False)


def _is_here_gone() -> bool:
    """Whether the current directory does not exist any more, as after a deployment that replaced it."""
    try:
        os.getcwd()  # noqa: PTH109  (without a detour, since this may be what has failed)
    except FileNotFoundError:
        return True
    return False


_NO_HOME = "expected a home directory for '~', found none; set HOME, or write the whole path"


def _color() -> bool | None:
    """None: colors if it is a terminal."""
    return False if os.environ.get("NO_COLOR") else None


def _of_click(error: click.ClickException, arguments: Sequence[str]) -> str:
    from disbatch_host.cli import hints  # noqa: PLC0415  (only for a mistake)

    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else f"{PROGRAM} {hints.path_of(arguments, cli)}".rstrip()
    message = hints.in_words(error) if isinstance(error, click.UsageError) else error.format_message().rstrip(".")
    return f"{message} (see '{path} --help')"
