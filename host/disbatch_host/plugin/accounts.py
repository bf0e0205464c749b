"""The users of this machine, for `run_as` and for the variables that tell a program who it is.

Responsible for: looking them up, every time: they may change while a node runs. Must not know: what they are for.
"""

from __future__ import annotations

import grp
import os
import pwd

from disbatch_host.process.interface import Account
from disbatch_protocol.manifest import RunAs


class Accounts:
    """The machine's users and groups."""

    def entry(self, user: str) -> pwd.struct_passwd:
        """Raises KeyError if the machine does not know the user."""
        return pwd.getpwnam(user)

    def own_entry(self) -> pwd.struct_passwd | None:
        """The host's own user; None for one without an entry, as in many containers."""
        try:
            return pwd.getpwuid(os.geteuid())
        except KeyError:
            return None

    def account(self, run_as: RunAs) -> Account:
        """User, group and further groups. Raises KeyError if the machine does not know them."""
        entry = self.entry(run_as.user)
        gid = grp.getgrnam(run_as.group).gr_gid if run_as.group is not None else entry.pw_gid
        return Account(uid=entry.pw_uid, gid=gid, groups=self.groups(entry.pw_name, gid))

    def groups(self, user: str, gid: int) -> tuple[int, ...]:
        """All groups of the user, with `gid`."""
        return tuple(os.getgrouplist(user, gid))
