"""The benches of the engine: every figure beside something that runs in the same minute, since only ratios carry over.

    python bench/run.py [rates] [cost] [starts] [latency] [creating] [importing] [batching] [finding] [idle]
                        [lines] [memory] [output] [nodes] [web] [growth] [all]
                        [--rounds N] [--quick] [--json FILE] [--markdown]

What each of them measures, and against what, is in bench/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import tree

# In the order in which they run: what tells most for its time comes first.
BENCHES = (
    "rates", "cost", "starts", "latency", "creating", "importing", "batching", "finding", "idle", "lines", "memory",
    "output", "nodes", "web", "growth",
)  # fmt: skip


def main() -> int:
    options = _options()
    tree.make_importable()
    from figures import Table  # noqa: PLC0415  (only now they can be found)
    from place import Place, machine_in_words  # noqa: PLC0415

    names = BENCHES if not options.benches or "all" in options.benches else options.benches
    table = Table()
    failed = []
    with Place(quick=options.quick) as place:
        machine = machine_in_words(place.directory)
        if place.notice is not None:
            table.notice(place.notice)
        if options.quick:
            table.notice("--quick: small numbers, to see that everything works; the figures say little")
        for name in names:
            print(f"{name}:", flush=True)
            try:
                importlib.import_module(name).run(place, table, options.rounds)
            except Exception as error:  # the hour that the others have taken is not lost
                failed.append(name)
                table.notice(f"{name} has failed: {type(error).__name__}: {error}")
    heading = f"{machine}; median of {options.rounds} rounds (lowest..highest)"
    print(f"\n{heading}\n\n{table.as_markdown() if options.markdown else table.as_text()}")
    if options.json is not None:
        rows = [row.as_json() for row in table.rows.values()]
        whole = {"machine": machine, "rounds": options.rounds, "quick": options.quick, "rows": rows}
        options.json.write_text(json.dumps({**whole, "notices": table.notices}, indent=2) + "\n")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; all where none is named")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each figure (3)")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that everything works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", action="store_true", help="print the table as it stands in bench/README.md")
    options = parser.parse_args()
    unknown = set(options.benches) - {*BENCHES, "all"}
    if unknown or options.rounds < 1:
        parser.error(f"no bench {', '.join(sorted(unknown))}" if unknown else "--rounds: expected 1 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
