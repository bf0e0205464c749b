"""The content of `disbatch-host status --watch`: an overview, laid out for a terminal of a given size. Pure.

Responsible for: the order, what is left out and saying so, and that no line is wider than the terminal.
Must not know: terminals, stores.

Rules:
1. Every line is exactly one row: cut by columns of the terminal (wide characters take two), never wrapped.
2. When space is short, things that need attention come first, and the title says how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from disbatch_host import suggested
from disbatch_host.cli import render
from disbatch_host.client.failures import FailureFacts
from disbatch_host.client.overview import NodeFacts, Overview, QueueFacts, RunningFacts
from disbatch_host.decide.why import Code

_GAP = "  "
_NOTE_BESIDE_MIN = 24  # columns for a note in its queue's own line; with fewer it gets a line of its own
_BAR = 10  # columns of a progress bar


@dataclass(frozen=True, slots=True)
class Block:
    """A section: a title, and for each thing one or more lines that are shown together or not at all."""

    title: Callable[[int], Text]  # from the number of things shown
    things: Sequence[Sequence[Text]]
    weight: int

    @property
    def height(self) -> int:
        return 1 + sum(len(lines) for lines in self.things)


def lay_out(overview: Overview, *, width: int, height: int, every_seconds: float, trouble: str = "") -> list[Text]:
    """The lines, at most `height`, none wider than `width`. `trouble`: why the overview is outdated."""
    head = [_headline(overview, width, every_seconds), _sums(overview, width)]
    if trouble:
        head.append(_line([(trouble, "bold red")], width))
    blocks = [
        block
        for block in (
            _queues(overview.queues, width),
            _nodes(overview.nodes, width),
            _failures(overview, width),
            _running(overview, width),
        )
        if block is not None
    ]
    left = height - len(head)
    gap = 1 if left >= sum(min(block.height, _MIN_BLOCK) + 1 for block in blocks) else 0
    heights = share(left, [(block.height + gap, block.weight) for block in blocks])
    lines = head
    for block, given in zip(blocks, heights, strict=True):
        lines += _cut_block(block, given, gap, width)
    return lines[:height]


_MIN_BLOCK = 3  # lines: a title and two things


def share(height: int, wanted: Sequence[tuple[int, int]]) -> list[int]:
    """The number of lines for each of several blocks with demands and weights: no block gets more than it
    wants, no line is left over while a block wants more, and a block that wants less than its share passes it on."""
    given = [0] * len(wanted)
    left = max(0, height)
    while left > 0:
        open_ = [index for index, (want, _) in enumerate(wanted) if given[index] < want]
        if not open_:
            break
        # One line at a time, to the block with the least of its share: the numbers are small, so simple is fast enough.
        index = min(open_, key=lambda one: (given[one] / wanted[one][1], one))
        given[index] += 1
        left -= 1
    return given


def _cut_block(block: Block, height: int, gap: int, width: int) -> list[Text]:
    """The block in this many lines, including the blank one before it."""
    room = height - gap - 1
    if room < 0 or (room == 0 and block.things):
        return [] if room < 0 else [Text("")] * gap + [block.title(0)]
    shown: list[Text] = []
    count = 0
    for lines in block.things:
        if len(shown) + len(lines) > room:
            if not shown and room > 0:  # its first line is better than nothing
                shown, count = list(lines[:room]), 1
            break
        shown += lines
        count += 1
    return [*[Text("")] * gap, block.title(count), *shown]


def _headline(overview: Overview, width: int, every_seconds: float) -> Text:
    clock = overview.at.astimezone().strftime("%H:%M:%S")
    right = f"{clock}, every {_short_seconds(every_seconds)}, q quits"
    left = f"disbatch-host  {overview.store}"
    return _line([(_fit(left, width - cell_len(right) - 2), "bold"), (_GAP, ""), (right, "dim")], width)


def _sums(overview: Overview, width: int) -> Text:
    queues = overview.queues
    alive = sum(one.is_alive for one in overview.nodes)
    failed, orphaned = sum(one.failed for one in queues), sum(one.orphaned for one in queues)
    cancelled = sum(one.cancelled for one in queues)
    dead, away = (sum(one.state == word for one in overview.nodes) for word in ("dead", "away"))
    parts = [
        (f"{short(sum(one.waiting for one in queues))} waiting", ""),
        (f"{short(sum(one.running for one in queues))} running", "cyan"),
        (f"{short(sum(one.concluded for one in queues))} concluded", "green"),
        (f"{short(failed)} failed", "red" if failed else "dim"),
        *([(f"{short(cancelled)} cancelled", "yellow")] if cancelled else []),
        *([(f"{short(orphaned)} orphaned", "magenta")] if orphaned else []),
        ("-" if overview.per_second is None else f"{_rate(overview.per_second)}/s", "bold"),
        (f"{alive} node{'' if alive == 1 else 's'}", "" if alive else "bold red"),
        *([(f"{dead} dead", "red")] if dead else []),
        *([(f"{away} away", "yellow")] if away else []),
    ]
    spaced = [piece for index, part in enumerate(parts) for piece in ([(", ", "dim")] if index else []) + [part]]
    return _line(spaced, width)


def attention(queue: QueueFacts) -> tuple[object, ...]:
    """A sort key, neediest first: waiting with no node to run it, failing now, waiting longest, running; a queue that
    was paused on purpose needs no attention."""
    if queue.codes and _ON_PURPOSE.issuperset(queue.codes):
        rank = 1 if queue.failed_more else 4
    elif queue.waiting and queue.notes:
        rank = 0
    elif queue.failed_more:
        rank = 1
    elif queue.waiting:
        rank = 2
    elif queue.running:
        rank = 3
    elif queue.failed or queue.orphaned or queue.notes:
        rank = 4
    else:
        rank = 5
    return rank, -(queue.oldest_seconds or 0.0), -queue.failed_more, queue.name


_ON_PURPOSE = frozenset({Code.PAUSED, Code.MAXTHREADS, Code.MAXTOTAL})

_COUNTS = ("waiting", "running", "done", "failed", "per s", "oldest")


def _queues(queues: Sequence[QueueFacts], width: int) -> Block:
    ordered = sorted(queues, key=attention)
    numbers = [_queue_numbers(one) for one in ordered[:_MEASURED]]
    columns = [max([len(name), *(len(cells[index][0]) for cells in numbers)]) for index, name in enumerate(_COUNTS)]
    taken = sum(columns) + len(_GAP) * len(columns)
    longest = max((cell_len(_plain(one.name)) for one in ordered[:_MEASURED]), default=0)
    name_width = max(8, min(longest, max(width - taken, 12), 60))
    name_width = max(name_width, min(_title_width("queue", len(queues)), width - taken))
    note_width = width - taken - name_width - len(_GAP)
    is_beside = note_width >= _NOTE_BESIDE_MIN

    def title(shown: int) -> Text:
        name = _fit(_count_title("queue", shown, len(queues)), name_width)
        heads = [(f"{_GAP}{head.rjust(column)}", "bold") for head, column in zip(_COUNTS, columns, strict=True)]
        return _line([(_pad(name, name_width), "bold"), *heads, (f"{_GAP}note" if is_beside else "", "bold")], width)

    things = []
    for index, queue in enumerate(ordered[:_MEASURED]):
        cells = [
            (f"{_GAP}{text.rjust(column)}", style)
            for (text, style), column in zip(numbers[index], columns, strict=True)
        ]
        note = "; ".join([*([f"{short(queue.orphaned)} orphaned"] if queue.orphaned else []), *queue.notes])
        # Of no concern, so without a line of its own.
        cancelled = f"{short(queue.cancelled)} cancelled" if queue.cancelled else ""
        beside = [(f"{_GAP}{'; '.join(filter(None, (note, cancelled)))}", "yellow")] if is_beside else []
        lines = [_line([(_pad(_fit(queue.name, name_width), name_width), ""), *cells, *beside], width)]
        if note and not is_beside:
            lines.append(_line([(f"    {note}", "yellow")], width))
        things.append(lines)
    if not things:
        things = [[_line([(f"none; {suggested.hint('queue create ID --class CLASS')} makes one", "dim")], width)]]
    return Block(title, things, weight=5)


_NEVER_CUT = 2  # this few things are always shown in full, or nearly
_MEASURED = 300  # things that are measured and laid out: more than any terminal has lines


def _queue_numbers(one: QueueFacts) -> list[tuple[str, str]]:
    return [
        (short(one.waiting), "" if one.waiting else "dim"),
        (short(one.running), "cyan" if one.running else "dim"),
        (short(one.concluded), "green" if one.concluded else "dim"),
        (short(one.failed), "bold red" if one.failed_more else "red" if one.failed else "dim"),
        ("-" if one.per_second is None else _rate(one.per_second), "" if one.per_second else "dim"),
        ("-" if one.oldest_seconds is None else _short_seconds(one.oldest_seconds), ""),
    ]


def _count_title(name: str, shown: int, total: int) -> str:
    return f"{name} ({total})" if shown >= total else f"{name} ({shown} of {short(total)})"


def _title_width(name: str, total: int) -> int:
    """The width of a title that may have to say that some are left out."""
    shown = min(99, total - 1) if total > _NEVER_CUT else total
    return cell_len(_count_title(name, shown, total))


def _nodes(nodes: Sequence[NodeFacts], width: int) -> Block:
    ordered = sorted(nodes, key=lambda one: (not one.notes and one.state == "running", -one.running, one.name))
    rows = []
    for one in ordered[:_MEASURED]:
        style = "red" if one.state == "dead" else "green" if one.state == "running" else "yellow"
        state = "alive" if one.state == "running" else one.state  # as `node list` says it
        load = f"{one.running} of {one.threads}" + (f", max {one.max_total}" if one.max_total is not None else "")
        age = "-" if one.age_seconds is None else f"{_short_seconds(one.age_seconds)} ago"
        note = "; ".join(one.notes)
        rows.append(
            [
                (one.name, ""),
                (state, style),
                (load, ""),
                (age, style),
                (one.machine, "dim"),
                (note, "yellow"),
            ]
        )
    heads = ("state", "load", "heartbeat", "machine", "note")
    title, things = _table("node", heads, rows, len(nodes), width)
    if not things:
        things = [[_line([(f"none; {suggested.a_node([])} runs one", "dim")], width)]]
    return Block(title, things, weight=2)


def _failures(overview: Overview, width: int) -> Block | None:
    if not overview.failures:
        return None

    def row(one: FailureFacts) -> list[tuple[str, str]]:
        share_of = 100 * one.total / max(1, overview.failures_seen)
        queues = one.queues[0] + (f" +{len(one.queues) - 1}" if len(one.queues) > 1 else "")
        return [
            (one.code, "red"),
            (short(one.total), ""),
            (f"{share_of:.0f} %", "dim"),
            (queues, ""),
            (one.cause, ""),
        ]

    rows = [row(one) for one in overview.failures[:_MEASURED]]
    name = f"failed, by cause, of {short(overview.failures_seen)}"
    _, things = _table("", ("count", "share", "queue", "message"), rows, len(rows), width, cuts_middle=True)

    def title(shown: int) -> Text:
        more = "" if shown >= len(rows) else f": {shown} of {len(overview.failures)} causes"
        return _line([(f"{name}{more}", "bold")], width)

    return Block(title, things, weight=2)


def _running(overview: Overview, width: int) -> Block | None:
    if not overview.running:
        return None
    rows = []
    for one in overview.running[:_MEASURED]:
        took = "-" if one.seconds is None else _short_seconds(one.seconds)
        rows.append([(one.task, ""), (one.queue, ""), (one.node, ""), (took, "cyan"), (_progress(one), "green")])
    total = max(len(overview.running), sum(one.running for one in overview.queues))
    title, things = _table("running", ("queue", "node", "ran", "progress"), rows, total, width)
    return Block(title, things, weight=3)


def _progress(one: RunningFacts) -> str:
    parts = []
    if one.progress is not None:
        done = round(one.progress * _BAR)
        parts.append(f"{'━' * done}{'┄' * (_BAR - done)} {100 * one.progress:3.0f} %")
    return one.absence or " ".join([*parts, one.message] if one.message else parts)


# Tables


def _table(
    name: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[tuple[str, str]]],
    total: int,
    width: int,
    *,
    cuts_middle: bool = False,
) -> tuple[Callable[[int], Text], list[list[Text]]]:
    """Title and lines of a table whose last column takes the remaining width; if the others leave too little for
    it, they are cut, the widest first. `cuts_middle`: the last column lacks its middle then, not its end."""
    widths = [max((cell_len(_plain(row[index][0])) for row in rows), default=0) for index in range(len(heads))]
    for index, head in enumerate(heads[:-1], start=1):
        widths[index] = max(widths[index], len(head) if widths[index] else 0)
    first = max(widths[0], _title_width(name, total)) if name else widths[0]
    widths[0] = first if first + sum(widths[1:]) + len(_GAP) * len(widths) + _LAST_MIN <= width else widths[0]
    last_min = _LAST_MIN if any(row[-1][0] for row in rows) else 0
    while sum(widths) + len(_GAP) * len(widths) + last_min > width and max(widths) > _CELL_MIN:
        widths[widths.index(max(widths))] -= 1

    def title(shown: int) -> Text:
        text = _count_title(name, shown, total)
        if cell_len(text) > widths[0]:  # it replaces the heads that it covers
            return _line([(text, "bold")], width)
        cells = [(f"{_GAP}{_pad(_fit(head, column), column)}", "bold") for head, column in _heads(heads, widths)]
        return _line(
            [(_pad(text, widths[0]), "bold"), *cells, (f"{_GAP}{heads[-1]}" if last_min else "", "bold")], width
        )

    lines = []
    for row in rows:
        cells = []
        for index, (text, style) in enumerate(row[:-1]):
            if widths[index] or index == 0:
                gap = _GAP if index else ""
                cells.append((f"{gap}{_pad(_fit(text, widths[index]), widths[index])}", style))
        text, style = row[-1]
        if cuts_middle:
            left = width - sum(cell_len(cell) for cell, _ in cells) - len(_GAP)
            text = render.cut_middle(_plain(text), max(1, left))
        lines.append([_line([*cells, (f"{_GAP}{text}", style)], width)])
    return title, lines


_LAST_MIN = 16  # width that the last column should have
_CELL_MIN = 8  # width to which others may be cut


def _heads(heads: Sequence[str], widths: Sequence[int]) -> list[tuple[str, int]]:
    return [(head, column) for head, column in zip(heads[:-1], widths[1:], strict=True) if column]


# Text


def _line(parts: Sequence[tuple[str, str]], width: int) -> Text:
    """One row, cut to the width."""
    text = Text(no_wrap=True, end="")
    left = width
    for part, style in parts:
        shown = _fit(part, left)
        text.append(shown, style or None)
        left -= cell_len(shown)
        if left <= 0:
            break
    text.rstrip()
    return text


def _plain(text: str) -> str:
    return render.printable(text).replace("\n", " ").replace("\t", " ")


def _fit(text: str, width: int) -> str:
    """At most this many columns, with an ellipsis where something is missing."""
    text = _plain(text)
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1).rstrip()}…" if width > 1 else text[:0]


def _pad(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def short(number: int) -> str:
    """A count in at most 5 characters: `12345`, `123k`, `1.2M`."""
    if number < 100_000:
        return str(number)
    for size, unit in ((10**3, "k"), (10**6, "M"), (10**9, "G")):
        if number < 999.5 * size:
            return f"{number / size:.1f}{unit}" if number < 9.95 * size else f"{number / size:.0f}{unit}"
    return f"{number / 10**12:.0f}T"


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}" if per_second < 99.95 else short(round(per_second))


def _short_seconds(seconds: float) -> str:
    """`0.4s`, `42s`, `12m`, `3h`, `12d`: at most 4 characters for any age that a person waits for."""
    if seconds < 9.95 and seconds != int(seconds):
        return f"{seconds:.1f}s"
    for size, unit in ((1, "s"), (60, "m"), (3600, "h")):
        if seconds < 100 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"
