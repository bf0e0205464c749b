"""What commands share: the settings of this call, an open store, the available plugins, and the person who asks."""

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
from typing import TYPE_CHECKING, Any

import click

from disbatch_host.client import requests
from disbatch_host.client.opening import catalog_of, store_of
from disbatch_host.documents.records import Document
from disbatch_host.errors import DisbatchError, FieldError, UsageError
from disbatch_host.settings.values import Settings, resolve
from disbatch_host.store.contract import Store
from disbatch_host.store.open import sqlite_file

if TYPE_CHECKING:  # most commands need no manifest, and reading one takes longer than they do
    from disbatch_host.client.masking import Masker
    from disbatch_host.plugin.catalog import Catalog


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
    """The store of the settings, open for the length of the block, opened as in `client.opening`."""
    is_default = not settings().is_store_given and not creates
    is_missing = is_default and not os.path.exists(sqlite_file(settings().store_url))  # noqa: PTH110
    store = store_of(settings(), creates=creates)
    with saying_that_it_takes_long(store):
        store.open()
    try:
        yield store
        if is_missing:  # commands that need something from it have already failed, with a line that names the store
            there_is_none = f"{store.description} does not exist yet, so it looks empty"
            click.echo(f"disbatch-host: {there_is_none}; use --store or DISBATCH_STORE for another store", err=True)
    finally:
        store.close()


@contextlib.contextmanager
def saying_that_it_takes_long(store: Store) -> Iterator[None]:
    """Shows on a terminal that the server has not answered yet."""
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


def catalog() -> Catalog | None:
    """The available plugins, for optional checks; None without any directory."""
    return catalog_of(settings())


def known_plugins() -> Catalog:
    """The available plugins; none if the default directory does not exist."""
    from disbatch_host.plugin.catalog import Catalog  # noqa: PLC0415

    found = catalog()
    return Catalog() if found is None else found


@contextlib.contextmanager
def options_named(**names: str) -> Iterator[None]:
    """Errors about a field name its option instead; `names` lists options that are called otherwise."""
    try:
        yield
    except FieldError as error:
        name = names.get(error.field, error.field).replace("_", "-")
        raise UsageError(f"--{name}: {error.reason}") from error


def masker(store: Store) -> Masker:
    """Masks the secrets of tasks before they are shown, using the plugins that are known here."""
    from disbatch_host.client.masking import Masker  # noqa: PLC0415

    found = None
    with contextlib.suppress(DisbatchError):  # a missing plugin directory must not hide the task
        found = catalog()
    return Masker(store, found)


def in_here(path: Path) -> str:
    """A path as the person would type it."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the current directory was deleted
        return str(path)
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def count_of(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def who() -> str:
    """The person who asks, as documents and logs name people: user@machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def request(reason: str | None, now: datetime) -> Document:
    """A request: who asks, when, and why, in document form. Raises UsageError if the reason cannot be shown."""
    return requests.request(who(), reason, now=now)


def reason_option(function: Any) -> Any:
    """`--reason`, for actions that others may ask about later."""
    return click.option("--reason", metavar="TEXT", help="The reason, for anyone who asks later.")(function)
