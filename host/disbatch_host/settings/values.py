"""The values of all settings: from options, then variables, then the configuration file, then defaults.

Responsible for: the order of precedence. The one place that reads the program's own variables. Must not know: what a
setting is used for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from disbatch_host.errors import UsageError
from disbatch_host.settings.config_file import read_config
from disbatch_host.settings.forms import Address, check_node_id, make_node_id, parse_address, parse_seconds
from disbatch_host.settings.table import BY_NAME, DEFAULT_CONFIG, DURATIONS, SETTINGS, Kind, default_of


class Source(StrEnum):
    """Where the URL of a store was given."""

    OPTION = "option"
    VARIABLE = "variable"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """The settings of a node. Seconds are floats."""

    node_id: str
    plugins: Sequence[Path]  # the directories
    is_id_given: bool = True  # else it is made from the host name, and another may be better (`node.default_id`)
    state_directory: Path | None = None  # None: there is no place for one
    max: int = field(default_factory=lambda: int(default_of("max")))  # of a queue without maxthreads
    max_total: int | None = None
    force: bool = False
    stop_grace_seconds: float | None = None  # None: running tasks may go on to their end
    heartbeat_seconds: float = field(default_factory=lambda: float(default_of("heartbeat")))
    dead_after_seconds: float = field(default_factory=lambda: float(default_of("dead_after")))
    until_idle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a command, resolved once."""

    store_url: str = field(repr=False)  # may hold a password
    store_source: Source
    config_path: Path  # of the file, there or not
    are_plugins_given: bool  # anywhere; else it is the default directory, which need not exist
    node: NodeSettings
    log_level: str
    log_format: str
    metrics: Address | None

    @property
    def is_store_given(self) -> bool:
        """Anywhere; else it is the default one, which need not exist."""
        return self.store_source is not Source.DEFAULT

    @property
    def plugins(self) -> Sequence[Path]:
        """The directories in which plugins are looked for, by a node and by commands alike."""
        return self.node.plugins


def resolve(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Resolve the settings. `options` are those given on the command line, by their names; a missing or None one was
    not given. Raises UsageError."""
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in options.items() if name in BY_NAME and value not in (None, (), False)}
    variables = {one.name: environ[one.variable] for one in SETTINGS if one.variable and environ.get(one.variable)}
    config_path = given.get("config") or variables.get("config")
    config = read_config(config_path)
    from_variables: dict[str, Any] = dict(variables)
    if "plugins" in variables:
        from_variables["plugins"] = [one for one in variables["plugins"].split(":") if one]
    merged = {**config, **from_variables, **given}
    store = merged.get("store")
    metrics = merged.get("metrics")
    return Settings(
        store_url=store or default_store(environ),
        store_source=_source("store", given, variables) if store else Source.DEFAULT,
        config_path=Path(config_path or DEFAULT_CONFIG),
        are_plugins_given="plugins" in merged,
        node=_node_settings(merged, environ),
        log_level=merged.get("log_level", default_of("log_level")),
        log_format=merged.get("log_format", default_of("log_format")),
        metrics=None if metrics is None else parse_address("metrics", metrics),
    )


def _source(name: str, given: Mapping[str, Any], variables: Mapping[str, str]) -> Source:
    return Source.OPTION if name in given else Source.VARIABLE if name in variables else Source.FILE


def _node_settings(merged: Mapping[str, Any], environ: Mapping[str, str]) -> NodeSettings:
    plugins = merged.get("plugins", default_of("plugins"))
    directories = [plugins] if isinstance(plugins, str) else plugins
    node_id = merged.get("node_id")
    values: dict[str, Any] = {}
    for name in ("max", "max_total", "force", "until_idle", *DURATIONS):
        if merged.get(name) is not None:
            setting = BY_NAME[name]
            field_name, value = name, merged[name]
            if setting.kind is Kind.DURATION:
                field_name, value = f"{name}_seconds", parse_seconds(setting, value)
            values[field_name] = int(value) if setting.kind is Kind.COUNT else value
    settings = NodeSettings(
        node_id=check_node_id(node_id) if node_id is not None else make_node_id(socket.gethostname()),
        plugins=tuple(Path(one).expanduser().absolute() for one in directories),
        is_id_given=node_id is not None,
        state_directory=_state_directory(merged.get("state_dir"), environ),
        **values,
    )
    if settings.dead_after_seconds <= settings.heartbeat_seconds:
        raise UsageError("--dead-after: expected more than the interval of the heartbeat, else every node looks dead")
    return settings


def _state_directory(given: str | None, environ: Mapping[str, str]) -> Path | None:
    """systemd's `StateDirectory=` sets $STATE_DIRECTORY, perhaps to several: the first is meant."""
    from_systemd = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given or from_systemd:
        return Path(given or from_systemd).absolute()
    base = environ.get("XDG_STATE_HOME") or ""
    if base.startswith("/"):
        return Path(base) / "disbatch"
    home = environ.get("HOME") or ""
    return Path(home) / ".local/state/disbatch" if home.startswith("/") else None


def default_store(environ: Mapping[str, str]) -> str:
    """The SQLite file under $XDG_STATE_HOME (~/.local/state)."""
    state = environ.get("XDG_STATE_HOME") or ""
    base = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    return f"sqlite://{base / 'disbatch' / 'disbatch.db'}"
