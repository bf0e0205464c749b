"""Nothing in the command line goes past what cleans its output: read from the sources, held for every module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from disbatch_host.cli import render

CLI = Path(__file__).parents[2] / "host" / "disbatch_host" / "cli"
MODULES = sorted(CLI.rglob("*.py"))
# click's own styles are escape sequences that look like anybody's; `render.style` makes those that pass.
NEVER = {"click.style", "click.secho", "click.unstyle", "print", "os.write", "sys.__stdout__", "sys.__stderr__"}
RAW = {"output.py", "exec.py"}  # with --raw, on a person's own wish


def named(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{named(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("module", MODULES, ids=lambda one: str(one.relative_to(CLI)))
def test_no_module_writes_to_a_terminal_in_another_way(module: Path) -> None:
    nodes = ast.walk(ast.parse(module.read_text()))
    names = [named(node) for node in nodes if isinstance(node, (ast.Attribute, ast.Name))]
    assert not NEVER & set(names)
    assert module.name == "terminal.py" or not {"click.confirm", "click.prompt", "input"} & set(names)
    assert "terminal.raw" not in names or module.name in RAW
    assert "\\x1b" not in module.read_text() or module.name in ("render.py", "screen.py")  # which reads keys


HOSTILE = "a\x1b]0;owned\x07b\x9b2Jc\x7fd\u202ee\u2066f\rg\x00h\x08i\u2028j\x1b[31mk"
HARMLESS = "a?]0;owned?b?2Jc?d?e?f?g?h?i?j?[31mk".replace("?", "\ufffd")


def test_what_does_something_to_a_terminal_is_replaced_and_what_is_shown_stays() -> None:
    assert render.printable(HOSTILE) == HARMLESS
    family, persian, england = "👩\u200d👩\u200d👧", "\u0645\u06cc\u200c\u062e", "🏴\U000e0067\U000e0062\U000e007f"
    for shown in (family, persian, england, "क्\u200dष", "a\u00a0b", "日\u3000本", "\u05e9\u200f", "line\n\tnext"):
        assert render.printable(shown) == shown


def test_only_this_programs_own_styles_pass() -> None:
    styled = f"{render.style('head', 'red')}: {HOSTILE}"
    assert render.with_own_styles(styled) == f"\x1b[31mhead\x1b[0m: {render.printable(HOSTILE)}"
    assert render.with_own_styles(render.style("a\x1b[2J", "bold")) == "\x1b[1ma\ufffd[2J\x1b[0m"
    assert render.style("x", None) == render.style("x", "default") == "x"
