"""First lines with env(1): what `#!/usr/bin/env ...` would start.

Responsible for: the one argument that the kernel passes on, and what GNU env makes of it with -S. Must not know: files
other than what `Surroundings` finds.

Rule: as in `executable`: where a word depends on anything that is not looked at, nothing is said.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from disbatch_host.plugin.executable import Surroundings

Reason = tuple[str, str, str]  # what was expected, what was found, what to do; "in the first line of F" is between


def reason_not_to_run(argument: str, surroundings: Surroundings) -> Reason | None:
    """Why `env` with this argument, "" for none, can never start an interpreter; None if it may."""
    split = _SPLIT_OPTION.match(argument)
    if split is not None:
        words = _split(argument[split.end() :])
        return _reason_of_words(words, surroundings) if words is not None else None
    if not argument:
        return _no_interpreter()
    if not re.search(r"\s", argument):
        return _reason_of_words([argument], surroundings)
    if not argument.startswith("-") and "=" not in argument and surroundings_has(argument, surroundings):
        return None
    first = argument.split(maxsplit=1)[0]
    return (
        "expected one word after env",
        f', found "{argument:.80}", which env takes for one name',
        f"write #!/usr/bin/env -S {argument}" if not first.startswith("-S") else "",
    )


# -S, among short options that take no value, or its long form, which may be cut short.
_SPLIT_OPTION = re.compile(r"-[iv0]*S|--s(?:p(?:l(?:i(?:t(?:-(?:s(?:t(?:r(?:i(?:n(?:g)?)?)?)?)?)?)?)?)?)?)?=")


def _split(text: str) -> list[str] | None:
    """The words of a -S string; None if any of them depends on a variable or an escape, or is not understood."""
    if re.search(r"[\\$]", text):
        return None
    words: list[str] = []
    word: str | None = None
    at = 0
    while at < len(text):
        sign = text[at]
        if sign in " \t\n\v\f\r":
            if word is not None:
                words.append(word)
            word = None
        elif sign == "#" and word is None:
            break
        elif sign in "'\"":
            end = text.find(sign, at + 1)
            if end < 0:
                return None
            word = (word or "") + text[at + 1 : end]
            at = end
        else:
            word = (word or "") + sign
        at += 1
    return words if word is None else [*words, word]


_FLAGS = frozenset({"-v", "--debug", "-i", "-", "--ignore-environment"})
_WITH_VALUE = frozenset({"-u", "--unset", "-C", "--chdir"})


def _reason_of_words(words: list[str], surroundings: Surroundings) -> Reason | None:
    """Of the words as env's own arguments."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "--":
            break
        if option in _WITH_VALUE:
            value = rest.pop(0) if rest else None
            if value is None or option in ("-C", "--chdir") or value == "PATH":
                return None
        elif re.fullmatch(r"-u.+|--unset=.+", option):
            if option.removeprefix("--unset=").removeprefix("-u") == "PATH":
                return None
        elif option not in _FLAGS or option in ("-", "-i", "--ignore-environment"):
            return None  # another option, or another PATH
    while rest and "=" in rest[0]:
        if rest.pop(0).startswith("PATH="):
            return None
    if not rest:
        return _no_interpreter()
    wanted = rest[0]
    if not wanted or surroundings_has(wanted, surroundings):
        return None
    where = "" if "/" in wanted else f" (PATH is {surroundings.path})"
    place = "" if "/" in wanted else " in PATH"
    return (
        f"expected the interpreter {surroundings.where(wanted) if '/' in wanted else repr(wanted)}{place}, named",
        ", found none",
        f"install {os.path.basename(wanted)}{where}",  # noqa: PTH119
    )


def surroundings_has(word: str, surroundings: Surroundings) -> bool:
    """Whether a process of the plugin may find this program."""
    if "/" in word:
        found = surroundings.found(word)
        return found is not None and os.access(found, os.X_OK) and not os.path.isdir(found)  # noqa: PTH112
    if any(not one.startswith("/") for one in surroundings.path.split(os.pathsep)):
        return True  # looked up from a directory that is not this process's
    return shutil.which(word, path=surroundings.path) is not None


def _no_interpreter() -> Reason:
    return (
        "expected an interpreter after env",
        ", found none: env would start the program itself, again and again",
        "write #!/usr/bin/env python3, say",
    )
