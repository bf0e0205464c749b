"""`disbatch-host task import`: tasks from CSV, NDJSON, or the documents of a collection."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from disbatch_host.cli import bars, batch_options, common, parameters, render, when
from disbatch_host.cli.commands.push import known_plugin
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.kinds import OneOf, Whole
from disbatch_host.client.finding import find_queue
from disbatch_host.client.importing.advice import FaultGroups
from disbatch_host.client.importing.collection import DocumentRows
from disbatch_host.client.importing.files import OpenFile, kept, opened, rows_of
from disbatch_host.client.importing.importer import Import, Imported, Progress, Resumed, Rules, Step
from disbatch_host.client.importing.report import Report
from disbatch_host.client.importing.rows import Format, Rows
from disbatch_host.client.importing.task_maker import RowFault
from disbatch_host.client.parameters import parse_json
from disbatch_host.client.pushing import PRIORITY_MAX
from disbatch_host.errors import DisbatchError, ExitCode, RowsRefusedError, StoreRefusedError, UsageError
from disbatch_host.store.contract import Store

_FAULTS_SHOWN = 20  # kinds of faults on stderr; --report gets every row


@click.command("import")
@click.argument("queue")
@click.argument("file", metavar="[FILE | -]", required=False)
@click.option(
    "--format",
    "format_",
    type=OneOf([str(one) for one in Format]),
    help="Format of the rows. Default: by the file's name.",
)
@click.option(
    "--delimiter", metavar="C", help="CSV field separator. Default: recognized, and said if it is not a comma."
)
@click.option(
    "--map", "maps", multiple=True, metavar="COLUMN=FIELD",
    help="Which column becomes which parameter, a.b for a nested one; COLUMN:=FIELD for JSON. May be given "
    "several times. Default: all columns, by their names.",
)  # fmt: skip
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter that all tasks get.")
@click.option("--unique-key-from", "key_column", metavar="COLUMN", help="The column with the unique key of each task.")
@click.option(
    "--from-collection", "collection", metavar="COLL", help="Import from a MongoDB collection instead of a file."
)
@click.option("--filter", "condition", metavar="JSON", help="Which of its documents, as a MongoDB query.")
@click.option("--on-error", type=OneOf(["stop", "skip"]), default="stop", show_default=True,
    help="If rows do not fit: create nothing, or all the others.",
)  # fmt: skip
@click.option("--report", metavar="FILE",
    help="Write the rows that do not fit to this file: a table if it ends in .csv or .tsv, else NDJSON.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Create nothing; show how many rows fit, and the first tasks.")
@click.option("--new", "begins_again", is_flag=True, help="Do not resume an import that was killed: begin another one.")
@click.option("--no-check", is_flag=True, help="Do not check the parameters against the plugin's schema.")
@click.option("--delay", metavar="DURATION", help="Run no sooner than this long from now.")
@click.option("--at", metavar="TIME", help="Run no sooner than this: RFC 3339, or local '2026-11-25 14:00' or '14:00'.")
@click.option("--expires", metavar="DURATION|TIME", help="Cancel each task that has not started by then.")
@click.option("--priority", type=Whole(-PRIORITY_MAX, PRIORITY_MAX), metavar="N", help="Higher first (0).")
@batch_options.batch_options
@common_options
def import_(**given: Any) -> int:
    """Create a task for each row of a file: CSV with a header line, or NDJSON; plain or .gz; '-' reads stdin.

    \b
      disbatch-host task import mail users.csv
      disbatch-host task import mail users.csv --map "E-Mail=user" --map tries:=tries --unique-key-from E-Mail
      zcat users.ndjson.gz | disbatch-host task import mail - --on-error skip --report faults.ndjson
      disbatch-host task import mail --from-collection users --filter '{"active": true}' -p user=document.email

    If a row does not fit, nothing is created (--on-error stop) or all the others are (skip). An import that was
    killed resumes when the same command is given again: no task is created twice, none is missing.

    The tasks are a batch: its id is in the last line, and it is closed at the end. With --batch NAME, the batch of that
    name is made or joined, and stays open (--close, or batch close).
    """
    options = _Options(**given)
    _check_options(options)
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(_Bar())
        # In Python these are arguments and fields of `Rules`.
        stack.enter_context(common.options_named(maps="map", key_column="unique-key-from", form="format"))
        file = None if options.file is None else stack.enter_context(_opened(options.file, bar))
        faults = stack.enter_context(_Faults(options))
        store = stack.enter_context(common.opened_store())
        found = _import_of(store, options, file, faults, bar)
        return _look(found, options, faults, bar) if options.dry_run else _perform(found, options, faults, bar)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options as given."""

    queue: str
    file: str | None
    format_: str | None
    delimiter: str | None
    maps: tuple[str, ...]
    pairs: tuple[str, ...]
    key_column: str | None
    collection: str | None
    condition: str | None
    on_error: str
    report: str | None
    dry_run: bool
    begins_again: bool
    no_check: bool
    priority: int | None
    delay: str | None
    at: str | None
    expires: str | None
    for_batch: Mapping[str, Any]

    @property
    def stops(self) -> bool:
        return self.on_error == "stop"

    @property
    def name(self) -> str:
        """The source of the rows, for people."""
        return f"collection {self.collection}" if self.file is None else "stdin" if self.file == "-" else self.file

    def fields(self, store: Store) -> Mapping[str, Any]:
        """The fields of all tasks besides their parameters."""
        return when.plan_of(store, delay=self.delay, at=self.at, expires=self.expires, priority=self.priority).fields

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identity of this import among others of the same rows: the options that change the resulting tasks. One
        that stopped at a row goes on if it is told to skip it."""
        left_out = {"queue", "file", "report", "dry_run", "begins_again", "format_", "delimiter", "on_error"}
        if not batch_options.is_given(self.for_batch):
            left_out.add("for_batch")  # as programs without batches named the same import
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}


def _check_options(options: _Options) -> None:
    if (options.file is None) == (options.collection is None):
        found = "neither" if options.file is None else "both"
        raise UsageError(f"expected either a FILE ('-' for stdin) or --from-collection, found {found}")
    if options.collection is None:
        if options.condition is not None:
            raise UsageError("--filter is for --from-collection; a file is imported whole")
        if options.delimiter is not None and options.format_ == Format.NDJSON:
            raise UsageError("--delimiter is for CSV, found --format ndjson")
    else:
        for name, value in (("--format", options.format_), ("--delimiter", options.delimiter)):
            if value is not None:
                raise UsageError(f"{name} is for a file, found --from-collection")
        if options.maps == () and options.pairs == ():
            raise UsageError(
                "expected --map or -p, to take parameters from each document, found neither; "
                "write --map field=parameter, or -p parameter=document.field"
            )


class _Bar:
    """The current step and its progress, on a terminal; one bar at a time."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._what = ""
        self._shown = 0
        self._advance: Callable[[int], None] = lambda count: None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, what: str, done: int, total: int | None = None) -> None:
        if what != self._what:
            self.close()
            self._advance, self._what = self._open.enter_context(bars.progress(what, total=total)), what
        self._advance(done - self._shown)
        self._shown = done

    def close(self) -> None:
        """Remove the bar, before anything else is printed."""
        self._open.close()
        self._what, self._shown = "", 0


@contextlib.contextmanager
def _opened(name: str, bar: _Bar) -> Iterator[OpenFile]:
    """The file, or stdin or a pipe spooled to one."""
    what, done = "stdin" if name == "-" else name, 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        bar.show(f"reading {what}, KiB", done // 1024)

    with kept(sys.stdin.buffer, what, tell) if name == "-" else opened(name, tell) as file:
        bar.close()
        yield file


class _Faults:
    """Shows the rows that do not fit: each kind once on stderr, all rows in the report."""

    def __init__(self, options: _Options) -> None:
        self._options = options
        self._groups = FaultGroups(_FAULTS_SHOWN)
        self._report = None if options.report is None else Report(options.report, options.name)
        self.advise: Callable[[RowFault], str | None] = lambda fault: None  # what to try against a fault

    def __enter__(self) -> _Faults:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.tell(is_all=kind is None)
        if self._report is not None:
            self._report.close()

    def is_about(self, one: Import) -> None:
        """The import whose rows these are."""
        self.advise = one.map_advice
        if self._report is not None:
            self._report.columns = one.columns

    def add(self, fault: RowFault) -> None:
        self._groups.add(fault)
        if self._report is not None:
            self._report.add(fault)

    def tell(self, *, is_all: bool = True) -> None:
        """Print the faults since the last call on stderr. `is_all`: all rows were looked at."""
        groups, self._groups = self._groups, FaultGroups(_FAULTS_SHOWN)
        for one in groups:
            line = one.first.line
            rows = f" ({one.count} rows, the first is line {line})" if one.count > 1 else ""
            click.echo(f"{self._options.name}:{line}: {render.printable(one.first.reason)}{rows}", err=True)
        which = "all" if is_all else "those found so far"
        where = f"{which} are in {self._options.report}" if self._report is not None else "--report FILE writes all"
        if groups.others:
            click.echo(f"... and {groups.others} more ({where})", err=True)
        elif any(one.count > 1 for one in groups):
            click.echo(where, err=True)
        for advice in dict.fromkeys(self.advise(one.first) for one in groups):
            if advice is not None:
                click.echo(render.printable(advice), err=True)


def _import_of(store: Store, options: _Options, file: OpenFile | None, faults: _Faults, bar: _Bar) -> Import:
    queue = find_queue(store, options.queue)
    plugin = known_plugin(store, queue, no_check=options.no_check)
    rows: Rows
    if file is None:
        rows = DocumentRows(store, str(options.collection), _condition_of(options.condition))
    else:
        rows = rows_of(file, form=options.format_, delimiter=options.delimiter)

    def show(progress: Progress) -> None:
        what = f"checking {options.name}" if progress.step is Step.CHECKING else "creating tasks"
        bar.show(what, progress.rows, progress.total)

    def say_resumed(earlier: Resumed) -> None:
        bar.close()
        click.echo(
            f"resuming the import that was begun at {render.moment(earlier.begun)}: "
            f"{common.count_of(earlier.rows, 'row')} done so far (--new begins another one)",
            err=True,
        )

    def say_notice(text: str) -> None:
        bar.close()
        click.echo(render.printable(text), err=True)

    one = Import(
        store,
        queue,
        rows,
        Rules(
            maps=options.maps,
            constants=parameters.parameters_of(None, options.pairs, None if plugin is None else plugin.schema),
            key_column=options.key_column,
            fields=options.fields(store),
            stops=options.stops,
            is_checking=not options.no_check,
        ),
        plugin=plugin,
        file=file,
        batch=batch_options.new_batch(store, options.for_batch),
        by=common.who(),
        catalog=None if options.no_check else common.catalog(),
        identity=options.identity,
        report=None if options.report is None else str(Path(options.report).absolute()),
        on_fault=faults.add,
        on_progress=show,
        on_resumed=say_resumed,
        on_notice=say_notice,
    )
    faults.is_about(one)
    return one


def _look(one: Import, options: _Options, faults: _Faults, bar: _Bar) -> int:
    """--dry-run."""
    looked = one.look()
    bar.close()
    faults.tell()
    if common.wants_json():
        counts = {"rows": looked.rows, "fit": looked.fit, "faults": looked.faults, "empty": looked.empty}
        render.print_json({**counts, "tasks": list(looked.tasks)})
    else:
        total = common.count_of(looked.rows, "row")
        empty = f", {_empty_in_words(looked.empty)}" if looked.empty else ""
        click.echo(f"{looked.fit} of {total} fit{empty}; nothing is created (--dry-run). The first tasks would be:")
        for task in looked.tasks:
            render.print_json(task)
    return ExitCode.FAILED if looked.faults and options.stops else ExitCode.DONE


def _perform(one: Import, options: _Options, faults: _Faults, bar: _Bar) -> int:
    try:
        result = one.perform(begins_again=options.begins_again)
    except RowsRefusedError as error:
        bar.close()
        faults.tell(is_all=one.result.import_id is None)
        _print_summary(one.result)
        hint = " (--on-error skip creates the others)" if one.result.import_id is None else ""
        raise DisbatchError(f"{error}{hint}") from error
    except (KeyboardInterrupt, DisbatchError) as error:
        bar.close()
        if one.result.import_id is None:  # creation has not begun
            raise
        faults.tell(is_all=False)
        hint = ""
        if options.file is not None:
            hint = "; the same command resumes it"
            if isinstance(error, StoreRefusedError) and options.stops:
                hint += ", and with --on-error skip it leaves out the rows that the store refuses"
        created = f"{common.count_of(one.result.created, 'task')} created so far{hint}"
        if isinstance(error, KeyboardInterrupt):
            click.echo(f"disbatch-host: interrupted; {created}", err=True)
            raise
        raise type(error)(f"{error}; {created}") from error
    bar.close()
    faults.tell()
    _print_summary(result)
    if not result.is_whole:
        click.echo("another process imported the same rows meanwhile and finished", err=True)
    return ExitCode.DONE


def _print_summary(result: Imported) -> None:
    if common.wants_json():
        render.print_json(result.to_json())
    elif result.import_id is not None:
        of_batch = "" if result.batch is None else f", batch {render.printable(result.batch)}"
        said = [f"{common.count_of(result.created, 'task')} created in queue {result.queue}{of_batch}"]
        if result.existing:
            said.append(f"{result.existing} not created: an unfinished task has the unique key")
        if result.skipped:
            said.append(f"{common.count_of(result.skipped, 'row')} skipped")
        if result.empty:
            said.append(_empty_in_words(result.empty))
        click.echo(", ".join(said))


def _empty_in_words(count: int) -> str:
    return f"{common.count_of(count, 'empty row')} passed over"


def _condition_of(text: str | None) -> dict[str, Any]:
    value = {} if text is None else parse_json(text, "--filter")
    if not isinstance(value, dict):
        raise UsageError("--filter: expected a JSON object, a MongoDB query, found something else")
    return value
