"""Plugins whose words and variables are made of parameters, as somebody types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acceptance.conftest import Terminal

Plugin = Callable[..., Path]
SHOWS = 'printf "[%s]" "$@"; echo "$WHO"'
MANIFEST: dict[str, Any] = {
    "protocol": 2,
    "stdin": "null",
    "arguments": ["--in={input}", ["-b", "{rate}"], {"each": "tags", "words": ["-t", "{}"]}, "{input}"],
    "env_parameters": {"WHO": "who"},
    "parameters": {
        "type": "object", "required": ["input"],
        "properties": {
            "input": {"type": "string"}, "rate": {"type": "number"}, "tags": {"type": "array"},
            "who": {"type": "string"},
        },
    },
    "examples": [{"parameters": {"input": "x", "who": "me"}, "stdout_contains": "[--in=x][x]me"}],
}  # fmt: skip


def test_a_task_that_makes_no_words_is_refused_when_it_is_pushed_or_imported(
    terminal: Terminal, plugin: Plugin
) -> None:
    plugin("Shows", SHOWS, **MANIFEST)
    terminal.fine("queue", "create", "q", "--class", "Shows")
    for parameter, why in (("input=-rf", "does not make an option"), ("who=\0", ""), ("tags:=[{}]", "/tags/0")):
        if parameter != "who=\0":  # argv has no NUL
            assert why in terminal.refused(2, "task", "push", "q", "-p", "input=x", "-p", parameter)
    assert "/who" in terminal.refused(2, "task", "push", "q", json.dumps({"input": "x", "who": "a\0b"}))
    assert "131,071 bytes" in terminal.refused(2, "task", "push", "q", json.dumps({"input": "x" * 131_080}))
    (terminal.directory / "rows.csv").write_text("input,rate\ngood,1\n-bad,2\n")
    told = terminal("task", "import", "q", "rows.csv")
    assert told.code != 0 and "/input" in told.out + told.err and "option" in told.out + told.err
    assert terminal.fine("task", "list", "--json").out == ""


def test_the_words_and_variables_are_shown_before_a_run_and_after_it(terminal: Terminal, plugin: Plugin) -> None:
    home = plugin("Shows", SHOWS, **MANIFEST)
    given = ("-p", "input=a b", "-p", "rate=1.5", "-p", 'tags:=["\\u001b[31m"]', "-p", "who=zoë")
    shown = terminal.fine("exec", "Shows", *given, "--show-input").out
    assert f"command    {home}/run.sh '--in=a b' -b 1.5 -t '" in shown and "\n           WHO=zoë\n" in shown
    (document,) = terminal.fine("exec", "Shows", *given, "--show-input", "--json").json
    words = ["--in=a b", "-b", "1.5", "-t", "\x1b[31m", "a b"]
    assert document["command"] == [f"{home}/run.sh", *words]
    assert (document["environment"]["WHO"], document["stdin"], document["faults"]) == ("zoë", None, [])
    refused = terminal("exec", "Shows", "-p", "input=-x", "--show-input")
    assert refused.code == 1 and "it would not be started: /input" in refused.err
    terminal.fine("queue", "create", "q", "--class", "Shows")
    terminal.fine("task", "push", "q", *given)
    terminal.fine("--until-idle")
    (task,) = terminal.fine("task", "list", "--json").json
    assert task["run"]["arguments"] == words
    assert "arguments   '--in=a b' -b 1.5 -t '" in terminal.fine("task", "show", task["_id"]).out


def test_such_a_plugin_passes_all_trials(terminal: Terminal, plugin: Plugin) -> None:
    plugin("Shows", SHOWS, **MANIFEST)
    (report,) = terminal.fine("check", "--torture", "--json").json
    verdicts = {one["trial"]: one["verdict"] for one in report["trials"]}
    assert verdicts.pop("odd text and long lines") == "passed"
    assert set(verdicts.values()) <= {"passed", "skipped"} and report["faults"] == []


def test_check_tells_what_cannot_be_meant_so(terminal: Terminal, plugin: Plugin) -> None:
    plugin("Code", ":", protocol=2, command=["sh", "-c"], arguments=["echo {input}"], **_with("input"))
    plugin("Bare", ":", protocol=2, command=["echo", "{input}"], arguments=["{input}"], **_with("input"))
    plugin("Fine", ":", protocol=2, command=["sh", "-c", "echo $1", "sh"], arguments=["{input}"], **_with("input"))
    reports = {
        one["name"]: [fault["message"] for fault in one["faults"]] for one in terminal.fine("check", "--json").json
    }
    assert [("script of a shell" in one) for one in reports["Code"]] == [True]
    assert [("has no placeholders" in one) for one in reports["Bare"]] == [True]
    assert reports["Fine"] == []


def _with(*names: str) -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in names}
    return {"parameters": {"type": "object", "required": list(names), "properties": properties}, "stdin": "null"}


def test_a_command_line_becomes_a_plugin_that_works_at_once(terminal: Terminal) -> None:
    made = terminal.fine(
        "new",
        "Say",
        "--command",
        "printf '%s|' {text} 'to {who}' --port={port} {{x}} '|' \"a & b\" \\;",
        "--idempotent",
    )
    assert "wrote plugins/say/plugin.json" in made.out and "-p text=… -p who=… -p port=… --show-input" in made.out
    (report,) = terminal.fine("check", "--json").json
    assert (report["faults"], report["idempotent"]) == ([], True)
    manifest = json.loads((terminal.directory / "plugins/say/plugin.json").read_text())
    assert manifest["command"] == ["printf"] and manifest["requires"] == ["printf"]
    assert manifest["arguments"] == ["%s|", "{text}", "to {who}", "--port={port}", "{{x}}", "|", "a & b", ";"]
    assert manifest["parameters"]["required"] == ["text", "who", "port"]
    assert terminal.fine("exec", "Say", "-p", "text=a b", "-p", "who=-x", "-p", "port=80").out == (
        "a b|to -x|--port=80|{x}|||a & b|;|"
    )
    assert terminal("exec", "Say", "-p", "text=-x", "-p", "who=y", "-p", "port=1").code == 1
    assert "already exists" in terminal.refused(2, "new", "Say", "--command", "true")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("a {x} | b", "no shell runs it"),
        ("a {x} > out", "no shell runs it"),
        ("a&&b", "no shell runs it"),
        ("a $HOME/{x}", "no shell runs it"),
        ("a *.txt {x}", "no shell runs it"),
        ("a 'x", "no closing quotation"),
        (" ", "found nothing"),
        ("{a} b", "expected a program first"),
        ("awk '{print $1}' {file}", "{{ and }}"),
        ("a {}", "{{ and }}"),
        ("a {x", "not closed"),
        ("mysql -p{password}", "looks like a secret"),
        ("sh -c 'echo {x}'", "would be run as code"),
        ("./nowhere {x}", "there is no ./nowhere here"),
        ("a {b.c} {b}", "to be one parameter"),
    ],
)
def test_a_command_that_cannot_be_a_plugin_is_refused(terminal: Terminal, command: str, why: str) -> None:
    assert why in terminal.refused(2, "new", "X", "--command", command)
    assert not (terminal.directory / "plugins/x").exists()


def test_a_new_plugin_has_a_language_or_a_command(terminal: Terminal) -> None:
    assert "found none" in terminal.refused(2, "new", "X")
    assert "found several" in terminal.refused(2, "new", "X", "--lang", "sh", "--command", "true")
    assert "no worker mode" in terminal.refused(2, "new", "X", "--command", "true", "--worker")
    assert "there is no nosuchprogram in PATH" in terminal.fine("new", "X", "--command", "nosuchprogram {a}").err


def test_a_new_plugin_may_be_a_copy_of_one_that_comes_with_the_program(terminal: Terminal) -> None:
    terminal.fine("new", "--from", "Notify::Mail")
    terminal.fine("new", "Team::Chat", "--from", "Notify::Webhook")
    checked = terminal.fine("check", "--json").json
    assert {one["name"] for one in checked} == {"Notify::Mail", "Team::Chat"}
    assert "did you mean 'Notify::Mail'" in terminal.refused(2, "new", "--from", "Notify::Mial")
    assert "already exists" in terminal.refused(2, "new", "--from", "Notify::Mail")
    assert "goes with none" in terminal.refused(2, "new", "--from", "Notify::Mail", "--lang", "sh")
    assert "expected the name of a class" in terminal.refused(2, "new")
