"""Who may import whom (design, "Who may import whom"): read from the sources, held for every module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = ROOT / "host" / "disbatch_host"
PROTOCOL = ROOT / "protocol" / "disbatch_protocol"

PURE = {"model", "run_document", "disbatch_protocol", "clock"}
STORE = {"store.base", "store.open", "errors"} | PURE

# Layer → what its modules may import of ours. A name stands for the module and everything below it.
MAY_IMPORT: dict[str, set[str]] = {
    "cli": {"*"},
    "__main__": {"cli"},
    "node": {
        "scheduler", "claim", "classes", "membership", "node_document", "runner", "workers", "launch", "services",
        "plugins", "policy", "environment", "explain", "process", "store.base", "errors", "logs", *PURE,
    },
    "classes": {"plugins", "logs"},
    "node_document": {"classes", "policy", "model"},
    # The id of a node and its heartbeat, and what the dead have left: never a run or a plugin.
    "membership": {"node_document", "services", "policy", "machine", "store.base", "errors", "logs", *PURE},
    "claim": {"runner", "workers", "plugins", *PURE},
    "scheduler": {"policy", "store.base", *PURE},
    "services": {"store.base", "errors", "machine", "logs", *PURE},
    "local_run": {"runner", "workers", "launch", "process", "plugins", "environment", "machine", "errors", *PURE},
    "trials": {
        "local_run", "launch", "environment", "process", "plugins", "errors", "disbatch_protocol",
    },
    # Very many tasks in one go: rows, documents, the store; whoever calls brings what reads JSON of people.
    "bulk": {"store.base", "errors", *PURE},
    "runner": {
        "execution", "workers", "launch", "process", "output", "effects", "plugins", "policy", "machine", "store.base",
        "errors",
        "cpu_limit", "logs", *PURE,
    },
    # What carries out a run knows plugins and processes, never a document, a store or a clock of the store.
    "workers": {"execution", "launch", "process", "plugins", "machine", "logs", "disbatch_protocol"},
    "execution": {"launch", "environment", "process", "plugins", "disbatch_protocol"},
    "launch": {"environment", "process", "plugins", "clock", "disbatch_protocol"},
    "effects": {"model", "disbatch_protocol"},
    "plugins": {"environment", "errors", "disbatch_protocol"},
    "environment": {"disbatch_protocol"},
    "output": {"model", "disbatch_protocol"},
    "process": {"process", "errors"},
    "policy": {"model", "disbatch_protocol"},
    "explain": {"policy", "model", "disbatch_protocol"},
    "run_document": {"model", "disbatch_protocol"},
    "model": {"disbatch_protocol"},
    "machine": set(),
    "logs": set(),
    "cpu_limit": set(),
    "bundled": set(),
    "scaffold": {"bundled", "errors"},
    "clock": set(),
    "errors": set(),
    "store.base": {"model", "disbatch_protocol"},
    "store.open": {"store", "errors", "clock"},
    "store.sqlite": STORE,
    "store.mongo": STORE,
}  # fmt: skip

ONLY_IN = {"sqlite3": {"store.sqlite"}, "pymongo": {"store.mongo"}, "bson": {"store.mongo"}, "gridfs": {"store.mongo"}}


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(HOST.rglob("*.py")):
        name = ".".join(path.relative_to(HOST).with_suffix("").parts).removesuffix(".__init__")
        found.append((name, path))
    return found


def imports_of(path: Path) -> set[str]:
    """Every module that a source imports, at its top or inside a function; `from a import b` gives `a` and `a.b`."""
    found = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path}: relative import"
            module = str(statement.module)
            found |= {module} | {f"{module}.{alias.name}" for alias in statement.names}
    return found


def is_below(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: str(value) if isinstance(value, str) else "")
def test_a_module_of_the_host_imports_only_what_its_layer_may(name: str, path: Path) -> None:
    if name in ("__init__", "store", "services", "process", "bulk"):
        assert not [one for one in imports_of(path) if one.startswith("disbatch_")]
        return
    layer = max((layer for layer in MAY_IMPORT if is_below(name, layer)), key=len, default=None)
    assert layer is not None, f"module {name} has no layer: add it to the table, and to docs/internals.md"
    allowed = MAY_IMPORT[layer]
    for imported in imports_of(path):
        top = imported.split(".")[0]
        if imported in {"disbatch_host", "disbatch_host.__version__"}:
            continue
        if top == "disbatch_protocol":
            assert "disbatch_protocol" in allowed or "*" in allowed, f"{name} imports {imported}"
        elif top == "disbatch_host":
            own = imported.removeprefix("disbatch_host.")
            known = any(is_below(own, other) for other in MAY_IMPORT) or own in ("store", "services", "process", "bulk")
            if not known:
                continue  # a name inside a module, which is in the set as well
            fine = "*" in allowed or any(is_below(own, one) for one in allowed) or is_below(own, layer)
            parent_only = any(is_below(one, own) for one in allowed)  # `from disbatch_host.store import base`
            assert fine or parent_only, f"{name} ({layer}) imports {imported}"
        elif top in ONLY_IN:
            assert any(is_below(name, one) for one in ONLY_IN[top]), f"{name} imports {imported}"


@pytest.mark.parametrize("path", sorted(PROTOCOL.rglob("*.py")), ids=lambda path: path.stem)
def test_the_protocol_imports_only_the_standard_library_orjson_and_jsonschema(path: Path) -> None:
    import sys

    for imported in imports_of(path):
        top = imported.split(".")[0]
        assert top in sys.stdlib_module_names | {"orjson", "jsonschema", "referencing", "disbatch_protocol"}, imported
        assert top not in {"socket", "subprocess", "asyncio", "threading", "sqlite3", "time"}, f"{path}: {imported}"


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda path: path.stem)
def test_plugins_import_nothing_of_ours(path: Path) -> None:
    assert not [one for one in imports_of(path) if one.startswith(("disbatch_host", "disbatch_protocol"))]
