"""Commands that people are told to type: each can be pasted, and asks the store that this process asks."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from disbatch_host import suggested
from disbatch_host.cli.exposure import without_secrets

HOST = Path(__file__).parents[2] / "host" / "disbatch_host"
# Texts that are no hints: pages of the documentation, and the README in a bundle.
TEXTS = {"web/api_page.py", "settings/web_table.py", "settings/written.py", "client/bundling.py"}
ODD = "it's a `name`; rm -rf $HOME"


def test_names_are_quoted_for_a_shell() -> None:
    assert suggested.hint("task why", "5f0c") == "`disbatch-host task why 5f0c`"
    assert shlex.split(suggested.command("batch close", ODD)) == ["disbatch-host", "batch", "close", ODD]
    found = suggested.hint("task output", "a b", "--stderr", then=" > FILE")
    assert found == "`disbatch-host task output 'a b' --stderr > FILE`"


def test_a_hint_has_the_options_that_its_command_needs() -> None:
    given = {"store": "sqlite:///x y.db", "config": "c.json", "plugins": ("p", "q r"), "json": True}
    with suggested.started_with(lambda: given):  # type: ignore[arg-type, return-value]
        store = ["--store", "sqlite:///x y.db", "--config", "c.json"]
        assert shlex.split(suggested.typed("task why", 1)) == ["disbatch-host", "task", "why", "1", *store]
        assert shlex.split(suggested.typed("check", "A"))[3:] == ["--plugins", "p", "--plugins", "q r", *store[2:]]
        assert suggested.plain_hint("task retry", "t") == "`disbatch-host task retry t`", "it is stored"
        with suggested.for_others():
            assert suggested.hint("status") == "`disbatch-host status`"
    assert suggested.hint("status") == "`disbatch-host status`"


@pytest.mark.parametrize(
    ("url", "is_shown"),
    [
        ("sqlite:///tmp/a.db", True),
        ("mongodb://db1:27017/jobs", True),
        ("mongodb://ann:s3cret@db1/jobs", False),
        ("mongodb://db1/?tlsCertificateKeyFilePassword=s3cret", False),
    ],
)
def test_a_password_is_not_printed(url: str, is_shown: bool) -> None:
    with suggested.started_with(lambda: without_secrets({"store": url})):
        assert (url in suggested.typed("status")) is is_shown and "s3cret" not in suggested.typed("status")


def test_a_node_is_run_with_the_plugins_that_are_there() -> None:
    assert suggested.a_node(["./a", "b c"]) == "`disbatch-host --plugins ./a --plugins 'b c'`"
    assert suggested.a_node([]) == "`disbatch-host --plugins DIR`"


def written_by_hand(path: Path) -> Iterator[str]:
    """The texts of a source, besides its docstrings, that have a command in backquotes."""
    tree = ast.parse(path.read_text())
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {id(one.body[0].value) for one in ast.walk(tree) if isinstance(one, holders) and one.body
            and isinstance(one.body[0], ast.Expr)}  # fmt: skip
    for one in ast.walk(tree):
        is_text = isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in docs
        if is_text and f"`{suggested.PROGRAM} " in one.value:
            yield f"{path.relative_to(HOST)}:{one.lineno}"


def test_no_hint_is_written_by_hand() -> None:
    sources = [one for one in sorted(HOST.rglob("*.py")) if str(one.relative_to(HOST)) not in TEXTS]
    assert len(sources) > 300 and [found for one in sources for found in written_by_hand(one)] == []
