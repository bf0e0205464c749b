"""What `exec` and `new` say to the author of a plugin, beside its output."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.nodes import COMMAND, write_plugin


def run(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--plugins", str(directory), *arguments],
        capture_output=True, text=True, timeout=300, check=False, cwd=directory,
    )  # fmt: skip


def test_a_run_that_ended_for_want_of_memory_names_the_limit(tmp_path: Path) -> None:
    write_plugin(tmp_path, "Killed", "kill -TRAP $$", limits={"memory": "512M"})
    ran = run("exec", "Killed", directory=tmp_path)
    assert ran.returncode == 1 and "limits.memory is 512 MiB of address space" in ran.stderr


def test_an_outdated_program_is_said_and_run(tmp_path: Path) -> None:
    home = write_plugin(tmp_path, "Built", "true")
    shutil.copy("/bin/echo", home / "run.sh")
    (home / "build.sh").write_text("#!/bin/sh\n")
    (home / "main.rs").write_text("fn main() {}\n")
    later = (home / "run.sh").stat().st_mtime + 5
    os.utime(home / "main.rs", (later, later))
    ran = run("exec", "Built", directory=tmp_path)
    assert ran.returncode == 0
    assert f"main.rs is newer than run.sh, which is what runs; build it: {home / 'build.sh'}" in ran.stderr
    checked = run("check", directory=tmp_path)
    assert checked.returncode == 0 and "main.rs is newer than run.sh" in checked.stdout


def test_new_says_what_it_has_built(tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("no go here")
    made = run("new", "Greet", "--lang", "go", directory=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "built greet/greet\n" in made.stdout and (tmp_path / "greet" / "greet").exists()


def test_parameters_that_take_too_long_end_exec_in_time(tmp_path: Path) -> None:
    write_plugin(tmp_path, "Slow", "true", parameters={"properties": {"a": {"pattern": "^(x+)+$"}}})
    ran = run("exec", "Slow", "-p", f"a={'x' * 60}!", directory=tmp_path)
    assert ran.returncode == 1 and "could not be checked within 2 s" in ran.stderr and "/properties/a" in ran.stderr
