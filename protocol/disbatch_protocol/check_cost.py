"""How long a check by a JSON Schema can take at most, found without doing it. Pure.

Responsible for: telling checks that are certainly quick from those that may not be. Must not know: what fits a schema,
what becomes of a check that may be slow.

Rules:
1. "Quick" is a promise: wherever the bound is not known (a schema that refers to itself, a pattern that may try many
   ways), the check is not quick.
2. The bound is of the schema and of the size of the values alone; finding it costs far less than a check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from disbatch_protocol.pattern_cost import steps_of
from disbatch_protocol.references import part_at

_QUICK_MICROSECONDS = 10_000.0  # everything else in an event loop waits meanwhile
_PART_MICROSECONDS = 2.0  # to try one keyword on one value; measured 0.3 to 1, and errors are looked for twice
_STEP_MICROSECONDS = 0.03  # of the engine of regular expressions, for one character
_FLAT_MAX = 64  # parameters
_TEXT_MAX = 2**24  # characters: more than a task may have
_DEPTH_MAX = 200  # levels; a manifest has at most 100, and a longer chain of references is not worth following


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckCost:
    """The bound on a check by one schema, in keywords tried. `tries` and `degree` bound the steps of its patterns on a
    string of n characters: tries * (n + 1) ** degree."""

    once: float = 1.0  # by parts that see one value at most
    each: float = 0.0  # by parts that may see every value
    tries: float = 0.0  # of patterns that see one value
    tries_each: float = 0.0  # of patterns that may see every value
    degree: int = 0

    def plus(self, other: CheckCost, *, for_each: bool = False) -> CheckCost:
        """With a part that sees one value, or `for_each` every value."""
        return CheckCost(
            once=self.once + (0.0 if for_each else other.once),
            each=self.each + other.each + (other.once if for_each else 0.0),
            tries=self.tries + (0.0 if for_each else other.tries),
            tries_each=self.tries_each + other.tries_each + (other.tries if for_each else 0.0),
            degree=max(self.degree, other.degree),
        )

    def microseconds(self, count: int, longest: int) -> float:
        """For so many values, the longest string of which has so many characters."""
        parts = self.once + (self.each + 1.0) * count
        steps = 0.0
        if self.tries or self.tries_each:
            steps = (self.tries + self.tries_each * count) * float(longest + 1) ** self.degree
        return parts * _PART_MICROSECONDS + steps * _STEP_MICROSECONDS


class SchemaCost:
    """The bound for a schema of parameters. A long text in one parameter makes the pattern of another no slower."""

    def __init__(self, rest: CheckCost, named: Mapping[str, CheckCost]) -> None:
        """`named`: those parameters that have patterns. `rest`: the schema without them."""
        self._rest = rest
        self._named = named
        self._most = int((_QUICK_MICROSECONDS / _PART_MICROSECONDS - rest.once) / (rest.each + 1.0))
        self._longest = self._longest_by_name()

    def is_quick_for(self, value: Any) -> bool:
        """Whether a check of this value certainly takes less than a few hundredths of a second."""
        longest = self._longest
        if longest is not None and type(value) is dict and len(value) <= _FLAT_MAX:  # as most are
            for name, inner in value.items():
                kind = type(inner)
                if kind is str:
                    if name in longest and len(inner) > longest[name]:
                        break
                elif kind is dict or kind is list:
                    break
            else:
                return True
        return self._is_quick_by_size(value)

    def _is_quick_by_size(self, value: Any) -> bool:
        size = _size_of(value, self._most)
        if size is None:
            return False
        cost = self._rest.microseconds(*size)
        if isinstance(value, Mapping):
            for name in self._named.keys() & value.keys():
                inner = _size_of(value[name], self._most)
                cost += self._named[name].microseconds(*inner) if inner is not None else _QUICK_MICROSECONDS
        return cost <= _QUICK_MICROSECONDS

    def _longest_by_name(self) -> Mapping[str, int] | None:
        """For parameters without lists and objects in them: how long a text may be in those that have patterns; None if
        the others decide as well."""
        rest = self._rest
        if rest.tries or rest.tries_each or rest.microseconds(2 * _FLAT_MAX + 1, 0) > _QUICK_MICROSECONDS / 2:
            return None
        share = _QUICK_MICROSECONDS / 2 / max(1, len(self._named))
        found = {}
        for name, cost in self._named.items():
            steps = share - cost.microseconds(1, 0)
            tries = (cost.tries + cost.tries_each) * _STEP_MICROSECONDS
            found[name] = -1 if steps < tries else int((steps / tries) ** (1 / max(1, cost.degree))) - 1
            if cost.degree == 0 and steps >= tries:
                found[name] = _TEXT_MAX
        return found


def cost_of(schema: Any) -> SchemaCost | None:
    """The bound for this schema; None if there is none, or it is not known."""
    weighing = _Weighing(schema)
    named = {}
    try:
        if isinstance(schema, Mapping) and isinstance(schema.get("properties"), Mapping):
            own = {name: weighing.cost_of(part, 1) for name, part in schema["properties"].items()}
            named = {name: cost for name, cost in own.items() if cost.tries or cost.tries_each}
            inner = {name: part for name, part in schema["properties"].items() if name not in named}
            schema = {**schema, "properties": inner}
        return SchemaCost(weighing.cost_of(schema, 0), named)
    except _UnboundedError:
        return None


def is_small(document: Any, most: int) -> bool:
    """Whether a JSON value has at most this many values in it."""
    return _size_of(document, most) is not None


def _size_of(value: Any, most: int) -> tuple[int, int] | None:
    """How many values and names there are, and the length of the longest; None if there are more than `most`."""
    count, longest, rest = 1, 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            longest = max(longest, len(one))
        elif isinstance(one, Mapping):
            count += 2 * len(one)
            if count > most:
                return None
            for name, inner in one.items():
                longest = max(longest, len(name))
                if isinstance(inner, str):
                    longest = max(longest, len(inner))
                elif isinstance(inner, (Mapping, list)):
                    rest.append(inner)
        elif isinstance(one, list):
            count += len(one)
            if count > most:
                return None
            rest.extend(one)
    return (count, longest) if count <= most else None


class _UnboundedError(Exception):
    """There is no bound, or it is not known."""


_IN_PLACE = ("not", "if", "then", "else")
_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
_FOR_EACH = ("items", "additionalProperties", "propertyNames", "contains")
_UNBOUNDED = frozenset({"unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"})


class _Weighing:
    """Adds up the parts of one schema; references are followed, and a circle of them has no bound."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole
        self._known: dict[int, CheckCost] = {}
        self._open: set[int] = set()

    def cost_of(self, part: Any, depth: int) -> CheckCost:
        if not isinstance(part, Mapping):
            return CheckCost()
        if (known := self._known.get(id(part))) is not None:
            return known
        if id(part) in self._open or depth > _DEPTH_MAX or not _UNBOUNDED.isdisjoint(part):
            raise _UnboundedError
        if "$id" in part and depth > 0 and part is not self._whole:  # its references lead elsewhere
            raise _UnboundedError
        self._open.add(id(part))
        cost = self._sum(part, depth + 1)
        self._open.discard(id(part))
        self._known[id(part)] = cost
        return cost

    def _sum(self, part: Mapping[str, Any], depth: int) -> CheckCost:
        cost = CheckCost(once=1.0 + len(part) + _literals(part), each=float("uniqueItems" in part))
        inner = [part[word] for word in _IN_PLACE if word in part]
        inner += [one for word in _IN_PLACE_LISTS for one in _list(part.get(word))]
        inner += [*_map(part.get("dependentSchemas")).values(), *_map(part.get("properties")).values()]
        if "$ref" in part:
            inner.append(self._target(part["$ref"]))
        for one in inner:
            cost = cost.plus(self.cost_of(one, depth))
        patterns = _map(part.get("patternProperties"))
        for one in (*(part[word] for word in _FOR_EACH if word in part), *_list(part.get("prefixItems"))):
            cost = cost.plus(self.cost_of(one, depth), for_each=True)
        for one in patterns.values():
            cost = cost.plus(self.cost_of(one, depth), for_each=True)
        for pattern in (*patterns, *patterns, part.get("pattern")):  # those of names are tried twice
            if isinstance(pattern, str):
                cost = cost.plus(_cost_of_pattern(pattern))
        return cost

    def _target(self, reference: Any) -> Any:
        target = part_at(self._whole, reference) if isinstance(reference, str) else None
        if target is None:
            raise _UnboundedError
        return target


def _cost_of_pattern(pattern: str) -> CheckCost:
    bound = steps_of(pattern)
    if bound is None:
        raise _UnboundedError
    return CheckCost(tries=bound.tries, degree=bound.degree)


def _literals(part: Mapping[str, Any]) -> int:
    """The values that a value is compared with."""
    words = ("enum", "const", "required", "dependentRequired")
    counts = [_size_of(part[word], 10**9) for word in words if word in part]
    return sum(count[0] for count in counts if count is not None)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
