"""The log line for the end of a run.

Responsible for: what it says and at which level, and that it shows no secret. Must not know: how runs end.

Rules:
1. A task that has failed for good is a warning, with the code, the last line of its error and what the host says of it;
   a success is for debugging.
2. The error may be the plugin's own words. Before they are shortened, every `writeOnly` parameter of the task and every
   variable that its manifest sets or passes on is masked in them.
"""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from disbatch_host import logs
from disbatch_host.decide import words
from disbatch_host.node.compartment import name_of
from disbatch_host.run.attempt import Run
from disbatch_host.run.report import RunReport
from disbatch_protocol import status as statuses
from disbatch_protocol.masks import MASK
from disbatch_protocol.outcome import Outcome

log = logging.getLogger(__name__)

_MESSAGE_MAX = 200  # characters
_READ_MAX = 4000  # characters of a line that are looked at
_VARIABLE_MIN = 4  # characters: shorter values, such as `1` or `yes`, are no secrets, and are parts of other words
_PART_MIN = 4  # characters of a secret that was cut
_JOINERS = "\u200c\u200d"  # of some scripts, and of emoji; other control characters must not reach a terminal


def log_end(run: Run, report: RunReport, host: Mapping[str, str]) -> None:
    """Log the end of a run, if this level is logged. `host`: the host's environment."""
    conclusion = report.conclusion
    if conclusion is None:
        return
    if conclusion.outcome is Outcome.SUCCESS:
        level = logging.DEBUG
    else:
        level = logging.WARNING if statuses.is_failed(conclusion.status) else logging.INFO
    if not log.isEnabledFor(level):
        return
    code, message = _error_of(run, report, host)
    name = statuses.name(conclusion.status)
    how = name if report.how == name else f"{conclusion.outcome} ({report.how}), now {name}"
    error = f": {code}: {message}" if code and message else f": {code}" if code else ""
    log.log(
        level,
        "task %s of queue %s: %s%s",
        name_of(run.task.id),
        name_of(run.task.queue),
        how,
        error,
        extra=logs.with_error(run.log_ids, code, message),
    )


def _error_of(run: Run, report: RunReport, host: Mapping[str, str]) -> tuple[str, str]:
    """The code and the line of its error, without secrets; empty ones without an error."""
    line = line_of(report.error_message)[-_READ_MAX:]
    secrets = list(_secrets_of(run, report, host)) if line or report.error_code else []
    return masked(report.error_code or "", secrets), _shortened(masked(line, secrets))


def line_of(message: str | None) -> str:
    """The last line of a program's error, and everything that the host has to say of it."""
    own, ours = words.parts_of_error(message)
    return "; ".join([*own[-1:], *ours])


def _secrets_of(run: Run, report: RunReport, host: Mapping[str, str]) -> Iterator[str]:
    """The texts that the program was given and a log must not show."""
    for pointer in report.secrets:
        yield from _texts(_at(run.task.parameters, pointer))
    manifest = run.plugin.manifest
    passed = [host[name] for pattern in manifest.env_pass for name in fnmatch.filter(host, pattern)]
    yield from (one for one in (*manifest.env.values(), *passed) if len(one) >= _VARIABLE_MIN)


def _at(value: Any, pointer: str) -> Any:
    """The value that a JSON pointer names."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        yield json.dumps(value)[1:-1]  # as it is in the task document that the plugin read
        yield json.dumps(value, ensure_ascii=False)[1:-1]
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def masked(text: str, secrets: list[str]) -> str:
    """The text without the secrets; the longest first, since one may hold another."""
    for secret in sorted({one for one in secrets if one}, key=len, reverse=True):
        text = text.replace(secret, MASK)
        # Of long output only the end was kept, and of a long message the beginning: a secret may have been cut there.
        longest = min(len(secret) - 1, len(text))
        cut = next((size for size in range(longest, _PART_MIN - 1, -1) if text.startswith(secret[-size:])), 0)
        text = MASK + text[cut:] if cut else text
        cut = next((size for size in range(longest, _PART_MIN - 1, -1) if text.endswith(secret[:size])), 0)
        text = text[:-cut] + MASK if cut else text
    return text


def _shortened(line: str) -> str:
    line = "".join(one if one.isprintable() or one in _JOINERS else "\ufffd" for one in line)
    if len(line) <= _MESSAGE_MAX:
        return line
    return f"{line[: _MESSAGE_MAX // 3]}…{line[-(_MESSAGE_MAX - _MESSAGE_MAX // 3 - 1) :]}"
