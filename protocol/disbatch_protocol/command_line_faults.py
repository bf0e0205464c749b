"""What is wrong with `arguments` and `env_parameters` of a manifest, beyond its schema.

Responsible for: texts that cannot be read, names that mean something else, and what the schema of the parameters says
about each place. Must not know: the parameters of any task.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from disbatch_protocol import templates
from disbatch_protocol.command_line import CommandLine
from disbatch_protocol.faults import Fault, Severity, error_at, near_name, pointer_to, value_at
from disbatch_protocol.parameter_secrets import may_be_secret
from disbatch_protocol.parameter_types import Places
from disbatch_protocol.templates import ITEM, Place, TemplateError, Text

FIELDS = ("arguments", "env_parameters")
_SCALARS = frozenset({"string", "number", "integer", "boolean"})
_NOT_TO_SET = ("LD_", "DISBATCH_")  # beginnings of names: they say what a program loads, or are the host's
_OPTIONAL_HINT = 'make it "required", give it a "default", or put the word in a list: it is left out then'


def command_line_of(document: Mapping[str, Any]) -> CommandLine | None:
    """The record of a manifest without faults; None if it has neither field."""
    if not any(field in document for field in FIELDS):
        return None
    variables = document.get("env_parameters", {})
    return CommandLine(
        arguments=tuple(templates.read_argument(one) for one in document.get("arguments", ())),
        variables={name: templates.read_variable(value) for name, value in variables.items()},
    )


def command_line_faults(document: dict[str, Any], wrong: Collection[str]) -> Iterator[Fault]:
    """`wrong`: pointers of what does not fit the schema of manifests, and of the faults of `parameters`."""

    def fits(*path: str | int) -> bool:
        at = pointer_to(path)
        return not any(one == at or one.startswith(f"{at}/") for one in wrong)

    arguments, variables = document.get("arguments"), document.get("env_parameters")
    checking = _Checking(document.get("parameters") if fits("parameters") else None)
    for index, argument in enumerate(arguments if isinstance(arguments, list) else ()):
        if fits("arguments", index):
            yield from checking.faults_of_argument(("arguments", index), argument)
    for name, value in variables.items() if isinstance(variables, dict) else ():
        if fits("env_parameters", name):
            yield from _name_faults(document, name)
            yield from checking.faults_of_variable(("env_parameters", name), value)
    if all(map(fits, FIELDS)):
        yield from _unused(document, checking.used)


class _Checking:
    """Goes through the places of a manifest, one after the other."""

    def __init__(self, schema: Any) -> None:
        self.used: set[str] = set()  # top-level parameters
        self._schema = schema
        self._places = Places(schema)

    def faults_of_argument(self, path: tuple[str | int, ...], argument: Any) -> Iterator[Fault]:
        is_readable = True
        for part in templates.parts_of(argument):
            at = pointer_to((*path, *part.path))
            try:
                if part.is_name:
                    place = templates.read_place(part.value)
                    kind = "array" if part.path[0] == "each" else "boolean"
                    yield from self._faults_of_place(at, place, frozenset({kind}))
                else:
                    yield from self._faults_of_text(at, templates.read_text(part.value), part, argument)
            except TemplateError as error:
                is_readable = False
                yield error_at(at, f"expected a text with placeholders, found {error}", error.hint)
        if is_readable and isinstance(argument, dict) and "each" in argument:
            each = templates.read_argument(argument)
            assert isinstance(each, templates.Each)
            if not any(ITEM in text.places for text in each.texts):
                message = "no word of it has {}, which stands for the item: all of them are the same"
                yield _warning(pointer_to((*path, "words")), message, 'write ["-f", "{}"]')

    def faults_of_variable(self, path: tuple[str | int, ...], value: str) -> Iterator[Fault]:
        at = pointer_to(path)
        try:
            text = templates.read_variable(value)
        except TemplateError as error:
            yield error_at(at, f"expected the name of a parameter, or a text with some, found {error}", error.hint)
            return
        for place in text.places:
            if place == ITEM:
                yield _outside(at)
            else:
                yield from self._faults_of_place(at, place, _SCALARS)

    def _faults_of_text(self, at: str, text: Text, part: templates.Part, argument: Any) -> Iterator[Fault]:
        is_left_out = isinstance(argument, list)
        for place in text.places:
            if place == ITEM:
                if not part.is_in_each:
                    yield _outside(at)
                continue
            yield from self._faults_of_place(at, place, _SCALARS | {"array"} if text.stands_alone else _SCALARS)
            is_sure = not self._is_known(place) or may_be_secret(self._schema, place)  # told already
            if not is_left_out and not is_sure and not self._is_always_there(place):
                message = f'"{templates.in_words(place)}" may be absent, and every task without it fails'
                yield _warning(at, message, _OPTIONAL_HINT)

    def _faults_of_place(self, at: str, place: Place, allowed: frozenset[str]) -> Iterator[Fault]:
        """`allowed`: types of values of which something can be made here."""
        self.used.add(place[0])
        name = templates.in_words(place)
        if may_be_secret(self._schema, place):
            message = f'expected a parameter that is not "writeOnly", found "{name}"'
            stdin = f'"stdin": {{"parameter": "{place[0]}"}}'
            hint = f"words and variables can be seen by others: let the program read it, {stdin}"
            yield error_at(at, message, hint)
        elif not self._is_known(place):
            near = near_name(place[0], self._names())
            hint = f'did you mean "{near}"?' if near else 'describe it in "properties"'
            yield _warning(at, f'"parameters" describes no "{place[0]}"', hint)
        else:
            yield from self._type_faults(at, place, allowed)

    def _names(self) -> list[str]:
        return self._places.names()

    def _is_known(self, place: Place) -> bool:
        """Whether the schema names it; one without any properties names nothing, and all may be there."""
        names = self._names()
        return not names or place[0] in names or self._has_patterns

    @property
    def _has_patterns(self) -> bool:
        return isinstance(self._schema, dict) and bool(self._schema.get("patternProperties"))

    def _is_always_there(self, place: Place) -> bool:
        default = value_at(self._schema, ("properties", place[0], "default"))
        if default is not None:
            return len(place) == 1 or value_at(default, place[1:]) is not None
        expected = self._places.expected_at(place)
        is_nullable = expected.is_known and "null" in expected.types
        return not is_nullable and all(self._places.requires(place[: end + 1]) for end in range(len(place)))

    def _type_faults(self, at: str, place: Place, allowed: frozenset[str]) -> Iterator[Fault]:
        expected = self._places.expected_at(place)
        if expected.is_known and not expected.types & allowed:
            wanted = " or ".join(sorted(allowed - {"integer"}))
            message = f'"{templates.in_words(place)}" is {expected.in_words()}, and here can only be {wanted}'
            yield _warning(at, message, "every task with it fails; name another parameter, or change its type")


def _name_faults(document: Mapping[str, Any], name: str) -> Iterator[Fault]:
    at = pointer_to(("env_parameters", name))
    if isinstance(document.get("env"), dict) and name in document["env"]:
        yield error_at(at, f'expected a variable that "env" does not set, found "{name}"', "remove one of the two")
    elif name == "PATH" or name.startswith(_NOT_TO_SET):
        message = f'expected a variable other than PATH, LD_… and DISBATCH_…, found "{name}"'
        yield error_at(at, message, "no parameter may say which program runs; choose another name")


def _unused(document: Mapping[str, Any], used: Collection[str]) -> Iterator[Fault]:
    stdin = document.get("stdin")
    if stdin == "task":  # said, and not only left out: the program reads them
        return
    properties = value_at(document, ("parameters", "properties"))
    read = stdin.get("parameter") if isinstance(stdin, dict) else None
    for name in properties if isinstance(properties, dict) else ():
        if name not in used and name != read:
            message = f'nothing is made of "{name}": no word, no variable and no stdin has it'
            hint = 'use it or remove it; if the program reads the task from its stdin, write "stdin": "task"'
            yield _warning(pointer_to(("parameters", "properties", name)), message, hint)


def _outside(at: str) -> Fault:
    message = 'expected the name of a parameter, found "{}", which stands for an item of "each"'
    return error_at(at, message, 'write {"each": NAME, "words": ["{}"]}, or "{NAME}"')


def _warning(pointer: str, message: str, hint: str) -> Fault:
    return Fault(pointer=pointer, message=message, hint=hint, severity=Severity.WARNING)
