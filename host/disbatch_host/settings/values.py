"""The values of all settings: from options, then variables, then the configuration file, then defaults.

Responsible for: the order of precedence. The one place that reads the program's own variables. Must not know: what a
setting is used for.
"""

from __future__ import annotations

import os
import pwd
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
from disbatch_host.store.url import sqlite_url


class Source(StrEnum):
    """Where the URL of a store was given."""

    OPTION = "option"
    VARIABLE = "variable"
    FILE = "file"
    DEFAULT = "default"


class OnStop(StrEnum):
    """What becomes of the runs of a node that is told to stop."""

    DRAIN = "drain"  # they run to their end first
    KEEP = "keep"  # they go on without it


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
    may_use_program: bool = True  # disbatch-supervisor, where it is there and works
    may_keep_runs: bool = True  # with a supervisor in the state directory that outlives the node
    on_stop: OnStop = OnStop.DRAIN
    away_for_seconds: float = field(default_factory=lambda: float(default_of("away_for")))
    keep_for_seconds: float = field(default_factory=lambda: float(default_of("keep_for")))
    keep_batches_seconds: float = field(default_factory=lambda: float(default_of("keep_batches")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a command, resolved once."""

    named_store: str | None = field(repr=False)  # its URL, which may hold a password; None: the default one
    default_store: str | None  # None: there is no home directory to put it in
    store_source: Source
    config_path: Path  # of the file, there or not
    are_plugins_given: bool  # anywhere; else it is the default directory, which need not exist
    node: NodeSettings
    log_level: str
    log_format: str
    metrics: Address | None
    web: Mapping[str, Any] = field(default_factory=dict)  # of the file, by their names (`web_table`)

    @property
    def store_url(self) -> str:
        """May hold a password. Raises UsageError if none was named and there is no place for the default one, so that
        commands without a store need no home directory."""
        url = self.named_store or self.default_store
        if url is None:
            raise UsageError(
                "expected a home directory for the default store, found none (HOME is not set to one, and user "
                f"{os.getuid()} has no entry in the password database); set HOME or XDG_STATE_HOME, or name a store "
                "with --store or DISBATCH_STORE"
            )
        return url

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
        named_store=store or None,
        default_store=default_store(environ),
        store_source=_source("store", given, variables) if store else Source.DEFAULT,
        config_path=Path(config_path or DEFAULT_CONFIG),
        are_plugins_given="plugins" in merged,
        node=_node_settings(merged, environ),
        log_level=merged.get("log_level", default_of("log_level")),
        log_format=merged.get("log_format", default_of("log_format")),
        metrics=None if metrics is None else parse_address("metrics", metrics),
        web={name: value for name, value in (config.get("web") or {}).items() if value is not None},
    )


def _source(name: str, given: Mapping[str, Any], variables: Mapping[str, str]) -> Source:
    return Source.OPTION if name in given else Source.VARIABLE if name in variables else Source.FILE


def _node_settings(merged: Mapping[str, Any], environ: Mapping[str, str]) -> NodeSettings:
    plugins = merged.get("plugins", default_of("plugins"))
    directories = [plugins] if isinstance(plugins, str) else plugins
    node_id = merged.get("node_id")
    supervisor = _supervisor(environ)
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
        plugins=tuple(map(_directory, directories)),
        is_id_given=node_id is not None,
        state_directory=_state_directory(merged.get("state_dir"), environ),
        may_use_program=supervisor != "no",
        may_keep_runs=not supervisor,
        on_stop=OnStop(merged.get("on_stop", default_of("on_stop"))),
        **values,
    )
    if settings.keep_for_seconds < settings.away_for_seconds:
        raise UsageError(
            "--keep-for: expected at least as much as --away-for, else runs are stopped before that is over"
        )
    if settings.dead_after_seconds <= settings.heartbeat_seconds:
        raise UsageError("--dead-after: expected more than the interval of the heartbeat, else every node looks dead")
    return settings


def _supervisor(environ: Mapping[str, str]) -> str:
    """For tests, and for somebody who is to find out whether the program is at fault (docs/operations.md): "no": none;
    "connection": one that ends with the node."""
    value = environ.get("DISBATCH_SUPERVISOR", "")
    if value not in ("", "no", "connection"):
        raise UsageError(f"DISBATCH_SUPERVISOR: expected nothing, no or connection, found {value!r}")
    return value


def _state_directory(given: str | None, environ: Mapping[str, str]) -> Path | None:
    """systemd's `StateDirectory=` sets $STATE_DIRECTORY, perhaps to several: the first is meant."""
    from_systemd = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given or from_systemd:
        return _directory(given or from_systemd)
    base = environ.get("XDG_STATE_HOME") or ""
    if base.startswith("/"):
        return Path(base) / "disbatch"
    home = _home(environ)
    return None if home is None else Path(home) / ".local/state/disbatch"


def _directory(text: str) -> Path:
    """A directory as it was written, as a whole path; unchanged where the current directory has been deleted, so that
    only commands that look into it fail. Raises UsageError for a home that is not known."""
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"--plugins: expected a directory, found {text!r:.80}, whose home is not known; write the whole path"
        ) from error
    try:
        return path.absolute()
    except FileNotFoundError:
        return path


def default_store(environ: Mapping[str, str]) -> str | None:
    """The SQLite file under $XDG_STATE_HOME (~/.local/state); None without a home directory."""
    state = environ.get("XDG_STATE_HOME") or ""
    if not state.startswith("/"):
        home = _home(environ)
        if home is None:
            return None
        state = f"{home}/.local/state"
    return sqlite_url(Path(state) / "disbatch" / "disbatch.db")


def _home(environ: Mapping[str, str]) -> str | None:
    """HOME, else what the password database says; a user of a container may have neither."""
    home = environ.get("HOME") or ""
    if not home.startswith("/"):
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    return home if home.startswith("/") else None
