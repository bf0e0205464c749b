"""What a person means by a local time, in zones whose clocks jump; and every date that can be stored can be shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from disbatch_host.client.times import moment, moment_gone_by, moment_to_come
from disbatch_host.documents import local_time

Zone = Callable[[str], None]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    """Sets the time zone of this process until the end of the test."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "typed", "meant"),
    [
        ("Europe/Berlin", "2027-03-28 02:30", "2027-03-28T01:30"),  # 3:30 in summer time
        ("Europe/Berlin", "2027-03-28 02:00", "2027-03-28T01:00"),
        ("America/New_York", "2027-03-14 02:00", "2027-03-14T07:00"),
        ("Australia/Lord_Howe", "2026-10-04 02:15", "2026-10-03T15:45"),  # a jump of half an hour
        ("Antarctica/Troll", "2026-03-29 01:30", "2026-03-29T01:30"),  # of two hours
        ("Pacific/Apia", "2011-12-30 12:00", "2011-12-30T22:00"),  # of a whole day
        ("Europe/Berlin", "2026-10-25 02:30", "2026-10-25T00:30"),  # comes twice: the first
        ("America/New_York", "2026-11-01 01:30", "2026-11-01T05:30"),
        ("Europe/Berlin", "2026-07-01 12:00", "2026-07-01T10:00"),
    ],
)
def test_a_skipped_time_is_never_before_itself_and_a_double_one_is_the_first(
    zone: Zone, name: str, typed: str, meant: str
) -> None:
    """`--at "2027-03-28 02:30"` used to start a task at 1:30 in Berlin, an hour before its time."""
    zone(name)
    now = utc("2011-01-01T00:00")
    found = moment("at", typed, now)
    assert found == utc(meant)
    assert found.astimezone(ZoneInfo(name)).replace(tzinfo=None) >= datetime.fromisoformat(typed)
    for other in (moment_to_come("expires", typed, now), moment_gone_by("since", typed, now)):
        assert other == found
    assert moment("at", datetime.fromisoformat(typed), now) == found


@pytest.mark.parametrize(
    ("now", "next_one", "last_one"),
    [
        ("2027-03-28T00:10", "2027-03-28T01:30", "2027-03-27T01:30"),  # 1:10 in the night of the jump
        ("2027-03-28T00:45", "2027-03-28T01:30", "2027-03-27T01:30"),
        ("2027-03-28T05:00", "2027-03-29T00:30", "2027-03-28T01:30"),  # 7:00 in the morning after it
        ("2026-10-24T23:30", "2026-10-25T00:30", "2026-10-24T00:30"),
        ("2026-10-25T00:40", "2026-10-26T01:30", "2026-10-25T00:30"),  # between the two of the hour
    ],
)
def test_a_time_of_day_in_the_night_of_a_jump(zone: Zone, now: str, next_one: str, last_one: str) -> None:
    zone("Europe/Berlin")
    assert moment("at", "2:30", utc(now)) == utc(next_one)
    assert moment_gone_by("since", "02:30", utc(now)) == utc(last_one)


ODD = ["Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kwajalein", "Africa/Casablanca", "Asia/Tehran"]


@pytest.mark.parametrize("name", [*ODD, "Antarctica/Troll", "America/Caracas", "Asia/Pyongyang", "Africa/Monrovia"])
def test_around_every_jump_of_a_zone_a_time_is_itself_or_later(zone: Zone, name: str) -> None:
    zone(name)
    rules, day = ZoneInfo(name), timedelta(days=1)
    jumps = 0
    at = utc("1971-01-01T00:00")
    while at.year < 2035:
        if at.astimezone(rules).utcoffset() != (at + day).astimezone(rules).utcoffset():
            jumps += 1
            for number in range(-40, 80):
                typed = at.astimezone(rules).replace(tzinfo=None) + number * timedelta(minutes=47)
                found = local_time.moment_of(typed)
                first = typed.replace(tzinfo=rules).astimezone(UTC)
                read = found.astimezone(rules).replace(tzinfo=None)
                exists = first.astimezone(rules).replace(tzinfo=None) == typed
                assert (read == typed and found == first) if exists else read > typed, typed
        at += day
    assert jumps


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "Pacific/Kiritimati", "UTC"])
def test_every_date_that_can_be_stored_can_be_shown(zone: Zone, name: str) -> None:
    """9999-12-31, as people write "never", was accepted, and could not be shown east of Greenwich."""
    zone(name)
    for stored in (utc("9999-12-31T23:59:59.999"), utc("0001-01-01T00:00"), utc("2026-01-01T12:00")):
        shown = local_time.shown(stored)
        assert datetime.fromisoformat(shown) == stored, shown
    assert moment("at", "9999-12-30", utc("2026-01-01T00:00")).astimezone().date().isoformat() == "9999-12-30"


def test_at_the_ends_of_the_calendar_a_time_is_taken_or_refused_in_words(zone: Zone) -> None:
    zone("Europe/Berlin")
    assert local_time.moment_of(datetime(9999, 12, 31, 23, 59, 59)) == utc("9999-12-31T22:59:59")
    with pytest.raises(OverflowError):
        local_time.moment_of(datetime(1, 1, 1))
    zone("America/New_York")
    assert local_time.moment_of(datetime(1, 1, 1)).year == 1
    with pytest.raises(OverflowError):
        local_time.moment_of(datetime(9999, 12, 31, 23, 59, 59))
