"""Three planted causes in many messages are three groups, at the terminal and in JSON, and can be run again one
by one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from acceptance.conftest import Terminal
from disbatch_protocol import schemas

Plugin = Callable[..., Path]

# Each message has other numbers, names and paths; what a shell and a progress bar leave is below some of them.
PLANTED = r"""
read -r line
n=$(expr "$line" : '.*"n":\([0-9]*\)')
[ -e fixed ] && exit 0
case $((n % 4)) in
    1) user=$(expr "$line" : '.*"user":"\([^"]*\)"')
       echo "user $user not found in /srv/mail$n/matt-$n.mbox" >&2; exit 1 ;;
    2) echo working >&2
       printf 'cannot connect to mx%d.example.com:25: timed out after %ds\n 4%%|##   |\r 8%%|###  |\nKilled\n' \
           "$n" "$n" >&2; exit 1 ;;
    3) printf '{"type":"error","code":"quota","message":"ValueError: \\"box %d\\" is over its %d.5 MiB"}\n' \
           "$n" "$n" >&3
       [ $((n % 2)) = 1 ] && exit 4; exit 0 ;;
esac
exit 0
"""
NAMES = ("legacy-Ünal, Zoë", "matt@example.com", "o'neill", "u1", "van der Berg")
WANTED = {
    "exit_1: user <user> not found in <path>": 20,
    "exit_1: cannot connect to <host>: timed out after <n>": 20,
    "quota: ValueError: <text> is over its <n>": 20,
}


def test_planted_causes_are_found_and_each_is_run_again_by_the_command_that_is_shown(
    on_store: Terminal, plugin: Plugin
) -> None:
    directory = plugin("planted", PLANTED, version="1.2")
    on_store.fine("queue", "create", "it's", "--class", "planted", "--maxthreads", "20")
    rows = "".join(
        json.dumps({"n": number, "user": NAMES[number % len(NAMES)]}, ensure_ascii=False) + "\n" for number in range(80)
    )
    on_store.fine("task", "push", "it's", "-", stdin=rows)
    assert on_store.fine("task", "failures").out == "no failures\n"
    assert on_store.fine("task", "failures", "--json").out == ""
    node = on_store.fine("--until-idle", "--node-id", "n1")
    assert node.err.count("WARNING task") == 60 and "quota: ValueError" in node.err
    found = on_store.fine("task", "failures", "--json").json
    assert {one["text"]: one["count"] for one in found} == WANTED
    for one in found:
        jsonschema.Draft202012Validator(schemas.load("failures")).validate(one)
        assert (one["queues"], one["versions"], one["nodes"], len(one["tasks"])) == (["it's"], ["1.2"], ["n1"], 3)
    shown = on_store.fine("task", "failures", "--queue", "it's", "--since", "1h", "--class", "planted").out
    assert shown.endswith("\n60 failed\n") and all(f"20  {text}\n" in shown for text in WANTED)
    assert on_store.fine("task", "failures", "--node", "n2").out == "no failures\n"
    assert on_store.fine("task", "failures", "--version", "1.3").out == "no failures\n"
    status = on_store.fine("status").out
    assert all(text in status for text in WANTED) and "task failures" in status
    command = next(line.strip() for line in shown.splitlines() if "task retry" in line)
    key = shlex.split(command)[shlex.split(command).index("--failure") + 1]
    assert len(on_store.fine("task", "list", "--failure", key, "--limit", "50", "--json").out.splitlines()) == 20
    assert len(on_store.fine("task", "export", "--failure", key).out.splitlines()) == 20
    (directory / "fixed").touch()
    assert on_store.fine(*shlex.split(command)[1:]).out == "20 tasks will be run again\n"
    on_store.fine("--until-idle", "--node-id", "n1")
    left = on_store.fine("task", "failures", "--json").json
    assert len(left) == 2 and key not in {one["key"] for one in left}
    one = json.loads(on_store.fine("task", "list", "--failed", "--limit", "1", "--json").out.splitlines()[0])
    assert one["error"]["group"]["key"] in {each["key"] for each in left}
    assert on_store.fine("task", "delete", "--failure", left[0]["key"], "--yes").out == "20 tasks deleted\n"
    assert on_store.fine("task", "cancel", "--failure", left[0]["key"], "--yes").out == "0 tasks cancelled\n"


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_wrong_use_is_said_with_what_to_do(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "C")
    assert "no queue 'p'" in on_store.refused(4, "task", "failures", "--queue", "p")
    assert "--since: expected" in on_store.refused(2, "task", "failures", "--since", "soon")
    assert "--limit" in on_store.refused(2, "task", "failures", "--limit", "0")
    for command in ("list", "retry", "cancel", "delete", "export"):
        said = on_store.refused(2, "task", command, "--failure", "exit_1")
        assert "--failure: expected a key of 8 hexadecimal digits, found 'exit_1'" in said
    assert "found both" in on_store.refused(2, "task", "retry", "abc", "--failure", "01234567")
    assert on_store.fine("task", "retry", "--failure", "01234567").out == "0 tasks will be run again\n"
    assert "no batch 'none'" in on_store.refused(4, "task", "failures", "--batch", "none")
