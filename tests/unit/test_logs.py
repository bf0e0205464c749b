"""The ids that a record of the log carries beside its message."""

from __future__ import annotations

import inspect

from disbatch_host import logs


def test_each_id_that_is_given_is_in_the_record() -> None:
    """Before, the batch was taken and left out."""
    given = {name: f"a {name}" for name in inspect.signature(logs.ids).parameters}
    assert sorted(logs.ids(**given)["ids"].values()) == sorted(given.values())  # type: ignore[arg-type]
    assert logs.ids() == {"ids": {}}
