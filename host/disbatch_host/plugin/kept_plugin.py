"""A plugin as a process host keeps it with the runs that have begun: an adopted run is concluded by that, whatever has
become of the plugin's directory.

Responsible for: writing such a note, and making a plugin of it. Must not know: runs, who keeps it.

The schema of the parameters is left out: it was needed before the start, and it may be large.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson

from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.checking import Checks
from disbatch_protocol.faults import Fault
from disbatch_protocol.manifest import parse_manifest
from disbatch_protocol.manifest_json import parse_json

_LARGEST = 2**20  # bytes that a process host keeps
_LEFT_OUT = ("parameters", "examples")


def note_of(plugin: Plugin) -> bytes:
    """The note; empty for a manifest that is too large to be kept even so."""
    document, _ = parse_json(plugin.source)
    if not isinstance(document, dict):
        return b""
    note = orjson.dumps(
        {
            "manifest": {name: value for name, value in document.items() if name not in _LEFT_OUT},
            "digest": hashlib.sha256(plugin.source).hexdigest(),
            "path": str(plugin.manifest_path),
            "directory": str(plugin.directory),
            "program": str(plugin.program),
        }
    )
    return note if len(note) <= _LARGEST else b""


def plugin_of(note: bytes) -> Plugin | None:
    """The plugin of a note; None if this version cannot make anything of it."""
    try:
        kept = orjson.loads(note)
        directory = Path(kept["directory"])
        source = orjson.dumps(kept["manifest"])
        parsed = parse_manifest(source, directory_name=directory.name, check_parameters=_unchecked)
        if parsed.manifest is None:
            return None
        return Plugin(
            manifest=parsed.manifest,
            manifest_path=Path(kept["path"]),
            directory=directory,
            program=Path(kept["program"]),
            schema=Checks().schema(None),
            source=source,
        )
    except (ValueError, KeyError, TypeError):  # another version's
        return None


def _unchecked(_: Any, __: Any) -> list[Fault]:
    return []
