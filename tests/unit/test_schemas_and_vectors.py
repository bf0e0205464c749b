"""The schemas are schemas, their examples fit, and the vectors say what this implementation does."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bson import json_util

from disbatch_host.store.mongo import MongoStore
from disbatch_protocol import document, outcome, quantities, schemas
from disbatch_protocol.manifest import parse_manifest
from disbatch_protocol.outcome import RetryPolicy, Said
from disbatch_protocol.parameters import ParameterSchema

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"


def vectors(name: str) -> list[Any]:
    cases = json.loads((VECTORS / f"{name}.json").read_text())["cases"]
    assert cases
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("name", schemas.NAMES)
def test_a_schema_is_valid_and_its_examples_fit(name: str) -> None:
    schema = schemas.load(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["examples"]
    for example in schema["examples"]:
        jsonschema.Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize("case", vectors("manifests"))
def test_manifest_vector(case: dict[str, Any]) -> None:
    parsed = parse_manifest(case["input"].encode(), directory_name=case.get("directory", "plugin"))
    assert [[str(fault.severity), fault.pointer] for fault in parsed.faults] == case["faults"]
    assert (parsed.manifest is None) == any(severity == "error" for severity, _ in case["faults"])
    for name, value in case.get("values", {}).items():
        found = getattr(parsed.manifest, name)
        found = found.name if isinstance(found, signal.Signals) else found
        assert json.loads(json.dumps(found, default=_plain)) == value, name


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value)


@pytest.mark.parametrize("case", vectors("exits"))
def test_exit_vector(case: dict[str, Any]) -> None:
    manifest = parse_manifest(
        json.dumps({"protocol": 1, "command": ["x"], **case.get("manifest", {})}).encode(), directory_name="x"
    ).manifest
    assert manifest is not None
    end = outcome.RunEnd(
        reason=outcome.Reason(case["end"]["reason"]),
        exit_code=case["end"].get("exit_code"),
        signal=case["end"].get("signal"),
    )
    conclusion = outcome.conclude(
        end, manifest, attempt=case.get("attempt", 1), said=Said(**case.get("said", {})), chance=0.5
    )
    expected = case["conclusion"]
    assert {
        "outcome": str(conclusion.outcome),
        "status": conclusion.status,
        "delay_seconds": conclusion.delay_seconds,
        "attempt_used": conclusion.attempt_used,
    } == {"delay_seconds": None, "attempt_used": True, **expected}


@pytest.mark.parametrize("case", vectors("parameters"))
def test_parameter_vector(case: dict[str, Any]) -> None:
    schema = ParameterSchema(case["schema"])
    before = json.dumps(case["parameters"])
    assert [fault.pointer for fault in schema.check(case["parameters"])] == case["faults"]
    assert schema.with_defaults(case["parameters"]) == case.get("with_defaults", case["parameters"])
    assert schema.masked(case["parameters"]) == case.get("masked", case["parameters"])
    assert json.dumps(case["parameters"]) == before


@pytest.mark.parametrize("case", vectors("stdin"))
def test_stdin_vector(case: dict[str, Any]) -> None:
    options = json_util.JSONOptions(json_mode=json_util.JSONMode.CANONICAL, tz_aware=True)
    stored = json_util.loads(json.dumps(case["document"]), json_options=options)
    extended = MongoStore("mongodb://localhost", None).extended_json  # type: ignore[arg-type]
    assert document.stdin_line(stored, other=extended).decode() == case["line"] + "\n"


@pytest.mark.parametrize("case", vectors("quantities"))
def test_quantity_vector(case: dict[str, Any]) -> None:
    parse = {"duration": quantities.parse_duration, "size": quantities.parse_size}[case["kind"]]
    if case["value"] is None:
        with pytest.raises(ValueError, match="expected"):
            parse(case["input"])
    else:
        assert parse(case["input"]) == pytest.approx(case["value"], rel=1e-12)


def test_retry_delays_grow_to_their_limit_and_chance_moves_them_within_the_jitter() -> None:
    policy = RetryPolicy(max=9, delay_seconds=10, backoff=3, max_delay_seconds=100, jitter=0.2)
    assert [outcome.retry_delay(policy, attempt, 0.5) for attempt in (1, 2, 3, 4, 500)] == [10, 30, 90, 100, 100]
    assert outcome.retry_delay(policy, 1, 0.0) == pytest.approx(8)
    assert outcome.retry_delay(policy, 1, 0.999999) == pytest.approx(12, rel=1e-3)
