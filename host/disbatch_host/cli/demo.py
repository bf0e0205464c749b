"""`disbatch-host demo`: the main job, whole, on a temporary store with the bundled plugins."""

from __future__ import annotations

import logging
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from disbatch_host import bundled
from disbatch_host.cli import render
from disbatch_host.cli.main import common_options
from disbatch_host.clock import SystemClock
from disbatch_host.errors import ExitCode, UsageError
from disbatch_host.model import Queue, Task, TaskFilter, new_task
from disbatch_host.node import NodeSettings, run_node
from disbatch_host.plugins import Plugin, load_plugins
from disbatch_host.runner import Run, RunReport
from disbatch_host.store.base import Store
from disbatch_host.store.open import open_store
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import Status

_NODE_ID = "demo"
_AT_ONCE = 8


@click.command()
@click.option(
    "--files", type=click.IntRange(1, 10_000), default=60, show_default=True, help="How many files to work on."
)
@click.option("--keep", is_flag=True, help="Keep the temporary directory, to look at it with the other commands.")
@common_options
def demo(files: int, keep: bool) -> int:
    """Make a queue for each bundled plugin, push tasks over the sources of Python's standard library, run a node on a
    temporary SQLite file until all is done, and show what came of it."""
    directory = Path(tempfile.mkdtemp(prefix="disbatch-demo-"))
    try:
        return _demo(directory, _sources(files), keep)
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def _demo(directory: Path, paths: Sequence[Path], keep: bool) -> int:
    plugins_directory, url = directory / "plugins", f"sqlite://{directory}/disbatch.db"
    plugins_directory.mkdir()
    notices = bundled.prepare(plugins_directory)
    catalog = load_plugins([plugins_directory])
    notices += [f"{one.manifest_path.parent.name} is left out: {one.faults[0]}" for one in catalog.broken]
    for notice in notices:
        click.echo(f"notice: {notice}", err=True)
    store = open_store(url, SystemClock())
    store.open()
    queues = [_make_queue(store, plugin, paths) for plugin in catalog.plugins.values()]
    total = len(queues) * len(paths)
    click.echo(f"{total} tasks over {len(paths)} files, a queue for each of {len(queues)} plugins; a node runs them:")
    logging.getLogger("disbatch_host").setLevel(logging.ERROR)  # what it would log is shown as a bar
    began = time.monotonic()
    code = _run_node(store, plugins_directory, total)
    seconds = time.monotonic() - began
    store.open()
    all_well = _print_results(store, queues)
    store.close()
    click.echo(f"\n{total} tasks in {format_duration(seconds)}, {total / seconds:.0f} a second.")
    if keep:
        click.echo(f"Look around:  disbatch-host status --store {url}")
    return code or (ExitCode.DONE if all_well else ExitCode.FAILED)


def _make_queue(store: Store, plugin: Plugin, paths: Sequence[Path]) -> Queue:
    name = plugin.name.replace("::", "-").lower()
    now = SystemClock().now()
    document = {"_id": name, "class": plugin.name, "description": plugin.manifest.description, "ctime": now}
    store.insert_queue({**document, "maxthreads": _AT_ONCE})
    store.insert_tasks([new_task(name, {"path": str(path)}, now=now) for path in paths])
    return Queue.from_document(document)


def _run_node(store: Store, plugins: Path, total: int) -> int:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    settings = NodeSettings(node_id=_NODE_ID, plugin_directories=[plugins], max_total=_AT_ONCE, until_idle=True)
    console = Console(stderr=True)
    columns = (TextColumn("running"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("running", total=total)

        def count(run: Run, report: RunReport) -> None:
            if report.conclusion is not None and report.conclusion.status not in (Status.CREATED, Status.BLOCKED):
                progress.advance(bar)

        return run_node(settings, store, on_report=count)


def _print_results(store: Store, queues: Sequence[Queue]) -> bool:
    rows, samples = [], []
    all_well = True
    for queue in queues:
        tasks = list(store.find_tasks(TaskFilter(queue=queue.id)))
        well = [task for task in tasks if task.status == Status.CONCLUDED]
        seconds = sorted(float(task.run.get("seconds", 0)) for task in well)
        cpu = sum(float(task.run.get("cpu_seconds", 0)) for task in tasks)
        language = Path(str(tasks[0].run.get("plugin", {}).get("directory", "?"))).parent.name
        failed = len(tasks) - len(well)
        all_well = all_well and not failed
        median = format_duration(seconds[len(seconds) // 2]) if seconds else "-"
        rows.append(
            (queue.class_name, language, len(tasks), (str(len(well)), "green"), failed, median, format_duration(cpu))
        )
        samples += [f"{queue.class_name:20}{_sample(task)}" for task in well[:1]]
        samples += [f"{queue.class_name:20}FAILED {task.document.get('error')}" for task in tasks if task not in well][
            :1
        ]
    columns = ("plugin", "language", "tasks", "concluded", "failed", "median", "CPU")
    render.print_table(columns, rows, right=(2, 3, 4, 5, 6))
    click.echo("\nSome of what they printed:")
    width = shutil.get_terminal_size().columns - 2
    for sample in samples:
        click.echo(f"  {sample if len(sample) <= width else sample[: width - 3] + '...'}")
    return all_well


def _sample(task: Task) -> str:
    """The first line that it printed, without the directory of the file that it is about."""
    directory = f"{Path(task.parameters['path']).parent}/"
    line = str(task.document["stdout"]).strip().splitlines()[:1]
    return render.printable(line[0]).replace(directory, "") if line else "(nothing)"


def _sources(count: int) -> list[Path]:
    """Python sources of the standard library, spread over all of it, the same at each call."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = sorted(
        path for path in library.rglob("*.py") if not {"site-packages", "test", "tests", "lib2to3"} & set(path.parts)
    )
    if not sources:
        raise UsageError(f"expected the sources of Python's standard library in {library}, found none")
    step = max(1, len(sources) // count)
    return sources[::step][:count]
