"""The validator behind the checks of parameters: the library's, with keywords that cannot fail on any value.

Responsible for: numbers that are infinite, huge or not numbers, long lists, and saying which pattern was at work when a
check was interrupted. Must not know: faults and their words, where a schema comes from.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from disbatch_protocol import patterns


class CheckInterruptedError(Exception):
    """Raised into a check by its caller, from a signal handler, to end it. `pattern`: the one that was being tried."""

    pattern: str | None = None


def compiled(schema: Any) -> Any:
    """A validator of this schema."""
    from referencing import Registry  # noqa: PLC0415  (imported late, like jsonschema)

    return _class()(patterns.without_dialect(schema), registry=Registry())


@functools.lru_cache(maxsize=1)
def _class() -> Any:
    import jsonschema  # noqa: PLC0415  (it takes half of the start time of a command that never needs a schema)

    own = {
        "multipleOf": _multiple_of,
        "uniqueItems": _unique_items,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
    }
    return jsonschema.validators.extend(patterns.validator_class(), own)


def _multiple_of(validator: Any, divisor: Any, value: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(value, "number") and not _is_multiple(value, divisor):
        yield _error(f"{value!r} is not a multiple of {divisor}")


def _is_multiple(value: Any, divisor: Any) -> bool:
    if isinstance(value, int) and isinstance(divisor, int):
        return value % divisor == 0
    if any(isinstance(one, float) and not math.isfinite(one) for one in (value, divisor)):
        return False
    from fractions import Fraction  # noqa: PLC0415  (half a megabyte, which a node without such a schema never needs)

    # As they are written: 19.99 is a multiple of 0.01, although the nearest binary numbers are not.
    return (Fraction(repr(value)) / Fraction(repr(divisor))).denominator == 1


def _unique_items(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    # The library compares each with each where they are objects: 20,000 would take a minute.
    if wanted and validator.is_type(value, "array") and len({_identity(one) for one in value}) < len(value):
        yield _error(f"{value!r} has non-unique elements")


def _identity(value: Any) -> Any:
    """The same for values that JSON Schema takes for equal, and only for those."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, (list, tuple)):
        return ("list", *map(_identity, value))
    if isinstance(value, Mapping):
        return ("object", frozenset((name, _identity(one)) for name, one in value.items()))
    return value if isinstance(value, Hashable) else ("other", repr(value))


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(value, "string") and not search(pattern, value):
        yield _error(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, parts: Mapping[str, Any], value: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(value, "object"):
        for pattern, part in parts.items():
            for name, one in value.items():
                if search(pattern, name):
                    yield from validator.descend(one, part, path=name, schema_path=pattern)


def search(pattern: str, text: str) -> bool:
    """Whether the pattern is found in the text."""
    try:
        return re.search(patterns.for_python(pattern), text) is not None
    except CheckInterruptedError as interruption:
        interruption.pattern = pattern
        raise


def _error(message: str) -> Any:
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415

    return ValidationError(message)
