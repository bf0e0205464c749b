"""The frames between a node and the supervisor of its runs: version 2, which adds words to START.

Responsible for: what each frame says (docs/supervisor.md has what follows from it). Must not know: its bytes
(`framing`), which connection it comes from, tasks.

Durations are microseconds, 0 means none; `killed_after` below 0 means none. Text is UTF-8; paths, arguments and
variables are the system's bytes. A list is a blob, see `framing.packed`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

VERSION_MIN, VERSION_MAX = 1, 2  # the first one for ever: any later node can empty any supervisor
FRAME_MAX = 2**24  # bytes after the length
NOTE_MAX = 4096  # bytes of the note of a start or a task
PLUGIN_NOTE_MAX = 2**20  # bytes of the note of a plugin
ALIVE = -1  # the status of a first process that could not be ended; it is in `left_over` too
PART_MAX = 2**16  # bytes of one stream in one frame; more of it is in further frames


class FrameError(Exception):
    """The other side broke a rule of the frames; the message says which."""


class Stop(IntEnum):
    """Why a run was stopped."""

    NOT = 0
    TIMEOUT = 1
    IDLE_TIMEOUT = 2
    CANCELLED = 3
    SHUTDOWN = 4
    LOST = 5  # somebody else owns the task now, or no node came back for it
    REPLACED = 6  # a worker process that cannot go on


class Step(IntEnum):
    """The step at which a start failed: nothing was executed."""

    PIPES = 1
    FORK = 2
    SESSION = 3
    DIRECTORY = 4
    LIMITS = 5
    ACCOUNT = 6
    EXEC = 7
    TOO_OLD = 8  # the node's knowledge that the task is its own
    STOPPED = 9  # it was stopped before it was started
    SPOOL = 10


class Output(IntEnum):
    """A stream that a program writes to: its descriptor."""

    STDOUT = 1
    STDERR = 2
    EVENTS = 3


class State(IntEnum):
    """The state of a run in RUN."""

    STARTING = 1  # queued or between fork and exec
    RUNNING = 2
    ENDED = 3  # END follows, or was sent and is not acknowledged
    LEFT_OVER = 4  # its END is acknowledged, and processes of it that could not be ended are alive


class Acknowledged(IntEnum):
    """What an ACK says of a run besides its offsets."""

    OFFSETS = 0
    END = 1  # the store has its end: forget it
    GONE = 2


class Bye(IntEnum):
    """Why a connection is closed."""

    ENDS = 0  # the sender ends
    TAKEN_OVER = 1  # a node with a higher session is here
    RULE_BROKEN = 2
    REFUSED = 3  # another store, another node id, a wrong key, a lower session, no common version
    KEEP = 4  # from a node: it leaves, and its runs go on


class Hello(NamedTuple):
    """The first frame of a node. `keep`: how long runs may go on without a node; 0: they are killed with it."""

    version_min: int
    version_max: int
    session: int
    keep: int
    store_id: bytes
    node_id: bytes
    key: bytes


class Plugin(NamedTuple):
    """What all processes of one version of a plugin have in common. `limits`: `<IQQ>`: resource, soft, hard; `groups`:
    u32 each. `note` comes back in KEPT_PLUGIN as it was given."""

    number: int
    stop_signal: int
    grace: int
    drain: int  # how long a process may hold the output of a run whose first process has ended
    max_output: int  # bytes of each of stdout and stderr that are kept
    umask: int
    uid: int
    gid: int
    flags: int
    directory: bytes
    argv: bytes  # list
    environment: bytes  # list of NAME=value
    groups: bytes
    limits: bytes
    note: bytes


class Start(NamedTuple):
    """Start a process. `asked_at` (CLOCK_BOOTTIME): when the store said last that the task is the node's, and `trusted`
    how long that holds. `total`: bytes of its whole input, of which `stdin` is the first part."""

    run: int
    plugin: int
    timeout: int
    idle_timeout: int
    asked_at: int
    trusted: int
    total: int
    flags: int
    note: bytes
    environment: bytes  # list, besides the plugin's; behind it may be another: words, behind those of the plugin's argv
    work_directory: bytes  # empty: the plugin's directory
    stdin: bytes


class Task(NamedTuple):
    """Give a running process a task; without `total`, only its limits are set. See Start."""

    run: int
    number: int
    timeout: int
    idle_timeout: int
    asked_at: int
    trusted: int
    total: int
    note: bytes
    stdin: bytes


class Stdin(NamedTuple):
    """More of an input that START or TASK announced."""

    run: int
    data: bytes


class StdinEof(NamedTuple):
    """Close its stdin once everything is written."""

    run: int


class StopRun(NamedTuple):
    """The stop signal now, SIGKILL after the grace. The first reason stays."""

    run: int
    reason: int


class KillRun(NamedTuple):
    """SIGKILL now."""

    run: int
    reason: int


class Window(NamedTuple):
    """The node takes this many bytes of a stream from this offset on. Events are sent whatever it says."""

    run: int
    stream: int
    offset: int
    size: int


class Ack(NamedTuple):
    """The store has this much of each stream, and the end (see Acknowledged)."""

    run: int
    stdout: int
    stderr: int
    events: int
    what: int


class Ping(NamedTuple):
    """Asks for a Pong with the same number."""

    number: int


class NodeBye(NamedTuple):
    """The node closes the connection."""

    reason: int


class Look(NamedTuple):
    """The first frame of a caller that changes nothing: answered by SupervisorHello, each Run, Ready, SupervisorBye."""

    key: bytes


class SupervisorHello(NamedTuple):
    """The answer to Hello. `started`: its own start, in clock ticks since boot. `capacity`: how many runs fit."""

    version: int
    pid: int
    started: int
    session: int
    next_run: int
    capacity: int
    mount_namespace: int
    supervisor_id: bytes
    fingerprint: bytes
    program_hash: bytes


class KeptPlugin(NamedTuple):
    """A plugin that runs of an earlier connection have. Its number is this connection's."""

    number: int
    note: bytes


class Run(NamedTuple):
    """A run that the supervisor has. Offsets in the order stdout, stderr, events."""

    run: int
    plugin: int
    pid: int
    pid_started: int
    state: int
    age: int  # since its start
    task: int  # number of the last TASK, 0 without one
    task_age: int  # since that
    stored_stdout: int  # acknowledged up to here
    stored_stderr: int
    stored_events: int
    task_stdout: int  # read when the task was given
    task_stderr: int
    task_events: int
    stdin_left: int  # bytes of its input that it has not read
    note: bytes
    task_note: bytes


class Ready(NamedTuple):
    """Every run that the supervisor has was told."""


class Started(NamedTuple):
    """A process runs. `pid_started`: clock ticks since boot."""

    run: int
    pid: int
    pid_started: int


class NotStarted(NamedTuple):
    """Nothing was executed, and nothing is left of it."""

    run: int
    errno: int
    step: int
    stopped: int


class Said(NamedTuple):
    """Bytes of stdout or stderr."""

    run: int
    stream: int
    offset: int
    data: bytes


class Events(NamedTuple):
    """Bytes of descriptor 3. What was written to stdout and stderr before them is before `stdout_at` and `stderr_at`.
    `stopped`: why it was being stopped by then. CPU time and memory: its first process's; 0 without an open stdin."""

    run: int
    offset: int
    stdout_at: int
    stderr_at: int
    stopped: int
    cpu: int
    memory: int
    peak: int
    stdin_left: int
    data: bytes


class Closed(NamedTuple):
    """The program closed a stream, and may run on."""

    run: int
    stream: int


class End(NamedTuple):
    """Its end; nothing of it is left but what `left_over` names. `status`: as wait(2) has it, or ALIVE. The offsets are
    those of the rest of each stream, of which PART_MAX bytes come with the end; the node asks for more by Window.
    `stdout_end` and so on: all that it wrote. `left_over` and `ended`: lists of `<II>` (pid and uid) and a name."""

    run: int
    pid: int
    pid_started: int
    status: int
    stopped: int
    flags: int
    killed_after: int
    cpu: int
    peak: int
    stdin_left: int
    seconds: int  # from its start, or the last task given to it, to the end of its first process
    age: int  # since then
    left_running: int  # how many processes of it go on, since its plugin wants that
    stdout_at: int
    stdout_end: int
    stderr_at: int
    stderr_end: int
    events_at: int
    events_end: int
    stdout: bytes
    stderr: bytes
    events: bytes
    left_over: bytes
    ended: bytes


class Gone(NamedTuple):
    """The last process of a run whose End had left some over has ended."""

    run: int


class Pong(NamedTuple):
    """The answer to Ping."""

    number: int


class SupervisorBye(NamedTuple):
    """The supervisor closes the connection."""

    reason: int
    words: bytes


class Log(NamedTuple):
    """A line for the node's log. `level`: as `logging` has it."""

    level: int
    words: bytes


Frame = (
    Hello | Plugin | Start | Task | Stdin | StdinEof | StopRun | KillRun | Window | Ack | Ping | NodeBye | Look
    | SupervisorHello | KeptPlugin | Run | Ready | Started | NotStarted | Said | Events | Closed | End | Gone | Pong
    | SupervisorBye | Log
)  # fmt: skip
