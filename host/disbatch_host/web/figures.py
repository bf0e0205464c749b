"""What this server has done, as Prometheus reads it.

Responsible for: counting, and the text of `/metrics`. Must not know: requests, what the counted parts are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


class Figures:
    """Counts since the start of the process. Used by one thread."""

    def __init__(self) -> None:
        self._requests: Counter[Labels] = Counter()
        self._seconds: dict[str, float] = {}  # by route, until the answer began
        self._refused: Counter[Labels] = Counter()
        self.gaps = 0  # times that a follower was too slow

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """An answer has begun after so long."""
        self._requests[("route", route), ("status", str(status))] += 1
        self._seconds[route] = self._seconds.get(route, 0.0) + seconds

    def count_refused(self, what: str) -> None:
        """There was no place for one of these."""
        self._refused[(("what", what),)] += 1

    def text(self, now: Iterable[tuple[str, str, Mapping[Labels, float]]]) -> str:
        """All of it; `now`: further ones (name, help, values), as they are at this moment."""
        seconds: dict[Labels, float] = {(("route", route),): value for route, value in self._seconds.items()}
        mine: list[tuple[str, str, Mapping[Labels, float]]] = [
            ("disbatch_web_requests_total", "Answered requests.", self._requests),
            ("disbatch_web_request_seconds_total", "Until the answers began.", seconds),
            ("disbatch_web_refused_total", "Streams and downloads for which there was no place.", self._refused),
            ("disbatch_web_gaps_total", "Followers that were too slow.", {(): self.gaps}),
        ]
        return "".join(line for one in (*mine, *now) for line in _lines(*one))


def _lines(name: str, words: str, values: Mapping[Labels, float]) -> Iterable[str]:
    yield f"# HELP {name} {words}\n# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}\n"
    for labels, value in sorted(values.items()):
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        yield f"{name}{{{inside}}} {value:.10g}\n" if inside else f"{name} {value:.10g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
