"""`disbatch-host task why`: says in one sentence why a task has not started."""

from __future__ import annotations

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.frame import common_options
from disbatch_host.client.finding import find_task
from disbatch_host.client.remedies import remedy
from disbatch_host.client.why import why as why_of


@click.command()
@click.argument("id")
@common_options
def why(id: str) -> None:
    """Say in one sentence why a task has not started, and which command helps, if one does.

    With --json a document: `_id`, `reason` (a code from a closed list) and `sentence`.

    \b
      disbatch-host task why 5f0c…
    """
    with common.opened_store() as store:
        task = find_task(store, id, common.who())
        task_id = task.id
        found = why_of(store, task_id)
        if common.wants_json():
            document = {"_id": task_id, "reason": str(found.code), "sentence": found.sentence}
            render.print_json(document, store.extended_json)
            return
        stop = "" if found.sentence.endswith("?") else "."
        click.echo(render.printable(f"{found.sentence[0].upper()}{found.sentence[1:]}{stop}"))
        if (helps := remedy(found.code, queue=str(task.queue), task=task_id)) is not None:
            click.echo(render.printable(helps), err=True)
