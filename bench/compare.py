"""Whether one revision of the project is slower than another: both run in turn, on the same machine, within seconds.

    python bench/compare.py OLD NEW [--only CASE,CASE] [--pairs N] [--most-pairs N] [--quick] [--json FILE]

OLD and NEW are revisions of this repository; `.` or WORKTREE is the working tree with everything that is not
committed. Each is installed into a virtual environment of its own and driven through its command line. A figure is
fine when the upper end of the 95 % interval of its paired ratio keeps to the limit: 1.03 for CPU a task (node, its
supervisor and mongod), 1.10 for time. After --pairs a case ends as soon as each of its figures is decided: the whole
interval below its limit, or above. Until then it goes on up to --most-pairs, after which a figure that is undecided
counts as not shown to be fine.

Several looks at growing data find a lucky moment more often than one look does: with up to 20 more looks, an interval
that is called 95 % errs more often than one time in 20. Name --pairs and --most-pairs alike for exactly one look.

Exit codes: 0 all fine, 1 a limit is exceeded, or was not shown to be kept, 2 wrong use.
"""

from __future__ import annotations

import argparse
import functools
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import comparison
import revisions
import tree
from comparison import CASES, Compared
from revisions import Revision, RevisionError

if TYPE_CHECKING:
    from place import Place

PAIRS = 10
MOST_PAIRS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    signal.signal(signal.SIGTERM, _end)  # or nodes and temporary files would be left
    tree.make_importable()
    from place import Place, machine_in_words  # noqa: PLC0415  (only now its own imports can be found)

    with tempfile.TemporaryDirectory(prefix="disbatch-compare-") as directory, Place(quick=options.quick) as place:
        if place.notice is not None and any(case.endswith("mongodb") for case in options.only):
            return _wrong_use(f"{place.notice}; leave out its cases with --only")
        print("installing both revisions", flush=True)
        try:
            old = revisions.install(options.old, Path(directory) / "old")
            new = revisions.install(options.new, Path(directory) / "new")
        except RevisionError as error:
            return _wrong_use(str(error))
        heading = f"old: {old.label}; new: {new.label}; {machine_in_words(place.directory)}"
        print(heading, flush=True)
        rows, failures = _compare_all(place, old, new, options)
    is_ok = comparison.all_ok(rows) and not failures
    notices = [*failures]
    if options.quick or options.pairs < PAIRS:
        notices.append(f"small numbers or fewer than {PAIRS} pairs: shows that everything works, and little else")
    notices.append("all figures keep to their limits" if is_ok else "not all figures were shown to keep their limits")
    print("\n".join(["", heading, "", comparison.as_text(rows), *notices]))
    if options.json is not None:
        whole = {"heading": heading, "is_ok": is_ok, "notices": notices, "rows": [row.as_json() for row in rows]}
        options.json.write_text(json.dumps(whole, indent=2) + "\n")
    return 0 if is_ok else 1


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def _wrong_use(message: str) -> int:
    print(f"compare.py: {message}", file=sys.stderr)
    return 2


def _compare_all(
    place: Place, old: Revision, new: Revision, options: argparse.Namespace
) -> tuple[list[Compared], list[str]]:
    """What was compared, and the cases that could not be measured."""
    from cases import measure  # noqa: PLC0415  (as in main)

    rows: list[Compared] = []
    failures: list[str] = []
    for case in options.only:
        try:
            rows += comparison.compare(
                case,
                functools.partial(measure, place, case, (old, new)),
                least=options.pairs,
                most=options.most_pairs,
                report=lambda line: print(f"  {line}", flush=True),
            )
        except Exception as error:  # the minutes that the other cases took are not lost
            failures.append(f"{case} could not be measured: {type(error).__name__}: {error}")
            print(f"  {failures[-1]}", flush=True)
    return rows, failures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD", help="a revision, or . for the working tree")
    parser.add_argument("new", metavar="NEW", help="the one that must not be slower")
    parser.add_argument("--only", type=_cases, default=CASES, metavar="CASE,CASE", help=f"of {', '.join(CASES)}; all")
    parser.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help=f"at least so many ({PAIRS})")
    parser.add_argument("--most-pairs", type=int, metavar="N", help=f"at most so many ({MOST_PAIRS})")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that everything works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for. Ends the program with 2 where that is impossible, before anything is installed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.most_pairs is None:
        options.most_pairs = max(options.pairs, MOST_PAIRS)
    if options.pairs < 2 or options.most_pairs < options.pairs:
        parser.error("expected --pairs of at least 2, and --most-pairs of at least as many")
    for name in (options.old, options.new):
        try:
            revisions.resolve(name)
        except RevisionError as error:
            parser.error(str(error))
    return options


def _cases(text: str) -> Sequence[str]:
    """Named cases, in the order in which they always run."""
    named = set(text.split(","))
    unknown = named - set(CASES)
    if unknown:
        raise argparse.ArgumentTypeError(f"no case {', '.join(sorted(unknown))}; expected some of {', '.join(CASES)}")
    return [case for case in CASES if case in named]


if __name__ == "__main__":
    sys.exit(main())
