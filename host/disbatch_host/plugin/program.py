"""How a plugin's program is started: its command, environment, directory, limits and account, in both modes.

Responsible for: everything that is decided before the process is there, and taking away the work directory after it.
Must not know: what the process does, how a run ends.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import resource
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

from disbatch_host.clock import Clock
from disbatch_host.plugin import environment
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.child import Child
from disbatch_host.process.interface import Account, Command, Deadlines, Environment, ProcessEnd, StartError, Stream
from disbatch_host.process.poller import Poller
from disbatch_host.process.spawner import Spawner
from disbatch_protocol.manifest import Limits, Manifest

BUSY_PROGRAM_TRIES, BUSY_PROGRAM_SECONDS = 5, 0.2  # a program that is being replaced (ETXTBSY), as CNI does it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaunchSite:
    """What all programs that a host starts share."""

    node_id: str
    local_clock: Clock  # this machine's: what a plugin compares its deadline with
    host_environment: Mapping[str, str] = field(repr=False)
    temporary_directory: Path  # for work directories and spools
    poller: Poller = field(default_factory=Poller, repr=False)
    spawner: Spawner = field(default_factory=Spawner, repr=False)
    shared: WeakKeyDictionary[Plugin, Shared] = field(default_factory=WeakKeyDictionary, repr=False)

    def child(
        self,
        command: Command,
        deadlines: Deadlines,
        *,
        receive: Callable[[Stream, bytes], None],
        ended: Callable[[ProcessEnd], None],
        closed: Callable[[Stream], None] | None = None,
    ) -> Child:
        """A program that can be started here."""
        return Child(command, deadlines, self.poller, self.spawner, receive=receive, ended=ended, closed=closed)

    def close(self) -> None:
        """When nothing runs any more. Closing twice is fine."""
        self.spawner.close()
        self.poller.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the programs of one plugin have in common on one host; made with the first of them."""

    argv: Sequence[str]
    environment: Environment
    limits: Mapping[int, int]
    deadlines: Deadlines  # of one run
    idle_deadlines: Deadlines  # of a process that has no task


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A program that is ready to be started."""

    command: Command
    work_directory: Path | None

    def remove_work_directory(self) -> None:
        """Doing it twice is fine."""
        if self.work_directory is not None:
            shutil.rmtree(self.work_directory, ignore_errors=True)


def prepare(plugin: Plugin, site: LaunchSite, *, name: str, variables: Mapping[str, str]) -> Launch:
    """Make what the program needs. `name` stands in the work directory's name; `variables` are those of the task.

    Raises StartError, with nothing left behind.
    """
    manifest = plugin.manifest
    work_directory = None
    try:
        account = account_of(manifest)
        if manifest.cwd == "work":
            work_directory = Path(tempfile.mkdtemp(prefix=f"disbatch-{name}-", dir=site.temporary_directory))
            if account is not None:
                os.chown(work_directory, account.uid, account.gid)
    except OSError as error:
        if work_directory is not None:
            shutil.rmtree(work_directory, ignore_errors=True)
        where = site.temporary_directory
        message = f"cannot be given a work directory in {where}: {error.strerror}"
        raise StartError(message, errno=error.errno) from error
    except KeyError as error:
        raise StartError(f"cannot be started as the user that it names: {error.args[0]}") from error
    return Launch(
        command=command(plugin, site, account=account, work_directory=work_directory, variables=variables),
        work_directory=work_directory,
    )


def command(
    plugin: Plugin,
    site: LaunchSite,
    *,
    account: Account | None,
    work_directory: Path | None,
    variables: Mapping[str, str],
) -> Command:
    """The program with everything that the plugin contract promises it."""
    shared = shared_of(plugin, site)
    if work_directory is not None:
        variables = {**variables, "DISBATCH_WORK_DIR": str(work_directory)}
    return Command(
        argv=shared.argv,
        directory=work_directory or plugin.directory,
        environment=shared.environment.extended(variables),
        limits=shared.limits,
        account=account,
    )


def shared_of(plugin: Plugin, site: LaunchSite) -> Shared:
    """What all programs of this plugin share on this host."""
    shared = site.shared.get(plugin)
    if shared is None:
        shared = site.shared[plugin] = _shared(plugin, site)
    return shared


def _shared(plugin: Plugin, site: LaunchSite) -> Shared:
    manifest = plugin.manifest
    user = manifest.run_as.user if manifest.run_as else None
    base = environment.base_environment(manifest, site.host_environment, user=user)
    own = environment.plugin_environment(base, manifest=manifest, directory=plugin.directory, node=site.node_id)
    return Shared(
        argv=tuple(plugin.argv),
        environment=Environment.of(own),
        limits=rlimits(manifest.limits),
        deadlines=deadlines(manifest),
        idle_deadlines=deadlines(manifest, with_time_limits=False),
    )


def deadline_of(manifest: Manifest, site: LaunchSite) -> float | None:
    """When a run that starts now will be over time, in Unix seconds."""
    if manifest.timeout_seconds is None:
        return None
    return site.local_clock.now().timestamp() + manifest.timeout_seconds


def deadlines(manifest: Manifest, *, with_time_limits: bool = True) -> Deadlines:
    """How a process of this plugin is stopped, and, where asked for, when."""
    return Deadlines(
        timeout_seconds=manifest.timeout_seconds if with_time_limits else None,
        idle_timeout_seconds=manifest.idle_timeout_seconds if with_time_limits else None,
        kill_grace_seconds=manifest.kill_grace_seconds,
        stop_signal=manifest.stop_signal,
    )


async def start(make: Callable[[], Child]) -> Child:
    """Start what `make` makes; once more a moment later where its file is being written just now. Raises StartError."""
    for tries_left in reversed(range(BUSY_PROGRAM_TRIES)):
        child = make()
        try:
            await child.start()
            return child
        except StartError as error:
            if not (error.is_busy and tries_left):
                raise
        await asyncio.sleep(BUSY_PROGRAM_SECONDS)
    raise AssertionError("unreachable: the last try returns or raises")


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


def account_of(manifest: Manifest) -> Account | None:
    """The user, group and further groups of `run_as`. Raises KeyError where the machine does not know them."""
    if manifest.run_as is None:
        return None
    entry = pwd.getpwnam(manifest.run_as.user)
    gid = grp.getgrnam(manifest.run_as.group).gr_gid if manifest.run_as.group is not None else entry.pw_gid
    return Account(uid=entry.pw_uid, gid=gid, groups=tuple(os.getgrouplist(entry.pw_name, gid)))
