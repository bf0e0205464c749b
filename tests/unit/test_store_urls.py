"""The URL of a store: what of it may be shown, however it was mistyped, and which URLs of a file are refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from disbatch_host.cli.exposure import stores_in
from disbatch_host.clock import SystemClock
from disbatch_host.errors import DisbatchError, UsageError
from disbatch_host.settings.config_file import read_config
from disbatch_host.store.open import open_store, sqlite_file
from disbatch_host.store.url import redact, sqlite_url, without_passwords

SECRET = "s3cretHunter"  # it is a good name for a host or a file, so only its place tells
SCHEMES = ["mongodb", "mongodb+srv", "mongdb", "mongodb+sr", "mongo", "sqlite", "sqlit", "postgres", "http", "MongoDB"]
STARTS = ["://", ":/", ":", "//", "/", ":///", "", " ://", ":// "]
PASSWORDS = [
    SECRET, f"{SECRET}/x", f"a@{SECRET}", f"{SECRET}@", f"%{SECRET}", f"{SECRET}%2", f"x:{SECRET}", f"{SECRET}?a=b",
    f"{SECRET}#1", f"[{SECRET}]", f"a/{SECRET}@b", f"{SECRET} y", f"'{SECRET}", f'"{SECRET}', f"{SECRET}\\",
    f"ü{SECRET}",
]  # fmt: skip
ENDS = [
    "h/db",
    "h:27017/db",
    "h",
    "h:port/db",
    "",
    "a:1,b:2/db",
    "[::1]:27017/x",
    "h/?w=1",
    "h/db?a=b@c",
    "/x/y.db",
    "h/a.b",
]


@st.composite
def mistyped(draw: st.DrawFn) -> str:
    """A URL with a password, then mistyped: a wrong scheme, slashes too many or too few, a letter left out, doubled,
    exchanged with its neighbor or replaced. Not where the result would be a good URL in which the password stands as
    the name of a host or a file: an @ in the password and none after it."""
    start, password = draw(st.sampled_from(STARTS)), draw(st.sampled_from(PASSWORDS))
    before, after = f"{draw(st.sampled_from(SCHEMES))}{start}user:", f"@{draw(st.sampled_from(ENDS))}"
    may_lose_at = start == "://" and "@" not in password
    part = draw(st.sampled_from(["none", "before", "after"] if may_lose_at else ["none", "before"]))
    if part == "before":
        before = draw(slip(before))
    elif part == "after":
        after = draw(slip(after))
    return f"{before}{password}{after}"


def slip(text: str) -> st.SearchStrategy[str]:
    def changed(at: int, how: str) -> str:
        left, letter, right = text[:at], text[at : at + 1], text[at + 1 :]
        return {
            "left out": left + right,
            "doubled": left + letter * 2 + right,
            "exchanged": left + right[:1] + letter + right[1:],
            **{f"replaced by {one}": left + one + right for one in ":/@?#& ;,"},
        }[how]

    hows = ["left out", "doubled", "exchanged", *(f"replaced by {one}" for one in ":/@?#& ;,")]
    return st.builds(changed, st.integers(0, len(text) - 1), st.sampled_from(hows))


@given(mistyped())
@example("mongodb://@ser:s3cretHunter?a=b@h/db")  # what looks like hosts is a part of the password
@example("mongodb:/user:\u00fcs3cretHunter@")  # in JSON, its first letter is escaped
def test_no_message_about_a_mistyped_url_shows_its_password(url: str) -> None:
    said = [redact(url)]
    try:
        store = open_store(url, SystemClock())
        said.append(store.description)
    except DisbatchError as error:
        said.append(str(error))
    # However it gets into a message of the command line: as an argument in the wrong place, quoted, in a traceback.
    for arguments in (["--store", url], ["status", url], [f"--store={url}"]):
        for message in (f"no command {url!r}", f"unexpected argument ({url})", f"ValueError: {json.dumps(url)}: {url}"):
            said.append(without_passwords(message, [*stores_in(arguments, {}), url]))
    assert not any(SECRET in one for one in said), said


@given(mistyped())
def test_what_is_shown_does_not_change_when_it_is_shown_again(url: str) -> None:
    assert redact(redact(url)) == redact(url)


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://127.0.0.1:27017/disbatch?replicaSet=rs0&w=majority", "mongodb://a:1,b:2/x", "mongodb+srv://c.example.com/x",
        "sqlite:///var/lib/disbatch/queue.db", "sqlite:///x y/ü:;'%.db", "mongodb://[::1]:27017/x", "mysql://x",
    ],
)  # fmt: skip
def test_a_url_without_a_secret_is_shown_whole(url: str) -> None:
    assert (
        redact(url) == url and without_passwords(f"expected this: {url}, found it") == f"expected this: {url}, found it"
    )


@pytest.mark.parametrize(
    "content",
    [
        '{"store": ["mongodb://u:%s@h/x"]}', '{"mongodb://u:%s@h/x": 1}', '{"node_id": 5, "store mongodb://u:%s@h": 1}',
        '{"store": "mongodb://u:%s@h/x", "max": 0}', '{"store": "mongodb://u:%s@h/x"', '{"plugins": {"u:%s@h": 1}}',
    ],
)  # fmt: skip
def test_no_fault_of_a_configuration_file_shows_a_password(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content % SECRET)
    with pytest.raises(UsageError) as caught:
        read_config(str(path))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///x/jobs#1.db", "write %23"),
        ("sqlite:///x/jobs?mode=ro", "write %3F"),
        ("sqlite:///x/a@b.db", "write %40"),
        ("sqlite://me:s3cretHunter@h/d", "write %40"),
        ("sqlite:///:memory:", "opens the tasks' file by its path"),
        ("sqlite:///file:x.db", "opens the tasks' file by its path"),
        ("sqlite://:memory:", "three slashes"),
        ("sqlite://relative.db", "for this file write sqlite:///"),
        ("sqlite:////", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite:///x/", "name a file in it"),
        ("sqlite:///x/..", "name a file in it"),
        ("sqlite:///x%00y", "no name of a file can hold it"),
        ("sqlite:///x%FFy", "a path in UTF-8"),
        ("file:///x/y.db", "for this file write sqlite:///x/y.db"),
        ("file:x/y.db", "for this file write sqlite:///"),
    ],
)
def test_a_url_that_does_not_name_a_file_is_refused_with_what_to_write(url: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url, SystemClock())
    assert said in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["jobs#1.db", "jobs?mode=ro", "a@b", "100%", "%41", "ü :;'.db", "line\nbreak"])
def test_the_url_of_a_file_leads_to_that_file(tmp_path: Path, name: str) -> None:
    assert sqlite_file(sqlite_url(tmp_path / name)) == tmp_path / name
    assert sqlite_file(sqlite_url(tmp_path / name)).parent == tmp_path


def test_four_slashes_before_a_whole_path_lead_to_the_same_file() -> None:
    """Other programs want them."""
    assert sqlite_file("sqlite:////x/y.db") == sqlite_file("sqlite:///x/y.db") == Path("/x/y.db")


def test_a_store_in_a_working_directory_that_is_gone_is_refused_in_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with contextlib.chdir(gone):
        gone.rmdir()
        with pytest.raises(UsageError, match="the working directory is gone"):
            open_store("sqlite:///./x.db", SystemClock())
        with pytest.raises(UsageError, match="three slashes"):
            open_store("sqlite://x.db", SystemClock())
