"""`disbatch-host task bundle`: everything about one task in one archive."""

from __future__ import annotations

import sys

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.frame import common_options
from disbatch_host.client.bundling import bundle_name, write_bundle
from disbatch_host.client.complete_file import complete_file
from disbatch_host.client.finding import find_task
from disbatch_host.errors import DisbatchError, UsageError


@click.command()
@click.argument("id")
@click.argument("file", metavar="[FILE | -]", required=False)
@common_options
def bundle(id: str, file: str | None) -> None:
    """Write everything about a task into one archive, for a bug report, or to run the same input again elsewhere.

    \b
      disbatch-host task bundle 5f0c…
      disbatch-host task bundle 5f0c… broken.tar.gz
      disbatch-host exec --bundle broken.tar.gz -p password=@file

    It holds the document, the input, the story, the output and log of each attempt that is kept, the queue, the node,
    and, if the plugin is here, its manifest and the hashes of its files. Secret parameters are masked; what the
    program printed is not. Without FILE, it is written to task-ID.tar.gz.
    """
    with common.opened_store() as store:
        found = find_task(store, id, common.who())
        catalog = None
        try:
            catalog = common.catalog()
        except DisbatchError as error:  # the directory of plugins: the bundle does without the plugin's files
            click.echo(f"disbatch-host: the plugin's files are left out: {error}", err=True)
        if file == "-":
            if sys.stdout.isatty():
                raise UsageError("refusing to write an archive to a terminal; name a file")
            write_bundle(store, found, catalog, sys.stdout.buffer)
            return
        name = file or f"{bundle_name(found)}.tar.gz"
        with complete_file(name, packs=False) as out:
            write_bundle(store, found, catalog, out)
        if common.wants_json():
            render.print_json({"_id": found.id, "file": name}, store.extended_json)
        else:
            click.echo(f"task {found.id} written to {render.printable(name)}")
        click.echo("disbatch-host: secret parameters are masked; outputs and log entries are not", err=True)
