"""bench/compare.py decides whether a revision is slower: its statistics, its order, its arguments, its independence."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "bench"
MODULES = ("compare", "comparison", "paired", "figures", "revisions")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The modules by name. The benches are scripts beside each other, not a package."""
    monkeypatch.syspath_prepend(BENCH)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)  # restores what was there, when the test has ended
    return {name: importlib.import_module(name) for name in MODULES}


def test_interval_is_the_t_interval_of_the_logarithms(bench: dict[str, ModuleType]) -> None:
    """Logarithms -0.02, 0, 0.02, 0.04: mean 0.01, standard deviation 0.025820, t with 3 degrees 3.1824."""
    found = bench["paired"].interval([math.exp(one) for one in (-0.02, 0.0, 0.02, 0.04)])
    half = 3.1824 * 0.0258199 / 2
    assert found.ratio == pytest.approx(math.exp(0.01))
    assert (found.low, found.high) == pytest.approx((math.exp(0.01 - half), math.exp(0.01 + half)), abs=1e-5)


def test_interval_of_equal_ratios_is_that_ratio(bench: dict[str, ModuleType]) -> None:
    found = bench["paired"].interval([1.02] * 10)
    assert (found.ratio, found.low, found.high) == pytest.approx((1.02, 1.02, 1.02))


def test_halved_and_doubled_cancel_out(bench: dict[str, ModuleType]) -> None:
    found = bench["paired"].interval([0.5, 2.0, 0.5, 2.0])
    assert found.ratio == pytest.approx(1.0) and found.low == pytest.approx(1 / found.high)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.7062), (9, 2.2622), (29, 2.0452), (30, 2.0423), (31, 2.0395), (40, 2.0211), (60, 2.0003), (120, 1.9799)],
)
def test_quantiles_are_those_of_the_printed_tables(bench: dict[str, ModuleType], degrees: int, expected: float) -> None:
    assert bench["paired"].t_975(degrees) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.90, 0.95, "ok"),
        (0.99, 1.03, "ok"),  # the limit itself is still allowed
        (1.01, 1.0301, "undecided"),
        (1.03, 1.05, "undecided"),
        (1.0301, 1.05, "worse"),
    ],
)
def test_verdict_is_held_against_the_whole_interval(
    bench: dict[str, ModuleType], low: float, high: float, verdict: str
) -> None:
    found = bench["paired"].Interval(ratio=math.sqrt(low * high), low=low, high=high)
    assert bench["paired"].verdict(found, 1.03) == verdict


@pytest.mark.parametrize(
    ("pairs", "verdicts", "goes_on"),
    [
        (0, [], True),
        (9, ["ok", "ok"], True),  # fewer than the least
        (10, ["ok", "ok"], False),
        (10, ["ok", "worse"], False),
        (10, ["worse", "undecided"], True),
        (29, ["undecided"], True),
        (30, ["undecided"], False),
    ],
)
def test_goes_on_until_all_is_decided_or_the_most_pairs_are_reached(
    bench: dict[str, ModuleType], pairs: int, verdicts: list[str], goes_on: bool
) -> None:
    paired = bench["paired"]
    so_far = [paired.Verdict(one) for one in verdicts]
    assert paired.goes_on(so_far, pairs=pairs, least=10, most=30) is goes_on


class Measured:
    """Two revisions of which every cost is known."""

    def __init__(self, bench: dict[str, ModuleType], *, costs: list[float], rate: float = 1000.0) -> None:
        self._comparison = bench["comparison"]
        self._costs = costs  # of the new one, pair by pair, then from the start again
        self._rate = rate

    def compare(self, *, most: int = 30) -> tuple[dict[str, str | None], int]:
        """The verdicts by name of the figure, and how many pairs it took."""
        self.rows = self._comparison.compare(
            "oneshot-sqlite", self._measure, least=10, most=most, report=lambda _: None
        )
        return {row.figure.name: row.verdict for row in self.rows}, len(self.rows[0].old)

    def _measure(self, pair: int) -> tuple[dict[object, float], dict[object, float]]:
        cpu, rate, shown = self._comparison.CPU, self._comparison.RATE, self._comparison.SEEN_P99
        old = {cpu: 100.0, rate: 1000.0, shown: 10.0}
        return old, {cpu: self._costs[pair % len(self._costs)], rate: self._rate, shown: 1000.0}


def test_a_small_difference_is_ok_after_the_least_pairs(bench: dict[str, ModuleType]) -> None:
    measured = Measured(bench, costs=[101.0, 102.0])
    verdicts, pairs = measured.compare()
    assert list(verdicts.values()) == ["ok", "ok", None] and pairs == 10  # a figure without a limit decides nothing
    assert bench["comparison"].all_ok(measured.rows)


def test_ten_percent_are_worse_after_the_least_pairs(bench: dict[str, ModuleType]) -> None:
    measured = Measured(bench, costs=[109.0, 111.0])
    verdicts, pairs = measured.compare()
    assert list(verdicts.values()) == ["worse", "ok", None] and pairs == 10
    assert not bench["comparison"].all_ok(measured.rows)


def test_a_lower_rate_is_a_longer_time(bench: dict[str, ModuleType]) -> None:
    """880 tasks a second instead of 1000 is 1.136 times the time, which is above the limit; 920 is 1.087 times."""
    assert list(Measured(bench, costs=[100.0], rate=880.0).compare()[0].values()) == ["ok", "worse", None]
    assert list(Measured(bench, costs=[100.0], rate=920.0).compare()[0].values()) == ["ok", "ok", None]


def test_noise_asks_for_more_pairs_until_it_is_decided(bench: dict[str, ModuleType]) -> None:
    measured = Measured(bench, costs=[94.0, 106.0])
    verdicts, pairs = measured.compare()
    assert list(verdicts.values()) == ["ok", "ok", None] and 10 < pairs < 30


def test_what_stays_undecided_is_not_ok(bench: dict[str, ModuleType]) -> None:
    measured = Measured(bench, costs=[70.0, 140.0])
    verdicts, pairs = measured.compare(most=14)
    assert list(verdicts.values()) == ["undecided", "ok", None] and pairs == 14
    assert not bench["comparison"].all_ok(measured.rows)


def test_options_have_their_defaults(bench: dict[str, ModuleType]) -> None:
    options = bench["compare"].read_options([".", "WORKTREE"])
    assert (options.pairs, options.most_pairs, options.quick, options.json) == (10, 30, False, None)
    assert list(options.only) == list(bench["comparison"].CASES)


def test_cases_run_in_their_own_order(bench: dict[str, ModuleType]) -> None:
    options = bench["compare"].read_options([".", ".", "--only", "worker-mongodb,oneshot-sqlite", "--pairs", "40"])
    assert list(options.only) == ["oneshot-sqlite", "worker-mongodb"]
    assert options.most_pairs == 40  # never fewer than the least


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["."], "required: NEW"),
        ([".", ".", "--only", "oneshot"], "no case oneshot"),
        ([".", ".", "--pairs", "1"], "--pairs of at least 2"),
        ([".", ".", "--pairs", "12", "--most-pairs", "11"], "--most-pairs"),
        ([".", "no-such-revision"], "'no-such-revision'"),
        ([".", "--", "--all"], "'--all'"),  # never an option of git
    ],
)
def test_wrong_use_ends_with_2_and_says_why(
    bench: dict[str, ModuleType], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench["compare"].read_options(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_nothing_of_the_host_is_imported() -> None:
    """Revisions are compared whose modules are elsewhere: a name that moves must not break the comparison."""
    program = "import sys, compare, cases; print(*(name for name in sys.modules if name.startswith('disbatch_host')))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{BENCH}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("", "")
