"""What the runs of a node came to, in one line: the last one of a node with --until-idle.

Responsible for: counting, and the words. Must not know: when the line is logged.

*Failed* has the one meaning that it has in every command: status 2 and above, or terminated. An attempt that is tried
again is not an end; it is counted beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from disbatch_host.run.report import RunReport, RunResult
from disbatch_protocol import status as statuses
from disbatch_protocol.status import WAITING, Status

_CODES_NAMED_MAX = 5


class Tally:
    """The ends of one node's runs."""

    def __init__(self) -> None:
        self._ends: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()  # `error.code` of those that failed
        self._tried_again = 0

    @property
    def has_failures(self) -> bool:
        """Whether anything ended in a way that nobody asked for."""
        return bool(self._ends["failed"] or self._ends["orphaned"] or self._ends["not recorded"])

    def add_unrecorded(self, count: int) -> None:
        """The ends of so many runs could not be recorded."""
        self._ends["not recorded"] += count

    def count(self, report: RunReport) -> None:
        """A run has ended, and that is recorded."""
        if report.conclusion is None:
            if report.result in _WITHOUT_CONCLUSION:
                self._ends[_WITHOUT_CONCLUSION[report.result]] += 1
            return
        status = report.conclusion.status
        if status in WAITING:
            if report.result is RunResult.NOT_STARTED:
                self._ends["given back"] += 1
            else:
                self._tried_again += 1
        elif statuses.is_failed(status):
            self._ends["failed"] += 1
            self._codes[report.error_code or report.how] += 1
        else:
            self._ends[_NAMES[status]] += 1

    def __str__(self) -> str:
        """`ran 1,000: 986 concluded, 14 failed (exit_3 12, timeout 2)`."""
        parts = [
            f"{self._ends[word]:,} {word}{self._causes() if word == 'failed' else ''}"
            for word in _WORDS
            if self._ends[word]
        ]
        attempts = "1 attempt was" if self._tried_again == 1 else f"{self._tried_again:,} attempts were"
        again = f"; {attempts} tried again" if self._tried_again else ""
        if not parts:
            return f"ran nothing{again}"
        return f"ran {self._ends.total():,}: {', '.join(parts)}{again}"

    def _causes(self) -> str:
        named = [f"{code} {count:,}" for code, count in self._codes.most_common(_CODES_NAMED_MAX)]
        more = len(self._codes) - len(named)
        return f" ({', '.join(named)}{f' and {more} more codes' if more else ''})"


_NAMES: Mapping[int, str] = {int(status): status.name.lower() for status in Status}
_WORDS = ("concluded", "failed", "cancelled", "orphaned", "given back", "lost to others", "not recorded")
_WITHOUT_CONCLUSION: Mapping[RunResult, str] = {
    RunResult.GIVEN_BACK: "given back",
    RunResult.WITHDRAWN: "cancelled",
    RunResult.REFUSED: "lost to others",
}
