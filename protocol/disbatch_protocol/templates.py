"""Texts with placeholders, as `arguments` and `env_parameters` of a manifest have them.

Responsible for: reading them once, when the manifest is read, and what is wrong with one. Must not know: parameters and
their schema, what a word is used for.

A text is literal parts with places between them. A place is the path of names that leads to a parameter (`{a.b}`), or
empty: `{}`, the item of an `each`. `{{` and `}}` are braces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Place = tuple[str, ...]
ITEM: Place = ()


class TemplateError(ValueError):
    """A text that is not one; the message says what was found, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One word: `literals[0]`, the value at `places[0]`, `literals[1]`, and so on to the last literal."""

    literals: tuple[str, ...]
    places: tuple[Place, ...] = ()
    dash: bool = False  # it may begin with "-", whatever the parameter is

    @property
    def stands_alone(self) -> bool:
        """Whether it is nothing but a place, so that a list makes one word of each item."""
        return len(self.places) == 1 and self.literals == ("", "")


class Group(NamedTuple):
    """Left out as a whole where a parameter of one of its texts is absent or null."""

    texts: tuple[Text, ...]


class Choice(NamedTuple):
    """One list of texts or the other, by a boolean."""

    place: Place
    then: tuple[Text, ...]
    otherwise: tuple[Text, ...]


class Each(NamedTuple):
    """The texts once for each item of a list."""

    place: Place
    texts: tuple[Text, ...]


Argument = Text | Group | Choice | Each


def read_text(text: str, *, dash: bool = False) -> Text:
    """Raises TemplateError."""
    literals, places, literal, at = [], [], "", 0
    while at < len(text):
        character = text[at]
        if character not in "{}":
            literal += character
            at += 1
        elif text[at : at + 2] == character * 2:
            literal += character
            at += 2
        elif character == "}":
            raise TemplateError(f'a "}}" without a "{{" before it in "{text:.80}"', 'write "}}" for a brace')
        else:
            end = text.find("}", at)
            name = text[at + 1 : end]
            if end < 0 or "{" in name:
                raise TemplateError(
                    f'a "{{" that is not closed in "{text:.80}"', 'close it: {name}; or write "{{" for a brace'
                )
            literals.append(literal)
            places.append(read_place(name) if name else ITEM)
            literal, at = "", end + 1
    return Text(literals=(*literals, literal), places=tuple(places), dash=dash)


def read_place(name: str) -> Place:
    """The parameter of this name, dots leading inside it. Raises TemplateError."""
    names = tuple(name.split("."))
    if not all(names):
        raise TemplateError(f'the name "{name:.80}"', 'write "a", or "a.b" for b inside a')
    return names


def in_words(place: Place) -> str:
    """The name, as the manifest has it."""
    return ".".join(place)


def read_variable(value: str) -> Text:
    """A value of `env_parameters`: the name of a parameter or, with braces, a text. Raises TemplateError."""
    if "{" in value or "}" in value:
        return read_text(value)
    return Text(literals=("", ""), places=(read_place(value),))


def source_of(text: Text) -> str:
    """The text as it is written."""
    written = [one.replace("{", "{{").replace("}", "}}") for one in text.literals]
    return written[0] + "".join(
        f"{{{in_words(place)}}}{one}" for place, one in zip(text.places, written[1:], strict=True)
    )


def read_word(value: str | Mapping[str, Any]) -> Text:
    """A text, or `{"word": TEXT, "dash": true}`. Raises TemplateError."""
    if isinstance(value, str):
        return read_text(value)
    return read_text(value["word"], dash=value.get("dash", False))


def read_argument(value: Any) -> Argument:
    """An entry of `arguments` that fits the schema of manifests. Raises TemplateError."""
    if isinstance(value, list):
        return Group(_texts(value))
    if isinstance(value, Mapping) and "if" in value:
        return Choice(read_place(value["if"]), _texts(value["then"]), _texts(value.get("else", ())))
    if isinstance(value, Mapping) and "each" in value:
        return Each(read_place(value["each"]), _texts(value["words"]))
    return read_word(value)


def _texts(values: Sequence[Any]) -> tuple[Text, ...]:
    return tuple(read_word(one) for one in values)


def without_literals(value: Any) -> Any:
    """An entry of `arguments`, or a text of `env_parameters`, with everything but its placeholders crossed out: the
    same parameters make words of the same sizes of it, or have the same faults. Raises TemplateError."""
    if isinstance(value, str):
        text = read_text(value)
        crossed = tuple("x" * len(one.encode()) for one in text.literals)
        return source_of(Text(literals=crossed, places=text.places))
    if isinstance(value, list):
        return [without_literals(one) for one in value]
    return {
        name: without_literals(one) if name in ("word", "then", "else", "words") else one for name, one in value.items()
    }


class Part(NamedTuple):
    """A text, or the name of a parameter, somewhere in an entry, with its place there."""

    path: tuple[str | int, ...]
    value: Any
    is_name: bool = False
    is_in_each: bool = False


def parts_of(value: Any) -> Iterator[Part]:
    """Everything in an entry of `arguments` that is to be read, each by itself, so that all faults can be told."""
    if isinstance(value, str) or (isinstance(value, Mapping) and "word" in value):
        yield _part((), value)
    elif isinstance(value, list):
        yield from (_part((index,), one) for index, one in enumerate(value))
    elif isinstance(value, Mapping):
        for word in ("if", "each"):
            if word in value:
                yield Part((word,), value[word], is_name=True)
        for word in ("then", "else", "words"):
            yield from (
                _part((word, index), one, is_in_each=word == "words") for index, one in enumerate(value.get(word, ()))
            )


def _part(path: tuple[str | int, ...], value: Any, *, is_in_each: bool = False) -> Part:
    if isinstance(value, Mapping):
        return Part((*path, "word"), value["word"], is_in_each=is_in_each)
    return Part(path, value, is_in_each=is_in_each)
