"""A secret is shown to nobody: not at its creation, not to who does not know the plugin, not in a message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.conftest import Terminal
from disbatch_host.store.url import redact, without_secrets

Plugin = Callable[..., Path]

QUICK = "serverSelectionTimeoutMS=100"  # nobody answers
SECRET = "hunter2-topsecret"
PROPERTIES = {"user": {"type": "string"}, "password": {"type": "string", "writeOnly": True, "maxLength": 20}}


@pytest.fixture
def stranger(on_store: Terminal, plugin: Plugin, tmp_path: Path) -> Terminal:
    """Somebody who looks at the store from a directory without plugins."""
    plugin("login", "cat >/dev/null", parameters={"type": "object", "properties": PROPERTIES})
    on_store.fine("queue", "create", "q", "--class", "login")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return Terminal(elsewhere, on_store.environment)


def assert_masked(text: str) -> None:
    assert SECRET not in text and "matt" in text and "********" in text


def test_push_shows_no_secret(stranger: Terminal, on_store: Terminal) -> None:
    assert_masked(on_store.fine("task", "push", "q", "-p", "user=matt", "-p", f"password={SECRET}", "--json").out)
    line = json.dumps({"user": "matt", "password": SECRET}) + "\n"
    assert_masked(on_store.fine("task", "push", "q", "-", "--json", stdin=line).out)
    assert_masked(on_store.fine("task", "push", "q", "-", "--json", "--no-check", stdin=line).out)


def test_who_does_not_know_the_plugin_sees_no_secret_either(stranger: Terminal, on_store: Terminal) -> None:
    parameters = json.dumps({"user": "matt", "password": SECRET})
    task_id = on_store.fine("task", "push", "q", parameters).out.strip()
    blind_id = stranger.fine("task", "push", "q", parameters).out.strip()  # nobody knows the plugin there
    for command in (["task", "show", task_id], ["task", "show", task_id, "--json"]):
        assert_masked(stranger.fine(*command).out)
    on_store.fine("--until-idle")
    for command in (["task", "show", task_id], ["task", "show", blind_id], ["task", "show", blind_id, "--json"]):
        assert_masked(stranger.fine(*command).out)
    assert_masked(stranger.fine("task", "list", "--json").out)


def test_a_secret_that_does_not_fit_is_not_quoted(stranger: Terminal, on_store: Terminal) -> None:
    pair = f"password={SECRET * 2}"
    for line in (on_store.refused(2, "task", "push", "q", "-p", pair), on_store("exec", "login", "-p", pair).err):
        assert "/password: expected at most 20 characters, found a string" in line and "hunter2" not in line
    task_id = on_store.fine("task", "push", "q", "--no-check", "-p", pair).out.strip()
    on_store.fine("--until-idle")
    for who in (on_store, stranger):
        for more in ([], ["--json"]):
            shown = who.fine("task", "show", task_id, *more).out
            assert "/password: expected at most 20 characters" in shown and "hunter2" not in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"mongodb://u:s3cret@h/x?{QUICK}&tls=true&tlsCertificateKeyFilePassword=s3cret2", f"u:***@h/x?{QUICK}&tls="),
        (f"mongodb://h/x?authMechanismProperties=AWS_SESSION_TOKEN:s3cret&{QUICK}", f"Properties=***&{QUICK}"),
        ("mongodb://h/?PASSWORD=s3cr@et", "mongodb://***"),
        ("mongodb://u:s3cret@h/?somekey=s3c@ret", "mongodb://***"),
        ("u:s3cret@127.0.0.1:1/x", "***@127.0.0.1:1/x"),
        ("mongodb:/u:s3cret@h/x", "***@h/x"),
        ("mongodb://u:s3?key=s3cret@h/x", "u:***@h/x"),
    ],
)
def test_no_secret_of_a_url_is_shown(terminal: Terminal, url: str, shown: str) -> None:
    assert shown in redact(url) and "s3c" not in redact(url), redact(url)
    result = terminal("status", "--store", url)
    assert result.code in (2, 3) and result.err.count("\n") == 1
    assert "s3c" not in result.err and "ret@" not in result.err, result.err


def test_a_drivers_words_are_shown_without_the_secrets_of_the_url() -> None:
    url = "mongodb://u:s3%2Fcret@h/x?tlsCertificateKeyFilePassword=top%20secret&w=1"
    for secret in ("s3%2Fcret", "s3/cret", "top%20secret", "top secret"):
        assert without_secrets(f"cannot use {secret} here", url) == "cannot use *** here"


def test_files_that_a_url_names_and_that_are_not_there(terminal: Terminal) -> None:
    for option in ("tlsCAFile", "tlsCertificateKeyFile"):
        line = terminal.refused(2, "status", "--store", f"mongodb://127.0.0.1:1/x?tls=true&{option}=/no/such.pem")
        assert "is not readable: No such file or directory" in line


def test_a_database_name_with_a_dot_is_refused(terminal: Terminal) -> None:
    assert "expected the name of a database" in terminal.refused(2, "status", "--store", "mongodb://127.0.0.1:1/a.b")
