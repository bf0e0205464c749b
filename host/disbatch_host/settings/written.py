"""The files that are written from the table of settings: schemas/config.json and README's table.

`python -m disbatch_host.settings.written DIRECTORY` rewrites both in a checkout (`make schemas`); a test compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from disbatch_host.settings.forms import NODE_ID_PATTERN
from disbatch_host.settings.table import SETTINGS, Kind, Setting
from disbatch_host.settings.web_table import WEB_SETTINGS
from disbatch_host.settings.web_table import schema as web_schema

README_BEGIN, README_END = "<!-- settings -->", "<!-- /settings -->"  # the table stands between these lines
WEB_BEGIN, WEB_END = "<!-- settings of the page -->", "<!-- /settings of the page -->"  # and that of the page

_TYPES: dict[Kind, tuple[dict[str, Any], str]] = {
    Kind.STORE: ({"type": "string"}, "the URL of a store"),
    Kind.DIRECTORY: ({"type": "string"}, "a directory"),
    Kind.DIRECTORIES: (
        {"type": ["string", "array"], "items": {"type": "string", "x-expected": "a directory"}},
        "a directory or a list of directories",
    ),
    Kind.NODE_ID: (
        {"type": "string", "pattern": f"^{NODE_ID_PATTERN.pattern}$"},
        "a node id: a letter, then letters, digits and _, 8 characters at most",
    ),
    Kind.COUNT: ({"type": "integer", "minimum": 1}, "a whole number of 1 or more"),
    Kind.DURATION: ({"type": ["number", "string"]}, "seconds or a duration like {example}"),
    Kind.FLAG: ({"type": "boolean"}, "true or false"),
    Kind.ADDRESS: ({"type": "string"}, 'an address and a port like "127.0.0.1:9100"'),
}
_EXAMPLE = {
    "store": "mongodb://db1,db2/disbatch?replicaSet=rs0",
    "plugins": ["/opt/disbatch/plugins"],
    "node_id": "mig01",
    "max_total": 50,
    "stop_grace": "10m",
    "web": {"listen": "127.0.0.1:8780", "base_path": "/disbatch", "public_url": "https://jobs.example.org"},
}


def config_schema() -> dict[str, Any]:
    """The schema of the configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "config.json",
        "title": "Configuration file of disbatch-host",
        "description": (
            "The options' names as keys, with - or _. An option on the command line and a variable in the environment "
            "win over it."
        ),
        "type": "object",
        "x-expected": "a JSON object",
        "additionalProperties": False,
        "properties": {**{one.name: _property(one) for one in SETTINGS if one.description}, "web": web_schema()},
        "examples": [_EXAMPLE],
    }


def _property(setting: Setting) -> dict[str, Any]:
    if setting.kind is Kind.CHOICE:
        quoted = [f'"{one}"' for one in setting.choices]
        expected = f"{', '.join(quoted[:-1])} or {quoted[-1]}"
        return {"description": setting.description, "enum": list(setting.choices), "x-expected": expected}
    form, expected = _TYPES[setting.kind]
    example = f'"{setting.default or "90s"}"'
    found = {"description": setting.description, **form, "x-expected": expected.format(example=example)}
    if setting.null_is_fine:
        types = form["type"] if isinstance(form["type"], list) else [form["type"]]
        found["type"] = [*types, "null"]
    return found


def readme_table() -> str:
    """README's table: a row for each setting."""
    rows = [("setting", "option", "variable", "default"), ("---", "---", "---", "---")]
    rows += [(_name(one), _option(one), _variable(one), _default(one)) for one in SETTINGS]
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in rows)


def _name(setting: Setting) -> str:
    return setting.name.replace("_", " ")


def _option(setting: Setting) -> str:
    more = " (repeatable)" if setting.kind is Kind.DIRECTORIES else ""
    value = setting.metavar or ("|".join(setting.choices) if setting.kind is Kind.CHOICE else "")
    return f"`{setting.option}{f' {value}' if value else ''}`{more}".replace("|", "\\|")


def _variable(setting: Setting) -> str:
    if setting.variable is None:
        return ""
    more = " (`:`-separated)" if setting.kind is Kind.DIRECTORIES else ""
    return f"`{setting.variable}`{more}"


def _default(setting: Setting) -> str:
    if setting.default_in_words:
        return setting.default_in_words
    if setting.kind is Kind.FLAG:
        return "yes" if setting.default else "no"
    return f"`{setting.default}`"


def web_table() -> str:
    """README's table of the page: a row for each of its settings."""
    rows = [("option of `disbatch-host web`", "which says"), ("---", "---")]
    for one in WEB_SETTINGS:
        value = one.metavar or "|".join(one.choices)
        written = f"`{one.option}{f' {value}' if value else ''}`{' (repeatable)' if one.is_list else ''}"
        rows.append((written.replace("|", "\\|"), one.help.removesuffix(".")))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_table(readme: str) -> str:
    """README with its tables rewritten. Raises ValueError if the place for one is not marked."""
    for begin, end, table in ((README_BEGIN, README_END, readme_table()), (WEB_BEGIN, WEB_END, web_table())):
        before, found_begin, rest = readme.partition(begin)
        _, found_end, after = rest.partition(end)
        if not found_begin or not found_end:
            raise ValueError(f"expected {begin} and {end} in the README, found no such lines")
        readme = f"{before}{begin}\n{table}{end}{after}"
    return readme


def schema_text() -> str:
    """The schema as it is in its file."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    root = Path(sys.argv[1])
    (root / "schemas" / "config.json").write_text(schema_text(), encoding="utf-8")
    readme_path = root / "README.md"
    readme_path.write_text(with_table(readme_path.read_text(encoding="utf-8")), encoding="utf-8")
