"""Masks that come back: what is shown in the place of a secret is not the secret.

Responsible for: finding them in parameters. Must not know: where parameters come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disbatch_protocol.masks import MASK
from disbatch_protocol.parameters import ParameterSchema

MASKED = f"expected the value itself, found {MASK}, which stands for a secret that is not shown"


def masks_in(schema: ParameterSchema, values: Mapping[str, Any]) -> list[str]:
    """The JSON pointers of the secret parameters whose value is a mask."""
    return [one for one in schema.secrets(values) if _at(values, one) == MASK] if schema.has_secrets else []


def _at(value: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value
