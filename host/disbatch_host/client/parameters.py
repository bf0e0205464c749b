"""Parameters of tasks: the JSON values that are allowed, their size, and how a typed text becomes one.

Raises UsageError for anything else; the message never holds a value that could be a secret.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from disbatch_host.errors import UsageError
from disbatch_protocol.event_values import DEPTH_MAX as NESTING_MAX
from disbatch_protocol.parameter_types import Expected

if TYPE_CHECKING:
    from disbatch_protocol.parameters import ParameterSchema

PARAMETERS_MAX = 8 * 2**20  # bytes of JSON; with two streams of output a document stays below MongoDB's 16 MB


def parse_json(text: str | bytes, what: str) -> Any:
    """Strict JSON: whole numbers in 64 bits, no name twice in an object, nothing that one of the stores cannot hold.
    Raises UsageError, which gives the place of the error."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = f"column {error.colno}"
        where = where if error.lineno == 1 else f"line {error.lineno}, {where}"
        raise UsageError(f"{what}: not valid JSON, {error.msg} at {where}") from error
    data = text.encode() if isinstance(text, str) else text
    if _LONG_NUMBER.search(data) is not None:
        _check_numbers(data, what)
    # Each row of NDJSON passes here: with as many colons as names none comes twice, and only lists can be nested.
    if type(value) is not dict or data.count(_COLON) != len(value) or _BRACKET in data or _BACKSLASH in data:
        _check_objects(data, value, what)
    return value


def from_text(text: str, expected: Expected, what: str, *, guesses: bool = False) -> Any:
    """A text that somebody typed, as the schema means it: the one rule for `-p` and for the columns of a file.

    A text, where the schema allows this one; else JSON where it allows other types, and TRUE and FALSE as spreadsheets
    write them. Where the schema says nothing it is a text; with `guesses` (`-p`) JSON if it is valid JSON, except for a
    number that would not come back as it was typed (1.10, 1234e56). Raises UsageError for JSON that cannot be used, and
    without `guesses` for a text that is not valid JSON where the schema allows no string."""
    if expected.takes(text) or not (expected.is_known or guesses):
        return text
    if "boolean" in expected.types and text.lower() in _BOOLEANS and expected.is_known:
        return _BOOLEANS[text.lower()]
    if (guesses or "string" in expected.types) and not is_json(text):
        return text
    value = parse_json(text, what)
    if expected.is_known:
        return text if "string" in expected.types and not expected.has_type_of(value) else value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return text if is_number and orjson.dumps(value).decode() != text.strip() else value


def misspelt_note(
    names: Iterable[str], schema: ParameterSchema | None, *, but: Container[str] = frozenset()
) -> str | None:
    """One line about parameters of one task that the plugin's schema takes without naming them, and that are probably
    misspelt. `but`: those of which that has been said."""
    if schema is None or schema.is_open:
        return None
    found = schema.places.misspelt(islice(names, NAMES_MAX))
    notes = [
        f'the plugin names no parameter "{name:.60}", did you mean "{meant}"?'
        for name, meant in found.items()
        if name not in but
    ]
    return " ".join(notes) or None


NAMES_MAX = 200  # of parameters that are looked at for misspelt ones: more are data


def is_json(text: str) -> bool:
    """Whether it is JSON at all."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


_BOOLEANS: Mapping[str, bool] = {"true": True, "false": False}


def _check_numbers(text: bytes, what: str) -> None:
    """Refuse whole numbers beyond 64 bits: MongoDB cannot hold them, and elsewhere they would silently lose digits."""

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
        raise UsageError(f"{what}: {_TOO_DEEP}") from error


_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def _check_objects(data: bytes, value: Any, what: str) -> None:
    """Refuse a name twice in an object, one with a NUL, and too many levels. Text that cannot hold one is only
    counted."""
    opened = data.count(b"{") + data.count(b"[")
    if opened == 0:
        return
    if opened > NESTING_MAX and is_deeper(value, NESTING_MAX):
        raise UsageError(f"{what}: {_TOO_DEEP}")
    names = len(value) if opened == 1 and type(value) is dict else _names_in(value)
    # Each name has a colon of its own: with no more of them than names, none comes twice.
    is_plain = names == data.count(b":") or names == len(_NAME_END.findall(data))
    if is_plain and b"\\u0000" not in data:
        return
    json.loads(data, object_pairs_hook=lambda pairs: _check_names([name for name, _ in pairs], what))


_COLON, _BRACKET, _BACKSLASH = b":[\\"
_NAME_END = re.compile(rb'"\s*:')


def _check_names(names: Sequence[str], what: str) -> None:
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{what}: the name {double!r:.60} occurs twice in one object; remove one of them")
    if any("\0" in name for name in names):
        raise UsageError(f"{what}: {_NUL_IN_NAME}")


def _names_in(value: Any) -> int:
    """The number of names in an object and all those inside it."""
    if type(value) is dict:
        return len(value) + sum(_names_in(one) for one in value.values() if type(one) in _CONTAINERS)
    if type(value) is list:
        return sum(_names_in(one) for one in value if type(one) in _CONTAINERS)
    return 0


def is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists are nested in more levels than this."""
    found = [value]
    for _ in range(levels + 1):
        found = [one for one in found if isinstance(one, (Mapping, list, tuple))]
        if not found:
            return False
        found = [inner for one in found for inner in (one.values() if isinstance(one, Mapping) else one)]
    return True


_CONTAINERS = (dict, list)
_TOO_DEEP = f"expected at most {NESTING_MAX} nested levels, found more"
_NUL_IN_NAME = "expected names without a NUL character, found one with it"


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
    if is_deeper(parameters, NESTING_MAX):
        raise UsageError(f"the parameters: {_TOO_DEEP}")
    try:
        values = {_key(name, ""): _plain(value, str(name)) for name, value in parameters.items()}
        check_size(values)
    except orjson.JSONEncodeError as error:  # half a surrogate pair
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
        if "\0" in name:
            raise UsageError(f"the parameters: {_NUL_IN_NAME}")
        return str.__str__(name)
    inside = f" in parameter {where}" if where else ""
    raise UsageError(f"expected strings as parameter names, found {type(name).__name__}{inside}")
