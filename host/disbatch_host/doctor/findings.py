"""What an examination finds: a line for each thing that was looked at.

Responsible for: the form of a finding and of all together, and the exit code. Must not know: what is looked at, how it
is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from disbatch_host import __version__
from disbatch_host.errors import ExitCode


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # it works, and somebody should look at it
    ERROR = "error"  # tasks are not run, or a node here could not do its work


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line."""

    name: str  # what was looked at
    verdict: Verdict = Verdict.OK
    text: str  # what was found
    todo: str = ""  # what to do about it
    facts: Mapping[str, Any] = field(default_factory=dict)  # figures, for programs

    @property
    def document(self) -> dict[str, Any]:
        """As JSON has it (schemas/doctor.json)."""
        return {
            "name": self.name,
            "verdict": str(self.verdict),
            "text": self.text,
            "todo": self.todo,
            "facts": dict(self.facts),
        }


def ok(name: str, text: str, **facts: Any) -> Finding:
    return Finding(name=name, text=text, facts=facts)


def warning(name: str, text: str, todo: str, **facts: Any) -> Finding:
    return Finding(name=name, verdict=Verdict.WARNING, text=text, todo=todo, facts=facts)


def error(name: str, text: str, todo: str, **facts: Any) -> Finding:
    return Finding(name=name, verdict=Verdict.ERROR, text=text, todo=todo, facts=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was found. `is_store_there`: False: the store cannot be reached, or refuses."""

    findings: Sequence[Finding]
    is_store_there: bool = True

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def count(self, verdict: Verdict) -> int:
        """How many findings are as bad as this."""
        return sum(one.verdict is verdict for one in self.findings)

    @property
    def exit_code(self) -> ExitCode:
        if not self.is_store_there:
            return ExitCode.STORE
        return ExitCode.FAILED if self.count(Verdict.ERROR) else ExitCode.DONE

    @property
    def document(self) -> dict[str, Any]:
        """As JSON has it (schemas/doctor.json)."""
        return {
            "version": f"disbatch-host {__version__}",
            "exit_code": int(self.exit_code),
            "warnings": self.count(Verdict.WARNING),
            "errors": self.count(Verdict.ERROR),
            "checks": [one.document for one in self.findings],
        }


NAMED_MAX = 5  # of many things that one line names


def some(names: Sequence[str], separator: str = ", ") -> str:
    """The first ones, and how many more there are."""
    more = f"{separator}and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return separator.join(names[:NAMED_MAX]) + more


def count_of(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
