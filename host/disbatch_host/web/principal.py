"""Who asks, and what they may see and do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody who is signed in."""

    name: str
    role: Role
    queues: frozenset[str] | None = None  # None: all of them
    expires: datetime | None = None
    is_of_browser: bool = False  # known by a cookie or a proxy, which a browser sends by itself

    @property
    def by(self) -> str:
        """As it is written into documents."""
        return f"{self.name}@web"

    def require(self, role: Role) -> None:
        """Raises Problem unless the role includes this one."""
        if self.role < role:
            raise Problem(
                Code.ROLE, f"{self.name} has the role {self.role.word}, and this needs {role.word}; ask for a token "
                "with that role",
            )  # fmt: skip

    def sees(self, queue: str) -> bool:
        return self.queues is None or queue in self.queues

    def require_queue(self, queue: str) -> None:
        """Raises Problem for a queue that is not shown to this person, as if it did not exist."""
        if not self.sees(queue):
            raise Problem(Code.QUEUE, f"no queue {queue!r:.80} for {self.name}")

    def require_task(self, task_id: object, queue: object) -> None:
        """Raises Problem for a task of such a queue, likewise."""
        if not self.sees(str(queue)):
            raise Problem(Code.TASK, f"no task {str(task_id)!r:.80} for {self.name}")
