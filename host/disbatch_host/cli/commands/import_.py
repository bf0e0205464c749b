"""`disbatch-host task import`: tasks from CSV, NDJSON, or the documents of a collection."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click
import orjson

from disbatch_host.cli import common, parameters, render
from disbatch_host.cli.commands.push import PRIORITY_MAX, _Plan, _plugin_of
from disbatch_host.cli.frame import common_options
from disbatch_host.client.importing import mapping
from disbatch_host.client.importing.creation import (
    Counts,
    DocumentRows,
    Record,
    RowFault,
    TaskMaker,
    begin,
    check_rows,
    create_rows,
)
from disbatch_host.client.importing.rows import CsvRows, Format, NdjsonRows, Rows, Source, format_of
from disbatch_host.documents.records import Queue
from disbatch_host.errors import DisbatchError, ExitCode, OutputError, UsageError
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.store.contract import Store
from disbatch_protocol.document import to_json
from disbatch_protocol.parameters import masked_at

_FAULTS_SHOWN = 20  # on stderr; --report has all
_FIRST_SHOWN = 3  # tasks of a dry run
_BLOCK = 2**20
_FORMATS = [str(one) for one in Format]


@click.command("import")
@click.argument("queue")
@click.argument("file", metavar="[FILE | -]", required=False)
@click.option(
    "--format",
    "format_",
    type=click.Choice([str(one) for one in Format]),
    help="Of the rows. Default: by the file's name.",
)
@click.option("--delimiter", metavar="C", help="Between the fields of CSV: ',', or a tab for .tsv.")
@click.option(
    "--map", "maps", multiple=True, metavar="COLUMN=FIELD",
    help="Which column becomes which parameter, a.b one below another; COLUMN:=FIELD where it holds JSON. May be given "
    "several times. Default: all columns, by their names.",
)  # fmt: skip
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter that all tasks get.")
@click.option("--unique-key-from", "key_column", metavar="COLUMN", help="Which column is the unique key of its task.")
@click.option("--from-collection", "collection", metavar="COLL", help="Tasks from a MongoDB collection, not a file.")
@click.option("--filter", "condition", metavar="JSON", help="Which of its documents, as MongoDB's find takes it.")
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
    help="Where rows do not fit: create nothing, or all the others.",
)  # fmt: skip
@click.option("--report", metavar="FILE", help="Write there what does not fit: a line of JSON for each row.")
@click.option("--dry-run", is_flag=True, help="Only look: how many rows fit, and what the first tasks would be.")
@click.option("--new", "anew", is_flag=True, help="Do not go on with an import that was killed: begin another one.")
@click.option("--no-check", is_flag=True, help="Do not check the parameters against the plugin's schema.")
@click.option("--delay", metavar="S", help="Not before so long from now.")
@click.option("--at", metavar="TIME", help="Not before this time: RFC 3339, or local '2026-11-25 14:00' or '14:00'.")
@click.option("--expires", metavar="S|TIME", help="Cancelled where it has not been started by then.")
@click.option("--priority", type=click.IntRange(-PRIORITY_MAX, PRIORITY_MAX), metavar="N", help="Higher first (0).")
@common_options
def import_(**given: Any) -> int:
    """Create a task for each row of a file: CSV with a header line, or NDJSON; plain or .gz; '-' reads stdin.

    \b
      disbatch-host task import mail users.csv
      disbatch-host task import mail users.csv --map "E-Mail=user" --map tries:=tries --unique-key-from E-Mail
      zcat users.ndjson.gz | disbatch-host task import mail - --on-error skip --report faults.ndjson
      disbatch-host task import mail --from-collection users --filter '{"active": true}' -p user=document.email

    Where a row does not fit, nothing is created (--on-error stop) or all the others are (skip). An import that was
    killed goes on where it was when the same command is given again: no task is made twice, none is missing.
    """
    options = _Options(**given)
    _check_options(options)
    with contextlib.ExitStack() as stack:
        source = None if options.file is None else stack.enter_context(_opened(options.file))
        report = stack.enter_context(_Faults(options))
        store = stack.enter_context(common.opened_store())
        queue = common.find_queue(store, options.queue)
        run = _Import(store, queue, options, source, report)
        return run.look() if options.dry_run else run.perform()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options as they were given."""

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
    anew: bool
    no_check: bool
    priority: int | None
    delay: str | None
    at: str | None
    expires: str | None

    @property
    def stops(self) -> bool:
        return self.on_error == "stop"

    @property
    def name(self) -> str:
        """Of where the rows are, for people."""
        return f"collection {self.collection}" if self.file is None else "stdin" if self.file == "-" else self.file

    def fields(self, store: Store) -> Mapping[str, Any]:
        """What all its tasks have beside their parameters."""
        return _Plan.of(
            store,
            delay=self.delay,
            at=self.at,
            after=(),
            after_any=False,
            expires=self.expires,
            priority=self.priority,
            unique_key=None,
        ).fields

    def digest_of(self, queue: Queue, content: bytes, form: str) -> str:
        """Names an import: the same rows, read in the same form, and options that make the same tasks of them."""
        left_out = {"queue", "file", "report", "dry_run", "anew", "format_", "delimiter"}
        same = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        text = json.dumps([str(queue.id), content.hex(), form, same], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:40]


def _check_options(options: _Options) -> None:
    if (options.file is None) == (options.collection is None):
        found = "neither" if options.file is None else "both"
        raise UsageError(f"expected either a FILE ('-' for stdin) or --from-collection, found {found}")
    if options.collection is None:
        if options.condition is not None:
            raise UsageError("--filter is for --from-collection; rows of a file are all taken")
        if options.delimiter is not None and options.format_ == Format.NDJSON:
            raise UsageError("--delimiter is for CSV, found --format ndjson")
    else:
        for name, value in (("--format", options.format_), ("--delimiter", options.delimiter)):
            if value is not None:
                raise UsageError(f"{name} is for a file, found --from-collection")
        if options.maps == () and options.pairs == ():
            raise UsageError(
                "expected what of each document becomes a parameter, found neither --map nor -p; "
                "write --map field=parameter, or -p parameter=document.field"
            )


@contextlib.contextmanager
def _opened(name: str) -> Iterator[_File]:
    """The file, or what stdin or a pipe holds as one: its rows are gone through more than once."""
    if name == "-":
        with _spooled(sys.stdin.buffer, "stdin") as file:
            yield file
        return
    try:
        plain = Path(name).open("rb")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"file {name} cannot be read: {error.strerror}") from error
    with plain:
        if stat.S_ISREG(os.fstat(plain.fileno()).st_mode):
            yield _File(name, plain, None)
            return
        with _spooled(plain, name) as file:
            yield file


@contextlib.contextmanager
def _spooled(stream: IO[bytes], name: str) -> Iterator[_File]:
    digest = hashlib.sha256()
    with tempfile.TemporaryFile(prefix="disbatch-") as spool, render.progress(f"reading {name}, KiB") as advance:
        try:
            while block := stream.read(_BLOCK):
                digest.update(block)
                spool.write(block)
                advance(len(block) // 1024)
            spool.flush()
        except OSError as error:
            what = f"{name} cannot be read, or not kept in {tempfile.gettempdir()}"
            raise UsageError(f"{what}: {error.strerror}; $TMPDIR names another directory") from error
        yield _File(name, spool, digest.digest())


@dataclass(frozen=True, slots=True)
class _File:
    """An open file that can be read from its start again."""

    name: str
    file: IO[bytes]
    digest: bytes | None  # of its content, where that is known already

    def content_digest(self) -> bytes:
        if self.digest is not None:
            return self.digest
        self.file.seek(0)
        return hashlib.file_digest(self.file, "sha256").digest()  # type: ignore[arg-type]


class _Faults:
    """Tells of the rows that do not fit: the first on stderr, all in the report."""

    def __init__(self, options: _Options) -> None:
        self._options = options
        self._first: list[RowFault] = []
        self._count = 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Faults:
        if self._options.report is not None:
            try:
                self._file = Path(self._options.report).open("wb")
            except OSError as error:
                raise UsageError(f"--report: {self._options.report} cannot be written: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.tell()
        if self._file is not None:
            self._file.close()

    def begin_again(self) -> None:
        """Forget what was told so far: the same rows are gone through again."""
        self._first, self._count = [], 0
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    def add(self, fault: RowFault) -> None:
        self._count += 1
        if len(self._first) < _FAULTS_SHOWN:
            self._first.append(fault)
        if self._file is not None:
            line = {"file": self._options.name, "line": fault.line, "reason": fault.reason, "row": to_json(fault.row)}
            try:
                self._file.write(orjson.dumps(line) + b"\n")
            except OSError as error:
                name = self._options.report
                raise OutputError(f"--report: {name} cannot be written: {error.strerror}") from error

    def tell(self) -> None:
        """On stderr, what has come since the last call."""
        for fault in self._first:
            click.echo(f"{self._options.name}:{fault.line}: {render.printable(fault.reason)}", err=True)
        if more := self._count - len(self._first):
            where = f"all are in {self._options.report}" if self._file is not None else "--report FILE has all"
            click.echo(f"... and {more} more ({where})", err=True)
        self._first, self._count = [], 0


class _Import:
    """One call of the command."""

    def __init__(self, store: Store, queue: Queue, options: _Options, file: _File | None, faults: _Faults) -> None:
        self._store = store
        self._queue = queue
        self._options = options
        self._file = file
        self._faults = faults
        self._source = None if file is None else Source(file.file)
        plugin = _plugin_of(queue, no_check=options.no_check)
        self._fields: Sequence[mapping.Field] = ()
        self._rows = self._rows_of(plugin)
        self._maker = self._maker_of(plugin)
        self._extra = options.fields(store)

    # --- what there is to read, and what becomes of it

    def _rows_of(self, plugin: Plugin | None) -> Rows:
        options = self._options
        if self._source is None:
            return DocumentRows(self._store, str(options.collection), _condition_of(options.condition))
        name = options.name
        try:
            first = self._source.first_bytes()
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
        found = options.format_ or format_of(name, first)
        if found is None and options.delimiter is not None:
            found = Format.CSV
        if found is None:
            raise UsageError(f"expected --format csv or ndjson, since {name} does not tell which; found neither")
        if found == Format.NDJSON:
            if options.delimiter is not None:
                raise UsageError(f"--delimiter is for CSV, but {name} is NDJSON (--format csv says otherwise)")
            return NdjsonRows(name, self._source, parameters.parse_json)
        return CsvRows(name, self._source, _delimiter_of(options.delimiter, name))

    def _maker_of(self, plugin: Plugin | None) -> TaskMaker:
        options, columns = self._options, self._rows.columns
        schema = None if plugin is None else plugin.schema
        constants = parameters.parameters_of(None, options.pairs)
        has_map = bool(options.maps)
        if has_map:
            self._fields = mapping.parse_fields(options.maps, columns)
        elif columns is not None:
            self._fields = mapping.of_all_columns(columns)
        if columns is not None:
            mapper = mapping.csv_mapper(columns, self._fields, schema, constants, parameters.parse_json)
        else:
            mapper = mapping.object_mapper(
                self._fields if has_map else None, constants, parameters.parse_json, has_references=self._file is None
            )
        key = None if options.key_column is None else mapping.key_of_column(columns, options.key_column)
        return TaskMaker(
            queue=self._queue.id,
            mapper=mapper,
            schema=schema,
            is_checking=not options.no_check,
            check_size=parameters.check_size,
            key=key,
            columns=columns,
            secret_columns=mapping.secret_columns(self._fields, schema),
        )

    # --- the passes

    def look(self) -> int:
        """--dry-run."""
        first: list[dict[str, Any]] = []

        def keep(values: dict[str, Any], key: str | None) -> None:
            if len(first) < _FIRST_SHOWN:
                first.append(self._shown(values, key))

        counts = self._check(keep)
        self._faults.tell()
        fit = counts.rows - counts.faults
        if common.wants_json():
            render.print_json({"rows": counts.rows, "fit": fit, "faults": counts.faults, "tasks": first})
        else:
            total = common.count_of(counts.rows, "row")
            click.echo(f"{fit} of {total} fit; nothing is created (--dry-run). The first tasks would be:")
            for one in first:
                render.print_json(one)
        return ExitCode.FAILED if counts.faults and self._options.stops else ExitCode.DONE

    def perform(self) -> int:
        total = None
        if self._options.stops:
            checked = self._check(lambda values, key: None)
            if checked.faults:
                self._faults.tell()
                self._print_summary(checked, None, was_begun=False)
                raise DisbatchError(
                    f"nothing is created: {checked.faults} of {common.count_of(checked.rows, 'row')} do not fit "
                    "(--on-error skip creates the others)"
                )
            total = checked.rows
        name = None
        if self._file is not None:
            digest = self._options.digest_of(self._queue, self._file.content_digest(), self._rows.form)
            name = f"import {digest}"
        if name is None:
            record, was_begun = (
                Record(first_id=str(self._store.new_ids(1)[0]), begun=self._store.now(), fields=self._extra),
                False,
            )
        else:
            record, was_begun = begin(self._store, name, self._extra, anew=self._options.anew)
        if was_begun:
            click.echo(
                f"going on with the import that was begun at {render.moment(record.begun)}: "
                f"{common.count_of(record.rows, 'row')} of it are done (--new begins another one)",
                err=True,
            )
        return self._create(record, name, total, was_begun=was_begun)

    def _check(self, on_fit: Callable[[dict[str, Any], str | None], None]) -> Counts:
        """Go through all rows. Raises UsageError where a name of --map is in no object."""
        unseen = [] if self._rows.columns is not None else list(self._fields)

        def see(values: dict[str, Any], key: str | None) -> None:
            nonlocal unseen
            if unseen:
                unseen = [field for field in unseen if not mapping.is_there(values, field)]
            on_fit(values, key)

        with render.progress(f"checking {self._options.name}") as advance:
            counts = check_rows(self._rows, self._maker, self._faults.add, advance, see)
        if unseen and counts.rows > counts.faults:
            raise UsageError(f"--map: no row has {unseen[0].column!r}; is it called otherwise?")
        return counts

    def _create(self, record: Record, name: str | None, total: int | None, *, was_begun: bool) -> int:
        self._faults.begin_again()
        counts = Counts()
        try:
            with render.progress("creating tasks", total=total) as advance:
                is_whole = create_rows(
                    self._store,
                    self._rows,
                    self._maker,
                    record,
                    name,
                    counts,
                    is_checked=self._options.stops and self._file is not None,
                    stops=self._options.stops,
                    on_fault=self._faults.add,
                    advance=advance,
                    is_unchanged=lambda: self._source is None or not self._source.has_changed(),
                )
        except (KeyboardInterrupt, DisbatchError) as error:
            self._faults.tell()
            hint = "" if name is None else "; the same command goes on from there"
            created = f"{common.count_of(counts.created, 'task')} created so far{hint}"
            if isinstance(error, KeyboardInterrupt):
                click.echo(f"disbatch-host: interrupted; {created}", err=True)
                raise
            raise type(error)(f"{error}; {created}") from error
        self._faults.tell()
        self._print_summary(counts, record, was_begun=was_begun)
        if not is_whole and counts.faults:  # documents that have changed since they were checked
            raise DisbatchError("stopped at a document that does not fit; tasks of those before it are created")
        if not is_whole:
            click.echo("another process has imported the same rows meanwhile, and has finished it", err=True)
        return ExitCode.DONE

    # --- what is said

    def _shown(self, values: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        """A task as a dry run shows it."""
        places = () if self._maker.schema is None else self._maker.schema.secrets(values)
        shown = {"queue": self._queue.id, "parameters": masked_at(values, places), **self._extra}
        return shown if key is None else {**shown, "unique_key": key}

    def _print_summary(self, counts: Counts, record: Record | None, *, was_begun: bool) -> None:
        skipped = 0 if self._options.stops else counts.faults
        if common.wants_json():
            render.print_json(
                {
                    "rows": counts.rows,
                    "created": counts.created,
                    "existing": counts.existing,
                    "skipped": skipped,
                    "faults": counts.faults,
                    "import_id": None if record is None else record.first_id,
                    "resumed": was_begun,
                }
            )
        elif record is not None:
            said = [f"{common.count_of(counts.created, 'task')} created in queue {self._queue.id}"]
            if counts.existing:
                said.append(f"{counts.existing} not, since an unfinished one has their unique key")
            if skipped:
                said.append(f"{common.count_of(skipped, 'row')} skipped")
            click.echo(", ".join(said))


def _condition_of(text: str | None) -> dict[str, Any]:
    value = {} if text is None else parameters.parse_json(text, "--filter")
    if not isinstance(value, dict):
        raise UsageError("--filter: expected a JSON object, as MongoDB's find takes it, found something else")
    return value


def _delimiter_of(text: str | None, name: str) -> str:
    if text is None:
        return "\t" if name.lower().removesuffix(".gz").endswith(".tsv") else ","
    found = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(found) != 1 or found in '"\r\n':
        raise UsageError(f"--delimiter: expected one character (or \\t for a tab), found {text!r:.40}")
    return found
