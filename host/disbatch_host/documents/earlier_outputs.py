"""The outputs of a task's earlier attempts: how many are kept, and as what. Pure.

Responsible for: what the start of an attempt does with the output of those before it. Must not know: stores, when an
attempt starts, who reads.

Rules:
1. The output of an earlier attempt is kept as pieces under the attempt's token (`changes.OutputChunk`), as large output
   is anyway. The part that is in the document is made into pieces only when another attempt begins, which overwrites
   it: a first attempt, and one that succeeds, pay nothing.
2. An element of `attempts` has `output` as long as the output of that attempt is kept. Nodes of versions before 0.2.0
   keep none, and leave `output` behind: where no pieces are, nothing is kept.
3. `keep_attempts` of the queue counts the current attempt too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from disbatch_host.documents.changes import INLINE_OUTPUT_MAX, OUTPUT_CHUNK_SIZE, OutputChunk, RunKey
from disbatch_host.documents.records import Task

STREAMS = ("stdout", "stderr")
_CUT_CHARACTER_BYTES = 3  # by which the document's part of a larger output may be shorter than INLINE_OUTPUT_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierOutputs:
    """What becomes of them when another attempt begins."""

    keeps: tuple[OutputChunk, ...] = ()  # the output of the attempt before, as far as it is in the document
    forgets: tuple[str, ...] = ()  # the tokens of the attempts whose pieces go
    fields: Mapping[str, Any] = field(default_factory=dict)  # `attempts` from then on, if it changes


NONE = EarlierOutputs()


def when_another_begins(task: Task, keep_attempts: int) -> EarlierOutputs:
    """`task` as it is before that, with its output."""
    token = task.run.get("token")
    if not isinstance(token, str):
        return NONE
    attempts = task.attempts
    kept_from = len(attempts) - (keep_attempts - 1)
    fallen = [number for number, one in enumerate(attempts) if number < kept_from and _has_output(one)]
    forgets = [one for number in fallen if isinstance(one := attempts[number].get("token"), str)]
    keeps: tuple[OutputChunk, ...] = ()
    if attempts and kept_from < len(attempts) and _has_output(attempts[-1]) and attempts[-1].get("token") == token:
        keeps = _pieces_of_document(task, token)
    elif token not in forgets:
        forgets.append(token)
    left = [_without_output(one) if number in fallen else one for number, one in enumerate(attempts)]
    return EarlierOutputs(keeps=keeps, forgets=tuple(forgets), fields={"attempts": left} if fallen else {})


def with_attempts(task: Task, changed: Mapping[str, Any]) -> Task:
    """The task with the `attempts` that a change of it sets, if it does."""
    if "attempts" not in changed:
        return task
    return replace(task, document={**task.document, "attempts": changed["attempts"]})


def facts_of(run: Mapping[str, Any], stream: str) -> Mapping[str, Any]:
    """What a run, or an element of `attempts`, says of one of its streams; empty if it says nothing."""
    output = run.get("output")
    facts = output.get(stream) if isinstance(output, Mapping) else None
    return facts if isinstance(facts, Mapping) else {}


def _has_output(attempt: Any) -> bool:
    return isinstance(attempt, Mapping) and isinstance(attempt.get("output"), Mapping)


def _without_output(attempt: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attempt.items() if name != "output"}


def _pieces_of_document(task: Task, token: str) -> tuple[OutputChunk, ...]:
    pieces = []
    key = RunKey(task.id, "", token)  # only its task and token count
    for stream in STREAMS:
        text = task.document.get(stream)
        if not isinstance(text, str) or not text or _is_in_pieces(task, stream, text):
            continue
        data = text.encode("utf-8", "replace")
        pieces += [
            OutputChunk(key=key, stream=stream, number=number, data=data[start : start + OUTPUT_CHUNK_SIZE])
            for number, start in enumerate(range(0, len(data), OUTPUT_CHUNK_SIZE))
        ]
    return tuple(pieces)


def _is_in_pieces(task: Task, stream: str, text: str) -> bool:
    """Whether the pieces have all of a stream already."""
    facts = facts_of(task.run, stream)
    if facts.get("encoding") == "binary":
        return True  # the document has a line about it
    if "in_file" in facts:
        return bool(facts["in_file"])
    # A run that was lost says nothing of its output: its pieces begin when the document is full.
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return size >= INLINE_OUTPUT_MAX - _CUT_CHARACTER_BYTES
