"""Build hook: compiles disbatch-supervisor with the system's C compiler, into the package.

Responsible for: one binary for this machine, or for the one that DISBATCH_SUPERVISOR_TARGET names (`make wheels`). Must
not know: what the program does. Where there is no compiler, or it fails, one line says so and the package is built
without the program; with DISBATCH_REQUIRE_SUPERVISOR=1 that is an error.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("host/disbatch_host/process/native")
PROGRAM = "disbatch-supervisor"
FLAGS = ("-std=c11", "-O2", "-pthread", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong")
# Of what `make wheels` builds: static against musl, so it runs with any C library of the last ten years.
TAGS = {
    "x86_64-linux-musl": "py3-none-manylinux2014_x86_64.musllinux_1_1_x86_64",
    "aarch64-linux-musl": "py3-none-manylinux2014_aarch64.musllinux_1_1_aarch64",
}


class SupervisorBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """See the module."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        native = Path(self.root) / NATIVE
        target = os.environ.get("DISBATCH_SUPERVISOR_TARGET", "")
        try:
            program = build(native, target)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            if target or os.environ.get("DISBATCH_REQUIRE_SUPERVISOR") == "1":
                raise
            print(f"disbatch-host: built without {PROGRAM}, runs end with their node: {reason(error)}", file=sys.stderr)
            (native / "bin" / PROGRAM).unlink(missing_ok=True)
            return
        build_data["pure_python"] = False
        if target:
            build_data["tag"] = TAGS[target]
        else:
            build_data["tag"] = f"py3-none-{this_platform()}"
        if version != "editable":
            build_data["force_include"][str(program)] = f"disbatch_host/process/native/bin/{PROGRAM}"


def build(native: Path, target: str = "") -> Path:
    """Compile the program into `native`/bin. `target`: for the compiler's -target; empty: this machine.

    Raises OSError, ValueError and SubprocessError where that fails.
    """
    program = native / "bin" / PROGRAM
    program.parent.mkdir(exist_ok=True)
    compiler = shlex.split(os.environ.get("CC", "cc"))
    sources = [str(one) for one in sorted(native.glob("*.c"))]
    # Under another name first: a running supervisor keeps its file, and a failure leaves the older one.
    with tempfile.TemporaryDirectory(dir=program.parent) as directory:
        made = Path(directory) / PROGRAM
        command = [*compiler, *FLAGS, f'-DSOURCE_HASH="{source_hash(native)}"', *sources, "-o", str(made)]
        if target:
            subprocess.run([*command, "-static", "-s", "-target", target], check=True, capture_output=True)
        else:
            _compile_for_this_machine(command)
        made.chmod(0o755)
        made.replace(program)
    return program


def _compile_for_this_machine(command: list[str]) -> None:
    """Static where that links: such a program runs with any C library."""
    if subprocess.run([*command, "-static"], check=False, capture_output=True).returncode != 0:
        subprocess.run(command, check=True, capture_output=True)


def source_hash(native: Path) -> str:
    """Of all sources, as the program says it in its version and to a node."""
    digest = hashlib.sha256()
    for source in sorted([*native.glob("*.c"), *native.glob("*.h")]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def reason(error: Exception) -> str:
    """Why it was not built, in a line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = bytes(error.stderr).decode(errors="replace").strip().splitlines()
        words = next((line for line in lines if "error" in line), lines[0] if lines else "")
        return words or f"{error.cmd[0]} ended with {error.returncode}"
    return str(error)


def this_platform() -> str:
    """The platform part of a tag of this machine."""
    return f"linux_{os.uname().machine}"
