"""Short forms of task ids: the shortest beginning that only one task has, which every command takes for the id.

Responsible for: finding them for many ids at a low cost. Must not know: what they are for.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from operator import itemgetter

from disbatch_host.documents.records import TaskId
from disbatch_host.store.contract import Store

SHORT_MIN = 8  # characters: the seconds in which a task was created, so that a short id still says something
_DIGITS = re.compile("[0-9a-f]+")  # other ids, of other programs, have no beginnings that are taken for them


def short_ids(store: Store, ids: Iterable[TaskId]) -> dict[TaskId, str]:
    """The shortest beginning of each id, of `SHORT_MIN` digits or more, with which no other id in the store begins at
    this moment; an id that is not hexadecimal digits is returned whole."""
    texts = sorted(((str(one), one) for one in ids), key=itemgetter(0))
    if not texts:
        return {}
    shared = [_shared(before, after) for (before, _), (after, _) in itertools.pairwise(texts)]
    return {
        task_id: _short(store, text, max(before, after))
        for (text, task_id), before, after in zip(texts, [0, *shared], [*shared, 0], strict=True)
    }


def _short(store: Store, text: str, shared: int) -> str:
    """`shared`: so many digits are those of another id too."""
    if not _DIGITS.fullmatch(text):
        return text
    while (length := max(SHORT_MIN, shared + 1)) < len(text):
        others = [str(one) for one in store.ids_beginning(text[:length], limit=2) if str(one) != text]
        if not others:
            return text[:length]
        shared = max(length, *(_shared(text, one) for one in others))
    return text


def _shared(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
