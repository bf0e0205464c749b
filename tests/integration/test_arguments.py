"""Programs that get their task as words and variables, without a wrapper."""

from __future__ import annotations

import json
import re
from typing import Any

from disbatch_host.documents.records import Task
from disbatch_protocol.status import Status
from helpers.nodes import Living

# Shows its words, one per line, then its variables and what it reads.
SHOWS = """for word in "$@"; do printf '[%s]\\n' "$word"; done; printf '%s\\n' "$WHO-$PLACE"; cat"""
NAMES = {
    "arguments": [
        "--in={input}", ["-b:a", "{rate}"], {"if": "mono", "then": ["-ac", "1"]}, "{tags}",
        {"each": "tags", "words": ["-t", "{}"]}, {"word": "{more}", "dash": True},
    ],
    "env_parameters": {"WHO": "who", "PLACE": "{who}@{host}"},
    "parameters": {
        "type": "object", "required": ["input"],
        "properties": {
            "input": {}, "rate": {}, "mono": {}, "tags": {"type": "array", "default": []}, "who": {}, "host": {},
            "text": {}, "more": {"default": "-x"},
        },
    },
}  # fmt: skip


def plugin(living: Living, program: str = SHOWS, **manifest: Any) -> Any:
    name = living.own_name("Words")
    living.plugin(name, program, protocol=2, **{**NAMES, "stdin": "null", **manifest})
    return living.queue(name)


def test_a_program_gets_the_words_and_variables_that_its_manifest_makes_of_the_parameters(living: Living) -> None:
    queue = plugin(living)
    full = {"input": "a b\n$(x)*", "rate": 1.5, "mono": True, "tags": ["ü", 3], "who": "me", "host": "h"}
    ids = living.push(queue, full, {"input": "", "who": "zoë"}, {"input": True, "rate": None, "mono": False})
    living.finish(*ids)
    first, second, third = (living.task(one) for one in ids)
    words = ["--in=a b\n$(x)*", "-b:a", "1.5", "-ac", "1", "ü", "3", "-t", "ü", "-t", "3", "-x"]
    assert first.status == Status.CONCLUDED
    assert first.document["stdout"] == "".join(f"[{one}]\n" for one in words) + "me-me@h\n"
    assert first.run["arguments"] == words and "arguments_left_out" not in first.run
    assert second.document["stdout"] == "[--in=]\n[-x]\nzoë-\n"
    assert third.document["stdout"] == "[--in=true]\n[-x]\n-\n"


def test_a_task_that_no_words_can_be_made_of_fails_before_its_start_and_is_not_tried_again(living: Living) -> None:
    queue = plugin(living, 'echo started; exec "$0-nowhere"', retry={"max": 3, "delay": 0})
    other = plugin(living, arguments=["{input}"])
    wrong = [{"input": {"a": 1}}, {"input": None}, {"input": "a\0b"}, {"input": "x", "mono": 1}]
    large = [{"input": "x" * 2**17}, {"input": "x", "tags": ["y" * 1000] * 2300}]
    ids = [*living.push(queue, *wrong, *large), *living.push(other, {"input": "-rf"})]
    living.finish(*ids)
    for task in map(living.task, ids):
        error = task.document["error"]
        assert (task.status, error["code"], task.run["reason"]) == (Status.FAILED, "parameters", "parameters")
        assert task.document["stdout"] == "" and "arguments" not in task.run and not task.attempts
        assert re.search("was not started: /|a command line of at most|larger than this machine", error["message"])
        assert len(error["message"]) < 2000


def test_a_command_line_that_only_the_system_finds_too_large_is_the_tasks_fault(living: Living) -> None:
    """Its words alone would do; with the variables they do not. Nothing of the class is set aside for it."""
    size = 12 * 2**16
    queue = plugin(
        living, env={f"FILL_{number}": "x" * 2**16 for number in range(20)}, arguments=["{tags}"], env_parameters={}
    )
    ids = living.push(queue, *({"input": "", "tags": ["y" * 2**16] * (size >> 16)},) * 6, {"input": "", "tags": ["z"]})
    living.finish(*ids)
    *large, small = map(living.task, ids)
    for task in large:
        assert (task.status, task.document["error"]["code"]) == (Status.FAILED, "parameters")
        assert "larger than this machine takes" in task.document["error"]["message"]
    assert (small.status, small.document["stdout"]) == (Status.CONCLUDED, "[z]\n-\n")


def test_the_document_keeps_eight_kib_of_the_words_and_says_how_many_are_left_out(living: Living) -> None:
    queue = plugin(living, "echo $#", arguments=["{tags}"])
    ids = living.push(queue, *({"input": "", "tags": tags} for tags in (["ü" * 1000] * 6, ["x"] * 5000, ["y" * 9000])))
    living.finish(*ids)
    several, many, one = map(living.task, ids)
    assert [task.document["stdout"] for task in (several, many, one)] == ["6\n", "5000\n", "1\n"]
    assert several.run["arguments"] == [*["ü" * 1000] * 4, "ü" * 74 + "…"]
    assert several.run["arguments_left_out"] == 2
    assert many.run["arguments"] == ["x"] * 910 and many.run["arguments_left_out"] == 4090
    assert one.run["arguments"] == ["y" * 8181 + "…"] and one.run["arguments_left_out"] == 1


def test_what_the_program_reads_is_the_task_as_ever_or_a_parameter_or_nothing(living: Living) -> None:
    line = living.run_one(plugin(living, "cat", stdin="task"), {"input": "x"})
    document = json.loads(line.document["stdout"])
    assert document["parameters"] == {"input": "x", "more": "-x", "tags": []}
    assert not {"arguments", "arguments_left_out", "token"} & document["run"].keys()
    read = living.run_one(plugin(living, "cat", stdin={"parameter": "text"}), {"input": "x", "text": "secret\0"})
    assert read.document["stdout"] == "secret\ufffd" or read.document["stdout"] == "secret\0"
    assert living.run_one(plugin(living, "cat"), {"input": "x"}).document["stdout"] == ""


def test_limits_an_account_and_a_work_directory_do_not_change_the_words(living: Living) -> None:
    queue = plugin(living, SHOWS, limits={"files": 100}, cwd="work", arguments=["{input}", "{who}"])
    task: Task = living.run_one(queue, {"input": "a  b", "who": "w"})
    assert task.document["stdout"] == "[a  b]\n[w]\nw-\n"
