"""The sizes of the pieces of work on very many tasks, by how long each piece takes."""

from __future__ import annotations

from collections.abc import Callable

from disbatch_host.node import pieces
from disbatch_host.node.pieces import Pieces


class Work:
    """Work whose pieces take as long as a function of their size says."""

    def __init__(self, took: Callable[[int], float], most: int = 500) -> None:
        self._now = 0.0
        self._took = took
        self._pieces = Pieces(most, clock=lambda: self._now)

    def call(self, seconds: float = 0.2) -> tuple[list[int], float]:
        """The sizes of one call's pieces, and how long it took."""
        began, sizes = self._now, []
        for size in self._pieces.sizes(seconds):
            sizes.append(size)
            self._now += self._took(size)
        return sizes, round(self._now - began, 3)


def test_small_tasks_soon_come_in_the_largest_pieces() -> None:
    sizes, took = Work(lambda size: 0.001 + 0.0001 * size).call()
    assert sizes[:9] == [2, 4, 8, 16, 32, 64, 128, 256, 500] and set(sizes[9:]) == {500} and took < 0.3


def test_large_tasks_end_the_call_after_its_time_and_the_next_one_begins_small_again() -> None:
    work = Work(lambda size: 0.06 * size)
    assert work.call() == work.call() == ([2, 4], 0.36)
    assert Work(lambda size: 0.25 * size).call() == ([2], 0.5)


def test_a_store_that_is_far_away_is_not_taken_for_large_tasks() -> None:
    """With 100 ms for each write, a thousand tasks took two minutes."""
    work = Work(lambda size: 0.1 + 0.0001 * size)
    first, took = work.call()
    assert first[:5] == [2, 4, 8, 16, 32] and sum(first) > 500 and took < 1.3
    second, _ = work.call()
    assert second[0] >= 64  # where the first one was when its time was over


def test_large_tasks_after_small_ones_far_away_cost_one_piece() -> None:
    per_task = [0.0001]
    work = Work(lambda size: 0.3 + per_task[0] * size)
    work.call()
    per_task[0] = 0.06
    second, _ = work.call()
    assert len(second) == 1
    assert work.call()[0] == [2]


def test_without_time_there_is_one_piece() -> None:
    assert Work(lambda size: 0.01).call(0) == ([2], 0.01)


def test_items_are_cut_into_pieces_as_far_as_there_is_time() -> None:
    assert [list(one) for one in pieces.of(range(7), Pieces(500), 1000)] == [[0, 1], [2, 3, 4, 5], [6]]
    assert [list(one) for one in pieces.of(range(7), Pieces(500), 0)] == [[0, 1]]
    assert not list(pieces.of([], Pieces(500), 1000))
