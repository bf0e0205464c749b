"""This machine: limits, control group, room on disks, the state directory, the address for metrics.

Responsible for: looking, never making anything. Must not know: stores, plugins, supervisors that run.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from disbatch_host.doctor.findings import Finding, error, ok, some, warning
from disbatch_host.node.home_directory import SHARED_FILE_SYSTEMS, file_system_of
from disbatch_host.process.groups import group_state
from disbatch_host.settings.values import NodeSettings, Settings

_FILES_MIN = 4096  # descriptors: each run takes up to four, its supervisor as many, the store some
_PROCESSES_MIN = 1024
_ROOM_LOW, _ROOM_MIN = 2**30, 64 * 2**20  # bytes that are free
_INODES_MIN = 1000


def limit_finding(settings: NodeSettings) -> Finding:
    """The limits that runs inherit. The supervisor raises its own number of descriptors to the hard limit."""
    files, processes, locked = (
        resource.getrlimit(one) for one in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_MEMLOCK)
    )
    text = (
        f"{_number(files[1])} descriptors ({_number(files[0])} for programs), {_number(processes[0])} processes, "
        f"{_number(locked[0])} bytes of locked memory"
    )
    facts = {"descriptors": files[1], "processes": processes[0], "locked_bytes": locked[0]}
    wanted = max(_FILES_MIN, 8 * (settings.max_total or 0))
    few = []
    if files[1] != resource.RLIM_INFINITY and files[1] < wanted:
        few.append(f"LimitNOFILE={wanted}")
    if os.geteuid() != 0 and processes[0] != resource.RLIM_INFINITY and processes[0] < _PROCESSES_MIN:
        few.append(f"LimitNPROC={_PROCESSES_MIN}")
    if few:
        return warning("limits", text, f"let the node's unit say {' and '.join(few)} (or ulimit)", **facts)
    return ok("limits", text, **facts)


def _number(value: int) -> str:
    return "any number of" if value == resource.RLIM_INFINITY else str(value)


def group_finding() -> Finding:
    """Which control groups the runs of a node here would have, in the words of its supervisor."""
    state = group_state()
    facts = {"delegated": state.is_used, "limits_memory": state.limits_memory}
    if state.kills_together is not None:
        todo = "where one program takes too much memory, all end with it: OOMPolicy=continue in the unit, or write 0"
        return warning("cgroup", f"{state.words}; {state.kills_together} is 1", todo, **facts)
    return ok("cgroup", state.words, **facts)


def room_findings(settings: Settings, store_file: Path | None) -> Iterator[Finding]:
    """Where something is written: the file of the store, work directories, the state of this node."""
    places = [(store_file.parent, "the store")] if store_file is not None else []
    places.append((Path(tempfile.gettempdir()), "work directories"))
    if settings.node.state_directory is not None:
        places.append((settings.node.state_directory, "runs of this node"))
    by_device: dict[int, tuple[Path, list[str]]] = {}
    for directory, what in places:
        there = _existing(directory)
        try:
            device = there.stat().st_dev
        except OSError:
            continue
        by_device.setdefault(device, (there, []))[1].append(what)
    for there, whats in by_device.values():
        yield _room(there, whats)


def _room(there: Path, whats: Sequence[str]) -> Finding:
    room = os.statvfs(there)
    free = room.f_bavail * room.f_frsize
    text = f"{_size(free)} free at {there} ({', '.join(whats)})"
    facts = {"path": str(there), "free_bytes": free, "free_inodes": room.f_favail}
    few_files = room.f_files > 0 and room.f_favail < _INODES_MIN
    if few_files:
        text += f", and only {room.f_favail} more files fit"
    if free < _ROOM_MIN or few_files:
        return error("disk", text, "make room: what cannot be written stops the node's work", **facts)
    if free < _ROOM_LOW:
        return warning("disk", text, "make room soon; `keep` of a queue deletes ended tasks", **facts)
    return ok("disk", text, **facts)


def _size(size: int) -> str:
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def _existing(directory: Path) -> Path:
    """It, or the first directory above it that is there."""
    return next((one for one in (directory, *directory.parents) if one.is_dir()), Path("/"))


def state_finding(settings: NodeSettings) -> Finding:
    """Where a node here remembers its id, and its runs go on without it."""
    directory = settings.state_directory
    todo = "runs end with their node: name a directory with --state-dir or DISBATCH_STATE_DIR"
    if directory is None:
        return warning("state", "there is no place for a state directory", todo)
    there = _existing(directory)
    what = f"{directory}" if there == directory else f"{directory} (not there yet; a node makes it)"
    facts = {"path": str(directory), "is_there": there == directory}
    if directory.exists() and not directory.is_dir():
        return warning("state", f"expected a directory, found a file: {directory}", todo, **facts)
    if not os.access(there, os.W_OK | os.X_OK):
        return warning("state", f"{what}: this user may not write to {there}", todo, **facts)
    kind = file_system_of(there.stat().st_dev)
    if kind in SHARED_FILE_SYSTEMS:
        return warning("state", f"{what} is on a file system that machines share ({kind})", todo, **facts)
    homes = [one.name for one in homes_in(directory) if not _is_private(one)]
    if homes:
        text = f"{what}: expected directories of this user alone, found others: {some(homes)}"
        return warning("state", text, "remove them while no node runs here", **facts)
    return ok("state", what, **facts)


def homes_in(directory: Path) -> list[Path]:
    """The homes of supervisors in a state directory, also where it may not be read."""
    try:
        return sorted(one for one in directory.iterdir() if "-" in one.name and one.is_dir())
    except OSError:
        return []


def _is_private(home: Path) -> bool:
    status = home.stat()
    return status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077


def metrics_finding(settings: Settings, *, has_node_here: bool) -> Finding | None:
    """Whether the address for metrics can be had; None where there are to be none."""
    address = settings.metrics
    if address is None:
        return None
    shown = f"{address.host or '*'}:{address.port}"
    try:
        for family, kind, protocol, _, place in socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[:1]:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
    except OSError as trouble:
        if trouble.errno == errno.EADDRINUSE and has_node_here:
            return ok("metrics", f"{shown} is in use, probably by the node that runs here")
        words = os.strerror(trouble.errno) if trouble.errno and trouble.errno > 0 else str(trouble.strerror)
        return error("metrics", f"{shown} cannot be had: {words}", "name another address with --metrics")
    return ok("metrics", f"{shown} is free")
