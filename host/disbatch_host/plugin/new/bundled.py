"""The plugins that come with the program: where they are, and a copy of them that is ready to run.

Responsible for: finding them in an installed package and in a checkout alike, and building those that need a compiler.
Must not know: the command line.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path

_IN_PACKAGE = "bundled_plugins"  # where the wheel puts the checkout's plugins/ directory
_LANGUAGES = ("shell", "python", "perl", "node", "go")
_NEEDED = {"perl": ("perl", "json_pp"), "node": ("node",), "go": ("go",)}  # json_pp: perl-base alone has no JSON
_BUILD_SECONDS = 300  # a Go compiler that has never run builds its standard library first


def source_directory() -> Path:
    """The directory that holds `shell`, `python`, `perl`, `node` and `go`."""
    package = Path(str(resources.files("disbatch_host")))
    installed = package / _IN_PACKAGE
    return installed if installed.is_dir() else package.parent.parent / "plugins"


def prepare(target: Path) -> list[str]:
    """Copy the bundled plugins below `target` and build those that need it. Returns a notice for each language that
    cannot be used here; its plugins are left out of the copy."""
    notices = []
    for language in _LANGUAGES:
        source = source_directory() / language
        if source.is_dir():
            shutil.copytree(source, target / language, ignore=shutil.ignore_patterns("__pycache__", "bin"))
    _make_private(target)
    for language, programs in _NEEDED.items():
        missing = [program for program in programs if shutil.which(program) is None]
        if missing and (target / language).is_dir():
            notices.append(f"the {language} plugins are left out: no {missing[0]!r} in PATH")
            shutil.rmtree(target / language)
    if (target / "go").is_dir():
        notices.extend(_build_go(target / "go"))
    return notices


def copies() -> dict[str, Path]:
    """The plugins that can be copied as they are, by class: those that need no compiler."""
    found = {}
    for manifest in sorted(source_directory().glob("*/*/plugin.json")):
        if manifest.parent.parent.name != "go":
            found[str(json.loads(manifest.read_bytes())["name"])] = manifest.parent
    return found


def copy(source: Path, home: Path, name: str) -> list[Path]:
    """Copy one into a new directory, as the class `name`; returns its files."""
    files = []
    for path in sorted(source.iterdir()):
        if path.is_file():
            files.append(Path(shutil.copy(path, home / path.name)))
    manifest = home / "plugin.json"
    text = manifest.read_text(encoding="utf-8")
    before = json.dumps(json.loads(text)["name"])
    manifest.write_text(text.replace(f'"name": {before}', f'"name": {json.dumps(name)}', 1), encoding="utf-8")
    _make_private(home)
    return files


def _build_go(directory: Path) -> list[str]:
    built = subprocess.run(
        ["sh", "./build.sh"], cwd=directory, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
    )
    if built.returncode == 0:
        return []
    shutil.rmtree(directory)
    lines = built.stderr.strip().splitlines() or ["no reason given"]
    return [f"the go plugins are left out: they could not be built ({lines[-1]})"]


def _make_private(directory: Path) -> None:
    """Make it writable by the owner alone: a checkout made with umask 002 is not, and such plugins are refused."""
    for path in (directory, *directory.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)
