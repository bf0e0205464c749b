"""Where the benches find what they share with the tests: they start mongod, and build the supervisor, as these do."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def make_importable() -> None:
    """`helpers` of the tests, and hatch_build.py, which those import."""
    sys.path.extend(str(path) for path in (_ROOT / "tests", _ROOT))
