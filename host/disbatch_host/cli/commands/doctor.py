"""`disbatch-host doctor`."""

from __future__ import annotations

import click

from disbatch_host.cli import common, exposure, render
from disbatch_host.cli.frame import common_options
from disbatch_host.doctor.examination import examine
from disbatch_host.doctor.findings import Finding, Verdict, count_of, warning
from disbatch_host.settings.values import Settings, Source


@click.command()
@common_options
def doctor() -> int:
    """Look at this machine and its store, and say what to do about what is wrong.

    Nothing is changed: no file, no index and no layout is made. It looks at the store (answer, version, rights,
    indexes, clock), queues that no node runs, nodes, plugins here, the supervisor, the state directory, disks, limits
    and the control group; a store that does not answer takes some eight seconds.

    \b
      disbatch-host doctor
      disbatch-host --store mongodb://db1/disbatch doctor --json | jq '.checks[] | select(.verdict != "ok")'

    Exit codes: 0 fine, or warnings only; 1 an error; 3 the store cannot be reached (the rest is shown all the same).
    """
    settings = common.settings()
    report = examine(settings, _exposed(settings))
    if common.wants_json():
        render.print_json(report.document)
        return report.exit_code
    width = max(len(one.name) for one in report)
    for one in report:
        word = render.style(str(one.verdict).ljust(len(Verdict.WARNING)), _STYLES[one.verdict])
        todo = f"; {one.todo}" if one.todo else ""
        click.echo(f"{word}  {one.name.ljust(width)}  {_line(one.text)}{_line(todo)}")
    found = [
        count_of(count, str(verdict))
        for verdict in (Verdict.ERROR, Verdict.WARNING)
        if (count := report.count(verdict))
    ]
    click.echo(", ".join(found) if found else "everything is fine")
    return report.exit_code


_STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.ERROR: "red"}


def _line(text: str) -> str:
    return render.printable(" ".join(text.split())) if not text.startswith("; ") else f"; {_line(text[2:])}"


def _exposed(settings: Settings) -> list[Finding]:
    """A password of the store that others can read."""
    if settings.store_source not in (Source.OPTION, Source.FILE):
        return []
    url = settings.store_url
    said = exposure.in_arguments(url) if settings.store_source is Source.OPTION else None
    said = exposure.in_file(url, settings.config_path) if settings.store_source is Source.FILE else said
    if said is None:
        return []
    text, _, todo = said.partition("; ")
    return [warning("password", text, todo)]
