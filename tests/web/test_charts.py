"""What the looks remember of the last ten minutes, and how numbers become a chart."""

from __future__ import annotations

import pytest

from disbatch_host.web.pages.charts import chart, per_minute
from disbatch_host.web.pages.overview import rates_of
from disbatch_host.web.recent import STEP_SECONDS, STEPS, Recent


def test_what_two_looks_differ_by_is_spread_over_the_time_between_them() -> None:
    recent = Recent()
    recent.add(1000.0, {"mail": (500, 40), "move": (1, 0)})
    recent.add(1030.0, {"mail": (530, 43), "move": (1, 0), "new": (6, 0)})
    lately = recent.of()
    assert lately.seconds == 30 and len(lately.ended) == 2  # the first part was not seen from its begin
    assert lately.ended == pytest.approx((12.0, 12.0)) and sum(lately.failed) == pytest.approx(2.0)
    assert lately.by_queue["mail"] == pytest.approx((10.0, 10.0)) and "move" not in lately.by_queue


def test_a_count_that_has_become_smaller_is_no_end() -> None:
    recent = Recent()
    for number, ended in enumerate((100, 10, 12, 12, 12)):
        recent.add(1000.0 + 10 * number, {"mail": (ended, ended)})
    assert sum(recent.of().ended) == pytest.approx(2.0) and recent.of().failed_in_all == 2


def test_tasks_that_are_run_again_and_end_between_two_looks_have_ended() -> None:
    recent = Recent()
    for at in (980.0, 990.0, 1000.0):
        recent.add(at, {"mail": (213, 213)})
    recent.add(1010.0, {"mail": (213, 86)})  # 127 that had failed have concluded
    recent.add(1020.0, {"mail": (213, 86)})
    assert sum(recent.of().ended) == pytest.approx(127) and recent.of().failed_in_all == 0


def test_it_knows_ten_minutes_and_no_more_and_who_sees_some_queues_sees_those_alone() -> None:
    recent = Recent()
    for number in range(200):
        recent.add(1000.0 + 10 * number, {"mail": (number, 0), "move": (3 * number, number)})
    lately = recent.of()
    assert len(lately.ended) == STEPS and lately.seconds == STEPS * STEP_SECONDS
    assert lately.ended == pytest.approx((4.0,) * STEPS) and lately.failed_in_all == STEPS
    assert set(recent.of({"mail"}).by_queue) == {"mail"} and recent.of({"mail"}).failed_in_all == 0
    recent.add(1000.0 + 10 * 199 + 7200, {"mail": (200, 0), "move": (597, 199)})  # nobody has watched for two hours
    assert len(recent.of().ended) == STEPS and sum(recent.of().ended) == pytest.approx(1 * 600 / 7200, rel=0.02)


def test_before_the_second_look_nothing_is_known() -> None:
    recent = Recent()
    assert (recent.of().seconds, recent.of().ended) == (0, ())
    recent.add(1000.0, {"mail": (7, 7)})
    assert (recent.of().seconds, recent.of().ended, recent.of().failed_in_all) == (0, (), 0)


def test_a_chart_has_its_numbers_in_words_and_fits_its_place() -> None:
    values = per_minute([1.0, 2.0, 0.0, 50_000.0], 10)
    found = chart(values)
    assert found is not None
    assert found.label("Ended per minute", "the last 40 s") == (
        "Ended per minute in the last 40 s: now 300\u202f000, least 0, most 300\u202f000"
    )
    points = [tuple(map(float, one.split(","))) for one in found.line.split()]
    assert [x for x, _ in points] == [0, 4, 8, 12] and found.width == 12 and found.most_at == 3
    assert all(0 < y <= 40 for _, y in points) and min(y for _, y in points) == 4
    assert [one.x for one in found.bars] == [0, 4, 12]  # nothing has no bar, and a little has one that is seen
    assert all(one.height >= 1.4 and one.y + one.height == pytest.approx(40) for one in found.bars)
    assert chart([5.0]) is None and chart([]) is None
    little = chart([0.0, 0.04, 0.5, 3.0])
    assert little is not None and little.label("Ended", "a minute").endswith("now 3, least 0, most 3")
    assert [one.now for some in ([0, 0.04], [0, 0.5], [0, 9.4]) if (one := chart(some))] == ["<0.1", "0.5", "9.4"]
    flat = chart([0.0, 0.0])
    assert (
        flat is not None
        and flat.line == "0,40 4,40"
        and (flat.now, flat.most, flat.area) == ("0", "0", "")
        and not flat.bars
    )


def test_the_rate_of_a_queue_is_the_last_value_of_its_chart() -> None:
    recent = Recent()
    queues = [{"queue": name, "per_second": 2.0} for name in ("mail", "move")]
    recent.add(1000.0, {"mail": (0, 0), "move": (0, 0)})
    assert rates_of(queues, recent.of()) == {"mail": 120, "move": 120}, "there is no chart yet"
    recent.add(1030.0, {"mail": (3, 0), "move": (0, 0)})
    lately = recent.of()
    drawn = chart(per_minute(lately.by_queue["mail"], STEP_SECONDS))
    assert drawn is not None and drawn.now == "6"
    assert rates_of(queues, lately) == {"mail": 6.0, "move": 0.0}
