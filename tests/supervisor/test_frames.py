"""The frames: framing.py and frames.c are both held to protocol/vectors/supervisor.json."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.process import frames, framing
from helpers import supervisors

VECTORS = Path(__file__).resolve().parents[2] / "protocol/vectors/supervisor.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())["cases"]


def cases(*names: str) -> Any:
    chosen = [case for case in CASES if any(name in case for name in names)]
    return pytest.mark.parametrize("case", chosen, ids=[case["name"] for case in chosen])


def fields_of(frame: Any) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in frame._asdict().items()}


@cases("bytes")
@pytest.mark.parametrize("block", [1, 7, 2**20])
def test_the_reader_makes_of_bytes_what_the_vectors_say(case: dict[str, Any], block: int) -> None:
    data = bytes.fromhex(case["bytes"])
    reader, heard, broken = framing.FrameReader(), [], False
    try:
        for begin in range(0, len(data), block):
            heard += reader.feed(data[begin : begin + block])
    except frames.FrameError:
        broken = True
    assert broken == ("fault" in case)
    if "frame" in case:
        assert [type(one).__name__ for one in heard] == [case["frame"]]
        assert fields_of(heard[0]) == case["fields"]
    elif "frames" in case:
        assert [type(one).__name__ for one in heard] == case["frames"]


@cases("frame")
def test_a_frame_is_written_as_the_vectors_say(case: dict[str, Any]) -> None:
    record = getattr(frames, case["frame"])
    values = [bytes.fromhex(value) if isinstance(value, str) else value for value in case["fields"].values()]
    assert framing.encode(record(*values)).hex() == case["bytes"]


@cases("list")
def test_a_list_is_read_as_the_vectors_say(case: dict[str, Any]) -> None:
    if "fault" in case:
        with pytest.raises(frames.FrameError):
            framing.unpacked(bytes.fromhex(case["list"]))
    else:
        assert [one.hex() for one in framing.unpacked(bytes.fromhex(case["list"]))] == case["items"]


@pytest.mark.parametrize("case", [case for case in CASES if {"behind", "behind_fault"} & case.keys()])
def test_a_list_behind_another_is_read_as_the_vectors_say(case: dict[str, Any]) -> None:
    blob = bytes.fromhex(case["list"])
    if "behind_fault" in case:
        with pytest.raises(frames.FrameError):
            framing.unpacked_two(blob)
    else:
        first, second = framing.unpacked_two(blob)
        assert ([one.hex() for one in first], [one.hex() for one in second]) == (case["items"], case["behind"])
        assert framing.packed(first) + framing.packed(second) == blob


def test_every_frame_has_a_vector_of_its_smallest_and_its_largest_numbers() -> None:
    named = {case["frame"] for case in CASES if "frame" in case}
    assert named == {record.__name__ for record in frames.Frame.__args__}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the reader in C says of each case, built with the sanitizers."""
    return answers_of(build_check(tmp_path_factory.mktemp("frames") / "check", *supervisors.SANITIZERS))


def build_check(to: Path, *flags: str) -> Path:
    """The program that says what the reader in C makes of bytes."""
    native = supervisors.NATIVE
    sources = (Path(__file__).with_name("frames_check.c"), native / "frames.c", native / "buffer.c")
    return supervisors.build(to, *flags, sources=sources)


def answers_of(check: Path, through: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """What it says of each case. `through`: a command that runs it."""
    lines = [f"list {case['list']}" if "list" in case else f"frames {case['bytes']}" for case in CASES]
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run([*through, check], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split(".\n")
    return {case["name"]: part.splitlines() for case, part in zip(CASES, parts[:-1], strict=True)}


@cases("frame")
def test_the_program_reads_and_writes_each_frame_as_the_vectors_say(
    case: dict[str, Any], answers: dict[str, list[str]]
) -> None:
    line, rest = answers[case["name"]]
    number, *values = line.split(" ")
    *values, again = values
    assert (int(number), rest) == (int(case["bytes"][8:10], 16), "rest 0")
    expected = [f"={value}" if isinstance(value, str) else value for value in case["fields"].values()]
    for found, value in zip(values, expected, strict=True):
        # A signed number is compared as the bits that the program has.
        assert found == value or int(found) in (value, value & 2**32 - 1, value & 2**64 - 1)
    assert again == f"={case['bytes']}"


@cases("frames", "fault")
def test_the_program_skips_and_refuses_what_the_vectors_say(
    case: dict[str, Any], answers: dict[str, list[str]]
) -> None:
    *lines, last = answers[case["name"]]
    assert (last == "broken") == ("fault" in case)
    if "frames" in case:
        numbers = {form.number: record.__name__ for record, form in framing._FORMS.items()}
        assert [numbers[int(line.split(" ")[0])] for line in lines] == case["frames"]


@cases("list")
def test_the_program_reads_lists_as_the_vectors_say(case: dict[str, Any], answers: dict[str, list[str]]) -> None:
    (line,) = answers[case["name"]]
    assert line == ("broken" if "fault" in case else " ".join(["items", *(f"={item}" for item in case["items"])]))
