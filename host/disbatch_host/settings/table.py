"""The one table of settings, the source of the options, the schema of the configuration file, README's table and the
defaults.

Responsible for: which settings there are. Must not know: how they are resolved, what they are used for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from disbatch_host.documents.records import DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS, MAX_PER_QUEUE
from disbatch_protocol.quantities import parse_duration

DEFAULT_CONFIG = Path("/etc/disbatch/host.json")


class Kind(Enum):
    """The kind of value that a setting has, and with it how that is checked and written."""

    TEXT = "text"
    STORE = "store"
    DIRECTORY = "directory"
    DIRECTORIES = "directories"
    NODE_ID = "node_id"
    COUNT = "count"  # a whole number of 1 or more
    DURATION = "duration"  # seconds, or a text like "90s"
    FLAG = "flag"
    CHOICE = "choice"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table."""

    name: str  # with _; the option is written with -, the key of the file either way
    kind: Kind
    help: str  # of the option; names the default if there is one
    metavar: str | None = None
    description: str = ""  # in the schema of the file; empty: the file has no such key
    default: Any = None  # as it would be written in the file; None: see `default_in_words`
    default_in_words: str = ""
    variable: str | None = None
    choices: tuple[str, ...] = ()
    zero_is_fine: bool = False  # of a duration
    null_is_fine: bool = False  # in the file: as if it were not there
    is_for_every_command: bool = False  # else only for running a node

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="store",
        kind=Kind.STORE,
        metavar="URL",
        help="Where the tasks are: sqlite:///path/to/file.db or mongodb://host/database.",
        description="sqlite:///path/to/file.db, or a mongodb:// or mongodb+srv:// URI.",
        default_in_words="an SQLite file under `~/.local/state`",
        variable="DISBATCH_STORE",
        is_for_every_command=True,
    ),
    Setting(
        name="plugins",
        kind=Kind.DIRECTORIES,
        metavar="DIR",
        help="A directory of plugins; may be given several times. Default: ./plugins.",
        description="The directories in which plugins are looked for.",
        default=["./plugins"],
        default_in_words="`./plugins`",
        variable="DISBATCH_PLUGINS",
        is_for_every_command=True,
    ),
    Setting(
        name="config",
        kind=Kind.TEXT,
        metavar="FILE",
        help="A JSON file with the options' names as keys.",
        default_in_words=f"`{DEFAULT_CONFIG}` where it exists",
        variable="DISBATCH_CONFIG",
        is_for_every_command=True,
    ),
    Setting(
        name="node_id",
        kind=Kind.NODE_ID,
        metavar="ID",
        help="Id of this node; unique in the cluster. Default: from the host name.",
        description="Unique in the cluster.",
        default_in_words="from the host name",
        variable="DISBATCH_NODE_ID",
    ),
    Setting(
        name="state_dir",
        kind=Kind.DIRECTORY,
        metavar="DIR",
        help="Where this node remembers its id, and where its runs go on without it (~/.local/state/disbatch).",
        description="Where this node remembers the id that it chose, and where runs go on without it: a local disk.",
        default_in_words="`$STATE_DIRECTORY`, else `$XDG_STATE_HOME/disbatch` (`~/.local/state/disbatch`)",
        variable="DISBATCH_STATE_DIR",
    ),
    Setting(
        name="max",
        kind=Kind.COUNT,
        metavar="N",
        help=f"Most tasks at once of a queue without maxthreads ({MAX_PER_QUEUE}).",
        description="Most tasks at once of a queue that has no maxthreads.",
        default=MAX_PER_QUEUE,
    ),
    Setting(
        name="max_total",
        kind=Kind.COUNT,
        metavar="N",
        help="Most tasks at once on this node.",
        description="Most tasks at once on this node.",
        default_in_words="no limit",
        null_is_fine=True,
    ),
    Setting(name="force", kind=Kind.FLAG, help="Take over a node id that looks alive.", default=False),
    Setting(
        name="stop_grace",
        kind=Kind.DURATION,
        metavar="S",
        help="On an orderly stop, how long running tasks may go on (default: to their end).",
        description="On an orderly stop, how long running tasks may go on; null: to their end.",
        default_in_words="to their end",
        zero_is_fine=True,
        null_is_fine=True,
    ),
    Setting(
        name="on_stop",
        kind=Kind.CHOICE,
        choices=("drain", "keep"),
        help="On SIGTERM: see running tasks through, or leave at once and let them go on (drain).",
        description="On SIGTERM: drain sees running tasks through; keep leaves at once, and they go on without it.",
        default="drain",
    ),
    Setting(
        name="away_for",
        kind=Kind.DURATION,
        metavar="S",
        help="How long other nodes leave the tasks of this one alone when it has left its runs (10m).",
        description="How long other nodes leave the tasks of this one alone when it has left and its runs go on.",
        default="10m",
    ),
    Setting(
        name="keep_for",
        kind=Kind.DURATION,
        metavar="S",
        help="How long runs go on without a node before they are stopped (24h).",
        description="How long runs go on without a node before they are stopped.",
        default="24h",
    ),
    Setting(
        name="keep_batches",
        kind=Kind.DURATION,
        metavar="S",
        help="How long the documents of batches that are done are kept (90d).",
        description="How long the documents of batches that are done are kept.",
        default="90d",
    ),
    Setting(
        name="heartbeat",
        kind=Kind.DURATION,
        metavar="S",
        help=f"Interval of the heartbeat ({HEARTBEAT_SECONDS:g}).",
        description="Interval of the heartbeat.",
        default=f"{HEARTBEAT_SECONDS:g}s",
    ),
    Setting(
        name="dead_after",
        kind=Kind.DURATION,
        metavar="S",
        help=f"Age of its heartbeat at which other nodes consider this one dead ({DEAD_AFTER_SECONDS:g}).",
        description="Age of its heartbeat at which other nodes consider this one dead.",
        default=f"{DEAD_AFTER_SECONDS:g}s",
    ),
    Setting(
        name="until_idle",
        kind=Kind.FLAG,
        help="Exit when no task of a queue it serves is waiting, running, or due within an hour.",
        description="Exit when no task of a queue that this node serves is waiting, running, or due within an hour.",
        default=False,
    ),
    Setting(
        name="log_level",
        kind=Kind.CHOICE,
        choices=("debug", "info", "warning", "error"),
        help="The lowest level that is logged (info).",
        description="The lowest level that is logged.",
        default="info",
    ),
    Setting(
        name="log_format",
        kind=Kind.CHOICE,
        choices=("text", "json"),
        help="Form of the log: lines of text, or JSON objects (text).",
        description="Form of the log: lines of text, or JSON objects, one per line.",
        default="text",
    ),
    Setting(
        name="metrics",
        kind=Kind.ADDRESS,
        metavar="ADDR:PORT",
        help="Serve /metrics for Prometheus and /healthz there (off).",
        description="Where /metrics for Prometheus and /healthz are served; null: nowhere.",
        default_in_words="off",
        null_is_fine=True,
    ),
)
BY_NAME: Mapping[str, Setting] = {one.name: one for one in SETTINGS}
DURATIONS = tuple(one.name for one in SETTINGS if one.kind is Kind.DURATION)


def default_of(name: str) -> Any:
    """A setting's default as a value: durations in seconds. None if it depends on the machine, or there is none."""
    setting = BY_NAME[name]
    return parse_duration(setting.default) if setting.kind is Kind.DURATION and setting.default else setting.default
