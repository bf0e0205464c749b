"""The bundled plugins: each example of each manifest, through the very run of a node."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from disbatch_host.plugin.catalog import Catalog, load_plugins
from disbatch_host.plugin.new import bundled
from disbatch_host.trial.local_host import run_once
from disbatch_protocol.status import Status

NAMES = (
    "File::Checksum",
    "Python::Functions",
    "Text::Count",
    "Text::Indentation",
    "Text::LineLengths",
    "Text::WordFrequency",
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    directory = tmp_path_factory.mktemp("bundled")
    bundled.prepare(directory)
    return load_plugins([directory])


@pytest.mark.parametrize("name", NAMES)
def test_every_example_comes_to_what_its_manifest_says(catalog: Catalog, name: str) -> None:
    if name not in catalog.plugins:
        from conftest import skip_or_fail

        skip_or_fail(f"{name} is not usable here: {catalog.broken}")
    plugin = catalog.plugins[name]
    manifest = plugin.manifest
    assert manifest.description and manifest.parameters and manifest.examples and not plugin.warnings
    for example in manifest.examples:
        result = run_once(plugin, example.parameters)
        where = (example.name, result)
        if example.exit_code is not None:
            assert result.document["run"]["exit_code"] == example.exit_code, where
        if example.status is not None or example.exit_code is None:
            assert result.document["status"] == (example.status or Status.CONCLUDED), where
        assert (example.stdout_contains or "") in result.output["stdout"].decode(), where
        assert (example.stderr_contains or "") in result.output["stderr"].decode(), where


def test_a_language_that_is_not_here_is_left_out_with_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for program in ("sh", "env", "python3"):
        found = shutil.which(program)
        assert found is not None
        (bare / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(bare))
    notices = bundled.prepare(tmp_path / "plugins")
    assert [notice.split()[1] for notice in notices] == ["perl", "node", "go"]
    assert not (tmp_path / "plugins" / "go").exists()
