"""Parameters as people type them: `-p key=value`, `key:=json`, `key=@file`, a JSON object, NDJSON on stdin.

Raises UsageError for whatever cannot be parameters; the message never holds a value that could be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from disbatch_host.errors import UsageError

PARAMETERS_MAX = 8 * 2**20  # bytes of JSON; with two streams of output a document stays below MongoDB's 16 MB
_PAIR = re.compile(r"([^=]+?)(:=|=)(.*)", re.DOTALL)


def parameters_of(text: str | None, pairs: Sequence[str]) -> Mapping[str, Any]:
    """The parameters of one task: a JSON object, or pairs, or the object with the pairs over it."""
    parameters: dict[str, Any] = {}
    if text is not None:
        value = parse_json(text, "the parameters")
        if not isinstance(value, dict):
            raise UsageError(f"expected the parameters as a JSON object, found {_kind(value)}; write '{{\"name\": 1}}'")
        parameters |= value
    for pair in pairs:
        name, value = parse_pair(pair)
        parameters[name] = value
    return check_size(parameters)


def parse_pair(pair: str) -> tuple[str, Any]:
    """`key=value`: the value as JSON where it is valid JSON, else as a string; `key:=value`: always JSON;
    `key=@file`: the file's content, likewise."""
    match = _PAIR.fullmatch(pair)
    if match is None:
        raise UsageError("expected -p key=value (or key:=json, key=@file), found no '=' in one of them")
    name, mark, text = match[1], match[2], match[3]
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"-p {name}: file {text[1:]} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(
                f"-p {name}: expected a file in UTF-8, found byte {error.object[error.start]:#x}"
            ) from error
    if mark == ":=":
        return name, parse_json(text, f"-p {name}")
    try:
        return name, orjson.loads(text)
    except orjson.JSONDecodeError:
        return name, text


def parse_json(text: str | bytes, what: str) -> Any:
    """Strict JSON. Raises UsageError, saying where it is not."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{what}: not valid JSON, {error.msg} at line {error.lineno}, column {error.colno}") from error


def read_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number from 1, parameters) of each line of NDJSON that is not empty."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            value = parse_json(line, f"line {number}")
            if not isinstance(value, dict):
                raise UsageError(f"line {number}: expected a JSON object, found {_kind(value)}")
            # Never longer as it is stored than as it was written, but for a line of escapes.
            yield number, value if len(line) <= PARAMETERS_MAX // 8 else check_size(value)


def check_size(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters, unless they are too large for a task."""
    size = len(orjson.dumps(parameters))
    if size > PARAMETERS_MAX:
        raise UsageError(
            f"expected parameters of at most {PARAMETERS_MAX} bytes, found {size}; "
            "put large data into a file and its path into the parameters"
        )
    return parameters


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
