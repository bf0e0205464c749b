"""The store and the plugins that the settings name, opened alike for every command and program except nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disbatch_host.clock import SystemClock
from disbatch_host.settings.values import Settings
from disbatch_host.store.contract import Store
from disbatch_host.store.contract.answers import Access
from disbatch_host.store.open import open_store

if TYPE_CHECKING:  # reading manifests takes longer than most commands do
    from disbatch_host.plugin.catalog import Catalog


def store_of(settings: Settings, *, creates: bool = False) -> Store:
    """The store, not yet opened. A missing file is created only if `creates` is set: a typo must not make a
    new store. The missing default store looks empty instead. Raises UsageError."""
    access = Access.CREATE if creates else Access.EXISTING if settings.is_store_given else Access.OR_EMPTY
    return open_store(settings.store_url, SystemClock(), access)


def catalog_of(settings: Settings) -> Catalog | None:
    """The available plugins; None if no directory is configured and the default one does not exist. Raises
    UsageError for a configured directory that does not exist."""
    directories = settings.plugins
    if not settings.are_plugins_given:
        directories = tuple(one for one in directories if one.is_dir())
    if not directories:
        return None
    from disbatch_host.plugin.catalog import load_plugins  # noqa: PLC0415

    return load_plugins(directories)
