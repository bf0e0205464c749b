"""The start of a plugin's program: its command, environment, directory, limits and account, in both modes.

Responsible for: everything that is decided before the process exists. Must not know: how anything is started
(`process`), what the process does, how a run ends, how a work directory is removed (`work_directories`).
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from disbatch_host.clock import Clock
from disbatch_host.plugin import environment, kept_plugin
from disbatch_host.plugin.accounts import Accounts
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.work_directories import WorkDirectories, text_of
from disbatch_host.process.interface import Account, Deadlines, Environment, Program, StartError
from disbatch_protocol.manifest import Limits, Manifest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProgramSite:
    """Where programs are started: everything that those of all plugins on one host share."""

    node_id: str
    local_clock: Clock  # this machine's: a plugin compares its deadline with it
    host_environment: Mapping[str, str] = field(repr=False)
    temporary_directory: Path  # for spools, and for work directories
    work_directories: WorkDirectories = field(init=False, repr=False)
    accounts: Accounts = field(default_factory=Accounts, repr=False)
    shared: WeakKeyDictionary[Plugin, Shared] = field(default_factory=WeakKeyDictionary, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "work_directories", WorkDirectories(self.temporary_directory))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Things that the processes of one plugin have in common on one host; made with the first of them."""

    program: Program
    deadlines: Deadlines  # of one run
    idle_deadlines: Deadlines  # of a process that has no task
    of_account: dict[Account, Program] = field(default_factory=dict)  # the program as it runs in each


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedProgram:
    """A program with the things made for one process of it."""

    program: Program
    deadlines: Deadlines  # of one run
    variables: Mapping[str, str] = field(repr=False)  # besides the program's own
    work_directory: Path | None
    work_directories: WorkDirectories = field(repr=False)

    def remove_work_directory(self, on_left: Callable[[str], None] | None = None) -> None:
        """Have it removed, if there is one; see `WorkDirectories.remove`. Doing it twice is fine."""
        if self.work_directory is not None:
            self.work_directories.remove(self.work_directory, on_left)


def prepare(plugin: Plugin, site: ProgramSite, *, name: str, variables: Mapping[str, str]) -> PreparedProgram:
    """Make the things that a process of this plugin needs. `name` becomes part of the work directory's name;
    `variables` are those of the task.

    Raises StartError, with nothing left behind.
    """
    manifest = plugin.manifest
    work_directory = None
    try:
        # Before the shared part is made: with an account that is unknown now, its environment would stay wrong.
        account = None if manifest.run_as is None else site.accounts.account(manifest.run_as)
        shared = shared_of(plugin, site)
        program = shared.program
        if account is not None:  # looked up each time: the machine's users may change
            known = shared.of_account.get(account)
            program = known or shared.of_account.setdefault(account, replace(program, account=account))
        if manifest.cwd == "work":
            work_directory = site.work_directories.make(name, account)
    except OSError as error:
        message = f"cannot be given a work directory in {text_of(site.temporary_directory)}: {error.strerror}"
        raise StartError(message, errno=error.errno) from error
    except KeyError as error:
        raise StartError(f"cannot be started as the user that it names: {error.args[0]}") from error
    return PreparedProgram(
        program=program,
        deadlines=shared.deadlines,
        variables=with_work_directory(variables, work_directory),
        work_directory=work_directory,
        work_directories=site.work_directories,
    )


def prepared_earlier(plugin: Plugin, site: ProgramSite, work_directory: Path | None) -> PreparedProgram:
    """The same of a process that an earlier node has started, in this work directory."""
    shared = shared_of(plugin, site)
    return PreparedProgram(
        program=shared.program,
        deadlines=shared.deadlines,
        variables={},
        work_directory=work_directory,
        work_directories=site.work_directories,
    )


def with_work_directory(variables: Mapping[str, str], work_directory: Path | None) -> Mapping[str, str]:
    """The variables of a process that has this directory of its own."""
    return variables if work_directory is None else {**variables, "DISBATCH_WORK_DIR": str(work_directory)}


def shared_of(plugin: Plugin, site: ProgramSite) -> Shared:
    """The things that all processes of this plugin share on this host."""
    shared = site.shared.get(plugin)
    if shared is None:
        shared = site.shared[plugin] = _shared(plugin, site)
    return shared


def _shared(plugin: Plugin, site: ProgramSite) -> Shared:
    manifest = plugin.manifest
    user = manifest.run_as.user if manifest.run_as else None
    base = environment.base_environment(manifest, site.host_environment, site.accounts, user=user)
    own = environment.plugin_environment(base, manifest=manifest, directory=plugin.directory, node=site.node_id)
    return Shared(
        program=Program(
            argv=tuple(plugin.argv),
            directory=plugin.directory,
            environment=Environment.of(own),
            limits=rlimits(manifest.limits),
            umask=manifest.umask,
            leave_running=manifest.leave_running,
            max_output_bytes=manifest.max_output_bytes,
            note=kept_plugin.note_of(plugin),
        ),
        deadlines=_deadlines(manifest, with_time_limits=True),
        idle_deadlines=_deadlines(manifest, with_time_limits=False),
    )


def deadline_of(manifest: Manifest, site: ProgramSite) -> float | None:
    """The time, in Unix seconds, at which a run that starts now has used up its timeout."""
    if manifest.timeout_seconds is None:
        return None
    return site.local_clock.now().timestamp() + manifest.timeout_seconds


def _deadlines(manifest: Manifest, *, with_time_limits: bool) -> Deadlines:
    return Deadlines(
        timeout_seconds=manifest.timeout_seconds if with_time_limits else None,
        idle_timeout_seconds=manifest.idle_timeout_seconds if with_time_limits else None,
        kill_grace_seconds=manifest.kill_grace_seconds,
        stop_signal=manifest.stop_signal,
    )


def rlimits(limits: Limits) -> dict[int, int]:
    """The manifest's limits by their numbers."""
    values = {
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_FSIZE: limits.file_size_bytes,
    }
    return {limit: value for limit, value in values.items() if value is not None}
