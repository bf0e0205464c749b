"""The one table of settings, and what is written and made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from disbatch_host.cli.main import cli
from disbatch_host.errors import UsageError
from disbatch_host.settings import written
from disbatch_host.settings.table import BY_NAME, SETTINGS, Kind, Setting, default_of
from disbatch_host.settings.values import NodeSettings, OnStop, Source, resolve
from disbatch_host.settings.web_table import WEB_SETTINGS, WebSetting
from disbatch_protocol import schemas

ROOT = Path(__file__).parents[2]
FITTING: dict[Kind, Any] = {
    Kind.STORE: "sqlite:///tmp/x.db",
    Kind.DIRECTORY: "/var/lib/disbatch",
    Kind.DIRECTORIES: ["plugins", "more"],
    Kind.NODE_ID: "mig01",
    Kind.COUNT: 3,
    Kind.DURATION: "90s",
    Kind.FLAG: True,
    Kind.ADDRESS: "127.0.0.1:9100",
}
IN_FILE = [one for one in SETTINGS if one.description]


def test_the_schema_in_the_checkout_is_that_of_the_table() -> None:
    assert (ROOT / "schemas" / "config.json").read_text(encoding="utf-8") == written.schema_text(), "run `make schemas`"


def test_the_table_in_the_readme_is_that_of_the_table() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == written.with_table(readme), "run `make schemas`"


def test_a_readme_without_a_place_for_the_table_is_left_alone() -> None:
    with pytest.raises(ValueError, match="settings"):
        written.with_table("no place\n")


def test_the_options_are_those_of_the_table() -> None:
    with click.Context(cli, **cli.context_settings) as context:
        options = {name for parameter in cli.get_params(context) for name in parameter.opts if name.startswith("--")}
    assert options - {"--json", "--debug", "--version", "--help"} == {one.option for one in SETTINGS}


def test_what_becomes_of_runs_when_the_node_stops_is_a_setting() -> None:
    node = resolve({}, {"HOME": "/home/x"}).node
    assert (node.on_stop, node.away_for_seconds, node.keep_for_seconds) == (OnStop.DRAIN, 600.0, 86400.0)
    node = resolve({"on_stop": "keep", "away_for": "90s", "keep_for": "1h"}, {"HOME": "/home/x"}).node
    assert (node.on_stop, node.away_for_seconds, node.keep_for_seconds) == (OnStop.KEEP, 90.0, 3600.0)
    with pytest.raises(UsageError, match="--keep-for: expected at least as much as --away-for"):
        resolve({"away_for": "36h"}, {"HOME": "/home/x"})


@pytest.mark.parametrize("setting", IN_FILE, ids=lambda one: str(one.name))
def test_the_schema_takes_what_fits_and_null_only_where_that_is_fine(setting: Setting) -> None:
    validator = jsonschema.Draft202012Validator(schemas.load("config"))
    fitting = setting.choices[0] if setting.kind is Kind.CHOICE else FITTING[setting.kind]
    assert validator.is_valid({setting.name: fitting})
    assert not validator.is_valid({setting.name: {"no": "value"}})
    assert validator.is_valid({setting.name: None}) is setting.null_is_fine


@pytest.mark.parametrize("setting", [one for one in IN_FILE if one.default is not None], ids=lambda one: str(one.name))
def test_a_default_is_a_value_that_the_file_could_hold(setting: Setting) -> None:
    assert jsonschema.Draft202012Validator(schemas.load("config")).is_valid({setting.name: setting.default})


def test_without_options_variables_and_a_file_the_settings_are_the_defaults(tmp_path: Path) -> None:
    settings = resolve({}, {"XDG_STATE_HOME": str(tmp_path)})
    node = settings.node
    assert (node.max, node.heartbeat_seconds, node.dead_after_seconds) == (10, 1.0, 30.0)
    assert (node.max_total, node.stop_grace_seconds, node.force, node.until_idle) == (None, None, False, False)
    assert (settings.log_level, settings.log_format, settings.metrics) == ("info", "text", None)
    assert settings.store_url == f"sqlite://{tmp_path}/disbatch/disbatch.db"
    assert settings.store_source is Source.DEFAULT and not settings.is_store_given
    assert NodeSettings(node_id="n1", plugins=()).dead_after_seconds == default_of("dead_after")


def test_an_option_wins_over_a_variable_and_a_variable_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "host.json"
    config.write_text('{"store": "sqlite:///of/file.db", "node-id": "file1", "max": 4, "plugins": "p"}')
    environ = {"DISBATCH_CONFIG": str(config), "DISBATCH_NODE_ID": "var1", "DISBATCH_PLUGINS": "/a:/b"}
    settings = resolve({"max": 7}, environ)
    assert (settings.store_url, settings.store_source) == ("sqlite:///of/file.db", Source.FILE)
    assert (settings.node.node_id, settings.node.max) == ("var1", 7)
    assert settings.plugins == (Path("/a"), Path("/b"))
    environ["DISBATCH_STORE"] = "sqlite:///of/variable.db"
    assert resolve({}, environ).store_source is Source.VARIABLE
    assert resolve({"store": "sqlite:///of/option.db"}, environ).store_source is Source.OPTION


def test_the_password_of_a_store_is_in_no_representation_of_the_settings() -> None:
    assert "secret" not in repr(resolve({"store": "mongodb://me:secret@db/x"}, {}))


@pytest.mark.parametrize("name", [one.name for one in SETTINGS if one.kind is Kind.DURATION])
def test_a_duration_of_nothing_is_refused_but_where_it_means_at_once(name: str) -> None:
    setting = BY_NAME[name]
    if setting.zero_is_fine:
        assert getattr(resolve({name: "0"}, {}).node, f"{name}_seconds") == 0
        return
    with pytest.raises(UsageError, match=f"{setting.option}: expected more than 0 seconds"):
        resolve({name: "0"}, {})


@pytest.mark.parametrize("setting", WEB_SETTINGS, ids=lambda one: str(one.name))
def test_the_file_takes_what_fits_a_setting_of_the_web(setting: WebSetting) -> None:
    validator = jsonschema.Draft202012Validator(schemas.load("config"))
    fitting: Any = True if setting.is_flag else setting.choices[0] if setting.choices else "text"
    for value in (fitting, *((["a", "b"],) if setting.is_list else ()), *((5,) if setting.takes_number else ())):
        assert validator.is_valid({"web": {setting.name: value}})
    assert not validator.is_valid({"web": {setting.name: {"no": "value"}}})


def test_settings_of_the_web_are_below_their_key(tmp_path: Path) -> None:
    file = tmp_path / "host.json"
    file.write_text('{"web": {"base-path": "/disbatch", "public_url": ["https://a.example"], "upload-max": 5}}')
    settings = resolve({"config": str(file)}, {"HOME": "/home/x"})
    assert settings.web == {"base_path": "/disbatch", "public_url": ["https://a.example"], "upload_max": 5}
    assert resolve({}, {"HOME": "/home/x"}).web == {}
    for text, words in (
        ('{"web": {"listem": "x"}}', '/web/listem: unknown key "listem", did you mean "listen"?'),
        ('{"web": {"no_auth": "yes"}}', "/web/no_auth: expected true or false, found the string"),
        ('{"web": 3}', "/web: expected a JSON object, found"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError) as error:
            resolve({"config": str(file)}, {"HOME": "/home/x"})
        assert words in str(error.value)
