"""What the commands share: settings, an open store, and finding what a person has named."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from disbatch_host.clock import SystemClock
from disbatch_host.documents import requests
from disbatch_host.documents.records import Document, Queue, Task
from disbatch_host.errors import NotFoundError, UsageError
from disbatch_host.plugin.catalog import Catalog, load_plugins
from disbatch_host.settings.values import Settings, resolve
from disbatch_host.store.contract import Access, Store
from disbatch_host.store.open import open_store
from disbatch_protocol.faults import near_name


def options() -> dict[str, Any]:
    """The common options as given, by name."""
    given: dict[str, Any] = click.get_current_context().find_root().ensure_object(dict)
    return given


def settings() -> Settings:
    """The settings of this call."""
    return _resolved(click.get_current_context().find_root())


@functools.lru_cache(maxsize=1)
def _resolved(root: click.Context) -> Settings:
    return resolve(root.ensure_object(dict))


def wants_json() -> bool:
    return bool(options().get("json"))


@contextlib.contextmanager
def opened_store(*, creates: bool = False) -> Iterator[Store]:
    """The store of the settings, open for the length of the block. A file that is not there is only made with
    `creates`: a slip in a name must not make another store. The default one then looks empty."""
    given = settings().is_store_given
    access = Access.CREATE if creates else Access.EXISTING if given else Access.OR_EMPTY
    is_missing = access is Access.OR_EMPTY and not Path(settings().store_url.removeprefix("sqlite://")).exists()
    store = open_store(settings().store_url, SystemClock(), access)
    with saying_that_it_takes_long(store):
        store.open()
    try:
        yield store
        if is_missing:  # a command that wants something of it has failed by now, with a line that names the store
            there_is_none = f"{store.description} is not there yet, so it looks empty"
            click.echo(f"disbatch-host: {there_is_none}; --store or DISBATCH_STORE names another store", err=True)
    finally:
        store.close()


@contextlib.contextmanager
def saying_that_it_takes_long(store: Store) -> Iterator[None]:
    """For who sits at a terminal and waits for a server."""
    if not sys.stderr.isatty():
        yield
        return
    text = f"disbatch-host: connecting to {store.description} ..."
    timer = threading.Timer(_LONG_SECONDS, lambda: click.echo(text, err=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_LONG_SECONDS = 2.0


def find_queue(store: Store, name: str) -> Queue:
    """The queue of this id. Raises NotFoundError that names a near one."""
    queue = store.find_queue(name)
    if queue is None:
        known = [str(one.id) for one in store.queues()]
        near = near_name(name, known)
        hint = f"did you mean {near!r}?" if near else "`disbatch-host queue list` shows those there are"
        raise NotFoundError(f"no queue {name!r} in {store.description}; {hint}")
    return queue


def find_task(store: Store, text: str) -> Task:
    """The task of this id. Raises NotFoundError."""
    task_id = store.parse_id(text)
    task = None if task_id is None else store.get_task(task_id)
    if task is None:
        raise NotFoundError(f"no task {text!r} in {store.description}; `disbatch-host task list` shows the newest")
    return task


def known_plugins() -> Catalog:
    """The plugins that are at hand, for checks that help where they can: without the default directory, none."""
    directories = settings().plugins
    if not settings().are_plugins_given:
        directories = tuple(one for one in directories if one.is_dir())
    return load_plugins(directories)


def check_id(what: str, text: str) -> None:
    """Raises UsageError where an id, or another short text that tables show, cannot be shown."""
    if not text.strip():
        raise UsageError(f"expected {what}, found an empty one")
    if not text.isprintable():
        raise UsageError(f"expected {what} without control characters, found {text!r:.80}")


def count_of(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def who() -> str:
    """Who asks for something, as documents and logs name a person: user@machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def request(reason: str | None, now: datetime) -> Document:
    """Who asks, when, and why, as documents hold it. Raises UsageError where the reason cannot be shown."""
    if reason is not None:
        check_id("a reason", reason)
    return requests.request_of(who(), reason, now=now)


def reason_option(function: Any) -> Any:
    """`--reason`, for whatever somebody may wonder about later."""
    return click.option("--reason", metavar="TEXT", help="Why, for whoever wonders later.")(function)
