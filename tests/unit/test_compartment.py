"""Compartments: what is contained, what is said of it, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from disbatch_host import errors
from disbatch_host.documents.changes import Want
from disbatch_host.documents.storable import storable
from disbatch_host.errors import StoreRefusedError, StoreUnreachableError
from disbatch_host.node.compartment import SHOWN_MAX, Troubles, write_each
from disbatch_host.node.pace import Pace
from disbatch_host.node.suspects import Suspects


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def troubles(clock: HandClock) -> Troubles:
    return Troubles(clock, Pace(rest_seconds=30.0))


def fail(error: BaseException) -> None:
    raise error


def test_a_failure_is_said_once_with_its_culprit_and_without_the_values_that_it_quotes(
    troubles: Troubles, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (ValueError("hunter2"), ValueError("hunter3"), TypeError("hunter2")):
        with troubles.contained("due task", "t1"):
            fail(error)
    said = [one.message for one in caplog.records if one.levelname == "ERROR"]
    assert [one.split(" (")[0] for one in said] == ["due task, t1: ValueError", "due task, t1: TypeError"]
    assert "hunter" not in caplog.text
    (shown,) = troubles.documents()
    assert (shown["where"], shown["culprit"]) == ("due task", "t1") and shown["what"].startswith("TypeError")


def test_the_words_for_deep_nesting_and_for_errors_of_ours_help(troubles: Troubles) -> None:
    assert errors.in_words(RecursionError()) == "something is nested too deeply"
    assert errors.in_words(StoreRefusedError("the index\nx refuses")) == "the index x refuses"
    assert errors.in_words(PermissionError(13, "Permission denied", "/secret")) == "Permission denied"


def test_a_store_that_is_away_and_what_ends_the_process_go_through(troubles: Troubles) -> None:
    for error in (StoreUnreachableError("away"), KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(error)), troubles.contained("duty", "x"):
            fail(error)
    assert troubles.documents() == []


def test_a_culprit_rests_and_is_shown_until_it_was_not_met_for_a_while(troubles: Troubles, clock: HandClock) -> None:
    troubles.report("due task", 5, ValueError())
    assert troubles.is_resting("due task", 5) and not troubles.is_resting("due task", 6)
    assert not troubles.is_resting("ended task", 5) and troubles.resting("due task") == 1
    since = troubles.documents()[0]["since"]
    clock.seconds = 31
    assert not troubles.is_resting("due task", 5) and troubles.resting("due task") == 0
    troubles.report("due task", 5, ValueError())
    assert troubles.documents()[0]["since"] == since
    clock.seconds = 31 + 61
    assert troubles.documents() == []


def test_the_newest_troubles_are_shown_first_and_not_too_many(troubles: Troubles) -> None:
    for number in range(SHOWN_MAX + 5):
        troubles.report("due task", number, "it fails")
    shown = [one["culprit"] for one in troubles.documents()]
    assert shown == [str(number) for number in reversed(range(5, SHOWN_MAX + 5))]


def test_names_of_any_length_and_kind_can_be_shown(troubles: Troubles) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise ValueError

    for culprit in ("z" * 200_000, "a\0b\nc", b"\xff", "pl\udce9", "\ud800", Unspeakable()):
        troubles.report("task", culprit, "it fails")
    for one in troubles.documents():
        one["culprit"].encode()
        assert len(one["culprit"]) <= 101 and "\0" not in one["culprit"] and "\n" not in one["culprit"]


def test_text_that_is_not_utf8_becomes_storable_and_all_other_text_stays() -> None:
    assert storable(Path("/a/pl\udce9/plugin.json")) == r"/a/pl\xe9/plugin.json"
    assert storable("é € 👩") == "é € 👩"
    assert storable("half \ud83d") == r"half \ud83d"


def test_only_what_is_at_fault_is_left_unwritten() -> None:
    written: list[int] = []
    faults: list[int] = []

    def write(items: object) -> set[int]:
        numbers = list(items)  # type: ignore[call-overload]
        if 7 in numbers or 30 in numbers:
            raise StoreRefusedError("it holds a 7")
        written.extend(numbers)
        return {number for number in numbers if number == 3}

    refused = write_each(write, list(range(50)), lambda item, error: faults.append(item))
    assert (sorted(written), sorted(faults), refused) == ([n for n in range(50) if n not in (7, 30)], [7, 30], {3})


def test_a_store_that_goes_away_in_the_middle_is_no_fault_of_an_item() -> None:
    with pytest.raises(StoreUnreachableError):
        write_each(lambda items: fail(StoreUnreachableError("away")) or set(), [1, 2], lambda item, error: None)


def test_the_queue_whose_claims_fail_is_found_and_rests(troubles: Troubles, clock: HandClock) -> None:
    suspects = Suspects(troubles)
    wants = [Want(name, 1) for name in ("a", "bad", "c")]

    def claim() -> list[str]:
        """One round: the queues that were claimed from, or of which the claim failed."""
        allowed = suspects.allowed([want for want in wants if not troubles.is_resting("claim from queue", want.queue)])
        names = [want.queue for want in allowed]
        if "bad" in names:
            suspects.failed(allowed, ValueError())
        else:
            suspects.succeeded(allowed)
        return names

    assert [claim() for _ in range(5)] == [["a", "bad", "c"], ["a"], ["bad"], ["c"], ["a", "c"]]
    assert not suspects.are_left and [one["culprit"] for one in troubles.documents()] == ["bad"]
    clock.seconds = 31
    assert [claim() for _ in range(5)] == [["a", "bad", "c"], ["a"], ["bad"], ["c"], ["a", "c"]]
