"""First lines and formats of programs: the verdict, beside what the kernel and env(1) of this machine make of them."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from disbatch_host.plugin import elf
from disbatch_host.plugin.catalog import Catalog, load_plugins

# Each is executed by the test: those that print "ok" must be accepted.
RUNS = [
    "#!/bin/sh", "#! /bin/sh", "#!\t/bin/sh -e", "#!./interp", "#!interp", "#!./script", "#!/usr/bin/env sh",
    "#!/usr/bin/env  sh ", "#!/usr/bin/env ./interp", "#!/usr/bin/env /bin/sh", "#!/usr/bin/env -S -u FOO sh",
    '#!/usr/bin/env -S "sh" -e', "#!/usr/bin/env -S ${SHELLDIR}/sh", "#!/usr/bin/env -S -C /tmp sh",
    "#!/usr/bin/env -Ssh -e", "#!/usr/bin/env -S A=1 sh", "#!/usr/bin/env -vS sh", "#!/usr/bin/env -vSsh",
    "#!/usr/bin/env -S -i sh", "#!/usr/bin/env -iS /bin/sh", "#!/usr/bin/env -S --unset=FOO sh",
    "#!/usr/bin/env --split-string=sh", "#!/usr/bin/env --spl=sh", "#!/usr/bin/env -S sh\\_-e",
    "#!/usr/bin/env -S sh # a comment", "#!/usr/bin/env -S -- sh", "#!/usr/bin/env -S - sh",
    "#!/usr/bin/env -S -u PATH sh", "#!/usr/bin/env -S ./interp", "#!/usr/bin/env -S -S sh",
    "#!/usr/bin/env -S -v -u FOO -uBAR sh -e", "#!/usr/bin/env -S --default-signal sh",
    "#!/usr/bin/env -S PATH=/bin sh",
    "#!/usr/bin/env -S PATH=${SHELLDIR} sh", "#!/usr/bin/env -S \"s\"'h'", "#!/usr/bin/env -S sh\\c junk",
    "#!/usr/bin/env -S A='1 2' \"B=3 4\" sh", "#!/usr/bin/env -S \"A=\\\"\" sh",
    "#!/usr/bin/env -S 'A=\\'' sh",
]  # fmt: skip
NEVER = [
    "#!/no/such", "#!sh", "#!./text", "#!/etc/passwd", "#!/usr/bin", "#!/bin/sh\r", "#!" + "/" * 300 + "bin/sh",
    "#!/usr/bin/env no-such-interpreter", "#!/usr/bin/env ./none", "#!/usr/bin/env python3 -u",
    "#!/usr/bin/env -u FOO sh",
    "#!/usr/bin/env A=1 sh", "#!/usr/bin/env -v -S sh", "#!/usr/bin/env --split-string sh", "#!/usr/bin/env",
    "#!/usr/bin/env -S", "#!/usr/bin/env -i", "#!/usr/bin/env -", "#!/usr/bin/env A=1", "#!/usr/bin/env -S -u FOO",
    "#!/usr/bin/env -S -i", "#!/usr/bin/env -S A=1", "#!/usr/bin/env -S no-such-interpreter",
    "#!/usr/bin/env -S A=1 B=2 no-such-interpreter", "#!/usr/bin/env -S /no/sh", "#!/usr/bin/env -S PATH=/none sh-none",
    "#!/usr/bin/env -S s\\c h", "#!/usr/bin/env -S 'sh", "#!/usr/bin/env -S $FOO", "#!/usr/bin/env -S ${",
    "#!/usr/bin/env -S s\\q",
    "#!/usr/bin/env -S # sh", "#!/usr/bin/env -S sh\\t-e",
]  # fmt: skip
UNSURE = ["#!/usr/bin/env -S --no-such-option sh", "#!/usr/bin/env -S ${FOO}none", "#!/usr/bin/env -S -i no-such"]


def made(directory: Path, first_line: bytes, **manifest: object) -> Path:
    """A plugin whose program has this first line, with an interpreter and a script beside it."""
    home = directory / "P"
    home.mkdir(parents=True)
    (home / "run").write_bytes(first_line + b"\necho ok\n")
    shutil.copy("/bin/sh", home / "interp")
    (home / "text").write_text("hello\n")
    (home / "script").write_text("#!/bin/sh\necho ok\n")
    text = {"protocol": 1, "command": ["./run"], "env": {"SHELLDIR": "/bin"}, **manifest}
    (home / "plugin.json").write_text(json.dumps(text))
    for file in home.iterdir():
        file.chmod(0o644 if file.name == "plugin.json" else 0o755)
    home.chmod(0o755)
    return home


def executed(home: Path, *, within_seconds: float = 20) -> bool:
    """Whether the kernel runs it, in the directory and the environment that a run has."""
    environment = {"PATH": os.environ["PATH"], "SHELLDIR": "/bin"}
    try:
        ran = subprocess.run(
            [home / "run"], cwd=home, env=environment, capture_output=True, timeout=within_seconds, check=False
        )
    except (subprocess.TimeoutExpired, OSError):  # env that starts the program itself never ends
        return False
    return ran.returncode == 0 and b"ok" in ran.stdout


def reasons(catalog: Catalog) -> str:
    return "; ".join(str(fault) for one in catalog.broken for fault in one.faults)


@pytest.mark.parametrize("line", RUNS)
def test_a_first_line_that_works_is_accepted(tmp_path: Path, line: str) -> None:
    home = made(tmp_path, line.encode())
    assert executed(home)
    assert "P" in load_plugins([tmp_path]).plugins, reasons(load_plugins([tmp_path]))


@pytest.mark.parametrize("line", NEVER)
def test_a_first_line_that_can_never_work_is_refused(tmp_path: Path, line: str) -> None:
    home = made(tmp_path, line.encode())
    assert not executed(home, within_seconds=0.3)
    assert not load_plugins([tmp_path]).plugins


@pytest.mark.parametrize("line", UNSURE)
def test_nothing_is_said_where_other_things_decide(tmp_path: Path, line: str) -> None:
    made(tmp_path, line.encode())
    assert "P" in load_plugins([tmp_path]).plugins


def test_several_words_after_env_are_refused_with_what_to_write(tmp_path: Path) -> None:
    made(tmp_path, b"#!/usr/bin/env python3 -u")
    assert "write #!/usr/bin/env -S python3 -u" in reasons(load_plugins([tmp_path]))


def test_an_interpreter_beside_the_program_is_not_there_in_a_work_directory(tmp_path: Path) -> None:
    made(tmp_path, b"#!./interp", cwd="work")
    assert "./interp in a new work directory" in reasons(load_plugins([tmp_path]))


@pytest.mark.parametrize(
    ("start", "expect"),
    [
        ("#!/bin/sh\n".encode("utf-16"), "UTF-16"),
        ("#!/bin/sh\n".encode("utf-16-le"), "UTF-16"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
        (b"\x7fELF", "cut off"),
    ],
)
def test_a_format_that_the_kernel_refuses_is_refused(tmp_path: Path, start: bytes, expect: str) -> None:
    home = made(tmp_path, start)
    assert not executed(home)
    assert expect in reasons(load_plugins([tmp_path]))


def program(machine: int, *, loader: bytes = b"", form: int = 2) -> bytes:
    """An ELF file for a machine, with nothing in it."""
    start = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", form, machine, 1, 0, 64, 0, 0, 64, 56, 1 if loader else 0, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(loader), len(loader), 1) if loader else b""
    return (start + header + segment + loader).ljust(200, b"\0")


@pytest.fixture
def own_machine() -> int:
    (machine,) = struct.unpack_from("<H", Path(sys.executable).read_bytes()[:20], 18)
    return int(machine)


@pytest.mark.parametrize("machine", [8, 21, 183, 243, 62])
def test_a_program_for_another_processor_is_refused_unless_this_kernel_runs_it(
    tmp_path: Path, machine: int, own_machine: int
) -> None:
    home = made(tmp_path, b"")
    (home / "run").write_bytes(program(machine))
    if machine == own_machine:
        assert "this machine cannot run" not in reasons(load_plugins([tmp_path]))
        return
    try:
        subprocess.run([home / "run"], check=False, capture_output=True, timeout=5)
        is_run = True  # by an emulator that the kernel was told of
    except OSError:
        is_run = False
    assert ("P" in load_plugins([tmp_path]).plugins) == is_run
    assert is_run or "this machine cannot run that" in reasons(load_plugins([tmp_path]))


def test_a_program_whose_loader_is_missing_and_an_object_file_are_refused(tmp_path: Path, own_machine: int) -> None:
    home = made(tmp_path, b"")
    (home / "run").write_bytes(program(own_machine, loader=b"/lib/ld-none.so.1\0"))
    assert not executed(home)
    assert "needs the loader /lib/ld-none.so.1" in reasons(load_plugins([tmp_path]))
    (home / "run").write_bytes(program(own_machine, form=1))
    assert "object file" in reasons(load_plugins([tmp_path]))


def test_every_compiled_program_of_this_machine_is_accepted() -> None:
    """A plugin that is refused although it works does not run at all."""
    for file in sorted(Path("/usr/bin").iterdir()):
        if file.is_file() and os.access(file, os.X_OK | os.R_OK):
            with file.open("rb") as opened:
                start = opened.read(4)
            assert start != b"\x7fELF" or elf.reason_not_to_run(file) is None, file


def test_a_noexec_mount_is_named_as_the_reason(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs a mount namespace of its own")
    home = made(tmp_path / "here", b"#!/bin/sh")
    where = tmp_path / "there"
    where.mkdir()
    script = (
        f"mount -t tmpfs -o noexec,mode=755 none {where} && cp -a {home} {where} && "
        f"exec {sys.executable} -m disbatch_host check --plugins {where}"
    )
    ran = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    if "permission denied" in ran.stderr.lower() and "mount" in ran.stderr:
        pytest.skip("may not mount")
    assert "mounted with noexec" in ran.stdout + ran.stderr
    assert "chmod +x" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("#!/usr/bin/qqzzxx", "correct its name, or install it"),
        ("#!/opt/none/sh", "write #!/usr/bin/env sh"),
        ("#!/usr/bin/env qqzzxx", "correct its name, or install qqzzxx"),
    ],
)
def test_an_interpreter_that_is_not_there_is_to_be_corrected_or_found_elsewhere(
    tmp_path: Path, line: str, hint: str
) -> None:
    made(tmp_path, line.encode())
    assert hint in reasons(load_plugins([tmp_path]))


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("#!{bin}/pythn3", "did you mean #!{bin}/python3? If not, install it"),
        ("#!./intrep", "did you mean #!./interp? If not, install it"),
        ("#!/opt/none/pythn3", "did you mean #!/usr/bin/env python3? If not, install it"),
        ("#!/usr/bin/env pythn3", "did you mean python3? If not, install pythn3"),
        ("#!/usr/bin/env {bin}/pythn3", "did you mean {bin}/python3? If not, install pythn3"),
        ("#!/usr/bin/env ruby-qq", "correct its name, or install ruby-qq"),
    ],
)
def test_a_near_name_of_an_interpreter_that_is_not_there_is_told(tmp_path: Path, line: str, hint: str) -> None:
    places = tmp_path / "bin"
    places.mkdir()
    shutil.copy("/bin/sh", places / "python3")
    (places / "pythn").write_text("notes, not a program\n")
    (places / "pythn4").mkdir()
    made(tmp_path / "plugins", line.format(bin=places).encode(), env={"PATH": str(places)})
    assert hint.format(bin=places) in reasons(load_plugins([tmp_path / "plugins"]))
