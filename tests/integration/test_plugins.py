"""Plugins on disk: what is found, what is refused and why, what a change does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.errors import UsageError
from disbatch_host.plugin.catalog import Catalog, PluginScanner, load_plugins
from helpers.nodes import write_plugin


def faults(catalog: Catalog) -> list[str]:
    return [f"{fault.pointer} {fault.message}; {fault.hint}" for one in catalog.broken for fault in one.faults]


def broken_by(tmp_path: Path, *, expect: str) -> None:
    catalog = load_plugins([tmp_path])
    assert not catalog.plugins
    assert any(expect in fault for fault in faults(catalog)), faults(catalog)


def test_plugins_are_found_at_any_depth_and_none_below_another(tmp_path: Path) -> None:
    write_plugin(tmp_path / "a" / "b", "Deep", "true")
    write_plugin(write_plugin(tmp_path, "Outer", "true"), "Inner", "true")
    write_plugin(tmp_path / ".hidden", "Hidden", "true")
    assert sorted(load_plugins([tmp_path]).plugins) == ["Deep", "Outer"]
    assert sorted(load_plugins([tmp_path, tmp_path / "a"]).plugins) == ["Deep", "Outer"]


def test_a_link_to_a_directory_is_followed_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    write_plugin(tmp_path / "elsewhere", "Linked", "true")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "plugins" / "circle").symlink_to(tmp_path / "plugins")
    assert list(load_plugins([tmp_path / "plugins"]).plugins) == ["Linked"]


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        load_plugins([tmp_path / "gone"])


def test_two_of_one_name_are_both_left_out_and_each_names_the_other(tmp_path: Path) -> None:
    one = write_plugin(tmp_path, "one", "true")
    two = write_plugin(tmp_path, "two", "true")
    (two / "plugin.json").write_text(json.dumps({"protocol": 1, "command": ["./run.sh"], "name": "one"}))
    catalog = load_plugins([tmp_path])
    assert not catalog.plugins
    assert [str(two / "plugin.json") in faults(catalog)[0], str(one / "plugin.json") in faults(catalog)[1]] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("manifest", "expect"),
    [
        ({"command": ["./gone.sh"]}, "expected a program at"),
        ({"command": ["no-such-program-anywhere"]}, "expected a program 'no-such-program-anywhere' in PATH"),
        ({"command": ["run.sh"]}, 'write "./run.sh" to run the one beside the manifest'),
        ({"command": ["../x/run.sh"]}, "expected a program inside the plugin's directory"),
        ({"command": ["./run.sh | cat"]}, "there is no shell: write each argument as a string of its own"),
        ({"command": ["gzip -t"]}, "there is no shell"),
        ({"requires": ["no-such-program-anywhere"]}, "/requires/0 expected the program"),
        ({"run_as": "no-such-user"}, "expected a user of this machine"),
        ({"run_as": "root:no-such-group"}, "expected a group of this machine"),
        ({"command": ["./"]}, "expected the program to be a regular file, found a directory"),
    ],
)
def test_what_the_manifest_names_must_be_there(tmp_path: Path, manifest: dict[str, Any], expect: str) -> None:
    write_plugin(tmp_path, "x", "true", **manifest)
    broken_by(tmp_path, expect=expect)


@pytest.mark.parametrize(
    ("program", "expect"),
    [
        (b"", "found the empty file"),
        (b"#!/bin/sh\r\necho\r\n", "found CR LF"),
        (b"#!/no/such/interpreter\n", "expected the interpreter /no/such/interpreter"),
        (b"#!/usr/bin/env no-such-interpreter\n", "expected the interpreter 'no-such-interpreter'"),
        (b"#!\n", 'expected an interpreter after "#!"'),
        (b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
        (b"echo hello\n", 'expected {program} to begin with "#!"'),
    ],
)
def test_a_program_that_cannot_start_is_known_without_starting_it(tmp_path: Path, program: bytes, expect: str) -> None:
    home = write_plugin(tmp_path, "x", "true")
    (home / "run.sh").write_bytes(program)
    broken_by(tmp_path, expect=expect.replace("{program}", str(home / "run.sh")))


@pytest.mark.parametrize("what", ["plugin.json", "run.sh"])
def test_what_is_no_regular_file_holds_up_nobody(tmp_path: Path, what: str) -> None:
    """Incident: a FIFO named plugin.json hung the node, `check` and `exec`, for all plugins."""
    home = write_plugin(tmp_path, "x", "true")
    (home / what).unlink()
    os.mkfifo(home / what, 0o755)
    write_plugin(tmp_path, "fine", "true")
    catalog = load_plugins([tmp_path])
    assert list(catalog.plugins) == ["fine"]
    assert "to be a regular file, found a FIFO at" in faults(catalog)[0]


def test_a_device_is_no_program(tmp_path: Path) -> None:
    write_plugin(tmp_path, "x", "true", command=["/dev/null"])
    broken_by(tmp_path, expect="expected the program to be a regular file, found a device at /dev/null")


def test_a_program_that_is_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    home = write_plugin(tmp_path, "x", "true", command=["./x"])
    (home / "build.sh").write_text("go build")
    broken_by(tmp_path, expect=f"build it: {home}/build.sh")


@pytest.mark.parametrize(
    ("data", "expect"),
    [
        ('{"protocol": 1, "command": ["./é"]}'.encode("latin-1"), "iconv -f ISO-8859-1 -t UTF-8"),
        ('{"protocol": 1}'.encode("utf-16"), "found UTF-16; save it as UTF-8, or convert it: iconv -f UTF-16"),
        (b" " * (4 * 2**20 + 1), "found a larger file; keep anything that is not for the host"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_what_to_do(tmp_path: Path, data: bytes, expect: str) -> None:
    home = write_plugin(tmp_path, "x", "true")
    (home / "plugin.json").write_bytes(data)
    broken_by(tmp_path, expect=expect)


def test_a_program_without_execute_permission_says_what_to_type(tmp_path: Path) -> None:
    home = write_plugin(tmp_path, "x", "true")
    (home / "run.sh").chmod(0o644)
    broken_by(tmp_path, expect=f"chmod +x {home}/run.sh")


@pytest.mark.parametrize("what", ["plugin.json", "run.sh"])
def test_a_link_that_leads_out_of_the_directory_is_refused(tmp_path: Path, what: str) -> None:
    home = write_plugin(tmp_path / "plugins", "x", "true")
    (home / what).rename(tmp_path / what)
    (home / what).symlink_to(tmp_path / what)
    broken_by(tmp_path / "plugins", expect="leads to")


def test_a_link_inside_the_directory_is_fine(tmp_path: Path) -> None:
    home = write_plugin(tmp_path, "x", "true")
    (home / "run.sh").rename(home / "real.sh")
    (home / "run.sh").symlink_to("real.sh")
    assert list(load_plugins([tmp_path]).plugins) == ["x"]


@pytest.mark.parametrize("what", ["plugin.json", "run.sh", "."])
def test_what_everybody_may_write_is_refused(tmp_path: Path, what: str) -> None:
    home = write_plugin(tmp_path, "x", "true")
    path = home / what
    path.chmod(path.stat().st_mode | 0o002)
    broken_by(tmp_path, expect="found that everybody may write to")


@pytest.mark.parametrize("what", ["bin", "bin/inner"])
def test_a_program_in_a_directory_that_everybody_may_write_is_refused(tmp_path: Path, what: str) -> None:
    """Anyone could have put another program in its place."""
    home = write_plugin(tmp_path, "x", "true", command=["./bin/inner/run.sh"])
    (home / "bin/inner").mkdir(parents=True)
    for one in ("bin", "bin/inner"):
        (home / one).chmod(0o755)
    (home / "run.sh").rename(home / "bin/inner/run.sh")
    assert list(load_plugins([tmp_path]).plugins) == ["x"]
    (home / what).chmod(0o757)
    broken_by(tmp_path, expect=f"found that everybody may write to {home / what}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
def test_a_group_of_others_may_not_write_but_a_group_of_ones_own_may(tmp_path: Path) -> None:
    home = write_plugin(tmp_path, "x", "true")
    for path in (home, *home.iterdir()):
        path.chmod(path.stat().st_mode | 0o020)  # umask 002: root's own group has nobody else in it
    assert list(load_plugins([tmp_path]).plugins) == ["x"]
    import grp
    import pwd

    other = next(one for one in pwd.getpwall() if one.pw_uid not in (0, os.geteuid()) and one.pw_gid != 0)
    os.chown(home / "run.sh", -1, other.pw_gid)
    broken_by(tmp_path, expect=f"group {grp.getgrgid(other.pw_gid).gr_name} may write")


def test_all_faults_of_a_plugin_come_at_once(tmp_path: Path) -> None:
    home = write_plugin(tmp_path, "x", "true", timeout="soon", requires="jq", command=["./run.sh"])
    home.chmod(0o777)
    found = " ".join(faults(load_plugins([tmp_path])))
    assert all(text in found for text in ("/timeout", "/requires", "everybody may write"))


def test_a_scan_gives_the_same_objects_until_something_changes(tmp_path: Path) -> None:
    home = write_plugin(tmp_path, "x", "true")
    write_plugin(tmp_path, "y", "true")
    write_plugin(tmp_path, "bad", "true", timeout="soon")
    scanner = PluginScanner([tmp_path])
    first = scanner.scan()
    assert scanner.scan() is first
    (home / "left-by-a-run").touch()
    assert scanner.scan() is first
    write_plugin(tmp_path, "x", "false", version="2")
    second = scanner.scan()
    assert second.plugins["x"] is not first.plugins["x"] and second.plugins["x"].manifest.version == "2"
    assert second.plugins["y"] is first.plugins["y"]
    (home / "plugin.json").unlink()
    assert sorted(scanner.scan().plugins) == ["y"]
    write_plugin(tmp_path, "bad", "true")
    assert sorted(scanner.scan().plugins) == ["bad", "y"]


def test_a_program_in_path_and_arguments_are_taken_as_they_are(tmp_path: Path) -> None:
    write_plugin(tmp_path, "x", "true", command=["wc", "-l"])
    plugin = load_plugins([tmp_path]).plugins["x"]
    assert plugin.argv[1:] == ["-l"] and plugin.argv[0].endswith("/wc")
