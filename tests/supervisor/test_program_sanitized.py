"""The scenarios of the other files once more, against a build with AddressSanitizer and UndefinedBehaviorSanitizer.

A finding ends that build, and says so in the file that the tests look at afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import supervisors

pytestmark = pytest.mark.sanitized
HERE = Path(__file__).parent
# Not those that measure memory, of which a sanitizer takes its own, or that run as a user who may not read the build.
LEFT_OUT = (
    "not thousand and not 8_mib and not costs_no_memory and not other_processes_of_its_user and not may_not_signal"
    " and not small_pipe"
)


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Path:
    """A sanitizer's build takes many seconds."""
    return supervisors.build_once(request.config, *supervisors.SANITIZERS)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "scenarios",
    [
        "test_program_groups.py",
        "test_program_life.py",
        "test_program_live.py",
        "test_program_output.py",
        "test_program_processes.py",
        "test_program_shortages.py",
        "test_program_words.py",
        "test_random_orders.py",
    ],
)
def test_the_sanitizers_find_nothing(scenarios: str, program: Path, tmp_path: Path) -> None:
    findings = tmp_path / "findings"
    options = f"log_path={findings}:exitcode=99"
    # A supervisor gets nothing of its starter's environment.
    wrapper = tmp_path / "sanitized"
    wrapper.write_text(
        "#!/bin/sh\n"
        f"export ASAN_OPTIONS={options}:detect_leaks=0:detect_stack_use_after_return=0\n"
        f"export UBSAN_OPTIONS={options}:print_stacktrace=1\n"
        f'exec {program} "$@"\n'
    )
    wrapper.chmod(0o755)
    environment = {**os.environ, "DISBATCH_TESTED_SUPERVISOR": str(wrapper)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "not soak",
        "-k",
        LEFT_OUT,
        HERE / scenarios,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = "".join(one.read_text() for one in tmp_path.glob("findings*"))
    assert not found, found
    assert done.returncode == 0, done.stdout[-4000:]
