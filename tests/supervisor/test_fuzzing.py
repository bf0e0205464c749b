"""The reader of the frames is given bytes that nobody has thought of (libFuzzer, ASan, UBSan). What has led it to new
lines is kept in `corpus`, and read in `make sanitize`.

`DISBATCH_FUZZ_SECONDS`: for how long, instead of an hour. What a run has found to be new is added with
`clang ... -merge=1`; see docs/supervisor.md, "The fuzzer".
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import skip_or_fail
from helpers import supervisors

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
READER = (HERE / "fuzz_frames.c", supervisors.NATIVE / "frames.c", supervisors.NATIVE / "buffer.c")
ONCE = (HERE / "fuzz_once.c", *READER)
CORPUS_BYTES_MAX = 200_000
LINES_MIN = 95.0  # percent of frames.c
LONGEST = 4096  # bytes of an input: what is longer has only more of the same
SECONDS = int(os.environ.get("DISBATCH_FUZZ_SECONDS", "3600"))
EXECUTIONS_MIN = 10_000_000  # in an hour


def corpus() -> list[Path]:
    files = sorted(CORPUS.iterdir())
    assert files
    return files


def test_the_corpus_is_small() -> None:
    assert sum(one.stat().st_size for one in corpus()) <= CORPUS_BYTES_MAX


@pytest.mark.sanitized
def test_the_reader_keeps_its_rules_with_each_file_of_the_corpus(tmp_path: Path) -> None:
    program = supervisors.build(tmp_path / "once", *supervisors.SANITIZERS, sources=ONCE)
    done = subprocess.run([program, *corpus()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.soak
def test_the_corpus_leads_through_the_lines_of_the_reader(tmp_path: Path, require: Callable[[str], None]) -> None:
    require("gcov")
    program = supervisors.build(tmp_path / "once", "-O0", "--coverage", sources=ONCE)
    subprocess.run([program, *corpus()], check=True)
    (counts,) = [one for one in tmp_path.glob("*-frames.gcda") if "fuzz" not in one.name]
    told = subprocess.run(["gcov", "--no-output", counts], capture_output=True, text=True, check=True, cwd=tmp_path)
    found = re.search(r"File '[^']*/frames\.c'\nLines executed:([\d.]+)% of \d+", told.stdout)
    assert found is not None, told.stdout
    assert float(found[1]) >= LINES_MIN, told.stdout


def fuzzer(to: Path) -> Path:
    """The program, built by clang with libFuzzer."""
    clang = shutil.which("clang")
    if clang is None:
        skip_or_fail("no clang in PATH")
    assert clang is not None
    asked = subprocess.run([clang, "-print-resource-dir"], capture_output=True, text=True, check=True)
    if not list(Path(asked.stdout.strip()).glob("lib/*/libclang_rt.fuzzer*")):
        skip_or_fail("clang is here without libFuzzer (Debian: libclang-rt-14-dev, or of another version)")
    return supervisors.build(to, "-fsanitize=fuzzer", *supervisors.SANITIZERS, sources=READER, by=[clang])


def fuzz(tmp_path: Path, *options: str) -> int:
    """How many inputs were tried; what is told meanwhile goes to stderr. Fails where one breaks a rule."""
    found = tmp_path / "new"
    found.mkdir()
    command = [fuzzer(tmp_path / "fuzz"), *options, f"-max_len={LONGEST}", "-print_final_stats=1"]
    told = []
    with subprocess.Popen(
        [*command, f"-artifact_prefix={tmp_path}/finding-", found, CORPUS], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            told.append(line)
            print(line, end="", file=sys.stderr, flush=True)
    findings = {one.name: one.read_bytes().hex() for one in tmp_path.glob("finding-*")}
    assert process.returncode == 0 and not findings, (findings, "".join(told[-60:]))
    executions = re.search(r"stat::number_of_executed_units: +(\d+)", "".join(told))
    assert executions is not None, told[-10:]
    return int(executions[1])


@pytest.mark.sanitized
def test_a_moment_of_fuzzing_finds_nothing(tmp_path: Path) -> None:
    assert fuzz(tmp_path, "-runs=100000", "-seed=1") >= 100_000


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 600)
def test_an_hour_of_fuzzing_finds_nothing(tmp_path: Path) -> None:
    executions = fuzz(tmp_path, f"-max_total_time={SECONDS}")
    assert executions >= EXECUTIONS_MIN * min(1.0, SECONDS / 3600)
