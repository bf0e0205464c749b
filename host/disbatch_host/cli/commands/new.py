"""`disbatch-host new`: creates a working plugin to start from."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.kinds import OneOf
from disbatch_host.errors import ExitCode, UsageError
from disbatch_host.plugin.new import scaffold
from disbatch_host.plugin.new.scaffold import Scaffold

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")  # as the manifest requires it


@click.command()
@click.argument("name", required=False)
@click.option("--lang", type=OneOf(list(scaffold.LANGUAGES)), help="The language.")
@click.option("--command", metavar="COMMAND", help="A program as it is: words with {parameter} in them, no shell.")
@click.option("--from", "bundled_class", metavar="CLASS", help="A copy of a plugin that comes with this program.")
@click.option("--worker", is_flag=True, help="Use worker mode: one process for many tasks (not for bash and sh).")
@click.option("--idempotent", is_flag=True, help="Running one of its tasks twice does no harm: run lost ones again.")
@common_options
def new(
    name: str | None, lang: str | None, command: str | None, bundled_class: str | None, worker: bool, idempotent: bool
) -> int:
    """Write a new plugin: manifest with parameters and examples, program, helper library, README; or, for a program as
    it is, its manifest.

    \b
      disbatch-host new Greet --lang python
      disbatch-host new Mail::Move --lang bash --plugins /opt/disbatch/plugins
      disbatch-host new --from Notify::Mail
      disbatch-host new Media::Audio --command 'ffmpeg -nostdin -y -i {input} -b:a {rate} {output}'

    NAME is the class that queues use. The plugin gets a directory of its own below the plugin directory
    (./plugins); existing files are never overwritten.

    Without --idempotent, a task that ran when its node was lost becomes orphaned, and a person decides about it. With
    it, the task is run again by itself. Leave it out unless you are sure: sending a mail twice is harm.
    """
    parent = common.settings().plugins[0]
    if bundled_class is not None:
        if lang is not None or command is not None or worker or idempotent:
            raise UsageError("--from is a copy as it is, and goes with none of the other options")
        if name is not None:
            _check_name(name)
        return _say(name or bundled_class, scaffold.write_copy(bundled_class, name, parent), _how_to_try_copy)
    if name is None:
        raise UsageError("expected the name of a class, such as Greet or Mail::Move, found none")
    _check_name(name)
    if (lang is None) == (command is None):
        found = "none" if lang is None else "several"
        raise UsageError(
            f"expected one of --lang ({', '.join(scaffold.LANGUAGES)}), --command for a program as it is, and --from, "
            f"found {found}"
        )
    if worker and command is not None:
        raise UsageError("a command is started for each task and has no worker mode; leave out --worker")
    if worker and lang is not None and not scaffold.LANGUAGES[lang].has_worker_mode:
        raise UsageError(f"{lang} has no worker mode; leave out --worker, or choose another language")
    if lang is not None:
        made = scaffold.write(name, lang, parent, is_worker=worker, is_idempotent=idempotent)
    else:
        made = scaffold.write_for_command(name, command or "", parent, is_idempotent=idempotent)
    return _say(name, made, _how_to_try if lang is not None else _how_to_try_command)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or not scaffold.directory_name(name):
        raise UsageError(
            f"expected a class name like Greet or Mail::Move (letters, digits, _ . : -), found {name!r}; "
            "choose the directory with --plugins DIR"
        )


def _say(name: str, made: Scaffold, how_to_try: Callable[[str, Scaffold], str]) -> int:
    if common.wants_json():
        render.print_json(
            {"name": name, "directory": str(made.directory), "files": [str(file) for file in made.files],
             "notice": made.notice, "built": None if made.built is None else str(made.built)}
        )  # fmt: skip
        return ExitCode.DONE
    for file in made.files:
        click.echo(f"wrote {common.in_here(file)}")
    if made.built is not None:
        click.echo(f"built {common.in_here(made.built)}")
    if made.notice:
        click.echo(f"disbatch-host: {made.notice}", err=True)
    where = common.in_here(made.directory)
    where = where if where.startswith(("/", ".")) else f"./{where}"
    where = shlex.quote(where)
    click.echo(f"\nTry it:\n  disbatch-host {how_to_try(where, made)}")
    return ExitCode.DONE


def _how_to_try(where: str, _: Scaffold) -> str:
    return f"check {where} --run\n  disbatch-host exec {where} -p name=Matt --events"


def _how_to_try_command(where: str, made: Scaffold) -> str:
    pairs = "".join(f" -p {one}=…" for one in made.parameters)
    return f"check {where}\n  disbatch-host exec {where}{pairs} --show-input"


def _how_to_try_copy(where: str, _: Scaffold) -> str:
    return f"check {where} --run"
