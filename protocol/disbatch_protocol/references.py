"""The references inside a JSON Schema (2020-12): where they lead, and the circles that have no end.

Responsible for: `$ref`, `$dynamicRef` and the anchors that they name. Must not know: parameters, anything outside the
schema: nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from disbatch_protocol.faults import Fault, kind_of, pointer_to

_END = object()
_DATA = ("default", "const", "enum", "examples")  # their content is not a schema
_DEFINITIONS = ("$defs", "definitions")
_NAMES = (*_DEFINITIONS, "properties", "patternProperties", "dependentSchemas")  # schemas by names of their author's


def part_at(whole: Any, reference: str) -> Any:
    """The part of the schema that a reference into it (`#`, `#/a/b`, `#anchor`) names; None if there is none."""
    if not reference.startswith("#"):
        return None
    fragment = unquote(reference[1:])
    if fragment and not fragment.startswith("/"):
        return _anchored(whole, fragment)
    found = whole
    for step in fragment.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            found = found.get(name) if isinstance(found, Mapping) else None
    return found


def parts_of(
    schema: Any, *, with_definitions: bool = True
) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    """Every object in a schema that may be one of its parts, with the path to it."""
    rest: list[tuple[tuple[str | int, ...], Any, bool]] = [((), schema, False)]
    while rest:
        path, one, is_names = rest.pop()
        if isinstance(one, Mapping):
            if not is_names:
                yield path, one
            for name, inner in one.items():
                if is_names:
                    rest.append(((*path, name), inner, False))
                elif name not in _DATA and (with_definitions or name not in _DEFINITIONS):
                    rest.append(((*path, name), inner, name in _NAMES))
        elif isinstance(one, list):
            rest.extend(((*path, index), inner, False) for index, inner in enumerate(one))


def reference_faults(schema: Any) -> list[Fault]:
    """The references that lead out of a schema, to nothing, to something that is not a schema, or in a circle. Pointers
    are relative to it."""
    faults = []
    for path, part in parts_of(schema):
        for word in ("$ref", "$dynamicRef"):
            reference = part.get(word)
            if isinstance(reference, str) and (fault := _fault_of(schema, reference, (*path, word))) is not None:
                faults.append(fault)
    faults.sort(key=lambda fault: fault.pointer)
    return faults or _circle_faults(schema)


def _fault_of(schema: Any, reference: str, path: tuple[str | int, ...]) -> Fault | None:
    pointer = pointer_to(path)
    if not reference.startswith("#"):
        message = f'expected a reference into this schema ("#/$defs/..."), found "{reference:.80}"'
        return Fault(pointer=pointer, message=message, hint="nothing is fetched; copy its target into $defs")
    target = part_at(_resource_of(schema, path), reference)
    if isinstance(target, (Mapping, bool)):
        return None
    if target is not None:
        message = f'the reference "{reference:.80}" leads to {kind_of(target)}, which is not a schema'
        return Fault(pointer=pointer, message=message, hint='it leads to the place of a schema, as in "#/$defs/name"')
    message = f'the reference "{reference:.80}" leads nowhere in this schema'
    hint = ""
    if not reference.startswith("#/") and isinstance(schema, Mapping):
        name = reference[1:]
        word = next((word for word in ("$defs", "definitions", "properties") if name in _names(schema.get(word))), None)
        hint = f'did you mean "#/{word}/{name}"?' if word else f'no part has the "$anchor" "{name:.40}"'
    return Fault(pointer=pointer, message=message, hint=hint)


def _names(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _resource_of(schema: Any, path: tuple[str | int, ...]) -> Any:
    """The part that references at this place begin at: the nearest one around it with an `$id`, else the whole."""
    found = inner = schema
    for step in path[:-1]:
        inner = inner[step]
        if isinstance(inner, Mapping) and isinstance(inner.get("$id"), str):
            found = inner
    return found


def _anchored(schema: Any, name: str) -> Any:
    for _, part in parts_of(schema):
        if name in (part.get("$anchor"), part.get("$dynamicAnchor")):
            return part
    return None


def _circle_faults(schema: Any) -> list[Fault]:
    """The circles of references that no check comes out of, each at a reference that is part of it."""
    faults: list[Fault] = []
    is_done: dict[int, bool] = {}  # False while it is being followed
    for part in _used_parts(schema):
        trail = [(part, _certain(schema, part))] if id(part) not in is_done else []
        is_done.setdefault(id(part), False)
        while trail:
            one, rest = trail[-1]
            target = next(rest, _END)
            if target is _END:
                is_done[id(one)] = True
                trail.pop()
            elif isinstance(target, Mapping) and id(target) not in is_done:
                is_done[id(target)] = False
                trail.append((target, _certain(schema, target)))
            elif isinstance(target, Mapping) and not is_done[id(target)]:
                circle = [followed for followed, _ in trail]
                circle = circle[next(index for index, followed in enumerate(circle) if followed is target) :]
                faults.append(_circle_fault(schema, circle))
    return faults


def _circle_fault(schema: Any, circle: list[Mapping[str, Any]]) -> Fault:
    closing = next(part for part in reversed(circle) if "$ref" in part or "$dynamicRef" in part)
    word = "$ref" if "$ref" in closing else "$dynamicRef"
    path = next(path for path, part in parts_of(schema) if part is closing)
    message = f'the reference "{closing[word]:.80}" leads in a circle: the schema refers to itself without end'
    hint = "let it lead to the part that is meant"
    return Fault(pointer=pointer_to((*path, word)), message=message, hint=hint)


def _used_parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """The parts that a check can come to: a definition that nothing refers to harms nobody."""
    seen: set[int] = set()
    rest = [schema]
    while rest:
        for _, part in parts_of(rest.pop(), with_definitions=False):
            if id(part) not in seen:
                seen.add(id(part))
                yield part
                references = (part.get("$ref"), part.get("$dynamicRef"))
                targets = [part_at(schema, one) for one in references if isinstance(one, str)]
                rest += [one for one in targets if isinstance(one, Mapping) and id(one) not in seen]


def _certain(whole: Any, part: Mapping[str, Any]) -> Iterator[Any]:
    """The parts that a check of any value with this one goes on with, at the same value."""
    for word in ("$ref", "$dynamicRef"):
        if isinstance(part.get(word), str):
            yield part_at(whole, part[word])
    yield from (part[word] for word in ("not", "if") if word in part)
    for word in ("allOf", "oneOf"):
        yield from part.get(word) or ()
    yield from (part.get("anyOf") or ())[:1]  # the others only where it does not fit
