"""`new` and the levels of `check`, as somebody types them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from acceptance.conftest import Terminal
from disbatch_host.plugin.new.scaffold import LANGUAGES

PROGRAMS = {"python": "python3"}


@pytest.mark.parametrize("mode", ["oneshot", "worker"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_plugin_passes_every_trial_as_it_is(
    terminal: Terminal, language: str, mode: str, require: Callable[[str], None]
) -> None:
    require(PROGRAMS.get(language, language))
    if mode == "worker" and not LANGUAGES[language].has_worker_mode:
        assert "no worker mode" in terminal.refused(2, "new", "My::Greeter", "--lang", language, "--worker")
        return
    old_mask = os.umask(0o002)  # a plugin that its group may write is refused; what is written must not depend on it
    try:
        made = terminal.fine("new", "My::Greeter", "--lang", language, *(["--worker"] if mode == "worker" else []))
    finally:
        os.umask(old_mask)
    assert "wrote plugins/my-greeter/plugin.json" in made.out and made.err == ""
    assert ("built plugins/my-greeter/my-greeter\n" in made.out) == (language == "go")
    (report,) = terminal.fine("check", "--torture", "--json").json
    assert (report["ok"], report["faults"], report["mode"], report["idempotent"]) == (True, [], mode, False)
    verdicts = {one["trial"]: one["verdict"] for one in report["trials"]}
    assert set(verdicts.values()) == {"passed"} and len(verdicts) == 9 + 3 * (mode == "worker"), report
    # What its own README and the command itself say to try.
    tried = terminal.fine("exec", "./plugins/my-greeter", "-p", "name=Matt", "--events")
    assert tried.out == "Hello, Matt\n" and 'event: {"type":' in tried.err
    readme = (terminal.directory / "plugins/my-greeter/README.md").read_text()
    assert "@" not in readme and "My::Greeter" in readme


def test_a_new_plugin_says_that_running_it_twice_does_no_harm_only_if_its_author_has_said_so(
    terminal: Terminal,
) -> None:
    """Incident: a greeting was made into a mail, and the mail was sent twice after a crash."""
    terminal.fine("new", "Once", "--lang", "sh")
    terminal.fine("new", "Again", "--lang", "sh", "--idempotent")
    assert "idempotent" not in (terminal.directory / "plugins/once/plugin.json").read_text()
    assert {one["name"]: one["idempotent"] for one in terminal.fine("check", "--json").json} == {
        "Once": False, "Again": True,
    }  # fmt: skip


@pytest.mark.parametrize("language", ["bash", "sh"])
def test_a_shell_plugin_that_half_fails_does_not_conclude(terminal: Terminal, language: str) -> None:
    """Incident: 28 tasks with a blank in their file names went on after `gzip` had failed, and were concluded."""
    terminal.fine("new", "Half", "--lang", language)
    program = next((terminal.directory / "plugins/half").glob("half.*"))
    program.write_text(program.read_text().replace("disbatch_log info", "cat /nowhere/file\ndisbatch_log info"))
    result = terminal("exec", "Half", "-p", "name=Matt", "-p", "times=2", "--json")
    assert (result.code, result.json[0]["status"]) == (1, 2) and "result" not in result.json[0]
    # Run by hand with descriptor 3 closed: an event that cannot be sent ends nothing.
    program.write_text(program.read_text().replace("cat /nowhere/file\n", ""))
    assert terminal.fine("exec", "Half", "-p", "name=Matt").out == "Hello, Matt\n"


def test_check_hints_at_what_is_still_that_of_a_new_plugin(terminal: Terminal) -> None:
    terminal.fine("new", "Photo::Check", "--lang", "sh")
    shown = terminal.fine("check").out
    where = "plugins/photo-check/plugin.json"
    assert f"hint: {where}: the description and the examples are still those of a new plugin" in shown
    assert "fine, 1 hint" in shown
    manifest = terminal.directory / where
    written = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**written, "description": "Checks photos."}))
    assert terminal.fine("check", "--json").json[0]["hints"] == [
        "the examples are still those of a new plugin: say what this one does"
    ]
    del written["examples"]
    manifest.write_text(json.dumps(written))
    assert "the description is still that of a new plugin" in terminal.fine("check").out
    manifest.write_text(json.dumps({**written, "description": "Checks photos."}))
    assert "hint" not in terminal.fine("check").out


def test_check_counts_faults_by_the_words_of_the_lines_that_name_them(
    terminal: Terminal, plugin: Callable[..., Path]
) -> None:
    plugin("bad", "true", timeout="soon", retries=3)
    result = terminal("check")
    words = [line.partition(":")[0] for line in result.out.splitlines() if "plugin.json" in line and ":" in line]
    errors, warnings = words.count("error"), words.count("warning")
    assert errors == 1 and warnings == 1 and "1 error, 1 warning" in result.out, result.out


def test_new_overwrites_nothing_and_says_what_is_wrong(terminal: Terminal) -> None:
    terminal.fine("new", "Greet", "--lang", "sh")
    assert "already exists" in terminal.refused(2, "new", "Greet", "--lang", "python")
    assert "class name" in terminal.refused(2, "new", "a b", "--lang", "sh")
    assert "class name" in terminal.refused(2, "new", "../x", "--lang", "sh")
    assert "cobol" in terminal.refused(2, "new", "X", "--lang", "cobol")
    assert "--lang" in terminal.refused(2, "new", "X")
    (terminal.directory / "file").write_text("")
    assert "cannot be written" in terminal.refused(2, "new", "X", "--lang", "sh", "--plugins", "file")


def test_junit_and_json_tell_the_same(terminal: Terminal, plugin: Callable[..., Path]) -> None:
    plugin("good", "cat >/dev/null", examples=[{"name": "one", "parameters": {}}])
    plugin("bad", "cat >/dev/null; echo '\x1b[31mred' >&2; exit 3", examples=[{"name": "<one>", "parameters": {}}])
    plugin("broken", "true", timeout="soon")
    result = terminal("check", "--run", "--junit", "out.xml", "--json")
    assert result.code == 1
    reports = {one["name"]: one for one in result.json}
    assert {name: one["ok"] for name, one in reports.items()} == {"good": True, "bad": False, "broken": False}
    root = ElementTree.parse(terminal.directory / "out.xml").getroot()
    suites = {suite.get("name"): suite for suite in root}
    assert {name: suite.get("failures") for name, suite in suites.items()} == {"good": "0", "bad": "1", "broken": "1"}
    assert [case.get("name") for case in suites["bad"]] == ["static", "example <one>"]
    failure = suites["bad"].find("testcase/failure")
    assert failure is not None and "exit code 3" in str(failure.get("message")) and "red" in str(failure.text)
    assert "cannot be written" in terminal.refused(2, "check", "--junit", "/no/such/file.xml")


def test_a_plugin_without_examples_is_no_failure_but_a_hint(terminal: Terminal, plugin: Callable[..., Path]) -> None:
    plugin("bare", "cat >/dev/null")
    result = terminal.fine("check", "--torture")
    assert "hint: plugins/bare/plugin.json: examples: there is nothing to try" in result.out
    assert "1 MiB of parameters" in result.out and "fine, 1 hint" in result.out


def test_output_that_comes_only_at_the_end_is_a_hint(terminal: Terminal, plugin: Callable[..., Path]) -> None:
    # Slow for its example and the first trial, which is carried out twice; the other trials need not wait.
    program = """#!/usr/bin/env python3
import os, sys, time
with open(os.path.join(os.environ["DISBATCH_PLUGIN_DIR"], "runs"), "a") as runs:
    runs.write("x")
    earlier = runs.tell() - 1
sys.stdin.read()
time.sleep(2 if earlier < 3 else 0)
print("all at once")
"""
    plugin("late", program, examples=[{"name": "one", "parameters": {}}])
    assert "flush after each line" in terminal.fine("check", "--torture").out


def test_show_input_shows_how_it_would_be_started_and_runs_nothing(
    terminal: Terminal, plugin: Callable[..., Path]
) -> None:
    properties = {"user": {"type": "string"}, "password": {"type": "string", "writeOnly": True}, "n": {"default": 5}}
    plugin(
        "mail", "touch ran", env={"FIXED": "yes"}, cwd="work",
        parameters={"type": "object", "properties": properties, "required": ["user"]},
    )  # fmt: skip
    command = ("exec", "mail", "-p", "user=matt", "-p", "password=hunter2", "--show-input")
    shown = terminal.fine(*command)
    assert "hunter2" not in shown.out and '"user":"matt"' in shown.out and '"n":5' in shown.out
    assert "DISBATCH_MODE=oneshot" in shown.out and "FIXED=yes" in shown.out and "DISBATCH_WORK_DIR=" in shown.out
    (document,) = terminal.fine(*command, "--json").json
    assert document["command"] == [str(terminal.directory.resolve() / "plugins/mail/run.sh")]
    assert not list(terminal.directory.rglob("ran"))
    unfit = terminal("exec", "mail", "--show-input")
    assert unfit.code == 1 and "it would not be started" in unfit.err


def test_exec_shows_events_and_says_what_a_node_would_create(terminal: Terminal, plugin: Callable[..., Path]) -> None:
    follow_up = '{"type":"tasks","tasks":[{"queue":"next","parameters":{"n":1}}]}'
    plugin("steps", f"cat >/dev/null; echo one; echo '{follow_up}' >&3; printf 'no event' >&3")
    shown = terminal.fine("exec", "steps", "--events")
    assert shown.out == "one\n"
    assert f"event: {follow_up}\n" in shown.err and "event: no event\n" in shown.err
    assert "a node would create 1 follow-up task" in shown.err
    (document,) = terminal.fine("exec", "steps", "--json").json
    assert document["follow_ups"][0]["parameters"] == {"n": 1}
    assert document["run"]["event_errors"]["first"][0]["line"] == "no event"
    assert "event:" not in terminal.fine("exec", "steps").err
