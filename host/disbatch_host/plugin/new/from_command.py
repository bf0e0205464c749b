"""A new plugin from a command line: the manifest that `disbatch-host new --command` writes.

Responsible for: what a command line with placeholders says about arguments and parameters. Must not know: where the
file goes (`scaffold`), whether the program is there.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from disbatch_host import suggested
from disbatch_host.errors import UsageError
from disbatch_host.plugin.command_hints import script_with_places
from disbatch_protocol import templates
from disbatch_protocol.templates import Place, TemplateError, Text

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_OF_SHELLS = frozenset("|&;<>()$`*")
_SECRET = re.compile(r"(.*_)?(password|passwd|passphrase|secret|token|api_?key|pin)", re.ASCII | re.IGNORECASE)
_ALONE = {"type": "string", "minLength": 1, "pattern": "^[^-]"}  # it would be an option
_INSIDE = {"type": "string", "minLength": 1}
# What a parameter of such a name usually holds: by the last part of the name, if nothing stands before it in its word.
_PATH = {"type": "string", "pattern": "^/", "description": "An absolute path."}  # it starts in its plugin's directory
_HOST = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9.:_-]*$"}
_MAIL = {"type": "string", "pattern": "^[^@\\s-][^@\\s]*@[^@\\s]+$"}
_COUNT = {"type": "integer", "minimum": 0}
_SCRIPT = suggested.plain_hint("new NAME --lang sh")
_KINDS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("input", "output", "file", "path", "dir", "directory", "folder"), _PATH),
    **dict.fromkeys(("host", "hostname", "server"), _HOST),
    **dict.fromkeys(("mail", "email", "address"), _MAIL),
    **dict.fromkeys(("count", "number", "seconds", "width", "height", "threads", "retries"), _COUNT),
    "url": {"type": "string", "pattern": "^https?://[^\\s]+$"},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
}


def words_of(command: str) -> list[str]:
    """The words as a shell would cut them. Raises UsageError for what only a shell could do."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"expected a command as for a shell, found {str(error).lower()}: {command:.200}") from error
    if not words:
        raise UsageError("expected a command, found nothing; write --command 'program {parameter}'")
    odd = next((one for one in _unquoted(command) if one in _OF_SHELLS), None)
    if odd is not None:
        raise UsageError(
            f"no shell runs it, and {odd} would be a character like others; put it in quotes if it is meant so, or "
            f"write a script: {_SCRIPT}"
        )
    return words


def _unquoted(command: str) -> Iterator[str]:
    """The characters that a shell would find outside of quotes."""
    quote, is_escaped = "", False
    for character in command:
        if is_escaped:
            is_escaped = False
        elif character == "\\" and quote != "'":
            is_escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            yield character


def manifest_of(name: str, program: str, words: Sequence[str], *, is_idempotent: bool) -> str:
    """The manifest of class `name` with these words behind the program. Raises UsageError."""
    if (script := script_with_places(program, words)) is not None:
        raise UsageError(
            f"a parameter inside a script of a shell would be run as code, found {script:.80}; give it as a word: "
            """sh -c 'printf "%s" "$1"' sh {text}, or write a script, """
            f"{_SCRIPT}"
        )
    properties: dict[str, Any] = {}
    required: list[str] = []
    for text in map(_text_of, words):
        for place, is_first in _places_of(text):
            _describe(properties, required, place, _kind_of(place[-1], is_first=is_first))
    document: dict[str, Any] = {
        "protocol": 2,
        "name": name,
        "version": "0.1.0",
        "description": f"Runs {program.rsplit('/', 1)[-1]}.",
        "command": [program],
        "arguments": list(words),
        "stdin": "null",
        "parameters": {
            "type": "object", "required": required, "additionalProperties": False, "properties": properties,
        },
    }  # fmt: skip
    if "/" not in program:
        document["requires"] = [program]
    if is_idempotent:
        document["idempotent"] = True
    return _written(document)


def placeholders_of(words: Sequence[str]) -> list[str]:
    """The names of top-level parameters in these words, each once."""
    return list(dict.fromkeys(place[0] for word in words for place, _ in _places_of(_text_of(word))))


def _text_of(word: str) -> Text:
    try:
        return templates.read_text(word)
    except TemplateError as error:
        raise UsageError(f"expected a word with placeholders, found {error}; {error.hint}") from error


def _places_of(text: Text) -> Iterator[tuple[Place, bool]]:
    """Each place, and whether it begins its word."""
    for index, place in enumerate(text.places):
        if not place or not all(map(_NAME.fullmatch, place)):
            shown = templates.in_words(place)
            raise UsageError(
                f"expected the name of a parameter in braces, like {{input}}, found {{{shown:.80}}}; "
                "write {{ and }} for braces that the program gets"
            )
        if _SECRET.fullmatch(place[-1]):
            raise UsageError(
                f"{{{templates.in_words(place)}}} looks like a secret, and everybody here can read arguments; "
                f'leave it out, and let the program read it: "stdin": {{"parameter": "{place[0]}"}} in plugin.json'
            )
        yield place, index == 0 and not text.literals[0]


def _kind_of(name: str, *, is_first: bool) -> Mapping[str, Any]:
    last = re.split(r"[_-]", name.lower())[-1]
    if last in _KINDS:
        return _KINDS[last]
    return _ALONE if is_first else _INSIDE


def _describe(properties: dict[str, Any], required: list[str], place: Place, kind: Mapping[str, Any]) -> None:
    name, *rest = place
    if name not in required:
        required.append(name)
    if not rest:
        known = properties.setdefault(name, dict(kind))
        if known.get("type") == "object":
            raise UsageError(f"expected {{{name}}} to be one parameter, found something inside it as well")
        if known == _INSIDE:  # elsewhere it may begin a word
            properties[name] = dict(kind)
        return
    inner = properties.setdefault(
        name, {"type": "object", "required": [], "additionalProperties": False, "properties": {}}
    )
    if inner.get("type") != "object":
        raise UsageError(f"expected {{{name}}} to be one parameter, found something inside it as well")
    _describe(inner["properties"], inner["required"], tuple(rest), kind)


def _written(document: Mapping[str, Any]) -> str:
    """As a person would: one field per line, short values in one."""
    lines = []
    for name, value in document.items():
        if name == "parameters":
            inner = [f"    {json.dumps(key)}: {_short(one)}" for key, one in value.items() if key != "properties"]
            rows = [
                f"      {json.dumps(key, ensure_ascii=False)}: {_short(one)}"
                for key, one in value["properties"].items()
            ]
            properties = "{\n" + ",\n".join(rows) + "\n    }" if rows else "{}"
            inner.append(f'    "properties": {properties}')
            lines.append('  "parameters": {\n' + ",\n".join(inner) + "\n  }")
        else:
            lines.append(f"  {json.dumps(name)}: {_short(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
