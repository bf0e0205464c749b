"""The words and variables that a program gets from its task's parameters (SPEC, section 4, "Arguments"). Pure.

Responsible for: making them, and every reason why they cannot be made of some parameters. Must not know: the schema of
the parameters, which program gets them, how it is started.

Rules:
1. A text is exactly one word: no shell, no splitting, no globbing. Only a text that is nothing but a place, with a
   list, makes one word of each item.
2. No parameter becomes an option: a word that begins with a parameter may not begin with "-", unless its text says
   `dash`.
3. Strings go as they are, other scalars as in the task's line of JSON; objects never.
4. A value is quoted in a message only if it is short and not at a secret place: argv is public, and what would show a
   secret is refused before anything is made of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import orjson

from disbatch_protocol.document import to_json
from disbatch_protocol.faults import Fault, error_at, kind_of, plain_kind_of, pointer_to
from disbatch_protocol.templates import Argument, Choice, Each, Group, Place, Text

WORD_MAX = 2**17 - 1  # bytes: the kernel takes 128 KiB of one word or variable, with the NUL behind it
_POINTER_BYTES = 8  # that the kernel counts for each word besides its text and its NUL
_REFUSED_MAX = 20  # faults told of one task: a list of a million items may have a million

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")  # of an item of a list
_SCALARS = "a string, a number, or true or false"
_DASH_HINT = 'begin it with something else, such as "./"; or let the manifest say "--option={…}", or "dash": true'
_STDIN_HINT = 'let the program read it: "stdin": {"parameter": NAME}'


class _RefusedError(Exception):
    """Nothing can be made of these parameters, for this reason."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a program gets from the parameters of one task. With any faults, nothing else counts."""

    words: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that the system counts for it."""
        texts = [*self.words, *(f"{name}={value}" for name, value in self.variables.items())]
        return sum(len(one.encode()) + 1 + _POINTER_BYTES for one in texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """`arguments` and `env_parameters` of a manifest without faults."""

    arguments: tuple[Argument, ...] = ()
    variables: Mapping[str, Text] = field(default_factory=dict)

    def made_of(self, parameters: Any, *, secrets: Collection[str] = (), size_max: int | None = None) -> Made:
        """What a program gets of these parameters, which have their defaults. `secrets`: JSON pointers of those among
        them that are secret. `size_max`: bytes of `Made.size` that the system takes."""
        making = _Making(parameters, secrets)
        for argument in self.arguments:
            making.add(argument)
        for name, text in self.variables.items():
            making.set_variable(name, text)
        made = Made(words=tuple(making.words), variables=making.variables, faults=tuple(making.faults))
        if not made.faults and size_max is not None and made.size > size_max:
            message = f"expected a command line of at most {size_max:,} bytes, found one of {made.size:,}"
            return Made(
                faults=(error_at("", message, "give fewer or shorter values, or have the program read a file"),)
            )
        return made


class _Making:
    """The words and variables of one task while they are made."""

    def __init__(self, parameters: Any, secrets: Collection[str]) -> None:
        self.words: list[str] = []
        self.variables: dict[str, str] = {}
        self.faults: list[Fault] = []
        self._parameters = parameters
        self._secrets = secrets

    def add(self, argument: Argument) -> None:
        try:
            match argument:
                case Text():
                    self._add_texts((argument,))
                case Group(texts):
                    if all(self._value_at(place) is not None for text in texts for place in text.places):
                        self._add_texts(texts)
                case Choice(place, then, otherwise):
                    self._add_texts(then if self._is_true(place) else otherwise)
                case Each(place, texts):
                    self._add_each(place, texts)
        except _RefusedError as error:
            self._refuse(error.fault)

    def set_variable(self, name: str, text: Text) -> None:
        if any(self._value_at(place) is None for place in text.places):
            return
        try:
            value = self._word(text, None, is_argument=False)
            _check_size(f"{name}={value}", text, None)
        except _RefusedError as error:
            self._refuse(error.fault)
        else:
            self.variables[name] = value

    def _is_true(self, place: Place) -> bool:
        self._check_secret(place)
        value = self._value_at(place)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise _RefusedError(self._fault(place, f"expected true or false, found {self._kind(place, value)}"))

    def _add_each(self, place: Place, texts: Sequence[Text]) -> None:
        self._check_secret(place)
        value = self._value_at(place)
        if value is not None and not _is_list(value):
            raise _RefusedError(self._fault(place, f"expected a list, found {self._kind(place, value)}"))
        for index in range(0 if value is None else len(value)):
            self._add_texts(texts, (*place, str(index)))
            if len(self.faults) >= _REFUSED_MAX:
                return

    def _add_texts(self, texts: Sequence[Text], item: Place | None = None) -> None:
        """`item`: the place of the item that `{}` stands for."""
        for text in texts:
            value = self._value_at(text.places[0]) if text.stands_alone and text.places[0] else None
            if not _is_list(value):
                self._add_word(text, item)
                continue
            for index in range(len(value)):
                self._add_word(text, (*text.places[0], str(index)), is_item=True)
                if len(self.faults) >= _REFUSED_MAX:
                    break

    def _add_word(self, text: Text, item: Place | None, *, is_item: bool = False) -> None:
        try:
            self.words.append(self._word(text, item, is_item=is_item))
        except _RefusedError as error:
            self._refuse(error.fault)

    def _word(self, text: Text, item: Place | None, *, is_item: bool = False, is_argument: bool = True) -> str:
        """`is_item`: the text is nothing but a list, of which this is an item."""
        word = text.literals[0]
        for place, literal in zip(text.places, text.literals[1:], strict=True):
            at = item if is_item or not place else place
            assert at is not None, "a {} outside an each is a fault of the manifest"
            word += self._scalar(at) + literal
        if is_argument and text.places and not text.literals[0] and word.startswith("-") and not text.dash:
            first = item if is_item or not text.places[0] else text.places[0]
            assert first is not None
            raise _RefusedError(
                self._fault(
                    first,
                    f"expected a value that does not make an option of its word, found {self._kind(first, word)}",
                    _DASH_HINT,
                )
            )
        _check_size(word, text, item)
        return word

    def _scalar(self, place: Place) -> str:
        self._check_secret(place)
        value = self._value_at(place)
        text = _scalar_of(value)
        if text is None:
            what = "nothing" if value is None else self._kind(place, value)
            raise _RefusedError(self._fault(place, f"expected {_SCALARS}, found {what}"))
        if "\0" in text:
            raise _RefusedError(
                self._fault(place, "expected a text without NUL characters, which no program can be given")
            )
        return text

    def _check_secret(self, place: Place) -> None:
        pointer = pointer_to(place)
        if any(pointer == one or pointer.startswith(f"{one}/") for one in self._secrets):
            message = "expected a parameter that is not secret: everybody on the machine sees words and variables"
            raise _RefusedError(self._fault(place, message, _STDIN_HINT))

    def _value_at(self, place: Place) -> Any:
        """None if it is absent, or null."""
        value = self._parameters
        for name in place:
            if isinstance(value, Mapping):
                value = value.get(name)
            elif _is_list(value) and _INDEX.fullmatch(name):
                value = value[int(name)] if int(name) < len(value) else None
            else:
                return None
        return value

    def _kind(self, place: Place, value: Any) -> str:
        pointer = pointer_to(place)
        return plain_kind_of(value) if any(pointer.startswith(one) for one in self._secrets) else kind_of(value)

    def _fault(self, place: Place, message: str, hint: str = "") -> Fault:
        return error_at(pointer_to(place), message, hint)

    def _refuse(self, fault: Fault) -> None:
        if len(self.faults) < _REFUSED_MAX and fault not in self.faults:
            self.faults.append(fault)


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def _scalar_of(value: Any) -> str | None:
    """None if there is no scalar that stands for it in the task's line of JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, Mapping) or _is_list(value):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    try:
        plain = to_json(value)
    except (TypeError, ValueError, RecursionError):
        return None
    if isinstance(plain, str):
        return plain
    return orjson.dumps(plain).decode() if isinstance(plain, (int, float)) else None


def _check_size(word: str, text: Text, item: Place | None) -> None:
    if len(word) * 4 <= WORD_MAX:
        return
    size = len(word.encode())
    if size > WORD_MAX:
        place = next((one or item or () for one in text.places), ())
        message = f"expected a word of at most {WORD_MAX:,} bytes, found one of {size:,}"
        raise _RefusedError(error_at(pointer_to(place), message, "the program can read it from a file, or its stdin"))
