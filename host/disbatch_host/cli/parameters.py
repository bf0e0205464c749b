"""Parameters as people type them: `-p key=value`, `key:=json`, `key=@file`, a JSON object, NDJSON on stdin.

Raises UsageError for anything that cannot be parameters; the message never holds a value that could be a secret.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disbatch_host.client.parameters import PARAMETERS_MAX, check_size, from_text, parse_json
from disbatch_host.errors import UsageError
from disbatch_protocol.parameter_types import Expected

if TYPE_CHECKING:
    from disbatch_protocol.parameters import ParameterSchema

_PAIR = re.compile(r"([^=]+?)(:=|=)(.*)", re.DOTALL)


def parameters_of(
    text: str | bytes | None, pairs: Sequence[str], schema: ParameterSchema | None = None
) -> Mapping[str, Any]:
    """The parameters of one task: a JSON object, pairs, or an object overridden by pairs, which are read as the schema
    of the plugin says, where it is known."""
    parameters: dict[str, Any] = {}
    if text is not None:
        value = parse_json(text, "the parameters")
        if not isinstance(value, dict):
            raise UsageError(f"expected a JSON object of parameters, found {_kind(value)}; write '{{\"name\": 1}}'")
        parameters |= value
    for pair in pairs:
        name, value = parse_pair(pair, schema)
        parameters[name] = value
    return check_size(parameters)


def one_text(words: Sequence[str], schema: ParameterSchema | None) -> str | None:
    """The JSON text, or '-', among the arguments of a command; None if there is none. Raises UsageError for pairs
    without -p, and for more than one."""
    pairs = [one for one in words if _BARE_PAIR.match(one)]
    if pairs:
        meant = " ".join(f"-p {_shown_pair(one, schema)}" for one in pairs)
        raise UsageError(f"expected a JSON object of parameters, found something else; did you mean {meant}?")
    if len(words) > 1:
        raise UsageError(
            f"expected one JSON object of parameters, found {len(words)} arguments; put it in single quotes"
        )
    return words[0] if words else None


_BARE_PAIR = re.compile(r"[^\W\d][\w.-]*:?=")


def _shown_pair(pair: str, schema: ParameterSchema | None) -> str:
    name, mark, text = _parts_of(pair)
    is_secret = schema is not None and schema.secrets({name: text})
    return f"{name}{mark}…" if is_secret else shlex.quote(pair)


def read_text() -> bytes:
    """All of standard input, for parameters that come from it."""
    try:
        text = sys.stdin.buffer.read(_TEXT_MAX + 1)
    except OSError as error:
        raise UsageError(f"stdin cannot be read: {error.strerror}") from error
    if not text.strip():
        raise UsageError("expected a JSON object of parameters on stdin, found nothing")
    if len(text) > _TEXT_MAX:
        raise UsageError(f"expected at most {_TEXT_MAX} bytes of parameters on stdin, found more")
    return text


_TEXT_MAX = 4 * PARAMETERS_MAX  # with blanks and escapes, before check_size measures the result


def parse_pair(pair: str, schema: ParameterSchema | None = None) -> tuple[str, Any]:
    """`key=value`: the value as a text where the schema says string, or where the number would not come back exactly as
    typed; else as JSON if it is valid JSON, else as a text. `key:=value`: always JSON; `key=@file`: the file's content,
    likewise."""
    name, mark, text = _parts_of(pair)
    if text.startswith("@"):
        text = _read(name, text[1:])
    if mark == ":=":
        return name, parse_json(text, f"-p {name}")
    expected = Expected() if schema is None else schema.places.expected_at((name,))
    return name, from_text(text, expected, f"-p {name}", guesses=True)


def _parts_of(pair: str) -> tuple[str, str, str]:
    match = _PAIR.fullmatch(pair)
    if match is None:
        found = "no name before it" if pair.startswith(("=", ":=")) else "no '=' in one of them"
        raise UsageError(f"expected -p key=value (or key:=json, key=@file), found {found}")
    return match[1], match[2], match[3]


def _read(name: str, path: str) -> str:
    if not path:
        raise UsageError(
            f"-p {name}: expected the name of a file after '@', found nothing; for the text, write '{name}:=\"@\"'"
        )
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"-p {name}: file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"-p {name}: expected a file in UTF-8, found byte {error.object[error.start]:#x}") from error


def read_lines(lines: Iterable[bytes | None]) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """(line number from 1, parameters) for each nonempty line of NDJSON; None is passed on."""
    number = 0
    for line in lines:
        if line is None:
            yield number, None
            continue
        number += 1
        if line.strip():
            value = parse_json(line.rstrip(b"\r\n"), f"line {number}")
            if not isinstance(value, dict):
                raise UsageError(f"line {number}: expected a JSON object, found {_kind(value)}")
            # Stored no longer than written, except for a line of escapes.
            yield number, value if len(line) <= PARAMETERS_MAX // 8 else check_size(value)


def lines_as_they_come(descriptor: int) -> Iterator[bytes | None]:
    """The lines of a descriptor; None after a pause, so that the lines so far can be processed."""
    rest: list[bytes] = []  # of a line that is not complete yet
    is_idle = False
    while True:
        try:
            if not is_idle and not select.select([descriptor], [], [], _MOMENT_SECONDS)[0]:
                is_idle = True
                yield None
            block = os.read(descriptor, _BLOCK)
        except OSError as error:
            raise UsageError(f"stdin cannot be read: {error.strerror}") from error
        is_idle = False
        if not block:
            break
        first, *others = block.split(b"\n")
        rest.append(first)
        for line in others:
            yield b"".join(rest)
            rest = [line]
    if any(rest):
        yield b"".join(rest)


_MOMENT_SECONDS = 0.1
_BLOCK = 2**16


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
