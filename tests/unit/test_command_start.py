"""Commands that people call in loops start quickly: what they must not import is named here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.store.open import open_store

# Each takes milliseconds, and none is needed for what these commands do on SQLite.
SLOW = {
    "asyncio", "importlib.resources", "jsonschema", "prometheus_client", "pymongo", "rich.live", "rich.table",
    "tempfile", "disbatch_host.node", "disbatch_host.process", "disbatch_host.run", "disbatch_host.trial",
    "disbatch_host.web", "jinja2", "python_multipart", "starlette", "uvicorn",
}  # fmt: skip
OF_PLUGINS = {
    "disbatch_host.documents.transitions", "disbatch_host.plugin.catalog", "disbatch_protocol.events",
    "disbatch_protocol.manifest", "disbatch_protocol.outcome", "disbatch_protocol.parameters",
}  # fmt: skip

PROGRAM = """
import sys
from disbatch_host.cli.main import _run
code = _run(sys.argv[1:])
print("\\n".join(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("command", "never"),
    [
        ("task list", SLOW | OF_PLUGINS),
        ("queue list", SLOW | OF_PLUGINS),
        ("queue show q", SLOW | OF_PLUGINS),
        ("node list", SLOW | OF_PLUGINS),
        ("status", SLOW | OF_PLUGINS),
        ('task push q {"a":1}', SLOW | {"disbatch_host.documents.transitions", "disbatch_protocol.outcome"}),
    ],
)
def test_a_command_imports_nothing_that_it_does_not_need(command: str, never: set[str], tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/store.db"
    store = open_store(url, SystemClock())
    store.open()
    store.insert_queue({"_id": "q", "class": "job"})
    store.close()
    words = [*command.split(), "--store", url]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stderr.splitlines())
    assert "disbatch_host.cli.main" in imported
    assert not imported & never
