"""Parameters of tasks: the JSON values that are allowed, and their size.

Raises UsageError for anything else; the message never holds a value that could be a secret.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

from disbatch_host.errors import UsageError

PARAMETERS_MAX = 8 * 2**20  # bytes of JSON; with two streams of output a document stays below MongoDB's 16 MB


def parse_json(text: str | bytes, what: str) -> Any:
    """Strict JSON, whole numbers in 64 bits. Raises UsageError, which gives the place of the error."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = f"column {error.colno}"
        where = where if error.lineno == 1 else f"line {error.lineno}, {where}"
        raise UsageError(f"{what}: not valid JSON, {error.msg} at {where}") from error
    check_numbers(text, what)
    return value


def check_numbers(text: str | bytes, what: str) -> None:
    """Refuse whole numbers beyond 64 bits: MongoDB cannot hold them, and elsewhere they would silently lose digits."""
    digits = _LONG_NUMBER_BYTES if isinstance(text, bytes) else _LONG_NUMBER
    if digits.search(text) is None:  # type: ignore[arg-type]
        return

    def check(number: str) -> int:
        if len(number) > len(str(_INTEGER_MIN)) or not _INTEGER_MIN <= int(number) <= _INTEGER_MAX:
            raise UsageError(
                f"{what}: expected whole numbers of at most 64 bits (up to {_INTEGER_MAX}), found a larger one; "
                "write it as a string, in double quotes"
            )
        return 0

    try:
        json.loads(text, parse_int=check)
    except RecursionError as error:
        raise UsageError(f"{what}: nested too deeply") from error


_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1
_LONG_NUMBER = re.compile(r"[0-9]{19}")
_LONG_NUMBER_BYTES = re.compile(rb"[0-9]{19}")


def check_size(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters, unless they are too large for a task."""
    size = len(orjson.dumps(parameters))
    if size > PARAMETERS_MAX:
        raise UsageError(
            f"expected parameters of at most {PARAMETERS_MAX} bytes, found {size}; "
            "put large data into a file and its path into the parameters"
        )
    return parameters


def checked(parameters: object) -> dict[str, Any]:
    """A program's parameters, as the same JSON that a command would read. Raises UsageError if they
    are not a mapping of JSON values: the plugin must get what was meant, on every store."""
    if not isinstance(parameters, Mapping):
        raise UsageError(f"expected a mapping of parameters, found {type(parameters).__name__}")
    try:
        values = {_key(name, ""): _plain(value, str(name)) for name, value in parameters.items()}
        check_size(values)
    except (RecursionError, orjson.JSONEncodeError) as error:  # nested beyond every limit, or half a surrogate pair
        raise UsageError("the parameters: expected values that JSON can hold, found one that it cannot") from error
    return values


def _plain(value: object, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # for a member of an enumeration, its value
    if isinstance(value, int):
        if not _INTEGER_MIN <= value <= _INTEGER_MAX:
            raise UsageError(f"parameter {where}: expected a whole number of at most 64 bits, found a larger one")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"parameter {where}: expected a finite number, found {value}")
        return float(value)
    if isinstance(value, Mapping):
        return {_key(name, where): _plain(one, f"{where}.{name}") for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, where) for one in value]
    raise UsageError(f"parameter {where}: expected a value that JSON can hold, found {type(value).__name__}")


def _key(name: object, where: str) -> str:
    if isinstance(name, str):
        return str.__str__(name)
    inside = f" in parameter {where}" if where else ""
    raise UsageError(f"expected strings as parameter names, found {type(name).__name__}{inside}")
