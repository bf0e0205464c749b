"""The configuration file: JSON with the settings' names as keys.

Responsible for: reading it, and reporting all its faults in one line. Must not know: which other values override it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from disbatch_host.errors import UsageError
from disbatch_host.settings.forms import parse_address, parse_seconds
from disbatch_host.settings.table import DEFAULT_CONFIG, SETTINGS, Kind
from disbatch_host.store.url import without_passwords
from disbatch_protocol import patterns, schemas
from disbatch_protocol.faults import kind_of, near_name, pointer_to


def read_config(path: str | None) -> dict[str, Any]:
    """The settings of a file by their names, without those that are null; for None, of the default file if it exists.
    Raises UsageError."""
    if path is None:
        if not DEFAULT_CONFIG.exists():
            return {}
        path = str(DEFAULT_CONFIG)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"configuration file {path} cannot be read: {error.strerror}") from error
    try:
        config = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UsageError(
            f"configuration file {path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    return {name: value for name, value in _checked_config(path, config, data).items() if value is not None}


def _checked_config(path: str, config: Any, data: bytes) -> dict[str, Any]:
    """The settings by their names with `_`, which may be written with `-` as the options are. Every fault in one
    line, by the schema."""
    schema = schemas.load("config")
    known = schema["properties"]
    faults = _named_twice(data) if isinstance(config, dict) else []
    settings: Any = config
    if isinstance(config, dict):
        settings = {name.replace("-", "_"): value for name, value in config.items()}
        faults += _unknown((), config, known)
        if isinstance(web := settings.get("web"), dict):
            settings["web"] = {name.replace("-", "_"): value for name, value in web.items()}
            faults += _unknown(("web",), web, known["web"]["properties"])
    for error in patterns.validator(schema).iter_errors(settings):
        if error.validator != "additionalProperties":
            where = pointer_to(error.absolute_path)
            expected = error.schema.get("x-expected", error.message)
            faults.append(f"{where}{': ' if where else ''}expected {expected}, found {kind_of(error.instance)}")
    if isinstance(settings, dict):
        faults += _faults_of_texts(settings)
    if faults:
        # A key or a value in the wrong place may be the store's URL.
        raise UsageError(without_passwords(f"configuration file {path}: {'; '.join(faults)}"))
    found: dict[str, Any] = settings
    return found


def _faults_of_texts(settings: Mapping[str, Any]) -> list[str]:
    """Faults of values that fit the schema but whose text cannot be used."""
    faults = []
    for setting in SETTINGS:
        value = settings.get(setting.name)
        try:
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if setting.kind is Kind.DURATION and (is_number or isinstance(value, str)):
                parse_seconds(setting, value)
            elif setting.kind is Kind.ADDRESS and isinstance(value, str):
                parse_address(setting.name, value)
        except UsageError as error:
            faults.append(str(error).replace(setting.option, f"/{setting.name}"))
    return faults


def _unknown(where: tuple[str, ...], given: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """A fault for each key that nobody knows."""
    return [
        f'{pointer_to([*where, name])}: unknown key "{name}", {_advice(name, known)}'
        for name in given
        if name.replace("-", "_") not in known
    ]


def _named_twice(data: bytes) -> list[str]:
    """Keys that are given twice: nobody can say which value is meant."""
    faults: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        count = Counter(name.replace("-", "_") for name, _ in pairs)
        faults.extend(f"/{name}: expected once, found {number} times" for name, number in count.items() if number > 1)

    json.loads(data, object_pairs_hook=look)
    return faults


def _advice(name: str, known: Mapping[str, Any]) -> str:
    if name in ("force", "config", "json", "debug"):
        return f"give --{name} on the command line, each time it is meant"
    near = near_name(name.replace("-", "_"), known)
    return f'did you mean "{near}"?' if near else f"known are {', '.join(sorted(known))}"
