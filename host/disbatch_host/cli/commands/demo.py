"""`disbatch-host demo`: the whole job on a temporary store with the bundled plugins."""

from __future__ import annotations

import logging
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import bars, common, demo_web, render
from disbatch_host.cli.frame import INTERRUPTED, common_options
from disbatch_host.cli.kinds import Whole
from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Queue, Task, new_task
from disbatch_host.errors import ExitCode, PluginError, UsageError
from disbatch_host.node.node import run_node
from disbatch_host.plugin.catalog import Plugin, load_plugins
from disbatch_host.plugin.new import bundled
from disbatch_host.run.attempt import Run
from disbatch_host.run.report import RunReport
from disbatch_host.settings.values import NodeSettings
from disbatch_host.store.contract import Store
from disbatch_host.store.open import open_store
from disbatch_host.store.url import sqlite_url
from disbatch_protocol import status as statuses
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import Status

_NODE_ID = "demo"
_AT_ONCE = 8


@click.command()
@click.option("--files", type=Whole(1, 10_000), default=60, show_default=True, help="How many files to work on.")
@click.option("--keep", is_flag=True, help="Keep the temporary directory, to look at it with the other commands.")
@click.option("--web", is_flag=True, help="Show the page of a store whose tasks run, and fail, until Ctrl-C.")
@click.option("--listen", default="127.0.0.1:8780", show_default=True, metavar="ADDR:PORT", help="With --web: where.")
@common_options
def demo(files: int, keep: bool, web: bool, listen: str) -> int:
    """Create a queue for each bundled plugin, push tasks over the sources of Python's standard library, run a node on a
    temporary SQLite file until all are done, and show the results.

    \b
      disbatch-host demo
      disbatch-host demo --files 1000 --keep
      disbatch-host demo --web
    """
    if given := [f"--{name}" for name in ("store", "plugins", "config") if name in common.options()]:
        raise UsageError(f"the demo has its own store and plugins; leave out {', '.join(given)}")
    directory = Path(tempfile.mkdtemp(prefix="disbatch-demo-"))
    try:
        return demo_web.run(directory, listen) if web else _demo(directory, _sources(files), keep)
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def _demo(directory: Path, paths: Sequence[Path], keep: bool) -> int:
    plugins_directory, url = directory / "plugins", sqlite_url(directory / "disbatch.db")
    plugins_directory.mkdir()
    notices = bundled.prepare(plugins_directory)
    catalog = load_plugins([plugins_directory])
    notices += [f"{one.manifest_path.parent.name} is left out: {one.faults[0]}" for one in catalog.broken]
    for notice in notices:
        click.echo(f"notice: {notice}", err=True)
    store = open_store(url, SystemClock())
    store.open()
    # Those that work on a file; the others tell people something.
    at_work = [
        one for one in catalog.plugins.values() if any("path" in each.parameters for each in one.manifest.examples)
    ]
    queues = [_make_queue(store, plugin, paths) for plugin in at_work]
    if not queues:
        raise PluginError("none of the bundled plugins can be used here; the notices above say why")
    total = len(queues) * len(paths)
    tasks, of_files = common.count_of(total, "task"), common.count_of(len(paths), "file")
    _say(f"{tasks} over {of_files}, a queue for each of {len(queues)} plugins; a node runs them:")
    logging.getLogger("disbatch_host").setLevel(logging.ERROR)  # a bar shows what it would log
    began = time.monotonic()
    code = _run_node(store, plugins_directory, total)
    seconds = time.monotonic() - began
    store.open()
    unfinished, _ = statuses.parse("unfinished")
    done = total - store.count_tasks(TaskFilter(statuses=unfinished))
    all_well = _print_results(store, queues)
    store.close()
    _say(f"\n{common.count_of(done, 'task')} in {format_duration(seconds)}, {done / seconds:.0f} per second.")
    if keep:
        _say(f"Look around:  {suggested.command('status --store', url)}")
    else:
        _say("Look around:  disbatch-host demo --keep")
    _say("Write a plugin of your own:  disbatch-host new Greet --lang bash")
    if done < total:
        click.echo(f"disbatch-host: stopped; {total - done} of {tasks} were not run", err=True)
        return code or INTERRUPTED
    return code or (ExitCode.DONE if all_well else ExitCode.FAILED)


def _say(text: str) -> None:
    if not common.wants_json():
        click.echo(text)


def _make_queue(store: Store, plugin: Plugin, paths: Sequence[Path]) -> Queue:
    name = plugin.name.replace("::", "-").lower()
    now = SystemClock().now()
    document = {"_id": name, "class": plugin.name, "description": plugin.manifest.description, "ctime": now}
    store.insert_queue({**document, "maxthreads": _AT_ONCE})
    store.insert_tasks([new_task(name, {"path": str(path)}, now=now) for path in paths])
    return Queue.from_document(document)


def _run_node(store: Store, plugins: Path, total: int) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    settings = NodeSettings(node_id=_NODE_ID, plugins=[plugins], max_total=_AT_ONCE, until_idle=True)
    console = bars.console()
    columns = (TextColumn("running"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("running", total=total)

        def count(run: Run, report: RunReport) -> None:
            if report.conclusion is not None and report.conclusion.status not in (Status.CREATED, Status.BLOCKED):
                progress.advance(bar)

        return run_node(settings, store, on_report=count)


def _print_results(store: Store, queues: Sequence[Queue]) -> bool:
    """Whether no task has failed."""
    results = [_Result(queue, list(store.find_tasks(TaskFilter(queue=queue.id)))) for queue in queues]
    if common.wants_json():
        for one in results:
            render.print_json(one.document)
    else:
        columns = ("plugin", "language", "tasks", "concluded", "failed", "median", "CPU")
        render.print_table(columns, [one.row for one in results], right=(2, 3, 4, 5, 6))
        click.echo("\nSome of what they printed:")
        width = shutil.get_terminal_size().columns - 2
        for sample in (sample for one in results for sample in one.samples):
            click.echo(f"  {sample if len(sample) <= width else sample[: width - 3] + '...'}")
    return not any(one.failed for one in results)


class _Result:
    """The results of one queue's tasks."""

    def __init__(self, queue: Queue, tasks: Sequence[Task]) -> None:
        self.queue = queue
        self.tasks = tasks
        self.well = [task for task in tasks if task.status == Status.CONCLUDED]
        self.failed = [task for task in tasks if statuses.is_finished(task.status) and task not in self.well]

    @property
    def document(self) -> dict[str, Any]:
        return {
            "plugin": self.queue.class_name,
            "language": self._language,
            "tasks": len(self.tasks),
            "concluded": len(self.well),
            "failed": len(self.failed),
            "median_seconds": self._median_seconds,
            "cpu_seconds": round(self._cpu_seconds, 3),
        }

    @property
    def row(self) -> tuple[Any, ...]:
        median = "-" if self._median_seconds is None else format_duration(self._median_seconds)
        well, cpu = (str(len(self.well)), "green"), format_duration(self._cpu_seconds)
        return self.queue.class_name, self._language, len(self.tasks), well, len(self.failed), median, cpu

    @property
    def samples(self) -> list[str]:
        """One line from the first task that concluded, and one from the first that did not."""
        name = f"{self.queue.class_name:20}"
        return [
            *(f"{name}{_sample(task)}" for task in self.well[:1]),
            *(f"{name}FAILED {(task.document.get('error') or {}).get('message')}" for task in self.failed[:1]),
        ]

    @property
    def _language(self) -> str:
        ran = [task.run["plugin"] for task in self.tasks if "plugin" in task.run]
        return Path(str(ran[0]["directory"])).parent.name if ran else "-"

    @property
    def _median_seconds(self) -> float | None:
        seconds = sorted(float(task.run.get("seconds", 0)) for task in self.well)
        return seconds[len(seconds) // 2] if seconds else None

    @property
    def _cpu_seconds(self) -> float:
        return sum(float(task.run.get("cpu_seconds", 0)) for task in self.tasks)


def _sample(task: Task) -> str:
    """The first line that it printed, without the directory of its file."""
    directory = f"{Path(task.parameters['path']).parent}/"
    line = str(task.document["stdout"]).strip().splitlines()[:1]
    return render.printable(line[0]).replace(directory, "") if line else "(nothing)"


def _sources(count: int) -> list[Path]:
    """Python sources of the standard library, spread over all of it, the same on each call."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = sorted(
        path for path in library.rglob("*.py") if not {"site-packages", "test", "tests", "lib2to3"} & set(path.parts)
    )
    if not sources:
        raise UsageError(f"expected the sources of Python's standard library in {library}, found none")
    step = max(1, len(sources) // count)
    return sources[::step][:count]
