"""The outputs of many tasks: in order, their last lines, and as they come."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client, Selection
from disbatch_host.client.outputs import Said, outputs
from disbatch_host.client.outputs_followed import follow_outputs
from disbatch_host.client.short_ids import SHORT_MIN, short_ids
from disbatch_host.client.standstill import Still
from disbatch_host.documents import batch as batches
from disbatch_host.documents.changes import INLINE_OUTPUT_MAX, OUTPUT_CHUNK_SIZE, OutputChunk, RunKey, TaskFilter, Want
from disbatch_host.documents.records import TaskId, new_task
from disbatch_host.errors import FieldError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.stores import change

OF_Q = TaskFilter(queue="q")


@pytest.fixture(autouse=True)
def queue(store: Store) -> None:
    store.insert_queue({"_id": "q", "class": "mail"})


class Counted:
    """A store, and how often each of its calls was made; `first` is where outputs were read from."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()
        self.first: list[int] = []

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self._store, name)

    def read_output(self, *arguments: Any, first: int = 0) -> Iterator[bytes]:
        for number, piece in enumerate(self._store.read_output(*arguments, first=first), first):
            self.first.append(number)
            yield piece


def facts(**sizes: int) -> dict[str, Any]:
    """`run` of an ended task whose streams had so many bytes."""
    streams = {name: {"bytes": size, "in_file": size > INLINE_OUTPUT_MAX} for name, size in sizes.items()}
    return {"token": "t1", "output": {"stdout": {"bytes": 0}, "stderr": {"bytes": 0}, **streams}}


def ended(store: Store, stdout: str = "", stderr: str = "", status: int = Status.CONCLUDED, **more: Any) -> TaskId:
    run = facts(stdout=len(stdout), stderr=len(stderr))
    return put_task(store, status=int(status), stdout=stdout, stderr=stderr, run=run, **more)


def started(store: Store, token: str = "t1", **more: Any) -> RunKey:
    """A new task that runs."""
    store.insert_tasks([new_task("q", {}, now=store.now(), **more)])
    (task,) = store.claim("n1", [Want("q", 1)], token)
    key = RunKey(task.id, "n1", token)
    now = store.now()
    assert not store.commit([change(key, Status.CLAIMED, Status.RUNNING, run={"token": token}, mtime=now, stdout="")])
    return key


def says(store: Store, key: RunKey, stdout: str, **more: Any) -> None:
    """The whole stream so far."""
    assert not store.commit([change(key, Status.RUNNING, stdout=stdout, **more)])


def ends(store: Store, key: RunKey, stdout: str, status: Status = Status.CONCLUDED, **more: Any) -> None:
    run = {**facts(stdout=len(stdout)), "token": key.token}
    end = change(key, Status.RUNNING, status, **{"stdout": stdout, "mtime": store.now(), "run": run, **more})
    assert not store.commit([end])


def in_pieces(store: Store, data: bytes, **more: Any) -> TaskId:
    """An ended task whose stdout has outgrown its document."""
    key = started(store)
    pieces = [
        OutputChunk(key=key, stream="stdout", number=number, data=data[start : start + OUTPUT_CHUNK_SIZE])
        for number, start in enumerate(range(0, len(data), OUTPUT_CHUNK_SIZE))
    ]
    assert not store.commit([], pieces)
    ends(store, key, data[:INLINE_OUTPUT_MAX].decode(), run=facts(stdout=len(data)), **more)
    return key.task_id


def texts(said: Iterable[Said | None]) -> dict[TaskId, bytes]:
    found: dict[TaskId, bytes] = {}
    for one in said:
        if one is not None:
            found[one.task_id] = found.get(one.task_id, b"") + one.data
    return found


def told(followed: Iterator[Said | None]) -> list[bytes]:
    """What is told until there is no more for now; what belongs together, as one."""
    some: list[Said] = []
    for one in followed:
        if one is None:
            break
        some.append(one)
    key: Callable[[Said], Any] = lambda one: (one.task_id, one.stream)  # noqa: E731
    return [b"".join(one.data for one in group) for _, group in itertools.groupby(some, key)]


def test_outputs_come_in_the_order_of_creation_and_silent_tasks_cost_nothing(client: Client, store: Store) -> None:
    put_task(store)  # waits
    put_task(store, status=int(Status.CANCELLED))
    first = ended(store, "one\ntwo\n", "bad\n", Status.FAILED)
    for _ in range(60):
        ended(store)
    second, third = ended(store, "three"), ended(store, stderr="worse", status=Status.FAILED)
    ended(store, "elsewhere", queue="other")
    said = list(client.outputs(Selection(queue="q"), ("stdout", "stderr")))
    assert [(one.task_id, one.stream, one.data, one.is_first) for one in said] == [
        (first, "stdout", b"one\ntwo\n", True), (first, "stderr", b"bad\n", True), (second, "stdout", b"three", True),
        (third, "stderr", b"worse", True),
    ]  # fmt: skip
    assert texts(client.outputs(Selection(queue="q", status="failed"))) == {first: b"one\ntwo\n"}
    assert texts(client.outputs(Selection(queue="q"), tail=1)) == {first: b"two\n", second: b"three"}
    counted: Any = Counted(store)
    assert list(outputs(counted, replace_queue("other"))) != [] and counted.calls["find_tasks"] == 2
    counted = Counted(store)
    list(outputs(counted, OF_Q))
    assert counted.calls["find_tasks"] == 2, "one list, and one look at those that have said something"


def replace_queue(name: str) -> TaskFilter:
    return TaskFilter(queue=name)


def test_a_short_id_is_that_of_one_task_and_finds_it(client: Client, store: Store) -> None:
    ids = [put_task(store) for _ in range(12)]
    ids += store.insert_tasks([new_task("q", {}, now=store.now()) for _ in range(300)])
    store.insert_tasks([{**new_task("q", {}, now=store.now()), "_id": "by hand"}])
    short = short_ids(store, [*ids[:50], "by hand"])
    for task_id in ids[:50]:
        assert len(short[task_id]) >= SHORT_MIN and client.get(short[task_id]).id == task_id
        one_less = short[task_id][:-1]
        assert len(one_less) < SHORT_MIN or len(store.ids_beginning(one_less)) == 2, "it is no longer than it has to be"
    assert short["by hand"] == "by hand"


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_last_lines_of_a_large_output_read_only_its_last_pieces(store: Store, count: int) -> None:
    """Also while the task runs, and where the last line has no end."""
    line = b"%07d and so on\n"
    data = b"".join(line % number for number in range(12 * OUTPUT_CHUNK_SIZE // len(line % 0)))
    task_id = in_pieces(store, data)
    counted: Any = Counted(store)
    wanted = b"".join(data.splitlines(keepends=True)[-count:])
    assert texts(outputs(counted, OF_Q, tail=count)) == {task_id: wanted}
    assert min(counted.first) >= 11, counted.first
    assert texts(outputs(store, OF_Q, tail=0)) == {}
    many = data.count(b"\n") - 5
    assert texts(outputs(store, OF_Q, tail=many)) == {task_id: b"".join(data.splitlines(keepends=True)[5:])}
    assert texts(outputs(store, OF_Q, tail=many + 10)) == {task_id: data}


def test_the_last_lines_of_a_running_task_are_found_without_knowing_its_size(store: Store) -> None:
    key = started(store)
    data = b"".join(b"%07d\n" % number for number in range(9 * OUTPUT_CHUNK_SIZE // 8)) + b"open"
    pieces = [
        OutputChunk(key=key, stream="stdout", number=n, data=data[n * OUTPUT_CHUNK_SIZE : (n + 1) * OUTPUT_CHUNK_SIZE])
        for n in range(10)
    ]
    store.commit([change(key, Status.RUNNING, stdout=data[:INLINE_OUTPUT_MAX].decode())], pieces)
    wanted = b"".join(data.splitlines(keepends=True)[-2:])
    counted: Any = Counted(store)
    assert texts(outputs(counted, OF_Q, tail=2)) == {key.task_id: wanted}
    assert len(counted.first) < 14, counted.first


def test_large_outputs_are_read_in_bounded_memory(store: Store) -> None:
    data = (b"x" * 99 + b"\n") * (20 * 2**20 // 100)
    in_pieces(store, data)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        size = sum(len(one.data) for one in outputs(store, OF_Q))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert size == len(data) and peak < 10 * 2**20, peak


def test_output_that_is_not_text_is_the_line_about_it(store: Store) -> None:
    run = {"token": "t1", "output": {"stdout": {"bytes": 9, "in_file": True, "encoding": "binary"}}}
    task_id = put_task(store, status=1, stdout="(9 bytes that are not text)", run=run)
    assert texts(outputs(store, OF_Q)) == texts(outputs(store, OF_Q, tail=1))
    assert texts(outputs(store, OF_Q)) == {task_id: b"(9 bytes that are not text)"}


def test_followed_tasks_tell_whole_lines_until_they_end(store: Store) -> None:
    before = ended(store, "before", age_seconds=60)
    one, two = started(store), started(store)
    says(store, one, "first li")
    followed = follow_outputs(store, OF_Q)
    assert told(followed) == [b"before"]
    says(store, two, "of two\nand")
    assert told(followed) == [b"of two\n"]
    says(store, one, "first line\nsecond\nthi")
    assert told(followed) == [b"first line\nsecond\n"]
    assert told(followed) == []
    ends(store, one, "first line\nsecond\nthird")
    new = started(store)
    ends(store, new, "quick\n")
    assert sorted(told(followed)) == [b"quick\n", b"third"]
    ends(store, two, "of two\nand on", Status.FAILED)
    assert told(followed) == [b"and on"]
    assert told(followed) == [] and before is not None
    followed.close()  # type: ignore[attr-defined]


def test_only_the_last_lines_of_what_was_said_before_and_all_that_follows(store: Store) -> None:
    ended(store, "a\nb\nc\n", age_seconds=60)
    ended(store, "d\ne\n")
    key = started(store)
    says(store, key, "f\ng\nh\n")
    followed = follow_outputs(store, OF_Q, tail=1)
    assert sorted(told(followed)) == [b"c\n", b"e\n", b"h\n"]
    says(store, key, "f\ng\nh\ni\nj\nk\n")
    ends(store, started(store), "l\nm\n")
    assert sorted(told(followed)) == [b"i\nj\nk\n", b"l\nm\n"]


@pytest.mark.parametrize("size", [20_000, 3 * OUTPUT_CHUNK_SIZE + 7])
def test_a_long_line_is_told_when_it_has_ended_and_is_not_kept_until_then(store: Store, size: int) -> None:
    key, other = started(store), started(store)
    line = b"x" * size + b"\n"
    says(store, key, f"start\n{line[:-5].decode()}")
    says(store, other, "oth")
    followed = follow_outputs(store, OF_Q)
    assert told(followed) == [b"start\n"]
    says(store, other, "other\n")
    assert told(followed) == [b"other\n"]
    says(store, key, f"start\n{line.decode()}rest")
    assert told(followed) == [line]
    ends(store, key, f"start\n{line.decode()}rest")
    assert told(followed) == [b"rest"]


def test_a_followed_stream_that_outgrows_its_document_is_told_once(store: Store) -> None:
    key = started(store)
    data = b"".join(b"%07d\n" % number for number in range(7 * OUTPUT_CHUNK_SIZE // 8)) + b"the end"
    says(store, key, data[:OUTPUT_CHUNK_SIZE].decode())
    followed = follow_outputs(store, OF_Q)
    found = told(followed)
    for count in (5, 6):
        pieces = [
            OutputChunk(
                key=key, stream="stdout", number=n, data=data[n * OUTPUT_CHUNK_SIZE : (n + 1) * OUTPUT_CHUNK_SIZE]
            )
            for n in range(count)
        ]
        store.commit([change(key, Status.RUNNING, stdout=data[:INLINE_OUTPUT_MAX].decode())], pieces)
        found += told(followed)
        assert found[-1].endswith(b"\n")
    last = OutputChunk(key=key, stream="stdout", number=7, data=data[7 * OUTPUT_CHUNK_SIZE :])
    sixth = OutputChunk(key=key, stream="stdout", number=6, data=data[6 * OUTPUT_CHUNK_SIZE : 7 * OUTPUT_CHUNK_SIZE])
    store.commit([], [sixth, last])
    ends(store, key, data[:INLINE_OUTPUT_MAX].decode(), run=facts(stdout=len(data)))
    found += told(followed)
    assert b"".join(found) == data


def test_another_attempt_begins_anew_and_what_was_at_hand_of_the_one_before_is_told(store: Store) -> None:
    key = started(store)
    says(store, key, "fatal: no")
    followed = follow_outputs(store, OF_Q)
    assert told(followed) == []
    store.commit([change(key, Status.RUNNING, Status.CREATED, node=-1, mtime=store.now())])
    (task,) = store.claim("n1", [Want("q", 1)], "t2")
    again = RunKey(task.id, "n1", "t2")
    store.commit([change(again, Status.CLAIMED, Status.RUNNING, run={"token": "t2"}, stdout="again\n")])
    some = [one for one in itertools.takewhile(lambda one: one is not None, followed) if one is not None]
    assert [(one.data, one.is_first) for one in some] == [(b"fatal: no", True), (b"again\n", True)]


def test_a_task_that_waits_for_its_next_attempt_has_told_everything(store: Store) -> None:
    key = started(store)
    followed = follow_outputs(store, OF_Q)
    assert told(followed) == []
    run = {**facts(stdout=9), "token": "t1"}
    says(store, key, "fatal: no")
    later = store.now() + timedelta(hours=1)
    store.commit([change(key, Status.RUNNING, Status.BLOCKED, node=-1, not_before=later, mtime=store.now(), run=run)])
    assert told(followed) == [b"fatal: no"] and told(followed) == []


def test_an_end_that_was_recorded_late_and_a_task_that_is_gone_are_told(store: Store) -> None:
    """A node that could not reach the store records an end with the time at which it was."""
    late, gone = started(store), started(store)
    says(store, gone, "half a li")
    followed = follow_outputs(store, OF_Q)
    assert told(followed) == []
    ends(store, late, "late\n", mtime=store.now() - timedelta(hours=1))
    ends(store, gone, "half a line\n")
    assert store.delete_tasks([gone.task_id]) == 1
    assert sorted(told(followed)) == [b"half a li", b"late\n"]


def test_following_a_batch_ends_when_it_is_done(client: Client, store: Store) -> None:
    client.batches.create("b")
    key = started(store, batch="b")
    started(store)  # of no batch
    opened: list[batches.Batch] = []
    followed = follow_outputs(store, TaskFilter(batch="b"), on_open=opened.append)
    assert told(followed) == [] and opened == []
    ends(store, key, "the end")
    assert told(followed) == [b"the end"]
    assert told(followed) == [] and [one.id for one in opened][:1] == ["b"]
    client.batches.close("b")
    assert list(followed) in ([None], [None, None])
    assert texts(client.follow_outputs(Selection(batch="b"))) == {key.task_id: b"the end"}


def test_what_ends_a_task_selects_it_while_it_is_followed(client: Client, store: Store) -> None:
    good, bad = started(store), started(store)
    followed = client.follow_outputs(Selection(queue="q", status="failed"))
    says(store, good, "fine\n")
    assert told(followed) == []
    ends(store, good, "fine\n")
    ends(store, bad, "wrong\n", Status.FAILED)
    assert told(followed) == [b"wrong\n"]
    for status in ("running", "waiting", "failed,created"):
        with pytest.raises(FieldError, match="how they end"):
            next(client.follow_outputs(Selection(queue="q", status=status)))


def test_why_nothing_comes_is_told(client: Client, store: Store) -> None:
    put_task(store)
    stills: list[Still] = []
    followed = client.follow_outputs(Selection(queue="q"), on_still=stills.append)
    for _ in followed:
        if stills:
            break
    assert "no node" in stills[0].why.sentence


def test_a_look_costs_the_same_however_many_tasks_have_ended(store: Store) -> None:
    def calls_of_a_look(ended_tasks: int, running: Sequence[RunKey]) -> Counter[str]:
        for _ in range(ended_tasks):
            ended(store, "x\n", age_seconds=60)
        counted: Any = Counted(store)
        followed = follow_outputs(counted, OF_Q)
        told(followed)
        counted.calls.clear()
        for number, key in enumerate(running):
            says(store, key, f"{number} {ended_tasks}\n")
        assert len(told(followed)) == len(running)
        return counted.calls

    running = [started(store) for _ in range(3)]
    few = calls_of_a_look(3, running)
    assert few == calls_of_a_look(100, running) and few.total() < 12, few
