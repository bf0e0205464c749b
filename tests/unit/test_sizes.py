"""What a reader can hold in mind: files, classes and protocols that have grown too large want to be two."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from disbatch_host.store import contract

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "host").rglob("*.py"), *(ROOT / "protocol").rglob("*.py")])
FILE_LINES_MAX = 400
CLASS_LINES_MAX = 300
METHODS_MAX = 12
LISTS_OF_VERBS = {"SqliteStore", "MongoStore"}  # one small method for each verb of the contract
FLAT = {"__init__.py", "__main__.py", "c_library.py", "errors.py", "clock.py", "logs.py", "suggested.py"}
BANNER = re.compile(r"^\s*#\s*(-{3,}|={3,}|\*{3,}|#{3,})", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_file_and_its_classes_are_not_too_long_and_need_no_banners() -> None:
    assert len(FILES) > 200
    for path in FILES:
        text = path.read_text()
        classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
        is_list = any(one.name in LISTS_OF_VERBS for one in classes)
        assert is_list or text.count("\n") <= FILE_LINES_MAX, name_of(path)
        for one in classes:
            assert one.end_lineno is not None
            is_short = one.name in LISTS_OF_VERBS or one.end_lineno - one.lineno < CLASS_LINES_MAX
            assert is_short, f"{name_of(path)}: {one.name}"
        assert not BANNER.findall(text), name_of(path)


def test_only_the_ground_floor_lies_flat() -> None:
    assert {one.name for one in (ROOT / "host" / "disbatch_host").glob("*.py")} == FLAT


def protocols() -> list[ast.ClassDef]:
    tree = ast.parse(Path(contract.__file__).read_text())
    is_protocol = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return [
        node for node in is_protocol.values() if any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases)
    ]


def test_the_contract_of_a_store_is_protocols_of_few_methods() -> None:
    sizes = {
        one.name: sum(isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) for part in one.body)
        for one in protocols()
    }
    assert {"Queues", "Tasks", "Outputs", "Nodes", "Notes", "HotPath", "Changes", "Connection"} <= sizes.keys()
    assert max(sizes.values()) <= METHODS_MAX, sizes
