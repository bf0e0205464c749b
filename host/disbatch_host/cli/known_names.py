"""The names that completion offers: queues, tasks, nodes and plugins, as the store and the directories hold them.

Responsible for: which parameter of which command names what, and finding those names quickly or not at all. Must not
know: what the commands do, how a shell asks.

Rules:
1. Somebody has pressed a key and is waiting: after `PATIENCE_SECONDS`, nothing is offered.
2. Errors are silent: a message would appear in the middle of the command line.
3. Nothing is created: a missing store offers nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

import click
from click.shell_completion import CompletionItem

from disbatch_host.client import columns
from disbatch_host.clock import SystemClock
from disbatch_host.decide import readings
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.plugin.catalog import load_plugins
from disbatch_host.settings.values import Settings, resolve
from disbatch_host.store.contract import Store
from disbatch_host.store.contract.answers import Access
from disbatch_host.store.open import open_store
from disbatch_protocol import status as statuses

PATIENCE_SECONDS = 1.0
TASKS_OFFERED = 100  # the newest

Item = tuple[str, str]  # the completion, and a word about it for shells that show one


def furnish(command: click.Command, group: str | None) -> click.Command:
    """Add completion to the parameters of a command. `group`: the command of which this is a subcommand."""
    for parameter in command.params:
        if parameter.name in ("columns", "sort") and command.name in ("list", "export"):
            parameter.type = _Columns()
        of = _ANYWHERE.get(str(parameter.name)) or _OF_COMMAND.get((group or command.name, str(parameter.name)))
        is_new = command.name == "create" and parameter.name == "id"
        if of is not None and not is_new and not isinstance(parameter.type, (click.Choice, click.Path)):
            parameter.type = _Known(of)
    return command


class _Columns(click.types.StringParamType):
    """Names of columns, the last of which is completed; `--sort` takes one, perhaps with a minus."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        mark = "-" if param.name == "sort" else ","
        before, found, last = incomplete.rpartition(mark)
        return [CompletionItem(f"{before}{found}{one}") for one in columns.NAMES if one.startswith(last)]


class _Known(click.types.StringParamType):
    """A text with known values."""

    def __init__(self, known: Callable[[Settings], Iterator[Item]]) -> None:
        self._known = known

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        options = ctx.find_root().obj
        found = _soon(lambda: self._known(resolve(options if isinstance(options, Mapping) else {})))
        return [
            CompletionItem(value, help=words)
            for value, words in found
            if value.startswith(incomplete) and value.isprintable()
        ]


def _soon(find: Callable[[], Iterator[Item]]) -> list[Item]:
    """The names that can be found within a moment."""
    found: list[Item] = []

    def run() -> None:
        # Rule 2: nobody can be told, and the short list speaks for itself.
        with contextlib.suppress(Exception):
            for one in find():
                found.append(one)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return list(found)


def _stored(settings: Settings) -> Store:
    access = Access.EXISTING if settings.is_store_given else Access.OR_EMPTY
    store = open_store(settings.store_url, SystemClock(), access)
    store.open()
    return store


def _queues(settings: Settings) -> Iterator[Item]:
    for queue in _stored(settings).queues():
        yield str(queue.id), queue.class_name


def _tasks(settings: Settings) -> Iterator[Item]:
    for task in _stored(settings).find_tasks(TaskFilter(), limit=TASKS_OFFERED, newest_first=True, with_output=False):
        yield str(task.id), f"{task.queue}, {statuses.name(task.status)}"


def _batches(settings: Settings) -> Iterator[Item]:
    for document in _stored(settings).find_batches(limit=TASKS_OFFERED, newest_first=True):
        yield str(document["_id"]), str(document.get("state"))


def _nodes(settings: Settings) -> Iterator[Item]:
    for record in _stored(settings).nodes():
        yield record.id, "alive" if readings.is_alive(record) else "away" if readings.is_away(record) else "not alive"


def _plugins(settings: Settings) -> Iterator[Item]:
    directories = [one for one in settings.plugins if one.is_dir()]
    for name, plugin in load_plugins(directories).plugins.items():
        yield name, plugin.manifest.description


def _classes(settings: Settings) -> Iterator[Item]:
    """Those of the plugins here, then those that nodes have and queues need."""
    yield from (here := dict(_plugins(settings))).items()
    store = _stored(settings)
    elsewhere: dict[str, str] = {}
    for record in store.nodes():
        for class_name in sorted(readings.classes_of(record)):
            elsewhere.setdefault(class_name, f"on node {record.id}")
    for queue in store.queues():
        elsewhere.setdefault(queue.class_name, f"of queue {queue.id}")
    yield from ((name, words) for name, words in elsewhere.items() if name not in here)


def _statuses(settings: Settings) -> Iterator[Item]:
    yield from ((name, "") for name in statuses.names())


_Finder = Callable[[Settings], Iterator[Item]]
_ANYWHERE: Mapping[str, _Finder] = {
    "queue": _queues,
    "queue_name": _queues,
    "on_done": _queues,
    "batch": _batches,
    "class_name": _classes,
    "pin": _nodes,
    "ignore": _nodes,
    "node": _nodes,
    "status_word": _statuses,
    "status": _statuses,
    "after": _tasks,
}
_OF_COMMAND: Mapping[tuple[str | None, str], _Finder] = {
    ("queue", "id"): _queues,
    ("queue", "ids"): _queues,
    ("task", "id"): _tasks,
    ("task", "ids"): _tasks,
    ("batch", "id"): _batches,
    ("node", "id"): _nodes,
    ("node", "ids"): _nodes,
    ("exec", "plugin"): _plugins,
    ("check", "names"): _plugins,
}
