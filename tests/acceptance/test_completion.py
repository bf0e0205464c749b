"""What a shell is told when somebody presses tab, on both stores."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.conftest import PROGRAM, Terminal
from helpers.processes import wait_until
from helpers.stores import on_sqlite

Plugin = Callable[..., Path]


def complete(terminal: Terminal, line: str, *, shell: str = "bash", breaks: str = ":= \t") -> list[str]:
    """What completes a line whose cursor is at its end. Nothing else may be said."""
    words = line.split(" ")
    asked = {
        "_DISBATCH_HOST_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        **({"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_WORDBREAKS": breaks} if shell == "bash" else {}),
    }
    result = Terminal(terminal.directory, {**terminal.environment, **asked})()
    assert (result.code, result.err) == (0, ""), result
    found = [one for one in result.out.splitlines() if one]
    if shell == "bash":
        assert all(one.startswith("plain,") for one in found), found
        return [one.removeprefix("plain,") for one in found]
    return found


def offered(terminal: Terminal, line: str, **more: str) -> list[str]:
    """The same for a line that has completions: on a busy machine, one press of the key may find none in time."""
    found: list[str] = []

    def look() -> bool:
        found[:] = complete(terminal, line, **more)
        return bool(found)

    wait_until(look, 30, f"nothing completes {line!r}")
    return found


def test_commands_and_options_are_completed(terminal: Terminal) -> None:
    assert offered(terminal, "disbatch-host queue sh") == ["show"]
    assert offered(terminal, "disbatch-host --log-f") == ["--log-format"]
    assert offered(terminal, "disbatch-host --log-format j") == ["json"]


def test_ids_are_completed_from_the_store(on_store: Terminal, plugin: Plugin) -> None:
    plugin("Mail::Move", "cat >/dev/null")
    on_store.fine("queue", "create", "mail", "--class", "Mail::Move")
    on_store.fine("queue", "create", "media", "--class", "Thumbnail")
    first, second = (on_store.fine("task", "push", "mail", "{}").out.strip() for _ in range(2))
    assert offered(on_store, "disbatch-host queue show ") == ["mail", "media"]
    assert offered(on_store, "disbatch-host queue show mai") == ["mail"]
    assert offered(on_store, "disbatch-host task list --queue m") == ["mail", "media"]
    assert offered(on_store, "disbatch-host task push me") == ["media"]
    assert offered(on_store, "disbatch-host task show ") == [second, first]
    assert offered(on_store, f"disbatch-host task wait {first} {second[:20]}") == [
        one for one in (second, first) if one.startswith(second[:20])
    ]
    assert offered(on_store, "disbatch-host exec ") == ["Mail::Move"]
    assert "running" in offered(on_store, "disbatch-host task list --status r")
    assert complete(on_store, "disbatch-host queue create ") == [], "an id that is there cannot be created"
    with on_store.node():
        wait_until(lambda: bool(on_store.fine("node", "list", "--json").out), 20, "the node did not begin")
        assert offered(on_store, "disbatch-host node show ") == ["n1"]
        assert offered(on_store, "disbatch-host queue create x --pin ") == ["n1"]


def test_commands_that_change_what_is_there_complete_its_ids(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "mail", "--class", "Move")
    task_id = on_store.fine("task", "push", "mail", "{}").out.strip()
    for command in ("cancel", "retry", "release", "delete", "set", "why", "wait", "output"):
        assert offered(on_store, f"disbatch-host task {command} ") == [task_id], command
    assert offered(on_store, "disbatch-host task push mail --after ") == [task_id]
    for command in ("cancel", "retry", "delete", "export", "list", "wait"):
        assert offered(on_store, f"disbatch-host task {command} --queue ") == ["mail"], command
    for command in ("cancel", "retry", "delete", "export", "list"):
        assert offered(on_store, f"disbatch-host task {command} --status orph") == ["orphaned"], command
    assert offered(on_store, "disbatch-host task import ") == ["mail"]
    for command in ("pause", "resume", "set", "delete"):
        assert offered(on_store, f"disbatch-host queue {command} ") == ["mail"], command
    assert offered(on_store, "disbatch-host status --wa") == ["--watch"]
    assert offered(on_store, "disbatch-host task ca") == ["cancel"]
    with on_store.node():
        wait_until(lambda: bool(on_store.fine("node", "list", "--json").out), 20, "the node did not begin")
        for command in ("drain", "resume", "stop"):
            assert offered(on_store, f"disbatch-host node {command} ") == ["n1"], command
        assert offered(on_store, "disbatch-host task list --node ") == ["n1"]


@on_sqlite
def test_bash_gets_what_it_lacks_of_a_word_that_it_has_taken_apart(on_store: Terminal, plugin: Plugin) -> None:
    plugin("Mail::Move", "cat >/dev/null")
    assert offered(on_store, "disbatch-host queue create q --class Mail::") == ["Move"]
    assert offered(on_store, "disbatch-host queue create q --class Mail::", breaks=" ") == ["Mail::Move"]
    assert offered(on_store, "disbatch-host queue create q --class=Mail::M", breaks=" ") == ["Mail::Move"]


def test_the_store_that_stands_earlier_in_the_line_counts(terminal: Terminal, store_url: str) -> None:
    terminal.fine("queue", "create", "there", "--class", "A", "--store", store_url)
    assert offered(terminal, f"disbatch-host --store {store_url} queue show ") == ["there"]
    assert offered(terminal, f"disbatch-host queue show --store {store_url} ") == ["there"]
    assert complete(terminal, "disbatch-host queue show ") == []
    assert not (terminal.directory / ".local").exists(), "no store is made to look into it"


@on_sqlite
def test_other_shells_are_told_a_word_about_each_id(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "mail", "--class", "Move")
    assert offered(on_store, "disbatch-host queue show ", shell="zsh") == ["plain", "mail", "Move"]
    asked = {
        "_DISBATCH_HOST_COMPLETE": "fish_complete",
        "COMP_WORDS": "disbatch-host queue show ",
        "COMP_CWORD": "",
    }
    fish = Terminal(on_store.directory, {**on_store.environment, **asked})

    def look() -> bool:
        result = fish()
        return "mail" in result.out and "Move" in result.out and result.err == ""

    wait_until(look, 30, "fish was offered nothing")


@pytest.mark.parametrize(
    "store",
    [
        "mongodb://127.0.0.1:1/x",  # nobody listens there
        "mongodb://10.255.255.1/x",  # nobody answers
        "nonsense",
        "sqlite:////no/such/file.db",
        "sqlite:////dev/null",
    ],
)
def test_a_store_that_does_not_answer_offers_nothing_and_says_nothing(terminal: Terminal, store: str) -> None:
    began = time.monotonic()
    assert complete(terminal, f"disbatch-host --store {store} task show ") == []
    assert time.monotonic() - began < 10, "nobody waits for a completion as for a command"


def test_a_broken_configuration_says_nothing(terminal: Terminal) -> None:
    (terminal.directory / "host.json").write_text(json.dumps({"stor": 1}))
    assert complete(terminal, "disbatch-host --config host.json queue show ") == []


def test_the_script_for_bash_does_it(on_store: Terminal, require: Callable[[str], None]) -> None:
    """In a real bash, which splits the URL of a store at its colons."""
    require("bash")
    on_store.fine("queue", "create", "mail", "--class", "Move")
    on_store.fine("queue", "create", "two words", "--class", "Move")
    url = on_store.environment.pop("DISBATCH_STORE")
    line = f"disbatch-host --store {url} queue show "
    script = f"""
        eval "$(disbatch-host completion bash)"
        complete -p disbatch-host
        COMP_LINE='{line}' COMP_POINT={len(line)}
        _disbatch_host_completion disbatch-host
        printf '<%s>\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**on_store.environment, "PATH": f"{PROGRAM.parent}:{on_store.environment['PATH']}"}
    shown: list[str] = []

    def look() -> bool:
        done = subprocess.run(
            ["bash", "--norc", "-c", script], cwd=on_store.directory, env=environment, text=True, check=False,
            timeout=60, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        shown[:] = done.stdout.splitlines()
        return shown[1:] != ["<>"]

    wait_until(look, 30, "bash was offered nothing")
    assert shown == ["complete -o nosort -F _disbatch_host_completion disbatch-host", "<mail>", "<two\\ words>"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(terminal: Terminal, shell: str) -> None:
    script = terminal.fine("completion", shell).out
    assert f"_DISBATCH_HOST_COMPLETE={shell}_complete" in script and "disbatch-host" in script


def test_another_shell_is_refused_in_one_line(terminal: Terminal) -> None:
    assert "SHELL: expected one of bash, zsh, fish, found 'tcsh'" in terminal.refused(2, "completion", "tcsh")
