"""Children that a node starts for itself, besides its runs."""

from __future__ import annotations

import ast
from pathlib import Path

HOST = Path(__file__).parents[2] / "host" / "disbatch_host"
OF_RUNS = HOST / "process" / "spawn.py"


def test_no_child_but_those_of_runs_leaves_the_session() -> None:
    """A node reaps the children that it finds in other sessions: they are what its runs have left. One of its own that
    it reaped there would look alive to the code that started it, and its number be signalled when it is another's."""
    leaving = [
        f"{file.relative_to(HOST)}:{node.lineno}"
        for file in HOST.rglob("*.py")
        if file != OF_RUNS
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in ("start_new_session", "setsid", "preexec_fn")
    ]
    assert leaving == []
