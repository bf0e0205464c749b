"""First lines with env(1): what `#!/usr/bin/env ...` would start.

Responsible for: the one argument that the kernel passes on, and what GNU env makes of it with -S. Must not know: files
other than what `Surroundings` finds.

Rule: as in `executable`: where a word depends on anything that is not looked at, nothing is said.
"""

from __future__ import annotations

import functools
import os
import re
import shutil

from disbatch_host.plugin.surroundings import Surroundings
from disbatch_protocol.faults import near_name

Reason = tuple[str, str, str]  # what was expected, what was found, what to do; "in the first line of F" is between


def reason_not_to_run(argument: str, surroundings: Surroundings) -> Reason | None:
    """Why `env` with this argument, "" for none, can never start an interpreter; None if it may."""
    split = _SPLIT_OPTION.match(argument)
    if split is not None:
        try:
            return _reason_of_words(_split(argument[split.end() :]), surroundings)
        except _BadStringError as error:
            return (
                "expected what env can read after -S",
                f", found {error}",
                "correct it; `man env` says how it is read",
            )
    if not re.search(r"\s", argument):
        return _reason_of_words([argument] if argument else [], surroundings)
    if not argument.startswith("-") and "=" not in argument and _has(argument, surroundings, surroundings.path):
        return None
    return (
        "expected one word after env",
        f', found "{argument:.80}", which env takes for one name',
        f"write #!/usr/bin/env -S {argument}",
    )


def may_find(program: str, surroundings: Surroundings) -> bool:
    """Whether `env` may find a program of this name."""
    return _has(program, surroundings, surroundings.path)


def near_program(wanted: str, surroundings: Surroundings) -> str | None:
    """The program that was probably meant by a misspelt path or name: one beside it, by its path, else one in PATH, by
    its name."""
    directory, name = os.path.split(wanted)
    if directory and (directory.startswith("/") or not surroundings.is_elsewhere):
        beside = near_name(name, _programs_in(os.fspath(surroundings.directory / directory)), likeness=_LIKENESS)
        if beside is not None:
            return os.path.join(directory, beside)  # noqa: PTH118  (keeps "./")
    places = [one for one in surroundings.path.split(os.pathsep) if one.startswith("/")]
    return near_name(name, sorted({one for place in places for one in _programs_in(place)}), likeness=_LIKENESS)


_LIKENESS = 0.8  # of a thousand names, one is a little like any other


def _programs_in(directory: str) -> tuple[str, ...]:
    try:
        return _programs_since(directory, os.stat(directory).st_mtime_ns)  # noqa: PTH116
    except OSError:
        return ()


@functools.lru_cache(maxsize=16)  # thousands of plugins may have the same fault
def _programs_since(directory: str, _changed: int) -> tuple[str, ...]:
    with os.scandir(directory) as entries:
        return tuple(sorted(one.name for one in entries if one.name.isprintable() and _may_be_executed(one)))


def _may_be_executed(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and os.access(entry.path, os.X_OK)


# -S, among short options that take no value, or its long form, which may be cut short.
_SPLIT_OPTION = re.compile(r"-[iv0]*S|--s(?:p(?:l(?:i(?:t(?:-(?:s(?:t(?:r(?:i(?:n(?:g)?)?)?)?)?)?)?)?)?)?)?=")


class _BadStringError(Exception):
    """What env refuses in the string of -S."""


_UNKNOWN = "\0"  # stands for the value of a variable
_ESCAPED = {"f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "_": " ", **{one: one for one in "\\\"'#$"}}


def _split(text: str) -> list[str]:
    """The words of a -S string, as GNU env reads it."""
    words: list[str] = []
    word: str | None = None
    quote = ""
    at = 0
    while at < len(text):
        sign = text[at]
        at += 1
        if sign == "\\" and (quote != "'" or text[at : at + 1] in ("\\", "'")):
            escape = text[at : at + 1]
            at += 1
            if escape == "c" and not quote:
                break
            if escape not in _ESCAPED:
                raise _BadStringError(f'"\\{escape}"')
            if escape == "_" and not quote:
                words, word = ([*words, word], None) if word is not None else (words, None)
            else:
                word = (word or "") + _ESCAPED[escape]
        elif sign == "$" and quote != "'":
            name = re.match(r"\{[A-Za-z_]\w*\}", text[at:], re.ASCII)
            if name is None:
                raise _BadStringError('"$" without the name of a variable in braces')
            at += name.end()
            word = (word or "") + _UNKNOWN
        elif sign in ("'", '"') and quote in ("", sign):
            quote = "" if quote else sign
            word = word or ""
        elif sign in " \t\n\v\f\r" and not quote:
            words, word = ([*words, word], None) if word is not None else (words, None)
        elif sign == "#" and word is None:
            break
        else:
            word = (word or "") + sign
    if quote:
        raise _BadStringError("a quote that does not end")
    return words if word is None else [*words, word]


_FLAGS = frozenset({"-v", "--debug", "-i", "-", "--ignore-environment"})
_WITH_VALUE = frozenset({"-u", "--unset", "-C", "--chdir"})


def _reason_of_words(words: list[str], surroundings: Surroundings) -> Reason | None:
    """Of the words as env's own arguments."""
    rest = list(words)
    path: str | None = surroundings.path  # None: not known
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "--":
            break
        value = None
        if option in _WITH_VALUE:
            if not rest:
                return None
            value = rest.pop(0)
        elif re.fullmatch(r"-u.+|--unset=.+", option):
            value = option.removeprefix("--unset=").removeprefix("-u")
        elif option not in _FLAGS:
            return None  # another option
        if option in ("-C", "--chdir"):
            return None
        if value == "PATH" or option in ("-", "-i", "--ignore-environment"):
            path = None
    while rest and "=" in rest[0]:
        name, _, value = rest.pop(0).partition("=")
        if name == "PATH":
            path = value
    if not rest:
        return _no_interpreter()
    wanted = rest[0]
    if not wanted or _UNKNOWN in wanted or (path is not None and _UNKNOWN in path) or _has(wanted, surroundings, path):
        return None
    where = "" if "/" in wanted else f" (PATH is {path})"
    place = "" if "/" in wanted else " in PATH"
    near = near_program(wanted, surroundings) if path == surroundings.path else None
    advice = f"did you mean {near}? If not, " if near else "correct its name, or "
    return (
        f"expected the interpreter {surroundings.where(wanted) if '/' in wanted else repr(wanted)}{place}, named",
        ", found none",
        f"{advice}install {os.path.basename(wanted)}{where}",  # noqa: PTH119
    )


def _has(word: str, surroundings: Surroundings, path: str | None) -> bool:
    """Whether a process of the plugin may find this program."""
    if "/" in word:
        found = surroundings.found(word)
        return found is not None and os.access(found, os.X_OK) and not os.path.isdir(found)  # noqa: PTH112
    if path is None or any(not one.startswith("/") for one in path.split(os.pathsep)):
        return True  # looked up in a place that is not known, or from a directory that is not this process's
    return shutil.which(word, path=path) is not None


def _no_interpreter() -> Reason:
    return (
        "expected an interpreter after env",
        ", found none: env would start the program itself, again and again",
        "write #!/usr/bin/env python3, say",
    )
