"""The cause of a failure in short: the vectors, and that no message takes long, comes out too long, or differently when
it goes through again."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disbatch_host.metrics.failures import GROUPS_MAX, FailureCounts
from disbatch_protocol.groups import KEY_DIGITS, TEXT_MAX, Group, group_of, normalized
from disbatch_protocol.last_words import meaningful_line
from disbatch_protocol.own_values import LOOKED_AT, VALUES_MAX

VECTORS = json.loads((Path(__file__).parents[2] / "protocol" / "vectors" / "groups.json").read_text())["cases"]
# What the patterns look for, and what nearly is that.
PARTS = st.sampled_from(
    ["'", '"', "`", " ", "/", ".", "@", ":", "1", "a", "<n>", "<path>", "<", ">", "b'", "\\", "://", "Nov 28",
     "12:34:56", "-", "code ", "0x", "deadbeef", ",", "com", "“", "”", "(", "[", " and ", "http", "é", "\n", "\r",
     "disbatch-host: "]
)  # fmt: skip
REPEATED = (
    "a", "'", "1 ", "/", "a.", '"\\', "<n>", "a@", "\n", "a:", "x\r", "1:", "'a", "1-", "Mon ", "0x", "{}", "` ",
    "at x(",
    "\n+ ", "::", "ab/", "\x1b[3", "\n  x", "Jan 1 ", "12:3", "1.1.1.1", "\\", "é", "\ud800",
)  # fmt: skip


def of_task(code: Any, case: dict[str, Any]) -> Group:
    return group_of(code, case["message"], parameters=case.get("parameters"), secrets=case.get("secrets", ()))


@pytest.mark.parametrize("case", [pytest.param(one, id=one["name"]) for one in VECTORS])
def test_group_vector(case: dict[str, Any]) -> None:
    group = of_task(case["code"], case)
    assert group.text == case["text"]
    assert group.key == case["key"] == hashlib.sha256(case["text"].encode()).hexdigest()[:KEY_DIGITS]
    for same in case.get("same", ()):
        assert of_task(case["code"], {**case, "message": same}) == group, same
    for same in case.get("same_with", ()):
        assert of_task(case["code"], same) == group, same


def test_vectors_of_different_causes_have_different_keys() -> None:
    keys = [one["key"] for one in VECTORS]
    assert len(keys) == len(set(keys)) > 40


@given(st.lists(PARTS, max_size=40).map("".join) | st.text())
@settings(max_examples=400)
def test_a_text_is_short_and_stays_as_it_is_when_it_goes_through_again(message: str) -> None:
    group = group_of("c", message)
    assert len(group.text) <= TEXT_MAX and group.text.encode() and group.text.startswith("c")
    assert normalized(normalized(message)) == normalized(message)
    assert group_of("c", group.text.removeprefix("c").removeprefix(": ")) == group


@given(st.text(max_size=100), st.text(max_size=200))
def test_any_code_makes_a_text(code: str, message: str) -> None:
    assert 0 < len(group_of(code, message).text) <= TEXT_MAX


@given(st.lists(PARTS, max_size=40).map("".join), st.dictionaries(st.text(), PARTS | st.text(max_size=5), max_size=5))
def test_a_text_with_names_is_short_and_stays_as_it_is(message: str, parameters: dict[str, str]) -> None:
    group = group_of("c", message, parameters=parameters)
    assert 0 < len(group.text) <= TEXT_MAX
    assert group_of("c", group.text.removeprefix("c").removeprefix(": ")) == group


@pytest.mark.parametrize(
    "parameters",
    [
        {"names": [f"name {number}" for number in range(300_000)]},
        {f"k{number}": f"ab{number}" for number in range(300_000)},
        {"long": "ab " * 1_000_000, "user": "matt"},
        [["deep"]] * 300_000,
        {f"a{number}": "a" * number for number in range(200)},
        {f"a{number}": "a " * (number % 100) + "-" * (number // 100) for number in range(900)},
    ],
    ids=["list", "object", "text", "lists", "nested-texts", "blanks"],
)  # fmt: skip
def test_large_parameters_take_no_longer_than_small_ones(parameters: Any) -> None:
    for message in ("a " * 10_000, "name 7 of matt: ab12 " * 1000, "a" * 10_000):
        began = time.process_time()
        group_of("c", message, parameters=parameters, secrets=["/names/7"])
        assert time.process_time() - began < 1.0, message[:20]


def test_only_the_first_values_of_large_parameters_count() -> None:
    first = {f"k{number}": f"other{number}" for number in range(VALUES_MAX - 1)}
    assert group_of("c", "no matt", parameters={**first, "user": "matt"}).text == "c: no <user>"
    assert group_of("c", "no matt", parameters={"more": "also", **first, "user": "matt"}).text == "c: no matt"
    assert group_of("c", "no matt", parameters={"n": list(range(LOOKED_AT - 3)), "user": "matt"}).text == "c: no <user>"
    assert group_of("c", "no matt", parameters={"n": list(range(LOOKED_AT)), "user": "matt"}).text == "c: no matt"
    deep: Any = "matt"
    for _ in range(5000):
        deep = [deep]
    assert group_of("c", "no matt", parameters={"deep": deep}).text == "c: no matt"


def test_messages_of_a_megabyte_take_no_longer_than_short_ones() -> None:
    """Each of these would take minutes with a pattern that tries everything again from each place."""
    for part in REPEATED:
        message = part * (2**20 // len(part))
        began = time.process_time()
        group_of("c", message)
        assert time.process_time() - began < 1.0, repr(part)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("reading\nuser matt not found\n\n", "user matt not found"),
        ("cannot connect\nKilled\n", "cannot connect"),
        ("Killed\n", "Killed"),
        ("no room\n 40%|####      | 4/10 [00:01<00:01, 3.5it/s]\r 50%|#####     | 5/10\n", "no room"),
        ("10%\r20%\rout of quota", "out of quota"),
        ("no such user\n+ exit 3\n", "no such user"),
        ("make: Entering directory '/x'\nx.c:3: error: no\nmake: *** [Makefile:2: x] Error 1\n", "x.c:3: error: no"),
        ('Traceback (most recent call last):\n  File "x.py", line 3, in <module>\n    go()\nx.Bad: 2 errors\n  field a'
         "\nFor further information see the manual\n", "x.Bad: 2 errors"),
        ("Traceback (most recent call last):\n  a\nKeyError: 1\n\nDuring handling of the above exception, another "
         "exception occurred:\n\nTraceback (most recent call last):\n  b\nValueError: 2\n", "ValueError: 2"),
        ("/x/y.js:3\nthrow new Error('boom')\n^\n\nError: boom\n    at Object.<anonymous> (/x/y.js:3:7)\n"
         "    at node:internal/main {\n  code: 'E'\n}\n\nNode.js v18.19.0\n", "Error: boom"),
        ("panic: assignment to entry in nil map\n\ngoroutine 1 [running]:\nmain.main()\n\t/x/main.go:5 +0x1d\n"
         "exit status 2\n", "panic: assignment to entry in nil map"),
        ("thread 'main' panicked at src/main.rs:2:5:\nboom\nnote: run with `RUST_BACKTRACE=1` environment variable to "
         "display a backtrace\n", "boom"),
        ("x.rb:1:in `go': boom (RuntimeError)\n\tfrom x.rb:4:in `<main>'\n", "x.rb:1:in `go': boom (RuntimeError)"),
        ("Exception in thread \"main\" java.lang.X: a\n\tat A.b(A.java:1)\nCaused by: java.io.Y: c\n\t... 3 more\n",
         "Caused by: java.io.Y: c"),
        ("PHP Fatal error:  Uncaught Exception: boom in /x.php:3\nStack trace:\n#0 {main}\n  thrown in /x.php on line"
         " 3\n", "PHP Fatal error:  Uncaught Exception: boom in /x.php:3"),
        ("-----\n=====\n", "====="),
    ],
)  # fmt: skip
def test_the_line_that_says_why_is_found_among_the_others(text: str, line: str) -> None:
    assert meaningful_line(text) == line


def samples(counts: FailureCounts) -> dict[tuple[str, ...], float]:
    return {tuple(one.labels.values()): one.value for one in counts.family().samples}


def test_metrics_have_the_causes_seen_last_and_never_a_smaller_sum() -> None:
    counts = FailureCounts()
    for number in range(GROUPS_MAX + 5):
        counts.count("C", "exit_1", f"{number:08x}")
        counts.count("C", "exit_1", "f" * 8)  # always the newest
    counts.count("D", "x" * 500, "0" * 8)
    found = samples(counts)
    assert sum(value for (name, _, _), value in found.items() if name == "C") == 2 * (GROUPS_MAX + 5)
    assert len([one for one in found if one[0] == "C"]) == GROUPS_MAX + 1
    assert found["C", "exit_1", "f" * 8] == GROUPS_MAX + 5 and found["C", "other", "other"] == 6
    assert found["D", "x" * 60, "0" * 8] == 1
