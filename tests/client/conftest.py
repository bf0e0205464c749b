"""A client on each kind of store, without a terminal."""

from __future__ import annotations

import pytest

from disbatch_host.client import Client
from disbatch_host.store.contract import Store


@pytest.fixture
def client(store: Store) -> Client:
    """No plugin is known; `me@here` asks."""
    return Client(store, None, "me@here")
