"""A form that is filled in, and the value that a filled one stands for. Pure.

Responsible for: filling the fields of `forms`, and reading them back. Must not know: HTML, tasks, whether a value fits
its schema.

Rules:
1. What was filled in comes back the same: a value that a field could not give back makes it a field of JSON.
2. An empty field is a value that is not given; who means an empty text writes it as JSON.
3. A secret is never filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from disbatch_host.web.forms import Field, escaped, is_number, json_of
from disbatch_protocol.masks import MASK

_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MISSING = object()


class NotGivenError(ValueError):
    """What was filled in is no value: in words, as part of a sentence."""


def filled(fields: Sequence[Field], value: Any) -> tuple[tuple[Field, ...], dict[str, Any]]:
    """The fields with an object filled in, and what of it has no field. Secrets stay empty."""
    given = value if isinstance(value, Mapping) else {}
    known = {one.key for one in fields}
    return (
        tuple(_filled(one, given.get(one.key, _MISSING)) for one in fields),
        {name: one for name, one in given.items() if name not in known},
    )


def _filled(one: Field, value: Any) -> Field:
    """Rule 1."""
    if one.is_secret:
        return replace(one, text="")
    if one.kind == "json":
        return _as_json(one, value)
    if one.kind in ("group", "variants"):
        return _filled_group(one, value)
    if value is _MISSING:
        return replace(one, text="")
    found = replace(one, text=_text_of(one, value))
    return found if _gives_back(found, value) else _as_json(one, value)


def _filled_group(one: Field, value: Any) -> Field:
    if value is _MISSING:
        fields = tuple(_filled(inner, _MISSING) for inner in one.fields)
        return replace(one, fields=fields, variants=tuple(_filled(inner, _MISSING) for inner in one.variants), text="")
    if one.kind == "group":
        fields, rest = filled(one.fields, value)
        found = replace(one, fields=fields)
        return found if isinstance(value, Mapping) and not rest and _gives_back(found, value) else _as_json(one, value)
    for variant in one.variants:
        whole = _filled(variant, value)
        if whole.kind == "group" and _has_constants(variant, value):
            others = tuple(whole if other is variant else other for other in one.variants)
            return replace(one, variants=others, text=variant.key)
    return _as_json(one, value)


def _has_constants(variant: Field, value: Any) -> bool:
    fixed = [one for one in variant.fields if one.kind == "radio" and len(one.choices) == 1]
    return isinstance(value, Mapping) and all(json_of(value.get(one.key)) == one.choices[0][0] for one in fixed)


def _as_json(one: Field, value: Any) -> Field:
    if one.is_secret or value is _MISSING:
        return replace(one, kind="json" if one.kind != "password" else "password", text="")
    return replace(one, kind="json", text=json_of(value, is_pretty=True))


def _text_of(one: Field, value: Any) -> str:
    if one.kind in ("radio", "select", "boolean"):
        return json_of(value)
    if one.kind == "lines" and isinstance(value, list):
        return "\n".join(inner if isinstance(inner, str) else json_of(inner) for inner in value)
    return value if isinstance(value, str) else json_of(value)


def _gives_back(one: Field, value: Any) -> bool:
    """Whether a browser would send the value again as it is."""
    texts = dict(_texts(one))
    if one.kind not in ("textarea", "lines", "json", "group") and any("\n" in text for text in texts.values()):
        return False
    if any("\r" in text or "\0" in text for text in texts.values()) or (
        one.kind == "textarea" and one.text.startswith("\n")
    ):
        return False
    if one.kind == "date" and not _DATE.fullmatch(one.text):
        return False
    if one.kind in ("email", "url") and one.text != one.text.strip():
        return False
    if one.kind == "group" and any(inner.is_secret for inner in one.fields):
        return True  # they stay empty on purpose
    try:
        return _same(_read(one, texts), value)
    except NotGivenError:
        return False


def _same(found: Any, value: Any) -> bool:
    """True is not 1, though Python says so."""
    return found is not _MISSING and json_of(found) == json_of(value)


def _texts(one: Field) -> Iterator[tuple[str, str]]:
    if one.kind == "group":
        for inner in one.fields:
            yield from _texts(inner)
    elif one.kind == "variants":
        yield one.name, one.text
        for inner in one.variants:
            yield from _texts(inner)
    else:
        yield one.name, one.text


def read(fields: Sequence[Field], texts: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The object that a filled form stands for, and what is wrong with fields, by their names."""
    found: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for one in fields:
        try:
            value = _read(one, texts, faults)
        except NotGivenError as error:
            faults[one.name] = str(error)
            continue
        if value is not _MISSING:
            found[one.key] = value
    return found, faults


def _read(one: Field, texts: Mapping[str, str], faults: dict[str, str] | None = None) -> Any:
    text = texts.get(one.name, "").replace("\r\n", "\n")
    if texts.get(f"as{one.name}") == "json" or one.kind == "json":
        return _from_json(text)
    match one.kind:
        case "group":
            return _read_group(one, texts, faults)
        case "variants":
            chosen = next((inner for inner in one.variants if inner.key == text), None)
            return _MISSING if chosen is None else _read_group(chosen, texts, faults)
        case "radio" | "select" | "boolean":
            return _from_json(text)
        case "number":
            return _number(text.strip(), is_whole=one.is_whole)
        case "lines":
            lines = [line for line in text.split("\n") if line.strip()]
            if not lines:
                return [] if one.is_required else _MISSING
            return (
                lines
                if one.item == "string"
                else [_number(line.strip(), is_whole=one.item == "integer") for line in lines]
            )
    return text or _MISSING


def _read_group(one: Field, texts: Mapping[str, str], faults: dict[str, str] | None) -> Any:
    own: dict[str, str] = {}
    found, own = read(one.fields, texts)
    if own:
        if faults is None:
            raise NotGivenError(next(iter(own.values())))
        faults |= own
    is_touched = any(texts.get(name) for name, _ in _texts(one))  # an empty text of one that is not given is no value
    return found if one.is_required or (found and is_touched) else _MISSING


def not_given(fields: Sequence[Field], value: Mapping[str, Any]) -> Iterator[Field]:
    """The fields of required values that an object lacks, of objects within it as well."""
    for one in fields:
        inner = value.get(one.key, _MISSING)
        if inner is _MISSING:
            if one.is_required:
                yield one
        elif one.kind == "group" and isinstance(inner, Mapping):
            yield from not_given(one.fields, inner)
        elif one.kind == "variants" and isinstance(inner, Mapping):
            chosen = next((variant for variant in one.variants if _has_constants(variant, inner)), None)
            yield from () if chosen is None else not_given(chosen.fields, inner)


def _from_json(text: str) -> Any:
    if not text.strip():
        return _MISSING
    try:
        return orjson.loads(text)
    except ValueError as error:
        raise NotGivenError(f"expected JSON, found something else: {str(error)[:100]}") from error


def _number(text: str, *, is_whole: bool) -> Any:
    if not text:
        return _MISSING
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        found = orjson.loads(text)
    except ValueError:
        found = None
    if not is_number(found):
        raise NotGivenError(f"expected a {'whole ' if is_whole else ''}number, found {text!r:.40}")
    return found


def without_masks(value: Any) -> Any:
    """A value whose masked secrets are left out."""
    if isinstance(value, Mapping):
        return {name: without_masks(one) for name, one in value.items() if one != MASK}
    return [without_masks(one) for one in value if one != MASK] if isinstance(value, list) else value


def with_secrets(real: Any, masked: Any, given: Any) -> Any:
    """What was given in the place of `real`, with the secrets within it that were left empty. In a list, an item that
    is as it was keeps its own, and one that was changed in its place as well; but no secret goes to a place where there
    was none, which may not be known as one."""
    if _same(given, without_masks(masked)):
        return real
    if isinstance(real, Mapping) and isinstance(masked, Mapping) and isinstance(given, Mapping):
        kept = {name: real[name] for name, one in masked.items() if one == MASK and name not in given and name in real}
        return {
            **{name: with_secrets(real.get(name), masked.get(name), one) for name, one in given.items()}, **kept,
        }  # fmt: skip
    if isinstance(real, list) and isinstance(masked, list) and isinstance(given, list):
        return _items_with_secrets(real, masked, given)
    return given


def _items_with_secrets(real: list[Any], masked: list[Any], given: list[Any]) -> list[Any]:
    left = [number for number, one in enumerate(masked) if one != MASK]
    is_in_place = len(left) == len(given) == len(real)
    found: list[Any] = [_MISSING] * len(given)
    for place, one in enumerate(given):
        hidden = {*masks_in(masked[place])} if place < len(masked) else set()
        same = [
            number for number in left
            if _same(one, without_masks(masked[number])) and hidden.issuperset(masks_in(masked[number]))
        ]  # fmt: skip
        if same:
            number = place if place in same else same[0]
            found[place] = real[number]
            left.remove(number)
    for place, one in enumerate(given):
        if found[place] is _MISSING:
            found[place] = with_secrets(real[place], masked[place], one) if is_in_place and place in left else one
    return found


def masks_in(value: Any, path: str = "") -> Iterator[str]:
    """Where a value has a mask in the place of a secret."""
    if value == MASK:
        yield path
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from masks_in(one, f"{path}/{escaped(str(name))}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from masks_in(one, f"{path}/{number}")
