"""`--help` of every command: it has examples, and they are commands that exist."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator

import click
import pytest

from disbatch_host.cli.main import cli


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, (path, name)
            yield from commands(found, (*path, name))


ALL = list(commands(cli))
LEAVES = [(path, one) for path, one in ALL if not path or not isinstance(one, click.Group)]


def examples(command: click.Command) -> list[str]:
    """The lines of a help text that are to be typed, each up to where the shell takes over."""
    lines = inspect.cleandoc(command.help or "").splitlines()
    found = [line.strip() for line in lines if re.search(r"^\s*(\S.*\| |eval \"\$\()?disbatch-host( |$)", line)]
    return [line for line in found if not line.endswith((".", ":", ","))]


def calls(line: str) -> list[list[str]]:
    """What the program is given, once for each call in a pipe: without redirections and comments."""
    return [arguments(part) for part in re.split(r"\s\|\s", line) if "disbatch-host" in part]


def arguments(command: str) -> list[str]:
    command = command.removeprefix('eval "$(').removesuffix(')"')
    words = shlex.split(command, comments=True)[1:]
    for mark in ("<", ">", ">>", "&&", ";", "&"):
        words = words[: words.index(mark)] if mark in words else words
    return words


def parse(words: list[str]) -> click.Context:
    """Everything up to the call itself, as the program does it."""
    context = cli.make_context("disbatch-host", list(words), obj={})
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        if not rest:
            break
        name, command, left = context.command.resolve_command(context, rest)
        assert name is not None and command is not None
        context = command.make_context(name, left, parent=context)
    return context


@pytest.mark.parametrize(
    ("path", "command"), LEAVES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_an_example_that_parses(path: tuple[str, ...], command: click.Command) -> None:
    found = examples(command)
    assert found, f"'disbatch-host {' '.join(path)} --help' has no example"
    called = [(words, parse(words).command) for line in found for words in calls(line)]
    assert any(words and (not path or one is command) for words, one in called), found


@pytest.mark.parametrize(
    "words",
    [
        *(("task", one) for one in ("cancel", "retry", "release", "delete", "set", "import", "export", "why")),
        *(("queue", one) for one in ("pause", "resume")),
        *(("node", one) for one in ("drain", "resume", "stop")),
    ],
    ids=" ".join,
)
def test_what_changes_tasks_queues_and_nodes_is_among_them(words: tuple[str, ...]) -> None:
    assert words in {path for path, _ in LEAVES}


@pytest.mark.parametrize(
    ("path", "command"), ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_option_says_what_it_is(path: tuple[str, ...], command: click.Command) -> None:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"'disbatch-host {' '.join(path)} {parameter.opts[0]}' has no help"
    assert command.help and command.get_short_help_str()


def test_an_example_that_does_not_parse_is_found() -> None:
    with pytest.raises(click.UsageError):
        parse(arguments("disbatch-host task list --no-such-option"))
    with pytest.raises(click.UsageError):
        parse(arguments("disbatch-host queue show"))


@pytest.mark.parametrize(("path", "command"), LEAVES)
def test_every_value_that_is_not_a_text_says_what_was_expected(path: tuple[str, ...], command: click.Command) -> None:
    """Incident: `--priority high` was answered with "'high' is not a valid integer range"."""
    for parameter in command.params:
        is_text = isinstance(parameter.type, (click.types.StringParamType, click.types.BoolParamType))
        assert is_text or hasattr(parameter.type, "expected"), (path, parameter.name, parameter.type)
