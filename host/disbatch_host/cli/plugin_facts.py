"""What is said of a plugin in a directory: its name, its faults, and its document with --json.

Must not know: who says it.
"""

from __future__ import annotations

from typing import Any

from disbatch_host.plugin.catalog import BrokenPlugin, Plugin
from disbatch_host.plugin.sources import outdated_build
from disbatch_protocol.faults import Fault


def name_of(one: Plugin | BrokenPlugin) -> str:
    """As its manifest or its directory says."""
    return one.known_as if isinstance(one, BrokenPlugin) else one.name


def faults_of(one: Plugin | BrokenPlugin) -> tuple[Fault, ...]:
    """Errors, warnings, and that it is older than its sources."""
    if isinstance(one, BrokenPlugin):
        return one.faults
    outdated = outdated_build(one)
    return one.warnings if outdated is None else (*one.warnings, outdated)


def document_of(one: Plugin | BrokenPlugin) -> dict[str, Any]:
    """As `check --json` and `plugins --json` print it."""
    document: dict[str, Any] = {
        "name": name_of(one),
        "manifest": str(one.manifest_path),
        "ok": isinstance(one, Plugin),
    }
    if isinstance(one, Plugin):
        manifest = one.manifest
        document |= {
            "version": manifest.version,
            "description": manifest.description,
            "mode": str(manifest.mode),
            "command": one.argv,
            "idempotent": manifest.idempotent,
            "concurrency": manifest.concurrency,
            "timeout_seconds": manifest.timeout_seconds,
        }
    document["faults"] = [
        {"severity": str(f.severity), "pointer": f.pointer, "message": f.message, "hint": f.hint}
        for f in faults_of(one)
    ]
    return document
