"""Pages of tasks and conditions on their content, on both stores: what people look for among millions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from disbatch_host.documents.changes import OUTPUT_CHUNK_SIZE, OutputChunk, TaskFilter
from disbatch_host.documents.conditions import Condition, Order, Page, meets
from disbatch_host.documents.records import new_task
from disbatch_host.errors import FieldError
from disbatch_host.store.contract import Store
from helpers.stores import NOW, claim_one, push

EVERY_STATUS = [-9, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 77]


def put(store: Store, *tasks: tuple[str, int], **more: Any) -> list[Any]:
    """Tasks of these queues and statuses, one after the other."""
    documents = [
        new_task(queue, {"n": number}, now=NOW + timedelta(seconds=number), **{"status": status, **more})
        for number, (queue, status) in enumerate(tasks)
    ]
    return store.insert_tasks(documents)


def ids(page: Page) -> list[Any]:
    return [task.id for task in page.tasks]


def walked(store: Store, which: TaskFilter, *, limit: int, newest_first: bool) -> list[list[Any]]:
    """All pages from the first to the last, each also reached backward from the one after it."""
    pages: list[list[Any]] = []
    cursor: str | None = None
    before: list[Any] | None = None
    while True:
        page = store.find_page(which, limit=limit, newest_first=newest_first, cursor=cursor)
        assert not page.is_cut and len(page.tasks) <= limit
        if before is not None and page.tasks:
            assert page.previous is not None
            back = store.find_page(which, limit=limit, newest_first=newest_first, cursor=page.previous)
            assert ids(back) == before, "the page before is another one on the way back"
            assert back.next is not None
            again = store.find_page(which, limit=limit, newest_first=newest_first, cursor=back.next)
            assert ids(again) == ids(page)
        pages.append(ids(page))
        cursor, before = page.next, ids(page)
        if cursor is None:
            return pages


@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_hold_each_task_once_in_the_order_of_creation(store: Store, newest_first: bool) -> None:
    """Of queues and statuses that lie mixed, with priorities, as an index has them in runs."""
    tasks = [(queue, status) for status in EVERY_STATUS for queue in ("a", "b", "c")]
    made = put(store, *tasks[:20]) + put(store, *tasks[20:], priority=7)
    made += put(store, *tasks[5:11], priority=-1, batch="mine")
    tasks = [*tasks, *tasks[5:11]]
    filters: list[tuple[TaskFilter, Any]] = [
        (TaskFilter(), lambda queue, status: True),
        (TaskFilter(queue="b"), lambda queue, status: queue == "b"),
        (TaskFilter(queue="b", statuses=frozenset({-2, 1})), lambda queue, status: queue == "b" and status in (-2, 1)),
        (TaskFilter(statuses=frozenset({2, -3}), or_failed=True), lambda queue, status: status >= 2 or status == -3),
        (TaskFilter(queue="none"), lambda queue, status: False),
        (TaskFilter(queues=("c", "a", "none")), lambda queue, status: queue in ("a", "c")),
        (
            TaskFilter(queues=("b",), statuses=frozenset({0, 77})),
            lambda queue, status: queue == "b" and status in (0, 77),
        ),
        (TaskFilter(queues=()), lambda queue, status: False),
        (TaskFilter(queue="a", created_since=NOW + timedelta(seconds=9)), None),
        (TaskFilter(ids=made[3:12]), None),
        (TaskFilter(batch="mine"), None),
        (TaskFilter(batch="mine", queue="b", statuses=frozenset({-6, -5})), None),
    ]
    for which, is_meant in filters:
        everything = [task.id for task in store.find_tasks(which, newest_first=newest_first)]
        if is_meant is not None:
            wanted = [one for one, task in zip(made, tasks, strict=True) if is_meant(*task)]
            assert everything == (wanted[::-1] if newest_first else wanted)
        for limit in (4, 100) if which.queues is not None else (1, 4, 100):
            pages = walked(store, which, limit=limit, newest_first=newest_first)
            assert list(itertools.chain(*pages)) == everything
            assert all(len(page) == limit for page in pages[:-1])


@pytest.mark.parametrize("newest_first", [True, False])
def test_the_failures_of_one_cause_are_found_without_looking_at_other_tasks(store: Store, newest_first: bool) -> None:
    made = put(store, *[("a", 1), ("b", 2)] * 30)
    of_cause = [
        store.insert_tasks([new_task(queue, {}, now=NOW, status=status, error={"code": "x", "group": group})])[0]
        for queue, status, group in [("a", 2, {"text": "t", "key": "k"}), ("b", -3, {"text": "t", "key": "k"})] * 4
    ]
    put(store, ("a", 2), error={"code": "x", "group": {"text": "u", "key": "other"}})
    made += put(store, *[("a", 2)] * 30)
    wanted = of_cause[::-1] if newest_first else of_cause
    for which, these in (
        (TaskFilter(failure="k"), wanted),
        (TaskFilter(failure="k", queue="b"), [one for one in wanted if of_cause.index(one) % 2]),
        (TaskFilter(failure="k", statuses=frozenset({2})), [one for one in wanted if not of_cause.index(one) % 2]),
        (TaskFilter(failure="none"), []),
    ):
        for limit in (3, 100):
            assert list(itertools.chain(*walked(store, which, limit=limit, newest_first=newest_first))) == these
    page = store.find_page(TaskFilter(failure="k"), limit=100, newest_first=newest_first)
    assert page.looked_at == len(of_cause) < len(made)


def test_a_cursor_stays_where_it_is_when_tasks_go_and_come(store: Store) -> None:
    made = put(store, *[("q", 1)] * 9)
    first = store.find_page(TaskFilter(queue="q"), limit=3)
    assert ids(first) == made[:5:-1]
    store.delete_tasks([made[6], made[5]])  # the cursor's own task, and the one after it
    put(store, *[("q", 1)] * 4)
    second = store.find_page(TaskFilter(queue="q"), limit=3, cursor=first.next)
    assert ids(second) == [made[4], made[3], made[2]]
    assert second.previous is not None
    assert ids(store.find_page(TaskFilter(queue="q"), limit=2, cursor=second.previous)) == [made[8], made[7]]


@pytest.mark.parametrize("text", ["", "5", "a", "ax", "b-1", "a1' OR 1", "a.$$$", "a.e30=", "x55", "a" * 5000, "a²"])
def test_a_text_that_is_not_a_cursor_is_refused(store: Store, text: str) -> None:
    put(store, ("q", 1))
    with pytest.raises(FieldError, match="cursor: expected one that a page of this store came with, found "):
        store.find_page(TaskFilter(), limit=1, cursor=text)


def test_a_look_whose_time_is_over_says_how_far_it_got_and_goes_on_from_there(store: Store) -> None:
    made = put(store, *[("q", 1)] * 300, free="no")
    (wanted,) = store.insert_tasks([new_task("q", {}, now=NOW, free="yes")])
    put(store, *[("q", 1)] * 300, free="no")
    which = TaskFilter(queue="q", where=(Condition(("free",), ("yes",)),))
    cursor, looks, found, looked_at = None, 0, [], 0
    while True:
        page = store.find_page(which, limit=5, cursor=cursor, budget_seconds=0.0)
        looks, looked_at = looks + 1, looked_at + page.looked_at
        found += ids(page)
        assert page.is_cut is (page.next is not None)
        assert isinstance(page.looked_to, datetime) is page.is_cut
        cursor = page.next
        if cursor is None:
            break
    assert found == [wanted] and looked_at == 601 and 2 < looks < 20
    whole = store.find_page(which, limit=5)
    assert ids(whole) == [wanted] and not whole.is_cut and whole.next is None and whole.looked_at == 601
    assert len(made) == 300


def test_ids_are_found_by_what_they_begin_with(store: Store) -> None:
    made = [str(one) for one in put(store, *[("q", 1)] * 3)]
    store.insert_tasks([{"_id": "abcdef-mine", **new_task("q", {}, now=NOW)}])
    store.insert_tasks([{"_id": "abcdef", **new_task("q", {}, now=NOW)}])
    assert [str(one) for one in store.ids_beginning(made[0][:8], limit=9)] == made
    assert [str(one) for one in store.ids_beginning(made[1])] == [made[1]]
    assert len(store.ids_beginning(made[0][:8])) == 2
    assert store.ids_beginning("abcdef") == ["abcdef", "abcdef-mine"]
    assert store.ids_beginning("abcdee") == store.ids_beginning("ffffff") == store.ids_beginning("f" * 30) == []


# Parameters, a path in them, the values asked for, and whether they meet it.
CASES: list[tuple[Any, tuple[str, ...], tuple[Any, ...], bool]] = [
    ({"user": "matt"}, ("user",), ("matt",), True),
    ({"user": "matt2"}, ("user",), ("matt",), False),
    ({"user": "Matt"}, ("user",), ("matt",), False),
    ({"user": None}, ("user",), ("null", None), True),
    ({}, ("user",), ("null", None), False),
    ({"n": 5}, ("n",), ("5", 5), True),
    ({"n": "5"}, ("n",), ("5", 5), True),
    ({"n": 5.0}, ("n",), ("5", 5), True),
    ({"n": 5}, ("n",), ("5",), False),
    ({"n": 1}, ("n",), ("true", True), False),
    ({"n": True}, ("n",), ("1", 1), False),
    ({"n": False}, ("n",), ("false", False), True),
    ({"n": 2**53 + 1}, ("n",), (2**53,), False),
    ({"n": 0.1}, ("n",), ("0.1", 0.1), True),
    ({"a": {"b": {"c": "x"}}}, ("a", "b", "c"), ("x",), True),
    ({"a": {"b": "x"}}, ("a", "b", "c"), ("x",), False),
    ({"a": ["x", "y"]}, ("a", "1"), ("y",), True),
    ({"a": ["x", "y"]}, ("a", "2"), ("y",), False),
    ({"a": ["x", "y"]}, ("a",), ("y",), True),
    ({"a": [{"b": 1}, {"b": 2}]}, ("a", "b"), (2,), True),
    ({"a": [{"b": 1}, {"b": 2}]}, ("a", "0", "b"), (2,), False),
    ({"a": {"1": "y"}}, ("a", "1"), ("y",), True),
    ({"a": [{"1": "y"}]}, ("a", "1"), ("y",), True),
    ({"a": {"01": "y"}}, ("a", "01"), ("y",), True),
    ({"a": [["x"], "y"]}, ("a",), ("x",), False),
    ({"a.b": "x"}, ("a.b",), ("x",), True),
    ({"a": {"b": "x"}}, ("a.b",), ("x",), False),
    ({"a.b": ["x", {"$c": 7}]}, ("a.b", "$c"), (7,), True),
    ({"a.b": ["x", {"$c": 7}]}, ("a.b", "1", "$c"), (7,), True),
    ({"a.b": ["x", "y"]}, ("a.b",), ("y",), True),
    ({"a.b": None}, ("a.b",), (None,), True),
    ({"b": None}, ("a.b",), (None,), False),
    ({"a.b": True}, ("a.b",), (1,), False),
    ({"$where": "x"}, ("$where",), ("x",), True),
    ({"$date": 5}, ("$date",), (5,), True),
    ({"$x": {"$gt": "x"}}, ("$x", "$gt"), ("x",), True),
    ({"": "x"}, ("",), ("x",), True),
    ({"a": {"": "x"}}, ("a", ""), ("x",), True),
    ({"na\"me') OR 1": "x"}, ("na\"me') OR 1",), ("x",), True),
    ({"a": "x' OR '1'='1"}, ("a",), ("x' OR '1'='1",), True),
    ({"a": "y"}, ("a",), ("x' OR '1'='1",), False),
    ({"a": "$a"}, ("a",), ("$a",), True),
    ({"a": "$$ROOT"}, ("a.b",), ("$$ROOT",), False),
    ({"größe": "übér 𝄞"}, ("größe",), ("übér 𝄞",), True),
    ({"a": 'quote " back \\ line \n'}, ("a",), ('quote " back \\ line \n',), True),
    ({"a": "nul \0"}, ("a",), ("nul \0",), True),
    ({"a": "%"}, ("a",), ("x",), False),
    ({"a": {"b": "x"}}, ("a",), ("x",), False),
    ({"a": "5f0c5f0c5f0c5f0c5f0c5f0c"}, ("a",), ("5f0c5f0c5f0c5f0c5f0c5f0c",), True),
    (["x", {"b": 1}], ("b",), (1,), True),
    ("x", (), ("x",), True),
]


def test_a_condition_means_the_same_in_each_store_and_in_words(store: Store) -> None:
    made = push(store, *[parameters for parameters, *_ in CASES])
    for number, (parameters, path, values, is_met) in enumerate(CASES):
        assert meets(parameters, path, values) is is_met, (parameters, path, values)
        for negated in (False, True):
            condition = Condition(("parameters", *path), values, negated=negated)
            found = {task.id for task in store.find_tasks(TaskFilter(where=(condition,)))}
            wanted = {
                one for one, (other, *_) in zip(made, CASES, strict=True) if meets(other, path, values, negated=negated)
            }
            assert found == wanted, (path, values, negated)
            assert (made[number] in found) is (is_met is not negated)
            assert store.count_tasks(TaskFilter(where=(condition,))) == len(wanted)


IN_ORDER: list[Any] = [  # values at `n`, and `a.b` (a key, which is another kind of question)
    5, 5.0, 4.5, 6, -1, 0, "5", "6", True, None, [1, 9], [["x"], {"n": 9}], {"n": 9}, 2**53 + 1, "2026-11-30",
    "2026-11-30T10:00:00Z", "2026-12-01", "2027", "zebra", ["2025-01-01", "zebra"], ["2026-12-24"], "",
]  # fmt: skip


@pytest.mark.parametrize("name", ["n", "a.b"])
def test_less_and_more_are_the_same_in_each_store_and_in_words(store: Store, name: str) -> None:
    parameters = [*({name: one} for one in IN_ORDER), {}, {"other": 7}]
    made = push(store, *parameters)

    def found(order: str, than: Any) -> list[Any]:
        condition = Condition(("parameters", name), (than,), order=Order(order))
        ids = {task.id for task in store.find_tasks(TaskFilter(where=(condition,)))}
        assert store.count_tasks(TaskFilter(where=(condition,))) == len(ids)
        which = [one for one, task_id in zip(parameters, made, strict=True) if task_id in ids]
        assert which == [one for one in parameters if meets(one, (name,), (than,), order=order)]
        return [one[name] for one in which]

    assert found(">", 5) == [6, [1, 9], 2**53 + 1] and found(">=", 5.0) == [5, 5.0, 6, [1, 9], 2**53 + 1]
    assert found("<", 0) == [-1] and found("<=", 0) == [-1, 0] and found("<", 5) == [4.5, -1, 0, [1, 9]]
    assert found(">", 2**53) == [2**53 + 1]
    assert found(">", "2026-11-30") == ["2026-11-30T10:00:00Z", "2026-12-01", ["2026-12-24"]]
    assert found("<=", "2026-11-30") == ["2026-11-30", ["2025-01-01", "zebra"]]


def test_conditions_on_other_fields_and_several_at_once(store: Store) -> None:
    error = {"code": "exit_1", "message": "Disk FULL: größe"}
    made = store.insert_tasks(
        [
            new_task("q", {"user": "a"}, now=NOW, status=2, error=error, result={"size": 3}, priority=5, mine="x"),
            new_task("q", {"user": "b"}, now=NOW, status=1, result=7, run={"exit_code": 0}, node="n1", unique_key="k"),
            new_task("q", {"user": "a"}, now=NOW, error="none"),
        ]
    )

    def found(*conditions: Condition, **more: Any) -> list[int]:
        return [made.index(one.id) for one in store.find_tasks(TaskFilter(where=conditions, **more))]

    def at(path: str, *values: Any, negated: bool = False) -> Condition:
        return Condition(tuple(path.split(".")), values, negated=negated)

    assert found(at("parameters.user", "a")) == [0, 2]
    assert found(at("parameters.user", "a"), at("mine", "x")) == [0]
    assert found(at("parameters.user", "a"), at("mine", "x", negated=True)) == [2]
    assert found(at("result.size", 3)) == found(at("error.code", "exit_1")) == found(at("priority", "5", 5)) == [0]
    assert found(at("result", 7)) == found(at("run.exit_code", 0)) == found(at("unique_key", "k")) == [1]
    assert found(at("node", "-1", -1)) == [0, 2] and found(at("node", "n1")) == [1]
    assert found(at("status", 1, 2)) == [0, 1] and found(at("queue", "q")) == [0, 1, 2]
    assert found(at("_id", str(made[1]))) == [1]
    assert found(at("unique_key", None)) == [] and found(at("unique_key", None, negated=True)) == [0, 1, 2]
    assert found(at("parameters.user", "a"), queue="q", statuses=frozenset({2})) == [0]
    assert found(grep="disk full") == found(grep="EXIT_") == found(grep="GRÖSSE".replace("SS", "ß")) == [0]
    assert found(grep=".*") == found(grep="none") == found(grep="\0") == found(grep="$") == []
    page = store.find_page(TaskFilter(grep=": gr", where=(at("mine", "x"),)), limit=5)
    assert [task.id for task in page.tasks] == [made[0]] and page.looked_at == 3


@pytest.mark.parametrize("newest_first", [True, False])
def test_all_tasks_of_a_filter_come_in_the_order_of_creation_over_many_pages(store: Store, newest_first: bool) -> None:
    """Also of several queues in one status, and where few of them match."""
    tasks = [("ab"[number % 2], [1, 2, -2, 2, 7][number % 5]) for number in range(150)]
    made = put(store, *tasks, batch="mine") + put(store, *tasks[:30])
    all_tasks = [*tasks, *tasks[:30]]

    def numbers(**which: Any) -> list[int]:
        found = [made.index(task.id) for task in store.find_tasks(TaskFilter(**which), newest_first=newest_first)]
        return found[::-1] if newest_first else found

    two = frozenset({2})
    assert numbers(queue="a") == [n for n, (queue, _) in enumerate(all_tasks) if queue == "a"]
    assert numbers(queues=("a", "b"), statuses=two) == [n for n, (_, status) in enumerate(all_tasks) if status == 2]
    assert numbers(batch="mine") == list(range(150))
    assert numbers(batch="mine", queue="b", statuses=frozenset({1}), or_failed=True) == [
        n for n, (queue, status) in enumerate(tasks) if queue == "b" and (status == 1 or status > 2)
    ]
    third = Condition(("parameters", "n"), (3, 77, 149))
    assert numbers(batch="mine", where=(third,)) == [3, 77, 149] and numbers(queue="b", where=(third,)) == [
        3,
        77,
        149,
        153,
    ]
    first = [
        made.index(task.id) for task in store.find_tasks(TaskFilter(queue="b"), limit=45, newest_first=newest_first)
    ]
    assert first == ([*range(179, 89, -2)] if newest_first else [*range(1, 91, 2)])


def test_output_is_read_from_any_piece(store: Store) -> None:
    _, key = claim_one(store)
    pieces: Sequence[bytes] = [bytes([number]) * OUTPUT_CHUNK_SIZE for number in range(3)] + [b"end"]
    store.commit([], [OutputChunk(key=key, stream="stdout", number=n, data=data) for n, data in enumerate(pieces)])
    for first in range(6):
        assert list(store.read_output(key.task_id, "t1", "stdout", first=first)) == list(pieces[first:])
