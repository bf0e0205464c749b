"""Hints about a manifest that can be used, but probably does not do what its author wants.

Responsible for: relative files among the arguments, `$` in variables, limits of memory that a runtime cannot live with.
Must not know: what makes a plugin unusable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from disbatch_protocol import templates
from disbatch_protocol.faults import Fault, Severity
from disbatch_protocol.manifest import Cwd, Manifest
from disbatch_protocol.quantities import format_size

_INTERPRETER = re.compile(
    r"(python|pypy|perl|ruby|node|nodejs|php|lua|tclsh|Rscript|sh|bash|dash|zsh|ksh)[0-9.]*", re.ASCII
)
_SHELL = re.compile(r"(sh|bash|dash|zsh|ksh)[0-9.]*", re.ASCII)
_SCRIPT_OPTION = re.compile(r"-[a-z]*c", re.ASCII)
_SCRIPT_ENDINGS = (".py", ".pl", ".rb", ".js", ".mjs", ".cjs", ".php", ".lua", ".tcl", ".R", ".sh", ".jar")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))", re.ASCII)

# Address space that a runtime reserves before it does anything, with some room to work in; measured on x86-64.
_NEEDS: Mapping[str, tuple[int, str]] = {
    "node": (2 * 2**30, "Node reserves 0.5 to 1 GiB at its start"),
    "java": (4 * 2**30, "Java reserves 2 to 4 GiB besides its heap"),
    "go": (2**30, "a Go program reserves 0.5 to 0.75 GiB at its start"),
}


def hints(manifest: Manifest, program: Path, directory: Path, variables: Collection[str]) -> Iterator[Fault]:
    """All of them. `variables`: the names of those that an author may have in mind."""
    yield from _argument_hints(manifest, program, directory)
    yield from _script_hints(manifest)
    yield from _variable_hints(manifest, variables)
    yield from _memory_hints(manifest, program, directory)


def _argument_hints(manifest: Manifest, program: Path, directory: Path) -> Iterator[Fault]:
    words = list(manifest.command)
    for index, word in enumerate(words[1:], start=1):
        if word.startswith(("-", "/")) or not os.path.isfile(directory / word):  # noqa: PTH113
            continue
        if manifest.cwd is Cwd.WORK:
            message = f'"{word:.80}" is a file beside the manifest, but the program starts in a new work directory'
            hint = (
                f'make it the program, ["./{word.removeprefix("./")}"], or write '
                f'["sh", "-c", "exec {words[0]} \\"$DISBATCH_PLUGIN_DIR\\"/{word}"]'
            )
            yield _hint(f"/command/{index}", message, hint)
            return
    script = _script_at(words, program)
    if script is not None and not os.path.exists(directory / words[script]):  # noqa: PTH110
        message = f"expected a script for {program.name}, found no file {words[script]:.80} in {directory}"
        yield _hint(f"/command/{script}", message, "copy it there or correct the path")


def script_with_places(program: str, words: Sequence[str]) -> str | None:
    """A script for a shell among these words, with a placeholder in it: what the parameter holds would be code."""
    if _SHELL.fullmatch(os.path.basename(program)) is None:  # noqa: PTH119
        return None
    for index, word in enumerate(words[:-1]):
        if _SCRIPT_OPTION.fullmatch(word):
            try:
                return words[index + 1] if templates.read_text(words[index + 1]).places else None
            except templates.TemplateError:
                return None
    return None


def _script_hints(manifest: Manifest) -> Iterator[Fault]:
    line = manifest.command_line
    if line is None:
        return
    # Only words that are alone: what is left out, or repeated, is no script.
    texts = [one if isinstance(one, templates.Text) else None for one in line.arguments]
    command = list(manifest.command[1:])
    words = [*command, *("" if one is None else templates.source_of(one) for one in texts)]
    if script_with_places(manifest.command[0], words) is not None:
        message = "a parameter inside a script of a shell is run as code, whatever it holds"
        hint = """give it as a word behind the script, "sh", "{text}", and write "$1" in the script"""
        yield _hint("/arguments", message, hint)
    for index, word in enumerate(command, start=1):
        if any(f"{{{name}}}" in word for name in _names_of(manifest)):
            message = f'"{word:.80}" is passed on as it stands: "command" has no placeholders'
            yield _hint(f"/command/{index}", message, 'move it, and what follows it, into "arguments"')


def _names_of(manifest: Manifest) -> list[str]:
    properties = manifest.parameters.get("properties") if isinstance(manifest.parameters, Mapping) else None
    return list(properties) if isinstance(properties, Mapping) else []


def _script_at(words: list[str], program: Path) -> int | None:
    """The argument that an interpreter takes for its script, where that is certain."""
    if program.name == "java" and "-jar" in words[1:-1]:
        return words.index("-jar") + 1
    if len(words) < 2 or _INTERPRETER.fullmatch(program.name) is None or words[1].startswith("-"):
        return None
    return 1 if words[1].endswith(_SCRIPT_ENDINGS) or "/" in words[1] else None


def _variable_hints(manifest: Manifest, variables: Collection[str]) -> Iterator[Fault]:
    for name, value in manifest.env.items():
        for match in _VARIABLE.finditer(value):
            meant = match[1] or match[2]
            if meant in variables or meant.startswith("DISBATCH_"):  # else it may be a password
                message = f"{match[0]} is passed on as it stands: nothing is expanded in the values of variables"
                hint = "write its value, or set the variable in the program or a shell around it"
                yield _hint(f"/env/{name.replace('~', '~0').replace('/', '~1')}", message, hint)
                break


def _memory_hints(manifest: Manifest, program: Path, directory: Path) -> Iterator[Fault]:
    limit = manifest.limits.memory_bytes
    runtime = _runtime_of(program, directory) if limit is not None else None
    if limit is not None and runtime is not None and limit < _NEEDS[runtime][0]:
        needed, why = _NEEDS[runtime]
        message = f"{format_size(limit)} is a limit of address space, not of memory in use, and {why}"
        yield _hint("/limits/memory", message, f"allow at least {format_size(needed)}")


def _runtime_of(program: Path, directory: Path) -> str | None:
    """The runtime that a program needs, where it shows."""
    name = program.name
    first_line = b""
    try:
        with program.open("rb") as file:
            first_line = file.read(256).split(b"\n", 1)[0]
    except OSError:
        pass  # it can be executed without being read
    words = re.split(rb"[\s/]+", first_line) if first_line.startswith(b"#!") else []
    if re.fullmatch(r"node(js)?[0-9.]*", name) or b"node" in words or b"nodejs" in words:
        return "node"
    if name == "java" or b"java" in words:
        return "java"
    is_compiled = first_line.startswith(b"\x7fELF") and program.is_relative_to(directory)
    return "go" if is_compiled and any(os.path.exists(directory / one) for one in ("go.mod", "main.go")) else None  # noqa: PTH110


def _hint(pointer: str, message: str, hint: str) -> Fault:
    return Fault(pointer=pointer, message=message, hint=hint, severity=Severity.WARNING)
