"""The `exit_codes` of a manifest: the meaning of each code, and checks beyond the schema.

Responsible for: ranges of codes, and expected ends that are impossible. Must not know: how a run ends (`outcome`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from disbatch_protocol.faults import Fault, error_at, pointer_to
from disbatch_protocol.outcome import ExitRule, Outcome
from disbatch_protocol.status import Status

_CODE = "(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])"  # 0 to 255 without leading zeros, as in the schema
_CODES = re.compile(f"{_CODE}(-{_CODE})?", re.ASCII)


def exit_code_faults(exit_codes: dict[str, Any]) -> Iterator[Fault]:
    """Ranges that are invalid or overlap, and a status of its own for an end that is not a failure."""
    owner: dict[int, str] = {}
    for key, value in exit_codes.items():
        pointer = pointer_to(["exit_codes", key])
        if _CODES.fullmatch(key) is None:
            continue  # the schema reports it
        first, last = _code_range(key)
        if first > last:
            yield error_at(pointer, f'expected exit codes in ascending order, found "{key}"', f'write "{last}-{first}"')
            continue
        twice = next((owner[code] for code in range(first, last + 1) if code in owner), None)
        if twice is not None:
            yield error_at(pointer, f'"{key}" and "{twice}" both give a meaning to one exit code', "make them disjoint")
        owner |= dict.fromkeys(range(first, last + 1), key)
        if isinstance(value, dict) and "status" in value and value.get("outcome") not in ("failure", "permanent"):
            message = f'only a failure has a status of its own, found one with "{value.get("outcome")}"'
            yield error_at(f"{pointer}/status", message, 'remove it, or write "failure" or "permanent"')


def exit_rules(exit_codes: dict[str, Any]) -> Mapping[int, ExitRule]:
    """The meaning of each code, from valid `exit_codes`."""
    rules = {}
    for key, value in exit_codes.items():
        named = {"outcome": value} if isinstance(value, str) else value
        status = named.get("status")  # JSON Schema accepts 3.0 as an integer
        rule = ExitRule(outcome=Outcome(named["outcome"]), status=None if status is None else int(status))
        first, last = _code_range(key)
        rules.update(dict.fromkeys(range(first, last + 1), rule))
    return rules


def example_end_faults(document: dict[str, Any]) -> Iterator[Fault]:
    """An example whose exit code and status cannot both come true."""
    exit_codes, examples = document.get("exit_codes", {}), document.get("examples")
    rules = exit_rules(exit_codes) if not any(exit_code_faults(exit_codes)) else None
    for index, example in enumerate(examples if isinstance(examples, list) and rules is not None else ()):
        if not isinstance(example, dict) or example.get("exit") is None or example.get("status") != Status.CONCLUDED:
            continue
        code = int(example["exit"])
        rule = rules.get(code) if rules is not None else None
        is_success = rule.outcome is Outcome.SUCCESS if rule is not None else code == 0
        if not is_success:
            message = f"expected a possible end, found status 1 with exit code {code}, which is not a success"
            hint = f'remove one of them, or write {{"{code}": "success"}} in "exit_codes"'
            yield error_at(f"/examples/{index}/status", message, hint)


def _code_range(key: str) -> tuple[int, int]:
    first, _, last = key.partition("-")
    return int(first), int(last or first)
