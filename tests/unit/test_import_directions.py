"""Who may import whom (design, "Who may import whom"): read from the sources, held for every module."""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = ROOT / "host" / "disbatch_host"
PROTOCOL = ROOT / "protocol" / "disbatch_protocol"

GROUND = {"errors", "clock", "logs", "suggested"}  # these import only the standard library
STORE = {"store.contract", "store.paging", "store.url", "documents", "errors", "clock", "suggested"}
# The seam, the one factory of a process host, and what is about this machine and this process; never a child.
PROCESS = {"process.interface", "process.host", "process.machine", "process.this_process"}
ALWAYS = {"", "disbatch_protocol"}  # the version of the package, and the protocol

# Room or file → the rooms and files of ours that its modules may import, besides those of its own room and `ALWAYS`.
# The longest name counts.
MAY_IMPORT: dict[str, set[str]] = {
    "__main__": {"cli"},
    "cli": {
        "client", "decide", "documents", "settings", "store.contract", "store.open", "store.url", "plugin", *GROUND,
    },
    "cli.commands.run": {"node", "metrics", "settings", "store.contract", "store.open", "plugin", "cli", *GROUND},
    "cli.commands.demo": {
        "node", "run", "client", "documents", "settings", "store.contract", "store.open", "store.url", "plugin", "cli",
        *GROUND,
    },
    "cli.commands.check": {"trial", "plugin", "cli", *GROUND},
    "cli.commands.doctor": {"doctor", "settings", "cli", *GROUND},
    "cli.commands.web": {"web", "client", "settings", "cli", *GROUND},
    "cli.commands.exec": {"trial", "client", "plugin", "process.interface", "documents", "cli", *GROUND},
    "client": {
        "decide", "documents", "settings", "store.contract", "store.batch_ends", "store.batch_facts", "store.open",
        "plugin", *GROUND,
    },
    "web": {"client", "decide", "documents", "settings", *GROUND},
    "doctor": {
        "decide", "documents", "settings", "store.contract", "store.open", "plugin", "node.home_directory",
        "process.connection", "process.groups", "process.machine", *GROUND,
    },
    "settings": {"documents.records", "store.url", "errors"},
    "metrics": {"documents", "store.contract", "errors"},
    "trial": {
        "run", "plugin", "process.interface", "process.machine", "process.supervised", "process.this_process",
        "documents", *GROUND,
    },
    "node": {
        "run", "decide", "documents", "plugin", *PROCESS, "process.facts", "process.home", "process.leftovers",
        "process.supervised", "store.contract", "store.batch_ends",
        "metrics.counters", "settings", *GROUND,
    },
    "run": {"plugin", "process.interface", "documents", *GROUND},
    "plugin": {"process.interface", *GROUND},
    "plugin.checking_child": {"process.this_process", *GROUND},  # a process of its own
    "process": {"c_library", "errors"},
    "store.contract": {"documents"},
    "store.batch_ends": {"store.contract", "store.batch_facts", "documents", "decide"},
    "store.batch_facts": {"store.contract", "documents"},
    "store.paging": {"documents", "errors"},
    "store.url": {"errors"},
    "store.open": {"store", "errors", "clock"},
    "store.sqlite": {"c_library", *STORE},
    "store.mongo": STORE,
    "decide": {"documents", "suggested"},
    "documents": {"suggested"},
    "c_library": set(),
    "errors": set(),
    "clock": set(),
    "logs": set(),
    "suggested": set(),
}  # fmt: skip

ONLY_IN = {"sqlite3": "store.sqlite", "pymongo": "store.mongo", "bson": "store.mongo", "gridfs": "store.mongo"}
_TERMINAL = {"click", "rich", "getpass"}
NEVER = {"client": _TERMINAL, "web": _TERMINAL, "decide": {"asyncio"}, "documents": {"asyncio"}}


def modules() -> dict[str, Path]:
    """Every module of the host by its name below `disbatch_host`; that package itself is ''."""
    return {
        ".".join(path.relative_to(HOST).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
        for path in sorted(HOST.rglob("*.py"))
    }


MODULES = modules()


@functools.cache  # several tests ask about each file
def imports_of(path: Path) -> frozenset[str]:
    """The full name of every module that a source imports, at its top or inside a function."""
    found = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path}: relative import"
            for alias in statement.names:
                below = f"{statement.module}.{alias.name}"
                is_module = below.removeprefix("disbatch_host.") in MODULES and below.startswith("disbatch_host.")
                found.add(below if is_module else str(statement.module))
    return frozenset(found)


def own_imports(path: Path) -> set[str]:
    """The modules of the host among them, below `disbatch_host`."""
    ours = {one for one in imports_of(path) if one.split(".")[0] == "disbatch_host"}
    return {one.removeprefix("disbatch_host").lstrip(".") for one in ours}


def is_below(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def room_of(name: str) -> str:
    """The entry of the table that counts for a module."""
    rooms = [room for room in MAY_IMPORT if is_below(name, room)]
    assert rooms, f"module {name} has no room: add it to the table, and to docs/internals.md"
    return max(rooms, key=len)


def test_a_module_imports_only_what_its_room_may() -> None:
    wrong = [
        f"{name} ({room_of(name)}) imports {imported}"
        for name, path in MODULES.items()
        if name not in ("", "store")
        for imported in own_imports(path) - ALWAYS
        if not may_import(room_of(name), imported)
    ]
    assert len(MODULES) > 200 and wrong == []


def may_import(room: str, imported: str) -> bool:
    own_room = room if room.startswith("store.") else room.split(".", maxsplit=1)[0]
    # A command with an entry of its own has that in place of the room's, not on top of it.
    is_own = is_below(imported, own_room) and (own_room != "cli" or room == "cli")
    return is_own or any(is_below(imported, one) for one in MAY_IMPORT[room])


def test_a_database_driver_or_a_terminal_is_only_known_where_it_belongs() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, path in MODULES.items()
        for imported in imports_of(path)
        if not may_know(name, imported.split(".")[0])
    ]
    assert wrong == []


def may_know(name: str, package: str) -> bool:
    if package in ONLY_IN and not is_below(name, ONLY_IN[package]):
        return False
    return not any(is_below(name, room) and package in never for room, never in NEVER.items())


def test_no_room_may_import_everything() -> None:
    assert all("*" not in may for may in MAY_IMPORT.values())


def test_there_is_no_circle_of_files() -> None:
    graph = {name: {one for one in own_imports(path) if one in MODULES} - {name} for name, path in MODULES.items()}
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for imported in sorted(graph[name]):
                walk(imported, (*way, name))
            done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("path", sorted(PROTOCOL.rglob("*.py")), ids=lambda path: path.stem)
def test_the_protocol_imports_only_the_standard_library_orjson_and_jsonschema(path: Path) -> None:
    for imported in imports_of(path):
        top = imported.split(".")[0]
        assert top in sys.stdlib_module_names | {"orjson", "jsonschema", "referencing", "disbatch_protocol"}, imported
        assert top not in {"socket", "subprocess", "asyncio", "threading", "sqlite3", "time"}, f"{path}: {imported}"


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda path: path.stem)
def test_plugins_import_nothing_of_ours(path: Path) -> None:
    assert not [one for one in imports_of(path) if one.startswith(("disbatch_host", "disbatch_protocol"))]


def test_the_page_about_the_house_shows_this_table() -> None:
    rows = [f"{room} -> {', '.join(sorted(may)) or 'standard library'}" for room, may in MAY_IMPORT.items()]
    page = (ROOT / "docs" / "internals.md").read_text(encoding="utf-8")
    assert f"```\n{chr(10).join(rows)}\n```" in page, "\n".join(["the table in docs/internals.md is to be:", *rows])


def test_the_page_names_each_module_of_the_rooms_that_a_task_goes_through() -> None:
    page = (ROOT / "docs" / "internals.md").read_text(encoding="utf-8")
    tree = page.partition("```\n")[2].partition("\n```")[0]
    for room in ("documents", "decide", "plugin", "process", "run", "node"):
        entry = re.split(r"\n  (?=\w)", tree.partition(f"\n  {room}/ ")[2])[0]
        for module in sorted((HOST / room).glob("[!_]*.py")):
            assert re.search(rf"\b{module.stem}\b", entry), (
                f"{room}/{module.name} is not in the tree of docs/internals.md"
            )
