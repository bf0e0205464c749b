"""The build hook: what it makes of the C sources, and what a compiler that fails means."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import hatch_build
import pytest

from helpers import supervisors

pytestmark = supervisors.usable()
NO_COMPILER = {"CC": "false"}


def test_the_program_was_made_of_the_sources_of_this_tree() -> None:
    """An edited source must never be tested with the program of yesterday."""
    done = subprocess.run([supervisors.program(), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == hatch_build.source_hash(supervisors.NATIVE)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout without what was built in it."""
    return tree_in(tmp_path)


def tree_in(directory: Path) -> Path:
    tree = directory / "tree"
    leave = shutil.ignore_patterns(".git", ".venv*", "bin", "*cache*", "__pycache__", "dist", "build", "tests", "bench")
    shutil.copytree(supervisors.ROOT, tree, ignore=leave)
    return tree


def wheel_of(tree: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Build the wheel of a tree as pip does, with the build requirements of this environment."""
    code = "import sys; from hatchling import build; print(build.build_wheel(sys.argv[1]))"
    inherited = {name: value for name, value in os.environ.items() if name != "DISBATCH_REQUIRE_SUPERVISOR"}
    environment = {**inherited, **more}
    command = [sys.executable, "-c", code, str(tree / "dist")]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def names_in(tree: Path, done: subprocess.CompletedProcess[str]) -> set[str]:
    assert done.returncode == 0, done.stderr
    return set(zipfile.ZipFile(tree / "dist" / done.stdout.split()[-1]).namelist())


def test_a_wheel_has_the_program_and_not_its_sources(tree: Path) -> None:
    done = wheel_of(tree)
    names = names_in(tree, done)
    assert "disbatch_host/process/native/bin/disbatch-supervisor" in names
    assert not any(name.endswith((".c", ".h")) for name in names)
    assert f"-py3-none-linux_{os.uname().machine}.whl" in done.stdout


def test_without_a_compiler_one_line_says_so_and_the_wheel_is_for_any_machine(tree: Path) -> None:
    done = wheel_of(tree, **NO_COMPILER)
    names = names_in(tree, done)
    assert "disbatch_host/process/host.py" in names
    assert not any("disbatch-supervisor" in name for name in names)
    assert "-py3-none-any.whl" in done.stdout
    said = [line for line in done.stderr.splitlines() if "supervisor" in line]
    assert said == ["disbatch-host: built without disbatch-supervisor, runs end with their node: false ended with 1"]


def test_a_source_that_does_not_compile_is_named_in_that_line(tree: Path) -> None:
    (tree / hatch_build.NATIVE / "main.c").write_text("int main(void) { return nothing; }\n")
    done = wheel_of(tree)
    assert "-py3-none-any.whl" in done.stdout
    assert "main.c" in done.stderr
    assert "nothing" in done.stderr


def test_a_release_fails_without_the_program(tree: Path) -> None:
    done = wheel_of(tree, DISBATCH_REQUIRE_SUPERVISOR="1", **NO_COMPILER)
    assert done.returncode != 0
