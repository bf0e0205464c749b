"""Where the time of a task goes: what it costs the node and its supervisor, and the node by part and by function.

    python bench/profile.py [--store sqlite|mongodb] [--mode oneshot|worker] [--tasks N] [--at-once N] [--top N]

With DISBATCH_SUPERVISOR=no in the environment the node runs its programs itself.

The tasks run twice. The first time nothing is looked at but the clocks of the processes: these figures are true. The
second time the node is under a profiler, which makes it slower, and calls dearer than work; its figures are scaled so
that their sum is what the first run has found, and tell the shares.
"""

from __future__ import annotations

import argparse
import collections
import pstats
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tree

_STORES = {"sqlite": "SQLite", "mongodb": "MongoDB"}
_CLASSES = {"oneshot": "line", "worker": "worker"}

Function = tuple[str, int, str]  # file, line, name: as pstats has it


# Where the time of a C function goes, by its name in the profile; that of any other is its caller's.
_IN_C = (
    (re.compile(r"sqlite3"), "SQLite"),
    (re.compile(r"_socket|_ssl|select\.|posix\.|_signal|fcntl"), "system calls"),
    (re.compile(r"_thread|_queue"), "locks and waking others"),
    (re.compile(r"orjson|_json"), "JSON"),
    (re.compile(r"_cbson|_cmessage"), "pymongo"),
    (re.compile(r"_asyncio"), "asyncio"),
)


def part_of(function: Function) -> str | None:
    """None: that of its caller."""
    file, _, name = function
    if file == "~":
        return next((part for pattern, part in _IN_C if pattern.search(name)), None)
    path = Path(file)
    if "disbatch_host" in path.parts:
        below = path.parts[path.parts.index("disbatch_host") + 1 :]
        return "/".join(below[:2]) if below[0] in ("store", "run", "node") and len(below) > 2 else below[0]
    for package, part in (("disbatch_protocol", "protocol"), ("pymongo", "pymongo"), ("bson", "pymongo")):
        if package in path.parts:
            return part
    return "asyncio" if "asyncio" in path.parts else "other libraries"


def own_times(stats: pstats.Stats) -> Iterator[tuple[Function, Function | None, float]]:
    """Function, caller if it is a C function, and the time in it alone."""
    entries: Any = stats.stats  # type: ignore[attr-defined]
    for function, (_, _, own, _, callers) in entries.items():
        if function[0] == "~" and callers:
            yield from ((function, caller, of_caller[2]) for caller, of_caller in callers.items())
        else:
            yield function, None, own


def by_part(stats: pstats.Stats) -> dict[str, float]:
    """Seconds, the largest first."""
    parts: collections.Counter[str] = collections.Counter()
    for function, caller, seconds in own_times(stats):
        part = part_of(function) or (caller and part_of(caller)) or "the interpreter"
        parts[part] += seconds  # type: ignore[assignment]
    return dict(parts.most_common())


def by_function(stats: pstats.Stats, most: int) -> list[tuple[str, float]]:
    """Seconds of the functions that take most themselves, without those that they call."""
    times: collections.Counter[str] = collections.Counter()
    for function, caller, seconds in own_times(stats):
        name = in_words(function)
        times[f"{name}, in {in_words(caller)}" if caller else name] += seconds  # type: ignore[assignment]
    return times.most_common(most)


def in_words(function: Function) -> str:
    file, line, name = function
    if file == "~":
        return name.strip("<>{}").removeprefix("built-in method ").removeprefix("method ")
    path = Path(file)
    for package in ("disbatch_host", "disbatch_protocol", "site-packages"):
        if package in path.parts:
            path = Path(*path.parts[path.parts.index(package) + 1 :])
            break
    else:
        path = Path(*path.parts[-2:])
    return f"{path}:{line} {name}"


def main() -> int:
    options = _options()
    tree.make_importable()
    from cost import measure  # noqa: PLC0415  (only now they can be found)
    from place import Place, machine_in_words  # noqa: PLC0415

    kind, class_name = _STORES[options.store], _CLASSES[options.mode]
    tasks = options.tasks or {"oneshot": 3000, "worker": 20_000}[options.mode]
    with Place(quick=False, wants_mongodb=kind == "MongoDB") as place:
        if kind not in place.kinds:
            print(f"profile.py: {place.notice}", file=sys.stderr)
            return 2
        print(machine_in_words(place.directory), flush=True)
        run = {"at_once": options.at_once, "tasks": tasks}
        cost = measure(place, kind, class_name, **run)
        file = place.directory / "profile"
        profiled = measure(place, kind, class_name, profile=file, **run)
        stats = pstats.Stats(str(file))
    print(f"{options.mode}, {kind}, {tasks:,} tasks, {options.at_once} at once; µs a task:\n")
    _print_rows(
        [
            ("time", cost.time),
            ("CPU of the node", cost.node),
            ("    of it in the system", cost.system),
            ("    of it its busiest thread", cost.busiest),
            *([("CPU of its supervisor", cost.supervisor)] if cost.supervisor is not None else []),
            ("CPU of the programs", cost.programs),
            *([("CPU of mongod", cost.mongod)] if kind == "MongoDB" else []),
        ]
    )
    parts = by_part(stats)
    scale = cost.node / sum(parts.values())
    print(f"\nCPU of the node by part (under the profiler it was {profiled.node / cost.node:.1f} times as much)\n")
    _print_rows([(part, seconds * scale) for part, seconds in parts.items() if seconds * scale >= 0.5e-6])
    print("\nthe functions that take most themselves\n")
    _print_rows([(name, seconds * scale) for name, seconds in by_function(stats, options.top)])
    return 0


def _print_rows(rows: Sequence[tuple[str, float]]) -> None:
    for name, seconds in rows:
        print(f"{seconds * 1e6:9.1f}  {name}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=_STORES, default="sqlite")
    parser.add_argument("--mode", choices=_CLASSES, default="oneshot")
    parser.add_argument("--tasks", type=int, metavar="N", help="3,000 oneshot, 20,000 in worker mode where not named")
    parser.add_argument("--at-once", type=int, default=8, metavar="N", help="tasks at once (8)")
    parser.add_argument("--top", type=int, default=25, metavar="N", help="functions to show (25)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
