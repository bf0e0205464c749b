"""What the program was told: options, then variables, then the configuration file, then defaults.

Responsible for: the order of precedence and every check of a setting. The one place that reads the program's own
variables. Must not know: what a setting is used for.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from disbatch_host.cli import exposure
from disbatch_host.errors import UsageError
from disbatch_protocol import schemas
from disbatch_protocol.faults import kind_of, near_name, pointer_to
from disbatch_protocol.quantities import parse_duration

DEFAULT_CONFIG = Path("/etc/disbatch/host.json")
NODE_ID_PATTERN = re.compile(r"[a-zA-Z][a-zA-Z_0-9]{0,7}", re.ASCII)  # den-1.0: 1 to 8 characters

_VARIABLES = {
    "store": "DISBATCH_STORE",
    "plugins": "DISBATCH_PLUGINS",
    "config": "DISBATCH_CONFIG",
    "node_id": "DISBATCH_NODE_ID",
}
_DURATIONS = ("stop_grace", "heartbeat", "dead_after")
PORT_MAX = 65535


class Address(NamedTuple):
    """Where to listen. An empty host: every address of this machine; port 0: any that is free."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that is settled once for a command. Durations in seconds."""

    store_url: str = field(repr=False)  # may hold a password
    is_store_given: bool  # by anybody; else it is the default one, which need not be there
    plugins: tuple[Path, ...]
    are_plugins_given: bool  # by anybody; else it is the default directory, which need not be there
    node_id: str
    max: int = 10
    max_total: int | None = None
    stop_grace_seconds: float | None = None
    heartbeat_seconds: float = 1.0
    dead_after_seconds: float = 30.0
    until_idle: bool = False
    log_level: str = "info"
    log_format: str = "text"
    metrics: Address | None = None
    store_exposure: str | None = None  # how others can see the password of the store, in a sentence


def resolve(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settle the settings. `options` are those given on the command line, by their names; a missing or None one was
    not given. Raises UsageError."""
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in options.items() if value not in (None, (), False)}
    variables = {name: environ[variable] for name, variable in _VARIABLES.items() if environ.get(variable)}
    config_path = given.get("config") or variables.get("config")
    config = _read_config(config_path)
    from_variables: dict[str, Any] = dict(variables)
    if "plugins" in variables:
        from_variables["plugins"] = [one for one in variables["plugins"].split(":") if one]
    merged = {**config, **from_variables, **given}
    plugins = merged.get("plugins", ["./plugins"])
    node_id = merged.get("node_id")
    values: dict[str, Any] = {name: int(merged[name]) for name in ("max", "max_total") if merged.get(name) is not None}
    for name in _DURATIONS:
        if merged.get(name) is not None:
            values[f"{name}_seconds"] = _duration(name, merged[name])
    if values.get("dead_after_seconds", 30.0) <= values.get("heartbeat_seconds", 1.0):
        raise UsageError("--dead-after: expected more than the interval of the heartbeat, else every node looks dead")
    return Settings(
        store_url=merged.get("store") or default_store(environ),
        is_store_given=bool(merged.get("store")),
        plugins=tuple(
            Path(one).expanduser().absolute() for one in ([plugins] if isinstance(plugins, str) else plugins)
        ),
        are_plugins_given="plugins" in merged,
        node_id=check_node_id(node_id) if node_id is not None else make_node_id(socket.gethostname()),
        until_idle=bool(merged.get("until_idle")),
        log_level=merged.get("log_level", "info"),
        log_format=merged.get("log_format", "text"),
        metrics=None if merged.get("metrics") is None else parse_address("metrics", merged["metrics"]),
        store_exposure=_exposure(given, variables, config, Path(config_path or DEFAULT_CONFIG)),
        **values,
    )


def _exposure(
    given: Mapping[str, Any], variables: Mapping[str, str], config: Mapping[str, Any], path: Path
) -> str | None:
    if "store" in given:
        return exposure.in_arguments(given["store"])
    if "store" in variables or "store" not in config:
        return None
    return exposure.in_file(config["store"], path)


def default_store(environ: Mapping[str, str]) -> str:
    """The SQLite file under $XDG_STATE_HOME (~/.local/state)."""
    state = environ.get("XDG_STATE_HOME") or ""
    base = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    return f"sqlite://{base / 'disbatch' / 'disbatch.db'}"


def check_node_id(node_id: str) -> str:
    """The id, if it is one. Raises UsageError."""
    if NODE_ID_PATTERN.fullmatch(node_id) is None:
        raise UsageError(
            f"expected a node id of 1 to 8 characters ([a-zA-Z][a-zA-Z_0-9]*), found {node_id!r}; "
            f"{make_node_id(node_id)!r} would be one"
        )
    return node_id


def make_node_id(host_name: str) -> str:
    """A node id from a host name: its first label, what cannot stand in an id left out, and of a longer one the first
    characters and all final digits, which are what tells machines apart (`mailserver042` → `mails042`)."""
    label = re.sub(r"[^a-zA-Z0-9_]", "", host_name.partition(".")[0], flags=re.ASCII)
    label = label if label[:1].isalpha() else f"n{label}"
    if len(label) <= 8:
        return label
    match = re.search(r"\d{1,7}$", label)
    digits = match[0] if match else ""
    return label[: 8 - len(digits)] + digits


def parse_address(name: str, text: str) -> Address:
    """`127.0.0.1:9100`, `[::1]:9100`, `:9100` for every address of this machine. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_host = is_bracketed or not (":" in host or any(one.isspace() or one in "[]/@" for one in host))
    if not colon or not is_host or not (port.isascii() and port.isdigit()) or int(port) > PORT_MAX:
        raise UsageError(
            f"--{name}: expected an address and a port like 127.0.0.1:9100, [::1]:9100 or :9100, found {text!r:.80}"
        )
    return Address(host[1:-1] if is_bracketed else host, int(port))


def _duration(name: str, value: Any) -> float:
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise UsageError(f"--{name.replace('_', '-')}: {error}") from error
    if seconds == 0 and name != "stop_grace":
        raise UsageError(f"--{name.replace('_', '-')}: expected more than 0 seconds")
    return seconds


def _read_config(path: str | None) -> dict[str, Any]:
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
    import jsonschema  # noqa: PLC0415  (only where there is a file)

    schema = schemas.load("config")
    known = schema["properties"]
    faults = _twice_named(data) if isinstance(config, dict) else []
    settings: Any = config
    if isinstance(config, dict):
        settings = {name.replace("-", "_"): value for name, value in config.items()}
        for name in config:
            if name.replace("-", "_") not in known:
                faults.append(f'{pointer_to([name])}: unknown key "{name}", {_advice(name, known)}')
    for error in jsonschema.Draft202012Validator(schema).iter_errors(settings):
        if error.validator != "additionalProperties":
            where = pointer_to(error.absolute_path)
            expected = error.schema.get("x-expected", error.message)
            faults.append(f"{where}{': ' if where else ''}expected {expected}, found {kind_of(error.instance)}")
    if isinstance(settings, dict):
        for name in _DURATIONS:
            if isinstance(settings.get(name), (str, int, float)) and not isinstance(settings[name], bool):
                try:
                    _duration(name, settings[name])
                except UsageError as error:
                    faults.append(str(error).replace(f"--{name.replace('_', '-')}", f"/{name}"))
        if isinstance(settings.get("metrics"), str):
            try:
                parse_address("metrics", settings["metrics"])
            except UsageError as error:
                faults.append(str(error).replace("--metrics", "/metrics"))
    if faults:
        raise UsageError(f"configuration file {path}: {'; '.join(faults)}")
    found: dict[str, Any] = settings
    return found


def _twice_named(data: bytes) -> list[str]:
    """Of two values for one key, nobody can say which is meant."""
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
