"""The `exit_codes` of a manifest: which code means what, and what its schema cannot say about them.

Responsible for: ranges of codes, and ends that cannot come true. Must not know: how a run ends (`outcome`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from disbatch_protocol.faults import Fault, error_at, pointer_to
from disbatch_protocol.outcome import ExitRule, Outcome
from disbatch_protocol.status import Status

_CODES = re.compile(r"[0-9]{1,3}(-[0-9]{1,3})?", re.ASCII)  # as the schema says it


def exit_code_faults(exit_codes: dict[str, Any]) -> Iterator[Fault]:
    """Ranges that are none or overlap, and a status of its own for an end that is not a failure."""
    owner: dict[int, str] = {}
    for key, value in exit_codes.items():
        pointer = pointer_to(["exit_codes", key])
        if _CODES.fullmatch(key) is None:
            continue  # the schema has said so
        first, last = _code_range(key)
        plain = str(first) if "-" not in key else f"{first}-{last}"
        if key != plain:
            yield error_at(pointer, f'expected an exit code without zeros before it, found "{key}"', f'write "{plain}"')
            continue
        if last > 255 or first > last:
            yield error_at(pointer, f'expected exit codes from 0 to 255 in rising order, found "{key}"')
            continue
        twice = next((owner[code] for code in range(first, last + 1) if code in owner), None)
        if twice is not None:
            yield error_at(pointer, f'"{key}" and "{twice}" both give a meaning to one exit code', "make them disjoint")
        owner |= dict.fromkeys(range(first, last + 1), key)
        if isinstance(value, dict) and "status" in value and value.get("outcome") not in ("failure", "permanent"):
            message = f'only a failure has a status of its own, found one with "{value.get("outcome")}"'
            yield error_at(f"{pointer}/status", message, 'remove it, or write "failure" or "permanent"')


def exit_rules(exit_codes: dict[str, Any]) -> Mapping[int, ExitRule]:
    """What each code means, of an `exit_codes` without faults."""
    rules = {}
    for key, value in exit_codes.items():
        named = {"outcome": value} if isinstance(value, str) else value
        status = named.get("status")  # JSON Schema takes 3.0 for an integer
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
            message = (
                f"expected an end that can be, found status 1 together with exit code {code}, which is not a success"
            )
            hint = f'remove one of them, or write {{"{code}": "success"}} in "exit_codes"'
            yield error_at(f"/examples/{index}/status", message, hint)


def _code_range(key: str) -> tuple[int, int]:
    first, _, last = key.partition("-")
    return int(first), int(last or first)
