"""The commands, as somebody types them, on both stores."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.conftest import PROGRAM, Terminal
from helpers.processes import wait_until
from helpers.stores import on_sqlite

Plugin = Callable[..., Path]

GREET = 'read -r line; echo "Hello, $(expr "$line" : \'.*"name":"\\([^"]*\\)"\')"; echo note >&2'


def test_from_a_dropped_program_to_a_result(on_store: Terminal, plugin: Plugin) -> None:
    plugin("hello", GREET, version="1.0")
    assert on_store.fine("queue", "create", "greetings", "--class", "hello").out == "greetings\n"
    task_id = on_store.fine("task", "push", "greetings", "-p", "name=Matt").out.strip()
    assert on_store("task", "wait", task_id, "--timeout", "0.2").code == 1
    on_store.fine("--until-idle")
    on_store.fine("task", "wait", task_id)
    assert on_store.fine("task", "output", task_id).out == "Hello, Matt\n"
    assert on_store.fine("task", "output", task_id, "--stderr").out == "note\n"
    (document,) = on_store.fine("task", "show", task_id, "--json").json
    assert (document["_id"], document["status"], document["stdout"]) == (task_id, 1, "Hello, Matt\n")
    shown = on_store.fine("task", "show", task_id).out
    for text in ("concluded", "hello 1.0 from", "exit code 0", "Hello, Matt", '"name": "Matt"'):
        assert text in shown


@on_sqlite
def test_parameters_are_typed_in_every_documented_way(on_store: Terminal, plugin: Plugin) -> None:
    plugin("hello", "cat")
    on_store.fine("queue", "create", "q", "--class", "hello")
    (on_store.directory / "letter.txt").write_text("Dear\nall")
    pairs = ["n=5", "s=five", 'q="5"', "t=true", "e=", "eq=a=b", 'j:={"a": [1]}', "f=@letter.txt", "colon:x=1"]
    command = ["task", "push", "q", '{"first": 1, "n": 0}', "--json"]
    for pair in pairs:
        command += ["-p", pair]
    (document,) = on_store.fine(*command).json
    assert document["parameters"] == {
        "first": 1, "n": 5, "s": "five", "q": "5", "t": True, "e": "", "eq": "a=b", "j": {"a": [1]}, "f": "Dear\nall",
        "colon:x": 1,
    }  # fmt: skip


@on_sqlite
def test_ndjson_makes_a_task_a_line_and_stops_at_the_first_that_does_not_fit(
    on_store: Terminal, plugin: Plugin
) -> None:
    plugin("hello", "cat", parameters={"type": "object", "properties": {"n": {"type": "integer"}}})
    on_store.fine("queue", "create", "q", "--class", "hello")
    lines = "".join(json.dumps({"n": number}) + "\n" for number in range(2500))
    ids = on_store.fine("task", "push", "q", "-", stdin=lines + "\n").out.split()
    assert len(set(ids)) == 2500
    result = on_store("task", "push", "q", "-", stdin='{"n": 1}\n{"n": "x"}\n{"n": 2}\n')
    assert result.code == 2 and len(result.out.split()) == 1
    assert "line 2: the parameters do not fit plugin hello: /n: expected a whole number" in result.err
    assert "1 task from the lines before it was created" in result.err
    assert on_store("task", "push", "q", "-", stdin='{"n": 1}\nnonsense\n').err.count("line 2") == 1
    on_store.fine("task", "push", "q", "-", "--no-check", stdin='{"n": "x"}\n')


def test_a_push_says_where_the_plugin_here_is_broken_and_nothing_is_checked(terminal: Terminal, plugin: Plugin) -> None:
    (plugin("hello", "exit 0") / "plugin.json").write_text("{")
    terminal.fine("queue", "create", "q", "--class", "hello")
    pushed = terminal.fine("task", "push", "q")
    assert len(pushed.out.split()) == 1
    assert pushed.err == (
        "the parameters are not checked: plugin hello cannot be used here; `disbatch-host check hello` says why\n"
    )
    assert terminal.fine("task", "push", "q", "--no-check").err == ""


def test_lists_narrow_and_say_when_there_is_more(on_store: Terminal, plugin: Plugin) -> None:
    plugin("bad", "exit 4")
    plugin("good", "exit 0")
    for name in ("bad", "good"):
        on_store.fine("queue", "create", name, "--class", name)
        on_store.fine("task", "push", name, "-", stdin="{}\n{}\n{}\n")
    on_store.fine("--until-idle")
    assert len(on_store.fine("task", "list", "--json").json) == 6
    failed = on_store.fine("task", "list", "--status", "failed", "--json").json
    assert on_store.fine("task", "list", "--status", "failed,orphaned", "--json").json == failed
    assert {one["queue"] for one in failed} == {"bad"}
    assert len(on_store.fine("task", "list", "--queue", "good", "--status", "1", "--json").json) == 3
    result = on_store.fine("task", "list", "--limit", "2")
    assert len(result.out.splitlines()) == 3 and "there are more" in result.err
    assert on_store("task", "wait", *(one["_id"] for one in failed)).code == 1


def test_status_tells_queues_and_nodes_apart_by_what_they_do(on_store: Terminal, plugin: Plugin) -> None:
    plugin("hello", "exit 0")
    on_store.fine("queue", "create", "q", "--class", "hello")
    on_store.fine("queue", "create", "lonely", "--class", "nobody")
    on_store.fine("task", "push", "q", "{}")
    assert re.search(r"^q +1 +0 +0 +0", on_store.fine("status").out, re.MULTILINE)
    process = subprocess.Popen(
        [str(PROGRAM), "--node-id", "n1"], cwd=on_store.directory, env=on_store.environment, stderr=subprocess.DEVNULL
    )
    try:
        task_id = on_store.fine("task", "list", "--json").json[0]["_id"]
        on_store.fine("task", "wait", task_id, "--timeout", "20")
        shown = on_store.fine("status").out
        assert re.search(r"^q +0 +0 +1 +0", shown, re.MULTILINE)
        assert "no living node has plugin nobody" in shown
        assert re.search(r"^n1 +alive", shown, re.MULTILINE)
        (node,) = on_store.fine("node", "list", "--json").json
        assert (node["_id"], node["alive"], node["queuetypes"][0]["class"]) == ("n1", True, "hello")
        assert "hello" in on_store.fine("node", "show", "n1").out
        documents = on_store.fine("status", "--json").json
        assert {one.get("queue") or one.get("node") for one in documents} == {"q", "lonely", "n1"}
    finally:
        process.terminate()
        process.wait(20)


def test_queues_are_changed_and_deleted(on_store: Terminal) -> None:
    on_store.fine(
        "queue", "create", "q", "--class", "A", "--maxthreads", "3", "--pin", "n1", "--pin", "n2", "--description", "x"
    )
    on_store.fine("queue", "set", "q", "maxthreads=7", "nodes_pin=n3,n4", "description=", "class=B")
    (document,) = on_store.fine("queue", "show", "q", "--json").json
    assert (document["class"], document["maxthreads"], document["nodes_pin"]) == ("B", 7, ["n3", "n4"])
    assert "description" not in document
    assert "did you mean 'maxthreads'" in on_store.refused(2, "queue", "set", "q", "maxthread=7")
    assert "expected a whole number" in on_store.refused(2, "queue", "set", "q", "maxthreads=many")
    assert "B" in on_store.fine("queue", "list").out
    on_store.fine("task", "push", "q", "{}")
    said = on_store.fine("queue", "set", "q", "class=C").err
    assert "1 unfinished task was created for B; C gets the same parameters" in said
    assert "created for" not in on_store.fine("queue", "set", "q", "class=C").err
    assert "--yes deletes it anyway" in on_store.refused(2, "queue", "delete", "q")
    on_store.fine("queue", "delete", "q", "--yes")
    assert on_store.fine("queue", "list", "--json").out == ""
    assert len(on_store.fine("task", "list", "--json").json) == 1
    assert "no such queue (deleted, or never made)" in on_store.fine("status").out


def test_output_above_a_mebibyte_comes_back_whole_and_follow_ends_with_the_task(
    on_store: Terminal, plugin: Plugin
) -> None:
    plugin("big", "head -c 3000000 /dev/zero | tr '\\0' x; sleep 1.5; printf end")
    on_store.fine("queue", "create", "q", "--class", "big")
    task_id = on_store.fine("task", "push", "q", "{}").out.strip()
    node = subprocess.Popen(
        [str(PROGRAM), "--until-idle"], cwd=on_store.directory, env=on_store.environment, stderr=subprocess.DEVNULL
    )
    followed = on_store.fine("task", "output", task_id, "--follow").out
    assert node.wait(20) == 0
    assert followed == "x" * 3_000_000 + "end"
    assert on_store.fine("task", "output", task_id).out == followed
    assert "MiB in all" in on_store.fine("task", "show", task_id).out


def test_secrets_are_masked_wherever_a_task_is_shown(on_store: Terminal, plugin: Plugin) -> None:
    properties = {"user": {"type": "string"}, "password": {"type": "string", "writeOnly": True}}
    plugin("login", "cat >/dev/null", parameters={"type": "object", "properties": properties})
    on_store.fine("queue", "create", "q", "--class", "login")
    task_id = on_store.fine("task", "push", "q", "-p", "user=matt", "-p", "password=s3cret").out.strip()
    for command in (("task", "show", task_id), ("task", "show", task_id, "--json"), ("task", "list", "--json")):
        out = on_store.fine(*command).out
        assert "s3cret" not in out and "matt" in out
    on_store.fine("--until-idle", "--log-level", "debug")
    assert "s3cret" not in on_store.fine("task", "show", task_id).out
    assert "s3cret" not in on_store.fine("exec", "login", "-p", "password=s3cret", "--json").out


def test_options_are_taken_before_and_after_the_subcommand(terminal: Terminal, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/other.db"
    terminal.fine("--store", url, "queue", "create", "a", "--class", "A")
    assert terminal.fine("queue", "list", "--json", "--store", url).json[0]["_id"] == "a"
    assert terminal.fine("--json", "--store", url, "queue", "list").json[0]["_id"] == "a"


def test_precedence_is_option_variable_file_default(terminal: Terminal, tmp_path: Path) -> None:
    urls = {name: f"sqlite://{tmp_path}/{name}.db" for name in ("option", "variable", "file")}
    config = tmp_path / "host.json"
    config.write_text(json.dumps({"store": urls["file"]}))
    for name, url in urls.items():
        terminal.fine("queue", "create", name, "--class", "A", "--store", url)
    terminal.fine("queue", "create", "default", "--class", "A")

    def seen(*arguments: str) -> str:
        return str(terminal.fine("queue", "list", "--json", *arguments).json[0]["_id"])

    assert seen() == "default"
    assert (terminal.directory / ".local/state/disbatch/disbatch.db").exists()
    terminal.environment["DISBATCH_CONFIG"] = str(config)
    assert seen() == "file"
    terminal.environment["DISBATCH_STORE"] = urls["variable"]
    assert seen() == "variable"
    assert seen("--store", urls["option"]) == "option"


def test_exec_runs_one_task_without_any_store(terminal: Terminal, plugin: Plugin) -> None:
    plugin("hello", GREET + '; exit $(expr "$line" : \'.*"exit":\\([0-9]*\\)\' || true)')
    result = terminal("exec", "hello", "-p", "name=Matt")
    assert (result.code, result.out, result.err) == (0, "Hello, Matt\n", "note\n")
    result = terminal("exec", "./plugins/hello", '{"name": "Zoe", "exit": 7}')
    assert (result.code, result.out) == (1, "Hello, Zoe\n")
    assert result.err.splitlines()[-1] == "disbatch-host: failed: exit code 7"
    (document,) = terminal("exec", "hello", '{"name": "Zoe"}', "--json").json
    assert (document["status"], document["run"]["exit_code"], document["stdout"]) == (1, 0, "Hello, Zoe\n")
    assert not (terminal.directory / ".local").exists()


def test_check_finds_faults_and_plugins_lists_what_is_served(terminal: Terminal, plugin: Plugin) -> None:
    assert terminal("check").code == 2
    plugin("fine", "echo ok", version="2", description="does nothing")
    assert terminal.fine("check").out.splitlines()[1].split()[:2] == ["fine", "fine"]
    broken = plugin("broken", "echo ok", timeout="soon")
    result = terminal("check")
    assert result.code == 1
    assert "error: plugins/broken/plugin.json /timeout: expected seconds or a duration" in result.out
    assert terminal("check", "broken").code == 1
    terminal.fine("check", "fine")
    terminal.fine("check", str(broken.parent / "fine"))
    assert terminal("check", "nosuch").code == 2
    documents = {one["name"]: one for one in terminal("check", "--json").json}
    assert documents["fine"]["ok"] and documents["broken"]["faults"][0]["pointer"] == "/timeout"
    listed = terminal.fine("plugins")
    assert "does nothing" in listed.out and "1 left out" in listed.err


def test_the_demo_does_what_it_says_and_leaves_nothing(terminal: Terminal, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    terminal.environment["TMPDIR"] = str(temporary)
    result = terminal.fine("demo", "--files", "3", timeout=120)
    assert "0       0" not in result.out
    for name in ("Text::Count", "Python::Functions", "Text::WordFrequency"):
        assert re.search(rf"^{name} +\w+ +3 +3 +0", result.out, re.MULTILINE), result
    assert result.out.endswith("Write a plugin of your own:  disbatch-host new Greet --lang bash\n")
    assert list(temporary.iterdir()) == []


def test_help_and_version(terminal: Terminal) -> None:
    assert re.match(r"disbatch-host, version \d+\.\d+\.\d+", terminal.fine("--version").out)
    for command in ([], ["task"], ["task", "push"], ["queue", "set"], ["exec"], ["check"]):
        assert "Usage: disbatch-host" in terminal.fine(*command, "--help").out


def test_output_that_nobody_reads_any_more_is_no_error(terminal: Terminal) -> None:
    for number in range(30):
        terminal.fine("queue", "create", f"q{number}", "--class", "A", "--description", "A" * 4000)
    for words in ("queue list --json", "queue list", "--help"):
        command = f"{PROGRAM} {words} | head -n 1"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            capture_output=True, text=True, cwd=terminal.directory, env=terminal.environment, check=False,
        )  # fmt: skip
        assert done.stderr == "" and len(done.stdout.splitlines()) == 1 and done.returncode == 0


@pytest.mark.parametrize("command", [["status"], ["queue", "list"], ["task", "list"], ["node", "list"]])
def test_an_empty_store_is_no_error(on_store: Terminal, command: list[str]) -> None:
    on_store.fine("queue", "create", "q", "--class", "A")
    on_store.fine("queue", "delete", "q")
    on_store.fine(*command)
    assert on_store.fine(*command, "--json").out == ""


def test_task_show_tells_what_the_plugin_said(on_store: Terminal, plugin: Plugin) -> None:
    events = (
        '{"type":"progress","value":0.5,"message":"half"}', '{"type":"log","level":"warning","message":"slow"}',
        '{"type":"set","fields":{"mailbox":"x"}}', "no event", '{"type":"snooze","seconds":900,"message":"quota"}',
    )  # fmt: skip
    plugin("says", "cat >/dev/null\n" + "".join(f"echo '{event}' >&3\n" for event in events))
    on_store.fine("queue", "create", "q", "--class", "says")
    task_id = on_store.fine("task", "push", "q").out.strip()
    with on_store.node():
        wait_until(lambda: on_store.fine("task", "show", task_id, "--json").json[0]["status"] == -4, 20)
    shown = on_store.fine("task", "show", task_id).out
    for text in ("50 %, half", "WARNING slow", "mailbox", "no event", "to sleep for 15m: quota", "blocked"):
        assert text in shown, shown


def test_status_says_why_a_class_is_set_aside(on_store: Terminal, plugin: Plugin) -> None:
    plugin("dies", "echo out of memory >&2; exit 1", mode="worker")
    on_store.fine("queue", "create", "q", "--class", "dies")
    on_store.fine("task", "push", "q")
    with on_store.node():
        wait_until(lambda: "set aside on" in on_store.fine("status").out, 20)
        assert "out of memory" in on_store.fine("status").out
        assert "out of memory" in on_store.fine("node", "show", "n1").out
