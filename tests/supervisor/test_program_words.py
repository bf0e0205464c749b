"""The words that START adds to the argv of its plugin."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from disbatch_host.process.frames import FRAME_MAX, VERSION_MAX, NotStarted, Step, SupervisorBye
from disbatch_host.process.framing import packed
from helpers import supervisors
from helpers.supervisors import Talk, paired, plugin, start

pytestmark = supervisors.usable()
SHOWS = ("/bin/sh", "-c", 'printf "[%s]" "$@"; echo "$A-$B"', "name")


@pytest.fixture
def talk() -> Iterator[Talk]:
    with paired(version_max=VERSION_MAX) as one:
        yield one


def added(*words: bytes, variables: tuple[bytes, ...] = ()) -> bytes:
    return packed(variables) + packed(words)


def test_the_words_of_a_run_are_behind_those_of_its_plugin_and_only_its_own(talk: Talk) -> None:
    talk.say(plugin(1, *SHOWS, "one"))
    talk.say(start(1, 1, environment=added(b"a b", b"", "ü\n".encode(), variables=(b"A=1", b"B=2"))))
    talk.say(start(2, 1), start(3, 1, environment=added(variables=(b"A=3",))), start(4, 1, environment=added(b"x")))
    ends = [talk.end(run) for run in (1, 2, 3, 4)]
    assert [end.stdout.decode() for end in ends] == ["[one][a b][][ü\n]1-2\n", "[one]-\n", "[one]3-\n", "[one][x]-\n"]


def test_words_that_no_program_can_be_given_start_nothing(talk: Talk) -> None:
    talk.say(plugin(1, *SHOWS))
    talk.say(start(1, 1, environment=added(b"a\0b")), start(2, 1, environment=added(b"x" * 2**17)))
    talk.say(start(3, 1, environment=added(*[b"y" * 2**16] * 200)))
    nul, word, line = (talk.hear(NotStarted, where=lambda one, run=run: one.run == run) for run in (1, 2, 3))
    assert (nul.errno, nul.step) == (errno.EINVAL, Step.EXEC)
    assert {(one.errno, one.step) for one in (word, line)} == {(errno.E2BIG, Step.EXEC)}
    talk.say(start(4, 1, environment=added(b"z")))
    assert talk.end(4).stdout == b"[z]-\n"


def test_as_many_words_as_the_system_takes(talk: Talk) -> None:
    count = min(os.sysconf("SC_ARG_MAX"), FRAME_MAX) // 16  # each counts for 10 bytes
    talk.say(plugin(1, "/bin/sh", "-c", "echo $#", "name"), start(1, 1, environment=added(*[b"x"] * count)))
    assert talk.end(1).stdout.decode() == f"{count}\n"


def test_a_list_of_words_that_is_cut_off_breaks_the_rules(talk: Talk) -> None:
    talk.say(plugin(1, *SHOWS), start(1, 1, environment=added(b"abc")[:-1]))
    assert b"environment of START" in talk.hear(SupervisorBye).words


@pytest.mark.parametrize(("newest", "answered"), [(1, 1), (2, 2), (7, 2)])
def test_a_node_of_an_earlier_or_later_version_is_answered_with_one_that_both_speak(newest: int, answered: int) -> None:
    with supervisors.paired(version_max=newest) as talk:
        assert talk.answer.version == answered
        talk.say(plugin(1, *SHOWS), start(1, 1))
        assert talk.end(1).stdout == b"[]-\n"
