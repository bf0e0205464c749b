"""The shape of the contract: small protocols, each for one kind of caller, and `Store` as all of them."""

from __future__ import annotations

import inspect
from typing import Protocol

import pytest

from disbatch_host.store import contract
from disbatch_host.store.mongo import MongoStore
from disbatch_host.store.sqlite import SqliteStore

MOST = 12
PARTS = [
    one
    for name, one in vars(contract).items()
    if inspect.isclass(one)
    and one.__module__.startswith(contract.__name__)
    and Protocol in one.__bases__
    and name != "Store"
]


def members(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_a_protocol_is_small_enough_to_be_kept_in_mind(part: type) -> None:
    assert 1 <= len(members(part)) <= MOST
    assert part.__doc__


def test_a_store_is_all_of_them_and_has_nothing_of_its_own() -> None:
    parts = set(PARTS) - {contract.Watcher}
    assert set(contract.Store.__bases__) == {*parts, Protocol} and members(contract.Store) == set()
    names = [name for part in parts for name in members(part)]
    assert len(names) == len(set(names)), "a call stands in two of them"


@pytest.mark.parametrize("store", [SqliteStore, MongoStore])
def test_a_store_offers_what_the_contract_names_and_nothing_else(store: type) -> None:
    offered = {name for one in store.__mro__ for name in members(one)}
    assert offered == {name for part in contract.Store.__bases__ for name in members(part)}
