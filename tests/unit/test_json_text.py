"""JSON text reads back as the value that was written: dates, and keys that look like the mark of one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.store.sqlite import json_text

_MOMENT = datetime(2026, 4, 26, 17, 59, 33, 120_000, tzinfo=UTC)
_KEYS = st.sampled_from(["a", "$date", "$$date", "$", "$$", "$oid", "b$"])
_MOMENTS = st.integers(0, 10**9).map(lambda number: _MOMENT + timedelta(milliseconds=number))
_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.sampled_from(["", "$date", "$$x", "ä"]) | _MOMENTS
)
_VALUES = st.recursive(
    _SCALARS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(_KEYS, values, max_size=3),
    max_leaves=12,
)


@given(_VALUES)
def test_every_value_reads_back(value: Any) -> None:
    assert json_text.decode(json_text.encode(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"at":{"$date":1777226373120}}', {"at": _MOMENT}),
        ('[{"$date":1777226373120},[{"a":{"$date":1777226373120}}]]', [_MOMENT, [{"a": _MOMENT}]]),
        ('{"$date":1777226373120}', _MOMENT),
        ('{"$$date":1777226373120}', {"$date": 1777226373120}),
        ('{"$date":"soon"}', {"$date": "soon"}),
        ('{"$date":1,"b":2}', {"$date": 1, "b": 2}),
    ],
)
def test_a_text_is_read_as_it_was_meant(text: str, value: Any) -> None:
    assert json_text.decode(text) == value
