"""Which column is which parameter, before anybody has said so."""

from __future__ import annotations

import pytest

from disbatch_host.client.importing.guessing import guessed

NAMES = {"user": "Mailbox", "source_host": "source_host", "password": "password", "where.city": "where.city"}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["user", "password"], {"user": "user", "password": "password"}),
        (["User", "Source-Host", "PASSWORD"], {"User": "user", "Source-Host": "source_host", "PASSWORD": "password"}),
        (["Mailbox", "n"], {"Mailbox": "user"}),
        (["old user", "user"], {"user": "user"}),
        (["where.city"], {"where.city": "where.city"}),
        (["passwort"], {"passwort": "password"}),
        (["", "--", "x"], {}),
        (["user", "line", "reason"], {"user": "user"}),
        (["line", "reason"], {}),
    ],
)
def test_a_column_becomes_what_it_is_called_like(columns: list[str], expected: dict[str, str]) -> None:
    assert guessed(columns, NAMES, takes_others=False) == expected


def test_others_keep_their_names_where_that_is_possible() -> None:
    columns = ["user", "note", "where", "a.b", "a", "x..y", "", "note2", "line", "reason"]
    found = guessed(columns, NAMES, takes_others=True)
    assert found == {"user": "user", "note": "note", "where": "where.city", "a.b": "a.b", "note2": "note2"}


def test_no_parameter_has_two_columns() -> None:
    found = guessed(["User", "user name", "USER"], NAMES, takes_others=True)
    assert [*found.values()].count("user") == 1 and len({*found.values()}) == len(found)
