"""A store with a server over it, for the tests of one module: each test has queues of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import skip_or_fail
from disbatch_host.client import Client
from helpers import web
from helpers.nodes import write_plugin
from helpers.web import Web

GREET = {
    "parameters": {
        "type": "object",
        "required": ["user"],
        "properties": {
            "user": {"type": "string", "maxLength": 20},
            "password": {"type": "string", "writeOnly": True},
            "tries": {"type": "integer", "minimum": 0},
        },
        "additionalProperties": False,
    }
}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plugins")
    write_plugin(directory, "Greet", "true", **GREET)
    return directory


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def living_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a store of each kind."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path_factory.mktemp('web')}/test.db"
        return
    with request.getfixturevalue("mongod_server").database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def lonely_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The same, of a store that no other server looks after."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/lonely.db"
        return
    with request.getfixturevalue("mongod_server").database() as url:
        yield url


@pytest.fixture
def lonely_client(lonely_url: str, plugins: Path) -> Iterator[Client]:
    """Somebody beside its servers."""
    with Client.open(lonely_url, plugins=[plugins], by="me@here", creates=True) as one:
        yield one


@pytest.fixture(scope="module")
def client(living_url: str, plugins: Path) -> Iterator[Client]:
    """Somebody beside the server."""
    with Client.open(living_url, plugins=[plugins], by="me@here", creates=True) as one:
        yield one


@pytest.fixture(scope="module")
def server(living_url: str, client: Client, plugins: Path) -> Iterator[Web]:
    with web.serving(living_url, [plugins], bound_to={"mail_only": ["mail"]}) as one:
        yield one


@pytest.fixture(scope="session")
def browser_packages() -> None:
    """Chromium and what drives it are here."""
    modules = Path(__file__).parent / "browser" / "node_modules"
    missing = [one for one in ("chromium", "node") if shutil.which(one) is None]
    missing += [one for one in ("playwright-core", "axe-core") if not (modules / one).is_dir()]
    if missing:
        skip_or_fail(f"no {', '.join(missing)}: `apt-get install chromium nodejs npm`, then `make browser`")
