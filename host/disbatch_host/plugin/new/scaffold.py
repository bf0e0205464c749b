"""A new plugin from nothing: the files that `disbatch-host new` writes.

Responsible for: which files a plugin in each language has, and writing them so that it runs as it is. Must not know:
the command line.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from disbatch_host.errors import UsageError
from disbatch_host.plugin.new import bundled, from_command
from disbatch_protocol.faults import near_name
from disbatch_protocol.manifest import Manifest

_BUILD_SECONDS = 300  # a Go compiler that has never run builds its standard library first


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """The parts of a plugin in this language."""

    suffix: str  # of the program
    helper: str  # below the bundled plugins; copied beside the program
    helper_as: str  # under this name
    has_worker_mode: bool = True
    requires: Sequence[str] = ()  # programs that the helper library needs
    is_built: bool = False


LANGUAGES: Mapping[str, Language] = {
    "bash": Language(
        suffix=".bash", helper="shell/disbatch.sh", helper_as="disbatch.sh", has_worker_mode=False, requires=("awk",)
    ),
    "sh": Language(
        suffix=".sh", helper="shell/disbatch.sh", helper_as="disbatch.sh", has_worker_mode=False, requires=("awk",)
    ),
    "python": Language(
        suffix=".py", helper="python/disbatch_plugin/disbatch_plugin.py", helper_as="disbatch_plugin.py"
    ),
    "perl": Language(suffix=".pl", helper="perl/DisbatchPlugin.pm", helper_as="DisbatchPlugin.pm"),
    "node": Language(suffix=".cjs", helper="node/disbatch.cjs", helper_as="disbatch.cjs"),
    "go": Language(suffix="", helper="go/disbatch/disbatch.go", helper_as="disbatch/disbatch.go", is_built=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold:
    """The files that were written."""

    directory: Path
    files: Sequence[Path]
    notice: str = ""  # what is left to do before it runs
    built: Path | None = None  # the program, if the language has to be compiled and that was done
    parameters: Sequence[str] = ()  # of a command


def directory_name(name: str) -> str:
    """The directory of a class: `Mail::Move` is in `mail-move`."""
    return "-".join(part for part in name.replace("::", "-").replace(":", "-").split("-") if part).lower()


def write(
    name: str, language_name: str, parent: Path, *, is_worker: bool = False, is_idempotent: bool = False
) -> Scaffold:
    """Write a plugin of class `name` into a new directory below `parent`. `is_idempotent`: its author says that running
    a task twice does no harm. Raises UsageError if the directory exists already or cannot be written; then nothing is
    left behind."""
    language = LANGUAGES[language_name]
    home = parent / directory_name(name)
    program = _program_name(home.name, language_name)
    files = _made(
        home, lambda: _write_files(home, name, language_name, program, is_worker=is_worker, is_idempotent=is_idempotent)
    )
    notice = _build(home) if language.is_built else ""
    built = home / program if language.is_built and not notice else None
    return Scaffold(directory=home, files=files, notice=notice, built=built)


def write_for_command(name: str, command: str, parent: Path, *, is_idempotent: bool = False) -> Scaffold:
    """Write a plugin of class `name` that runs a program as it is, with its arguments from parameters. Raises
    UsageError as `write` does, and for a command that is none."""
    program, *words = from_command.words_of(command)
    if "{" in program or "}" in program:
        raise UsageError(f"expected a program first, found {program}; which one runs cannot come from a parameter")
    if "/" in program:
        path = Path(program).absolute()
        if not path.exists():
            raise UsageError(f"there is no {program} here; name a program in PATH, or one that is there by its path")
        program = str(path)
    text = from_command.manifest_of(name, program, words, is_idempotent=is_idempotent)
    home = parent / directory_name(name)
    files = _made(home, lambda: [_write(home / "plugin.json", text)])
    is_there = "/" in program or shutil.which(program) is not None
    notice = "" if is_there else f"there is no {program} in PATH here: install it before tasks run"
    return Scaffold(directory=home, files=files, notice=notice, parameters=from_command.placeholders_of(words))


def write_copy(class_name: str, name: str | None, parent: Path) -> Scaffold:
    """Write a copy of the bundled plugin `class_name`, as the class `name` if it is given. Raises UsageError if there
    is no such plugin, or as `write` does."""
    known = bundled.copies()
    if class_name not in known:
        near = near_name(class_name, known)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(known)}"
        raise UsageError(f"no plugin {class_name!r} comes with this program; {hint}")
    home = parent / directory_name(name or class_name)
    files = _made(home, lambda: bundled.copy(known[class_name], home, name or class_name))
    return Scaffold(directory=home, files=files)


def _made(home: Path, write_files: Callable[[], list[Path]]) -> list[Path]:
    """The files of a new directory; nothing is left of it where they cannot be written."""
    if home.exists() or home.is_symlink():
        raise UsageError(f"{home} already exists; choose another name, or remove it")
    try:
        home.mkdir(mode=0o755, parents=True)
        try:
            return write_files()
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
    except OSError as error:
        raise UsageError(f"{error.filename or home} cannot be written: {error.strerror}") from error


def leftovers(manifest: Manifest) -> list[str]:
    """What a manifest still has of the one that `write` wrote: `description`, `examples`, or both."""
    blanks = re.compile(r"@[A-Z]+@")
    written = json.loads(blanks.sub("", _template("plugin.json")))
    examples = [(one["name"], one["parameters"]) for one in written["examples"]]
    left = ["description"] if manifest.description == written["description"] else []
    if any((one.name, one.parameters) in examples for one in manifest.examples):
        left.append("examples")
    return left


def _program_name(name: str, language_name: str) -> str:
    """After its directory, unless another file has that name, or Python would import it instead of another module: a
    name with a hyphen cannot be imported."""
    language = LANGUAGES[language_name]
    program = f"{name}{language.suffix}"
    others = {language.helper_as.partition("/")[0], "plugin.json", "README.md", "build.sh", "go.mod", "main.go"}
    is_module = language_name == "python" and name in sys.stdlib_module_names
    return f"{name}-plugin{language.suffix}" if program in others or is_module else program


def _write_files(
    home: Path, name: str, language_name: str, program: str, *, is_worker: bool, is_idempotent: bool
) -> list[Path]:
    language = LANGUAGES[language_name]
    source = "main.go" if language.is_built else program
    values = {
        "NAME": name,
        "PROGRAM": program,
        "DIRECTORY": home.name,
        "REQUIRES": f'\n  "requires": {json.dumps(list(language.requires))},' if language.requires else "",
        "MODE": '\n  "mode": "worker",' if is_worker else "",
        # Never by itself: somebody who turns the greeting into a mail must not have allowed that it is sent twice.
        "IDEMPOTENT": '\n  "idempotent": true,' if is_idempotent else "",
        "BUILD": "Build it, now and after each change: `./build.sh`.\n\n" if language.is_built else "",
    }
    described = [
        (source, "the program"),
        (language.helper_as, "the helper library: one file, to be copied, not changed"),
    ]
    if language.is_built:
        described += [("build.sh", f"builds `{program}`, which `plugin.json` names")]
    values["FILES"] = "\n".join(f"| `{file}` | {what} |" for file, what in described)
    texts = {
        "plugin.json": _template("plugin.json"),
        source: _template(language_name),
        "README.md": _template("README.md"),
    }
    if language.is_built:
        texts |= {"build.sh": _template("go-build.sh"), "go.mod": "module example/plugin\n\ngo 1.18\n"}
    written = [_write(home / file, _filled(text, values)) for file, text in texts.items()]
    helper = (bundled.source_directory() / language.helper).read_text(encoding="utf-8")
    written.append(_write(home / language.helper_as, helper))
    for file in (program, "build.sh"):
        if (home / file).exists():
            (home / file).chmod(0o755)
    return written


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)  # writable by the owner alone, whatever the umask: others are refused
    path.parent.chmod(0o755)
    return path


def _template(name: str) -> str:
    return (resources.files("disbatch_host.plugin.new") / "templates" / f"{name}.in").read_text(encoding="utf-8")


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _build(home: Path) -> str:
    """Build the program; return why it is not built yet, if it is not."""
    build = shlex.quote(str(home / "build.sh"))
    if shutil.which("go") is None:
        return f"there is no go in PATH here: run {build} where there is one"
    try:
        built = subprocess.run(
            ["./build.sh"], cwd=home, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it was not built within {_BUILD_SECONDS:.0f} s: run {build}"
    except OSError as error:
        return f"it could not be built ({error.strerror}): run {build}"
    if built.returncode == 0:
        return ""
    lines = built.stderr.strip().splitlines() or ["no reason given"]
    return f"it could not be built ({lines[0]}): run {build}"
