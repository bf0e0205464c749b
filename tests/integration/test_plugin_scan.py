"""What can lie about below the plugin directories: each costs only itself, and nothing where nothing changes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from disbatch_host.errors import UsageError
from disbatch_host.plugin import examining
from disbatch_host.plugin.catalog import PluginScanner, load_plugins, require_directory
from disbatch_host.plugin.checking import Checks
from disbatch_host.plugin.sources import outdated_build
from disbatch_protocol.faults import Fault, Severity
from helpers.nodes import write_plugin


def nested(directory: Path, levels: int) -> Path:
    """The deepest of so many directories, made without a path that is too long."""
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    return directory.joinpath(*["d"] * levels)


def remove(tree: Path) -> None:
    """However deep it is."""
    subprocess.run(["rm", "-rf", str(tree)], check=True)


def with_manifest(directory: Path, make: Callable[[Path], None]) -> None:
    directory.mkdir()
    make(directory / "plugin.json")


def huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


def open_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)  # such a path may have 107 bytes
        one.bind(path.name)
        os.chdir(here)


ODD: dict[str, Callable[[Path], Any]] = {
    "a link to itself": lambda d: (d / "self").symlink_to("self"),
    "links in a circle": lambda d: ((d / "a").symlink_to("b"), (d / "b").symlink_to("a")),
    "a link to all of it": lambda d: (d / "all").symlink_to(d),
    "a link to nothing": lambda d: (d / "gone").symlink_to("/no/such/place"),
    "a manifest that is a link to itself": lambda d: with_manifest(d / "L", lambda p: p.symlink_to("plugin.json")),
    "a manifest that is a FIFO": lambda d: with_manifest(d / "F", os.mkfifo),
    "a manifest that is a socket": lambda d: with_manifest(d / "S", open_socket),
    "a manifest that is a device": lambda d: with_manifest(d / "Z", lambda p: p.symlink_to("/dev/zero")),
    "a manifest of a gibibyte": lambda d: with_manifest(d / "G", huge_file),
    "a manifest that is a directory": lambda d: with_manifest(d / "D", Path.mkdir),
    "a tree of 1,500 levels": lambda d: nested(d, 1500),
    "a tree whose paths are too long": lambda d: nested(d, 3000),
    "a name that is not UTF-8": lambda d: write_plugin(Path(os.fsdecode(os.fsencode(d) + b"/pl\xe9")), "x", "true"),
}


@pytest.mark.parametrize("name", ODD)
def test_whatever_lies_beside_a_plugin_does_not_hinder_it(tmp_path: Path, name: str) -> None:
    """Each of these kept a node from starting, or stopped one that ran."""
    write_plugin(tmp_path, "Good", "true")
    ODD[name](tmp_path)
    try:
        catalog = load_plugins([tmp_path])
        assert sorted(catalog.plugins) == ["Good"]
        for one in catalog.broken:
            orjson.dumps([str(one.manifest_path), *map(str, one.faults)])  # can be stored
            assert one.faults
    finally:
        if "tree" in name:
            remove(tmp_path / "d")


def test_a_plugin_at_any_depth_is_found(tmp_path: Path) -> None:
    deepest = nested(tmp_path, 900)
    write_plugin(deepest, "Deep", "true")
    assert list(load_plugins([tmp_path]).plugins) == ["Deep"]
    remove(tmp_path / "d")


@pytest.mark.parametrize("more", [b"", b',"name":"Odd"'])
def test_a_directory_that_is_not_utf_8_is_left_out_with_a_reason_to_store(tmp_path: Path, more: bytes) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/pl\xe9"))
    home.mkdir()
    (home / "plugin.json").write_bytes(b'{"protocol":1,"command":["./run"]%b}' % more)
    (home / "run").write_text("#!/bin/sh\n")
    (home / "run").chmod(0o755)
    (broken,) = load_plugins([tmp_path]).broken
    assert "pl\\xe9" in str(broken.manifest_path) and "expected a path that is UTF-8" in broken.faults[0].message
    orjson.dumps([str(broken.manifest_path), broken.known_as, *map(str, broken.faults)])


def test_a_program_that_leads_into_such_a_directory_has_a_reason_to_store(
    tmp_path: Path,
) -> None:
    elsewhere = Path(os.fsdecode(os.fsencode(tmp_path) + b"/pl\xe9"))
    elsewhere.mkdir()
    (elsewhere / "run").write_text("#!/bin/sh\n")
    (elsewhere / "run").chmod(0o755)
    home = write_plugin(tmp_path / "plugins", "Linked", "true")
    (home / "run.sh").unlink()
    (home / "run.sh").symlink_to(elsewhere / "run")
    (broken,) = load_plugins([tmp_path / "plugins"]).broken
    assert b"pl\\\\xe9" in orjson.dumps([str(fault) for fault in broken.faults])


def is_true_for_nobody(question: Callable[[], bool]) -> bool:
    """The answer of another process, which has become a user without rights."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code = 0 if question() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_directory_that_may_not_be_entered_is_passed_over() -> None:
    """A link into a closed home directory kept a node from starting."""
    with tempfile.TemporaryDirectory(prefix="disbatch-test-", dir="/tmp") as name:
        public = Path(name)
        public.chmod(0o755)
        plugins, closed = public / "plugins", public / "closed"
        write_plugin(plugins, "Good", "true")
        home = write_plugin(plugins, "Away", "true")
        (closed / "inner").mkdir(parents=True)
        closed.chmod(0o700)
        (plugins / "link").symlink_to(closed / "inner")
        (home / "run.sh").unlink()
        (home / "run.sh").symlink_to(closed / "inner" / "run")
        for directory in (plugins, plugins / "Good", home):
            directory.chmod(0o755)

        def is_fine() -> bool:
            catalog = load_plugins([plugins])
            return list(catalog.plugins) == ["Good"] and [one.known_as for one in catalog.broken] == ["Away"]

        def is_said() -> bool:
            try:
                require_directory(closed / "inner")
            except UsageError:
                return True
            return False

        assert is_true_for_nobody(is_fine)
        assert is_true_for_nobody(is_said)


class Exploding(Checks):
    """Finds something that nobody expected."""

    def manifest_faults(self, schema: Any, examples: Any) -> Sequence[Fault]:
        raise ZeroDivisionError


def test_an_error_that_nobody_expected_is_a_fault_of_the_plugin(tmp_path: Path) -> None:
    home = write_plugin(tmp_path, "P", "true", parameters={"type": "object"})
    judgment = examining.examination(home / "plugin.json", Exploding()).judgment
    assert [str(fault) for fault in judgment.faults if "unexpected ZeroDivisionError" in fault.message]


class Counting(Checks):
    """Counts the manifests that are examined."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def manifest_faults(self, schema: Any, examples: Any) -> Sequence[Fault]:
        self.count += 1
        return super().manifest_faults(schema, examples)


@pytest.fixture
def scanner(tmp_path: Path) -> PluginScanner:
    one = PluginScanner([tmp_path])
    one.checks = Counting()
    return one


def count(scanner: PluginScanner) -> int:
    assert isinstance(scanner.checks, Counting)
    return scanner.checks.count


def test_a_broken_plugin_is_examined_again_only_when_it_has_changed(tmp_path: Path, scanner: PluginScanner) -> None:
    """2,000 broken ones took all of a node's time."""
    home = write_plugin(tmp_path, "P", "true", parameters={"type": "object"}, command=["./none"])
    catalog = scanner.scan()
    assert [one.known_as for one in catalog.broken] == ["P"]
    assert [scanner.scan() is catalog for _ in range(5)] == [True] * 5
    assert count(scanner) == 1
    (home / "none").write_text("#!/bin/sh\n")
    (home / "none").chmod(0o755)
    assert list(scanner.scan().plugins) == ["P"] and count(scanner) == 2


@pytest.mark.parametrize("what", ["program", "requirement", "mode", "manifest", "interpreter"])
def test_a_broken_plugin_is_noticed_when_what_it_lacked_is_there(
    tmp_path: Path, scanner: PluginScanner, what: str
) -> None:
    tools = tmp_path / ".tools"
    tools.mkdir()
    manifest: dict[str, Any] = {"env": {"PATH": f"{tools}:{os.environ['PATH']}"}, "parameters": {"type": "object"}}
    if what == "requirement":
        manifest["requires"] = ["no-such-tool"]
    program = f"#!{tools}/no-such-tool\n" if what == "interpreter" else "true"
    home = write_plugin(tmp_path, "P", program, **manifest)
    if what == "program":
        (home / "run.sh").unlink()
    elif what == "mode":
        (home / "run.sh").chmod(0o644)
    elif what == "manifest":
        (home / "plugin.json").write_text("{")
    assert not scanner.scan().plugins
    if what in ("requirement", "interpreter"):
        shutil.copy("/bin/sh", tools / "no-such-tool")
    elif what == "mode":
        (home / "run.sh").chmod(0o755)
    else:
        write_plugin(tmp_path, "P", program, **manifest)
    assert list(scanner.scan().plugins) == ["P"]


def test_a_directory_that_comes_into_another_is_found_at_once(tmp_path: Path, scanner: PluginScanner) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for directory in (tmp_path / "a" / "b", tmp_path / "a", tmp_path):
        os.utime(directory, (1, 1))  # long ago: these listings are kept
    assert not scanner.scan().plugins
    write_plugin(tmp_path / "a" / "b", "New", "true")
    assert list(scanner.scan().plugins) == ["New"]
    shutil.rmtree(tmp_path / "a")
    assert not scanner.scan().plugins


def test_very_many_plugins_of_one_name_are_named_in_few_words(tmp_path: Path) -> None:
    for number in range(200):
        write_plugin(tmp_path / f"d{number}", "Same", "true")
    broken = load_plugins([tmp_path]).broken
    assert len(broken) == 200
    assert all("and 196 more" in one.faults[0].message and len(one.faults[0].message) < 1000 for one in broken)


def test_a_manifest_with_very_many_faults_is_described_in_bounded_words(tmp_path: Path) -> None:
    home = write_plugin(tmp_path, "P", "true")
    (home / "plugin.json").write_text(json.dumps({"protocol": 1, **{f"f{n}" * 200: 1 for n in range(3000)}}))
    (broken,) = load_plugins([tmp_path]).broken
    assert len(str([str(fault) for fault in broken.faults])) < 200_000
    assert "more faults" in broken.faults[-1].message


@pytest.mark.parametrize(
    ("manifest", "expect"),
    [
        ({"parameters": {"name": "string", "times": "int"}}, "no keyword of JSON Schema"),
        ({"env": {"PATH": "/opt/x/bin:$PATH"}}, "$PATH is passed on as it stands"),
        ({"env": {"LIB": "${HOME}/lib"}}, "${HOME} is passed on as it stands"),
        ({"command": ["sh", "run.sh"], "cwd": "work"}, "starts in a new work directory"),
        ({"command": ["python3", "missing.py"]}, "found no file missing.py"),
        ({"command": ["node", "run.sh"], "limits": {"memory": "512M"}}, "address space, not of memory in use"),
        ({"command": ["java", "-jar", "run.jar"], "limits": {"memory": "1G"}}, "address space"),
    ],
)
def test_what_is_probably_not_meant_is_a_hint(tmp_path: Path, manifest: dict[str, Any], expect: str) -> None:
    program = manifest.get("command", ["sh"])[0]
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    write_plugin(tmp_path, "P", "true", **manifest)
    plugin = load_plugins([tmp_path]).plugins["P"]
    assert [str(one) for one in plugin.warnings if expect in one.message], plugin.warnings


@pytest.mark.parametrize(
    "manifest",
    [
        {"parameters": {"$comment": "anything"}},
        {"parameters": {}},
        {"parameters": True},
        {"env": {"PASSWORD": "pa$word", "PRICE": "5$", "T": "$no_such_variable"}},
        {"command": ["sh", "run.sh"]},
        {"command": ["sh", "-c", "echo run.sh"]},
        {"command": ["./run.sh"], "cwd": "work"},
        {"command": ["./run.sh"], "limits": {"memory": "64M"}},
    ],
)
def test_what_may_well_be_meant_is_not(tmp_path: Path, manifest: dict[str, Any]) -> None:
    write_plugin(tmp_path, "P", "true", **manifest)
    assert load_plugins([tmp_path]).plugins["P"].warnings == ()


def test_sources_that_are_newer_than_the_built_program_are_a_hint(tmp_path: Path) -> None:
    """The old program went on saying that all was well."""
    home = write_plugin(tmp_path, "P", "true")
    shutil.copy("/bin/true", home / "run.sh")
    (home / "main.go").write_text("package main\n")
    os.utime(home / "main.go", (1, 1))
    plugin = load_plugins([tmp_path]).plugins["P"]
    assert outdated_build(plugin) is None
    later = (home / "run.sh").stat().st_mtime + 5
    os.utime(home / "main.go", (later, later))
    hint = outdated_build(plugin)
    assert hint is not None and "main.go is newer than run.sh" in hint.message and hint.severity is Severity.WARNING
    write_plugin(tmp_path, "Script", "true")
    os.utime(home / "main.go", (later, later))
    assert outdated_build(load_plugins([tmp_path]).plugins["Script"]) is None
