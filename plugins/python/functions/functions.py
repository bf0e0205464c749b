#!/usr/bin/env python3
"""Counts functions and classes of a Python source file, finds long functions and those without a docstring.

Exit 3: the file cannot be read. Exit 4: it is not valid Python for this interpreter.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

UNREADABLE = 3
NOT_PYTHON = 4
LONG_LINES = 60  # the schema's default of "long"; the host fills it in, a run by hand does not


class Function(NamedTuple):
    name: str  # including the enclosing classes and functions: Parser.parse
    line: int
    lines: int
    documented: bool


def main() -> int:
    # Whatever the locale, names of files and functions are printed as UTF-8, and none of them can fail the run.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    parameters = json.loads(sys.stdin.buffer.readline())["parameters"]
    path, long_lines = parameters["path"], parameters.get("long", LONG_LINES)

    try:
        source = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        print(f"functions: cannot read {path}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return UNREADABLE
    try:
        # Bytes, so that the parser itself follows a coding comment or byte order mark.
        tree = ast.parse(source, filename=path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        message = f"{path} is not valid Python {sys.version_info[0]}.{sys.version_info[1]}: {error}"
        send({"type": "error", "code": "not_python", "message": message, "retry": False})
        print(f"functions: {message}", file=sys.stderr)
        return NOT_PYTHON

    classes = sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree))
    functions = list(functions_of(tree))
    documented = sum(function.documented for function in functions)
    print(f"{path}: {len(functions)} functions ({documented} with a docstring), {classes} classes")
    long_ones = sorted((one for one in functions if one.lines > long_lines), key=lambda one: -one.lines)
    for function in long_ones:
        print(f"  line {function.line}: {function.name} has {function.lines} lines")
    longest = max(functions, key=lambda one: one.lines, default=None)
    send(
        {
            "type": "result",
            "value": {
                "functions": len(functions),
                "documented": documented,
                "classes": classes,
                "long": len(long_ones),
                "longest": longest and {"name": longest.name, "line": longest.line, "lines": longest.lines},
            },
        }
    )
    return 0


def functions_of(tree: ast.AST) -> Iterator[Function]:
    """Every function of the tree. Uses a list of pending nodes instead of recursion: source files exist whose
    expressions are nested more deeply than Python calls can be."""
    waiting = [(tree, "")]
    while waiting:
        node, outer = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(outer + node.name, node.lineno, lines, ast.get_docstring(node, clean=False) is not None)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            outer += node.name + "."
        waiting.extend((child, outer) for child in ast.iter_child_nodes(node))


def send(event: dict[str, Any]) -> None:
    """Send an event on descriptor 3. Without a host there is none, and the program works all the same."""
    descriptor = os.environ.get("DISBATCH_EVENT_FD")
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(int(descriptor), json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the parser's warnings are about somebody else's source file
    sys.exit(main())
