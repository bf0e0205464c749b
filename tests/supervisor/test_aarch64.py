"""The supervisor of a release for aarch64: built as `make wheels` does, and run by an emulator of that processor.

The emulator of programs gives no pidfd with a new process, so that no run can be started under it: what is held here is
that the program is one that any aarch64 Linux loads, and that it reads and writes every frame as the others do.
"""

from __future__ import annotations

import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import hatch_build
import pytest

from conftest import skip_or_fail
from helpers import supervisors
from supervisor.test_build import tree_in, wheel_of
from supervisor.test_frames import answers_of, build_check

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]
TARGET = "aarch64-linux-musl"
EMULATOR = "qemu-aarch64-static"
PROGRAM = "disbatch_host/process/native/bin/disbatch-supervisor"
AARCH64, EXECUTABLE, INTERPRETER = 183, 2, 3  # <elf.h>: EM_AARCH64, ET_EXEC, PT_INTERP


@pytest.fixture(scope="module")
def compiler() -> str:
    found = supervisors.release_compiler()
    if found is None:
        skip_or_fail("no ziglang, which `make wheels` and `make aarch` bring")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def released(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program out of the wheel."""
    directory = tmp_path_factory.mktemp("aarch64")
    tree = tree_in(directory)
    done = wheel_of(tree, CC=compiler, DISBATCH_SUPERVISOR_TARGET=TARGET)
    assert done.returncode == 0, done.stderr
    name = done.stdout.split()[-1]
    assert name.endswith(f"{hatch_build.TAGS[TARGET]}.whl")
    program = Path(zipfile.ZipFile(tree / "dist" / name).extract(PROGRAM, directory))
    program.chmod(0o755)
    return program


def test_it_is_a_static_program_of_that_processor(released: Path) -> None:
    data = released.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", "64 bits, little endian"
    kind, machine = struct.unpack_from("<HH", data, 16)
    assert (kind, machine) == (EXECUTABLE, AARCH64)
    (headers_at,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    types = [struct.unpack_from("<I", data, headers_at + size * number)[0] for number in range(count)]
    assert types and INTERPRETER not in types, "it needs no loader, and so no library"


def test_it_runs_and_is_made_of_these_sources(released: Path, require: Callable[[str], None]) -> None:
    require(EMULATOR)
    done = subprocess.run([EMULATOR, released, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == hatch_build.source_hash(supervisors.NATIVE)


def test_it_reads_and_writes_all_frames_as_the_program_of_this_machine(
    compiler: str, require: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(EMULATOR)
    here = answers_of(build_check(tmp_path / "here"))
    monkeypatch.setenv("CC", compiler)
    there = build_check(tmp_path / "there", "-target", TARGET, "-static")
    assert answers_of(there, (EMULATOR,)) == here
