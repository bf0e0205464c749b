"""The cause of a failure in short, the same for all failures with one cause: `error.group`. Pure.

Responsible for: making one text of all messages that differ only in what they are about (numbers, names, paths, …), and
its key. Must not know: where the error comes from, who counts.

Rules:
1. The same in every host: SPEC.md, "Groups of failures", has each step, `vectors/groups.json` cases.
2. Only the first `LINE_MAX` characters of one line are looked at, and every repetition in a pattern has an upper bound,
   so the time is linear in the message.
3. A text that was made here stays as it is when it goes through again: placeholders are left alone, and the steps are
   repeated until nothing changes.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from disbatch_protocol.last_words import meaningful_line
from disbatch_protocol.own_values import values_of, with_names

TEXT_MAX = 120  # characters of a group's text
KEY_DIGITS = 8
CODE_MAX = 60  # characters of the code in it: a message needs the rest
LINE_MAX = 1000  # characters of a message that are looked at; some hundred are left of the longest paths
_LINES_MAX = 16 * 1024  # characters at the end of a message in which its line is looked for
_OURS = "disbatch-host: "
_CUT = "…"


class Group(NamedTuple):
    """A cause of failures."""

    text: str
    key: str

    def to_document(self) -> dict[str, str]:
        return {"text": self.text, "key": self.key}


def group_of(code: Any, message: Any = None, *, parameters: Any = None, secrets: Collection[str] = ()) -> Group:
    """The group of an error with this code and message, which may be anything that a document holds. `parameters`: of
    its task; `secrets`: JSON pointers to those that are secret."""
    head = _printable(code)[:CODE_MAX].strip() if isinstance(code, str) else ""
    line, is_own = _line_of(message) if isinstance(message, str) else ("", False)
    values = _values_in(line, parameters, secrets) if is_own and parameters else {}
    words = normalized(with_names(_looked_at(line), values))
    text = _cut(f"{head}: {words}" if head and words else head or words or "failed", values.values())
    return Group(text, hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS])


def group_of_error(error: Mapping[str, Any], parameters: Any = None, secrets: Collection[str] = ()) -> Group:
    """The group of `task.error`; see `group_of`."""
    return group_of(error.get("code"), error.get("message"), parameters=parameters, secrets=secrets)


def _values_in(line: str, parameters: Any, secrets: Collection[str]) -> dict[str, str]:
    """The values of these parameters that are in the line, and are not just numbers, with their names."""
    looked_at = _looked_at(line)
    printable = ((_printable(text), name) for text, name in values_of(parameters, secrets).items())
    return {text: name for text, name in printable if text and text in looked_at and normalized(text) != "<n>"}


def line_of(message: str) -> str:
    """The line of a message that says why: the program's own, else the host's first sentence."""
    return _line_of(message)[0]


def _line_of(message: str) -> tuple[str, bool]:
    """The line that says why, and whether it is the program's own."""
    own: list[str] = []
    ours: list[str] = []
    for line in message[-_LINES_MAX:].split("\n"):
        (ours if line.startswith(_OURS) else own).append(line)
    words = meaningful_line("\n".join(own))
    is_own = bool(words)
    if not words and ours:
        # How a run that was stopped took that is not why it was stopped.
        words = ours[0].partition(", and killed ")[0]
    while words.startswith(_OURS):
        words = words.removeprefix(_OURS).strip()
    return words, is_own


def normalized(line: str) -> str:
    """The line with placeholders for what differs from task to task."""
    text = _looked_at(line)
    while True:  # each turn that changes something leaves fewer characters outside of placeholders
        replaced = _REPEATED().sub(r"\1", _PARTS().sub(_replacement, text))
        if replaced == text:
            return text.strip()
        text = replaced


def _looked_at(line: str) -> str:
    return _printable(line)[:LINE_MAX]


def _printable(text: str) -> str:
    """On one line, with single blanks, without colors of a terminal and what UTF-8 cannot hold."""
    text = _COLOR().sub("", text[: 4 * LINE_MAX]).translate(_CONTROLS)
    return " ".join(text.encode(errors="replace").decode().split()) if not text.isascii() else " ".join(text.split())


def _cut(text: str, more_names: Collection[str]) -> str:
    """`more_names`: of placeholders besides those of all groups."""
    if len(text) <= TEXT_MAX:
        return text
    kept = text[: TEXT_MAX - 1]
    opened = kept.rfind("<")
    is_placeholder = _PLACEHOLDER().match(text, opened) or text[opened + 1 :].partition(">")[0] in more_names
    if opened >= 0 and is_placeholder and ">" not in kept[opened:]:
        kept = kept[:opened]
    return f"{kept.rstrip()}{_CUT}"


_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")
_NAMES = ("date", "email", "host", "ip", "n", "path", "text", "url", "uuid")
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_DAY = "(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]{0,6},? )?"
_ZONE = r"(?: ?(?:Z\b|UTC\b|GMT\b|[+-][0-9]{2}:?[0-9]{2}\b))?"
_TIME = rf"[0-9]{{1,2}}:[0-9]{{2}}:[0-9]{{2}}(?:[.,][0-9]{{1,9}})?{_ZONE}"
_WORD = "[A-Za-z0-9_]"
_LABEL = r"[A-Za-z0-9_-]{1,63}"
_PATH_CHARACTER = r"[^\s\"'`<>()\[\]{}|,;:=*?!\\]"
_UNIT = "(?: ?(?:[KMGTP]i?B|bytes?)|ns|us|\u00b5s|ms|s|m|h|d|k|K|M|G|%)"
_NUMBER = rf"[0-9]{{1,400}}(?:[.,][0-9]{{1,400}}){{0,100}}(?:[eE][+-]?[0-9]{{1,4}}(?![0-9]))?(?:{_UNIT}(?![A-Za-z]))?"
_HEX4 = "[0-9A-Fa-f]{1,4}"
_NO_LETTER_BEFORE, _NO_LETTER_AFTER = "(?<![A-Za-z0-9])", "(?![A-Za-z0-9])"
_HOSTS = (
    "com net org edu gov mil info biz io dev app cloud local lan internal intranet home corp localdomain example test"
    " invalid eu de uk us fr nl ch pl cz se dk fi ie pt ru cn jp kr br mx ca au nz za"
)
_FILES = (
    "txt csv tsv json ndjson xml yml yaml toml ini conf cfg log gz bz2 xz zst zip tar tgz 7z jpg jpeg png gif webp svg"
    " tif tiff bmp pdf doc docx xls xlsx ppt pptx odt ods eps ps html htm css js mjs cjs ts py pl pm rb go rs c h cc"
    " cpp hpp java php sh bash lua sql db sqlite mbox eml msg mp3 mp4 mkv avi mov wav flac ogg opus webm m4a m4v aac"
    " iso img bin dat bak tmp part lock pid sock key pem crt cer p12 md rst tex parquet orc avro"
)

# At each place the first that fits counts. All repetitions are bounded (rule 2).
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("kept", "<(?:" + "|".join(_NAMES) + ")>"),
    # Numbers that say what is wrong, not with what.
    (
        "kept",
        rf"(?<!{_WORD})(?:code|errno|Errno|signal|status|HTTP(?:/[0-9](?:\.[0-9])?)?)"
        rf"[ :=#(]{{1,2}}-?[0-9]{{1,3}}(?!{_WORD})",
    ),
    ("kept", "(?<![^ ])(?:[a-z]{1,7}|[a-z]{0,40}[g-z][a-z]{0,40})(?![^ ])"),  # most words, for speed
    ("url", rf"{_NO_LETTER_BEFORE}[A-Za-z][A-Za-z0-9+.-]{{1,20}}://[^\s\"'`<>]{{1,900}}"),
    ("email", rf"[A-Za-z0-9._%+-]{{1,64}}@{_LABEL}(?:\.{_LABEL}){{0,8}}"),
    ("text", rf"(?<!{_WORD})[bBfFrRuU]?\"(?:[^\"\\]|\\.){{0,900}}\""),
    ("text", rf"(?<!{_WORD})[bBfFrRuU]?'(?:[^'\\]|\\.|(?<={_WORD})'(?={_WORD})){{0,900}}'(?!{_WORD})"),
    ("text", "`[^`']{0,900}[`']"),
    ("text", "\u201c[^\u201d]{0,900}\u201d|\u201e[^\u201c\u201d]{0,900}[\u201c\u201d]"),
    ("text", "\u2018[^\u2019]{0,900}\u2019|\u00ab[^\u00bb]{0,900}\u00bb"),
    ("uuid", rf"{_NO_LETTER_BEFORE}[0-9A-Fa-f]{{8}}-(?:[0-9A-Fa-f]{{4}}-){{3}}[0-9A-Fa-f]{{12}}{_NO_LETTER_AFTER}"),
    ("date", rf"(?<![0-9])[0-9]{{4}}[-/][0-9]{{2}}[-/][0-9]{{2}}(?:[T _](?:{_TIME}|[0-9]{{2}}:[0-9]{{2}}))?(?![0-9])"),
    ("date", rf"(?<![0-9])[0-9]{{1,2}}[/ -]{_MONTH}[/ -][0-9]{{4}}(?:[: ]{_TIME})?"),
    (
        "date",
        rf"(?<!{_WORD}){_DAY}{_MONTH} {{1,2}}[0-9]{{1,2}}(?:,? [0-9]{{4}})?(?: {_TIME}(?: [0-9]{{4}})?)?(?!{_WORD})",
    ),
    ("date", rf"(?<![0-9:]){_TIME}(?![0-9:])"),
    ("ip", r"(?<![0-9.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?::[0-9]{1,5}|/[0-9]{1,2})?(?![0-9.]*[0-9])"),
    *(
        ("ip", rf"(?<![A-Za-z0-9:])\[?{address}\]?(?::[0-9]{{1,5}})?(?![A-Za-z0-9:])")
        for address in (
            rf"(?:{_HEX4}:){{7}}{_HEX4}",
            rf"(?:{_HEX4}:){{1,6}}(?::{_HEX4}){{1,6}}",
            rf"::(?:{_HEX4}(?::{_HEX4}){{0,6}})",
        )
    ),
    ("path", rf"{_NO_LETTER_BEFORE}[A-Za-z]:\\[^\s\"'`<>|:,;]{{0,900}}"),
    ("slashes", rf"(?<!{_PATH_CHARACTER}){_PATH_CHARACTER}{{0,255}}/{_PATH_CHARACTER}{{0,900}}"),
    (
        "dots",
        rf"(?<![A-Za-z0-9_.-])(?![-_]|{_NUMBER}(?![A-Za-z0-9_-]))"
        rf"{_LABEL}(?:\.{_LABEL}){{1,8}}(?::[0-9]{{1,5}}(?![0-9]))?",
    ),
    ("n", rf"{_NO_LETTER_BEFORE}0[xX][0-9A-Fa-f]{{1,64}}{_NO_LETTER_AFTER}"),
    ("n", rf"{_NO_LETTER_BEFORE}[0-9A-Fa-f]{{8,900}}{_NO_LETTER_AFTER}"),
    ("n", rf"(?:(?<![A-Za-z0-9_)\]>.-])[+-])?{_NUMBER}"),
)


def _lazily(make: Callable[[], re.Pattern[str]]) -> Callable[[], re.Pattern[str]]:
    """Compiled with the first failure: most commands meet none."""
    return functools.cache(make)


_PARTS = _lazily(lambda: re.compile("|".join(f"(?P<{kind}{at}>{one})" for at, (kind, one) in enumerate(_PATTERNS))))
_PLACEHOLDER = _lazily(lambda: re.compile("<(?:" + "|".join(_NAMES) + ")>"))
# A list of things of one kind is as one of them, however long it is.
_REPEATED = _lazily(
    lambda: re.compile("(<(?:" + "|".join(_NAMES) + r")>)(?:(?:[,;:/.x-]? ?|, ?(?:and|or) | (?:and|or|to) )\1){1,500}")
)
_COLOR = _lazily(lambda: re.compile("\x1b\\[[0-9;?]{0,20}[A-Za-z]"))


def _replacement(found: re.Match[str]) -> str:
    kind, whole = str(found.lastgroup).rstrip("0123456789"), found[0]
    if kind == "kept":
        return whole
    if kind in ("slashes", "dots"):
        return _name(kind, whole)
    if kind in ("url", "email", "path"):
        kept = whole.rstrip(".,;:!?)]}")
        return f"<{kind}>{whole[len(kept) :]}"
    return f"<{kind}>"


def _name(kind: str, whole: str) -> str:
    """A word with slashes or dots in it: the name of a file or machine, or a word like any other."""
    kept = whole.rstrip(".")
    end = whole[len(kept) :]
    if kind == "slashes":
        # `I/O`, `and/or`, `TCP/IP` are words.
        is_word = all(len(one) <= 3 and one.isalpha() for one in kept.split("/"))
        return whole if is_word else f"<path>{end}"
    name, _, port = kept.partition(":")
    last = name.rpartition(".")[2]
    if last.lower() in _words(_FILES):
        return f"<path>{f':{port}' if port else ''}{end}"
    if last in _words(_HOSTS) and name.islower():
        return f"<host>{end}"
    return _DIGITS().sub("<n>", whole)


@functools.cache
def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DIGITS = _lazily(lambda: re.compile(r"[0-9]{1,400}(?:\.[0-9]{1,400}){0,100}"))
