"""What to try where the columns of a file have other names than the parameters of a plugin, and faults that are alike.

Responsible for: the words that many rows with one fault deserve. Must not know: where they are shown.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from disbatch_host.client.importing.guessing import like
from disbatch_host.client.importing.mapping import Field
from disbatch_host.client.importing.task_maker import RowFault
from disbatch_protocol.parameters import ParameterSchema

_NAMED_MAX = 20  # columns or parameters that a sentence names
_VALUES = re.compile(r"found [^;]*|\d+")  # what differs between faults that are alike


@dataclass(slots=True, kw_only=True)
class Alike:
    """Rows with the same fault, whatever their values."""

    first: RowFault
    count: int = 1


class FaultGroups:
    """Faults by their kind, in the order of the first of each; bounded, however many rows and kinds there are."""

    def __init__(self, kinds_max: int) -> None:
        self._kinds_max = kinds_max
        self._found: dict[str, Alike] = {}
        self.others = 0  # rows whose kinds are not kept

    def add(self, fault: RowFault) -> None:
        kind = _VALUES.sub("", fault.reason)
        if (alike := self._found.get(kind)) is not None:
            alike.count += 1
        elif len(self._found) < self._kinds_max:
            self._found[kind] = Alike(first=fault)
        else:
            self.others += 1

    def __iter__(self) -> Iterator[Alike]:
        return iter(self._found.values())


def on_maps(
    columns: Sequence[str], fields: Sequence[Field], schema: ParameterSchema, plugin: str, given: Set[str]
) -> str | None:
    """The `--map` options to try. None if every required parameter has a column or is given, and no column is refused
    for its name."""
    places = schema.places
    names = places.names()
    known = {field.path[0]: field for field in fields if field.path[0] in names}
    missing = [name for name in names if name not in known and name not in given]
    spare = [one for one in columns if one and one not in {field.column for field in known.values()}]
    is_wanted = any(places.requires((name,)) for name in missing) or (places.is_closed and len(known) < len(fields))
    if not spare or not missing or not is_wanted:
        return None
    pairs = {field.column: field.name for field in known.values()}
    for name in missing:
        near = spare[0] if len(spare) == len(missing) == 1 else like(name, [one for one in spare if one not in pairs])
        if near is not None:
            pairs[near] = name
    options = " ".join(f"--map {shlex.quote(f'{column}={name}')}" for column, name in pairs.items())
    has_new = len(pairs) > len(known)
    what = f"try {options}" if has_new else "--map COLUMN=PARAMETER says which is which"
    return f"the columns are {_listed([repr(one) for one in columns])}; plugin {plugin} takes {_listed(names)}: {what}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more
