"""The environment that a plugin gets: clean, small, and the same for every node.

Responsible for: choosing which of the host's own variables are passed on, and adding those that the contract
promises. Must not know: tasks beyond their ids, processes.

Rules (plugin contract, "A run in oneshot mode"):
1. Nothing of the host's environment reaches a plugin except the names listed here and those of the manifest's
   `env_pass`.
2. Parameters are in it only where the manifest's `env_parameters` put them (`run.starting`), and the database's address
   never reaches a plugin: the host's own DISBATCH_ variables are not passed on, whatever `env_pass` says.
"""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from disbatch_host.plugin.accounts import Accounts
from disbatch_protocol import PROTOCOL_VERSION
from disbatch_protocol.manifest import Manifest

_HANDED_ON = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
_HANDED_ON_PREFIX = "LC_"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Debian's own, for a host without one
EVENT_DESCRIPTOR = 3


def host_environment() -> dict[str, str]:
    """The host's environment, as it is now. Read here and in the settings of the command line, nowhere else."""
    return dict(os.environ)


def search_path(host: Mapping[str, str]) -> str:
    """The PATH in which a plugin's program, interpreter and requirements are looked up."""
    return host.get("PATH") or _DEFAULT_PATH


def base_environment(
    manifest: Manifest, host: Mapping[str, str], accounts: Accounts, *, user: str | None = None
) -> dict[str, str]:
    """The part that all runs of a plugin share: the host's variables that are passed on, then `env_pass`, then `env`.

    `user` is the account that the run changes to: HOME, USER, LOGNAME and SHELL are then that account's. Raises
    KeyError if the machine does not know it.
    """
    environment = {
        name: value for name, value in host.items() if name in _HANDED_ON or name.startswith(_HANDED_ON_PREFIX)
    }
    environment["PATH"] = search_path(host)
    account = accounts.entry(user) if user is not None else accounts.own_entry()
    if account is not None:
        own = {
            "HOME": account.pw_dir,
            "USER": account.pw_name,
            "LOGNAME": account.pw_name,
            "SHELL": account.pw_shell or "/bin/sh",
        }
        environment = {**environment, **own} if user is not None else {**own, **environment}
    environment.setdefault("LANG", "C.UTF-8")  # a host started by init has none; output is decoded as UTF-8
    environment.setdefault("TMPDIR", tempfile.gettempdir())
    environment["PYTHONUNBUFFERED"] = "1"
    for pattern in manifest.env_pass:
        for name in fnmatch.filter(host, pattern):
            if not name.startswith("DISBATCH_"):
                environment[name] = host[name]
    environment.update(manifest.env)
    return environment


def plugin_environment(
    base: Mapping[str, str],
    *,
    manifest: Manifest,
    directory: Path,
    node: str,
) -> dict[str, str]:
    """The environment of a plugin's process: the shared part and those DISBATCH_ variables that do not depend on the
    task; all that a worker gets."""
    return {
        **base,
        "DISBATCH_PROTOCOL": str(PROTOCOL_VERSION),
        "DISBATCH_MODE": str(manifest.mode),
        "DISBATCH_CLASS": manifest.name,
        "DISBATCH_NODE": node,
        "DISBATCH_EVENT_FD": str(EVENT_DESCRIPTOR),
        "DISBATCH_PLUGIN_DIR": str(directory),
    }


def task_environment(*, task_id: str, queue: str, attempt: int, deadline: float | None) -> dict[str, str]:
    """The variables that tell a oneshot run about its task. `deadline` is in Unix seconds."""
    environment = {
        "DISBATCH_TASK_ID": task_id,
        "DISBATCH_QUEUE": queue,
        "DISBATCH_ATTEMPT": str(attempt),
    }
    if deadline is not None:
        environment["DISBATCH_DEADLINE"] = str(int(deadline))
    return environment
