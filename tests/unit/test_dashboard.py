"""The picture of `status --watch`, laid out over made-up overviews: no line too wide, nothing wrapped, what matters
first, what is left out counted."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from disbatch_host.cli.watch import dashboard
from disbatch_host.cli.watch.screen import BUSY_PART, pause_seconds
from disbatch_host.client.failures import FailureFacts
from disbatch_host.client.overview import NodeFacts, Overview, QueueFacts, RunningFacts
from disbatch_host.decide.why import Code

AT = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)


def overview(**fields: Any) -> Overview:
    return Overview(at=AT, store="sqlite:///var/lib/disbatch/disbatch.db", **fields)


def lines(seen: Overview, width: int = 80, height: int = 24, **more: Any) -> list[str]:
    """As text; held to the terminal's size."""
    shown = dashboard.lay_out(seen, width=width, height=height, every_seconds=1.0, **more)
    plain = [line.plain for line in shown]
    assert len(plain) <= height
    assert all(cell_len(line) <= width and "\n" not in line for line in plain), plain
    return plain


def some_queues(count: int) -> list[QueueFacts]:
    return [QueueFacts(name=f"queue-{number:05}", concluded=number) for number in range(count)]


NODES = [
    NodeFacts(name="mig01", state="running", is_alive=True, running=7, threads=20, age_seconds=0.4, machine="host1"),
    NodeFacts(name="mig02", state="dead", is_alive=False, running=3, threads=20, age_seconds=400.0, machine="host2"),
]
FAILURES = [
    FailureFacts(code="exit_3", count=8, queues=("mail", "media"), message="no space left on device"),
    FailureFacts(code="timeout", count=2, queues=("mail",), message="it ran longer than its timeout of 30 s"),
]
RUNNING = [
    RunningFacts(
        task="6b066cc838b0000246adfe38", queue="mail", node="mig01", seconds=61.0, progress=0.5, message="1 of 2"
    ),
    RunningFacts(task="6b066cc838b0001246adfe38", queue="mail", node="mig01", seconds=3.0),
]


def test_every_section_is_there_with_its_facts() -> None:
    queue = QueueFacts(
        name="mail", waiting=12, running=2, concluded=1_234_567, failed=10, per_second=21.25, oldest_seconds=7200.0
    )
    shown = lines(overview(queues=[queue], nodes=NODES, failures=FAILURES, failures_seen=10, running=RUNNING))
    text = "\n".join(shown)
    assert "12 waiting, 2 running, 1.2M concluded, 10 failed, 21.2/s, 1 node, 1 dead" in shown[1]
    (row,) = [line for line in shown if line.startswith("mail ")]
    assert row.split() == ["mail", "12", "2", "1.2M", "10", "21.2", "2h"]
    assert "mig02" in text and "dead" in text and "7m ago" in text
    assert shown.index(next(line for line in shown if line.startswith("mig02"))) < shown.index(
        next(line for line in shown if line.startswith("mig01"))
    )
    assert "failed, by cause, of 10" in text
    assert "exit_3" in text and "80 %" in text and "mail +1" in text and "no space left on device" in text
    assert "6b066cc838b0000246adfe38" in text and "50 % 1 of 2" in text and "61s" in text


def test_the_picture_in_the_docs_has_the_titles_of_today() -> None:
    """docs/status_watch.py draws it anew."""
    drawn = (Path(__file__).parents[2] / "docs" / "status-watch.svg").read_text()
    picture = html.unescape(re.sub("<[^>]*>", "", drawn)).replace("\xa0", " ")
    running = [RunningFacts(task="t", queue="mail", node="mig01", seconds=3.0)]
    for line in lines(overview(queues=some_queues(1), nodes=NODES, failures=FAILURES, running=running), height=40):
        if line.startswith(("queue ", "node ", "failed, ", "running ")):
            for title in re.sub(r"of [0-9]+|\([^)]*\)", "", line).split():
                assert title in picture, line


def test_orphaned_tasks_are_named_beside_those_that_failed() -> None:
    queue = QueueFacts(name="mail", concluded=5, failed=2, orphaned=3, notes=("pinned to n9, which is not alive",))
    shown = lines(overview(queues=[queue]), width=120)
    assert "5 concluded, 2 failed, 3 orphaned, " in shown[1]
    (row,) = [line for line in shown if line.startswith("mail ")]
    assert row.endswith("3 orphaned; pinned to n9, which is not alive")


def test_cancelled_tasks_are_counted_and_need_no_line_of_their_own() -> None:
    """Incident: 400 of 500 tasks were cancelled, and the view that refreshes itself showed the other hundred."""
    stuck = QueueFacts(name="mail", concluded=5, cancelled=400, notes=("no node is alive",))
    calm = QueueFacts(name="post", concluded=5, cancelled=7)
    shown = lines(overview(queues=[stuck, calm]), width=120)
    assert "10 concluded, 0 failed, 407 cancelled, " in shown[1]
    ends = [line.split("  ")[-1] for line in shown if line.startswith(("mail ", "post "))]
    assert ends == ["no node is alive; 400 cancelled", "7 cancelled"]
    narrow = "\n".join(lines(overview(queues=[stuck, calm]), width=60))
    assert "    no node is alive\n" in narrow and "7 cancelled\n" not in narrow.partition("\n")[2].partition("\n")[2]


def test_a_task_of_a_dead_node_shows_that_instead_of_its_progress() -> None:
    task = RunningFacts(task="t1", queue="q", node="n1", seconds=9, progress=0.5, absence="node n1 was last heard from")
    (row,) = [line for line in lines(overview(running=[task])) if line.startswith("t1 ")]
    assert row.endswith("node n1 was last heard from") and "50 %" not in row


def test_a_message_that_is_too_long_lacks_its_middle() -> None:
    """Incident: of a script's error the list showed only the path at its beginning."""
    message = f"/srv/{'long/' * 40}photo-check.bash: line 15: out/photo 3.txt.gz: ambiguous redirect"
    failure = FailureFacts(code="exit_1", count=14, queues=("photos",), message=message)
    (row,) = [line for line in lines(overview(failures=[failure])) if line.startswith("exit_1")]
    assert "/srv/long" in row and "…" in row and row.endswith("3.txt.gz: ambiguous redirect")


def test_without_anything_it_says_what_to_do() -> None:
    text = "\n".join(lines(overview()))
    assert "queue create" in text and "disbatch-host --plugins DIR" in text and "0 nodes" in text


def test_thousands_of_queues_are_cut_with_what_needs_attention_first_and_the_rest_counted() -> None:
    stuck = QueueFacts(name="zzz-stuck", waiting=5, notes=("no node is alive",), codes=(Code.NO_NODE,))
    failing = QueueFacts(name="yyy-failing", running=1, failed=9, failed_more=3)
    waiting = QueueFacts(name="xxx-waiting", waiting=1, oldest_seconds=30.0)
    waiting_longer = QueueFacts(name="www-waiting", waiting=1, oldest_seconds=3000.0)
    queues = [*some_queues(5000), waiting, failing, waiting_longer, stuck]
    shown = lines(overview(queues=queues, nodes=NODES, failures=FAILURES, running=RUNNING))
    rows = [line.split()[0] for line in shown if line[:4] in ("zzz-", "yyy-", "xxx-", "www-")]
    assert rows == ["zzz-stuck", "yyy-failing", "www-waiting", "xxx-waiting"]
    assert any("    no node is alive" in line for line in shown)
    (title,) = [line for line in shown if line.startswith("queue (")]
    assert " of 5004)" in title
    taller = lines(overview(queues=queues, nodes=NODES), height=60)
    assert len(taller) == 60


def test_what_somebody_has_stopped_on_purpose_does_not_stand_before_what_works() -> None:
    paused = QueueFacts(
        name="aaa-paused", waiting=900, oldest_seconds=9e5, notes=("paused by matt",), codes=(Code.PAUSED,)
    )
    stuck = QueueFacts(
        name="zzz-stuck", waiting=1, notes=("paused by matt", "no node is alive"), codes=(Code.PAUSED, Code.NO_NODE)
    )
    busy = QueueFacts(name="mail", running=8)
    shown = lines(overview(queues=[paused, busy, stuck]))
    names = [line.partition(" ")[0] for line in shown]
    rows = [name for name in names if name in (paused.name, busy.name, stuck.name)]
    assert rows == ["zzz-stuck", "mail", "aaa-paused"]


def test_a_wide_terminal_has_the_note_beside_its_queue() -> None:
    stuck = QueueFacts(name="stuck", waiting=5, notes=("pinned to n9, which is not alive",))
    (row,) = [line for line in lines(overview(queues=[stuck]), width=120) if line.startswith("stuck")]
    assert row.endswith("pinned to n9, which is not alive")


@pytest.mark.parametrize("name", ["a" * 400, "メール移行" * 40, "e\u0301" * 90, "two\nlines\tand \x1b[31mred"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 10)])
def test_long_wide_and_hostile_names_make_no_mess(name: str, width: int, height: int) -> None:
    seen = overview(
        queues=[QueueFacts(name=name, waiting=3, notes=(name,)), *some_queues(3)],
        nodes=[
            NodeFacts(
                name="n1", state="running", is_alive=True, running=1, threads=2, age_seconds=0.5, machine=name,
                notes=(name,),
            )
        ],
        failures=[FailureFacts(code=name, count=5, queues=(name,), message=name)],
        failures_seen=5,
        running=[RunningFacts(task="6b066cc838b0000246adfe38", queue=name, node="n1", seconds=3.0, message=name)],
    )  # fmt: skip
    shown = lines(seen, width=width, height=height)
    assert "\x1b" not in "".join(shown)
    if width >= 80:
        assert any("6b066cc838b0000246adfe38" in line for line in shown)  # an id that is cut is of no use


words = st.text(max_size=60)
queue_facts = st.builds(QueueFacts, name=words, waiting=st.integers(0, 10**10), failed=st.integers(0, 10**7))


@given(
    st.lists(queue_facts, max_size=30),
    st.lists(
        st.builds(
            NodeFacts, name=words, state=st.sampled_from(["running", "dead"]), is_alive=st.booleans(),
            running=st.integers(0, 999), threads=st.integers(0, 999), notes=st.lists(words, max_size=2).map(tuple),
        ),
        max_size=10,
    ),
    st.lists(
        st.builds(
            RunningFacts, task=words, queue=words, node=words, seconds=st.none() | st.floats(0, 1e9),
            progress=st.none() | st.floats(0, 1), message=words,
        ),
        max_size=30,
    ),
    st.integers(10, 250),
    st.integers(1, 90),
)  # fmt: skip
def test_whatever_there_is_it_keeps_to_the_terminal(
    queues: list[QueueFacts], nodes: list[NodeFacts], running: list[RunningFacts], width: int, height: int
) -> None:
    lines(overview(queues=queues, nodes=nodes, running=running), width=width, height=height)


def test_what_keeps_it_from_being_renewed_is_said() -> None:
    shown = lines(overview(queues=some_queues(2)), trouble="not refreshed: the store does not answer")
    assert "not refreshed: the store does not answer" in shown[2]


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(1, 50), st.integers(1, 5)), min_size=1, max_size=5))
def test_a_share_is_never_more_than_wanted_and_nothing_is_left_over(height: int, wanted: list[tuple[int, int]]) -> None:
    given_lines = dashboard.share(height, wanted)
    assert all(got <= want for got, (want, _) in zip(given_lines, wanted, strict=True))
    assert sum(given_lines) == min(height, sum(want for want, _ in wanted))


@given(st.floats(0.1, 60), st.floats(0, 100))
def test_at_most_a_tenth_of_the_time_is_spent_asking(every_seconds: float, took_seconds: float) -> None:
    pause = pause_seconds(every_seconds, took_seconds)
    assert took_seconds <= BUSY_PART * (took_seconds + pause) * 1.0001
    if took_seconds <= BUSY_PART * every_seconds:
        assert took_seconds + pause == pytest.approx(every_seconds)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (99_999, "99999"), (100_000, "100k"), (999_499, "999k"), (1_234_567, "1.2M"), (2 * 10**9, "2.0G")],
)
def test_counts_stay_short(number: int, text: str) -> None:
    assert dashboard.short(number) == text
