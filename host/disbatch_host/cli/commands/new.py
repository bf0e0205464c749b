"""`disbatch-host new`: creates a working plugin to start from."""

from __future__ import annotations

import re
import shlex

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.kinds import OneOf
from disbatch_host.errors import ExitCode, UsageError
from disbatch_host.plugin.new import scaffold

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")  # as the manifest requires it


@click.command()
@click.argument("name")
@click.option("--lang", required=True, type=OneOf(list(scaffold.LANGUAGES)), help="The language.")
@click.option("--worker", is_flag=True, help="Use worker mode: one process for many tasks (not for bash and sh).")
@click.option("--idempotent", is_flag=True, help="Running one of its tasks twice does no harm: run lost ones again.")
@common_options
def new(name: str, lang: str, worker: bool, idempotent: bool) -> int:
    """Write a new plugin: manifest with parameters and examples, program, helper library, README.

    \b
      disbatch-host new Greet --lang python
      disbatch-host new Mail::Move --lang bash --plugins /opt/disbatch/plugins

    NAME is the class that queues use. The plugin gets a directory of its own below the plugin directory
    (./plugins); existing files are never overwritten.

    Without --idempotent, a task that ran when its node was lost becomes orphaned, and a person decides about it. With
    it, the task is run again by itself. Leave it out unless you are sure: sending a mail twice is harm.
    """
    if not _NAME.fullmatch(name) or not scaffold.directory_name(name):
        raise UsageError(
            f"expected a class name like Greet or Mail::Move (letters, digits, _ . : -), found {name!r}; "
            "choose the directory with --plugins DIR"
        )
    if worker and not scaffold.LANGUAGES[lang].has_worker_mode:
        raise UsageError(f"{lang} has no worker mode; leave out --worker, or choose another language")
    made = scaffold.write(name, lang, common.settings().plugins[0], is_worker=worker, is_idempotent=idempotent)
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
    click.echo(f"\nTry it:\n  disbatch-host check {where} --run\n  disbatch-host exec {where} -p name=Matt --events")
    return ExitCode.DONE
