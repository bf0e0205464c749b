"""`disbatch-host task …`."""

from __future__ import annotations

import click

from disbatch_host.cli.frame import Subcommands, common_options

_ELSEWHERE = {
    "bundle": "bundle.bundle",
    "cancel": "cancel.cancel",
    "delete": "delete.delete",
    "export": "export.export",
    "failures": "failures.failures",
    "import": "import_.import_",
    "list": "list_.list_",
    "output": "output.output",
    "push": "push.push",
    "release": "retry.release",
    "retry": "retry.retry",
    "set": "task_set.set_",
    "show": "show.show",
    "wait": "wait.wait",
    "why": "why.why",
}


@click.group(cls=Subcommands, elsewhere=_ELSEWHERE)
@common_options
def task() -> None:
    """Push, list, show, cancel, retry and delete tasks, read their output, and wait for them."""
