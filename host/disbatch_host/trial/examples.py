"""A plugin's examples: each is carried out, and its result compared with what the manifest says.

Responsible for: what an example promises. Must not know: how a run is carried out.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator

from disbatch_host.trial.findings import (
    RUN_SECONDS,
    Finding,
    TrialFailed,
    TrialRunner,
    Verdict,
    check_ended,
    end_of,
    json_of,
    of_event_errors,
    shortened,
)
from disbatch_host.trial.local_host import LocalResult
from disbatch_protocol import status as statuses
from disbatch_protocol.manifest import Example


async def try_examples(runner: TrialRunner) -> AsyncIterator[Finding]:
    """A finding for each example of the manifest."""
    if not runner.plugin.manifest.examples:
        message = 'there is nothing to try; add examples to the manifest: [{"name": …, "parameters": {…}}]'
        yield Finding(trial="examples", verdict=Verdict.HINT, message=message)
    numbers: dict[str, int] = {}
    for example in runner.plugin.manifest.examples:
        numbers[example.name] = number = numbers.get(example.name, 0) + 1
        name = f"example {example.name}" if number == 1 else f"example {example.name} ({number})"
        yield await runner.finding(name, functools.partial(_try_example, runner, example))


async def _try_example(runner: TrialRunner, example: Example) -> str | None:
    result = await runner.run(example.parameters, limit_seconds=example.timeout_seconds)
    check_ended(result, limit_seconds=example.timeout_seconds or RUN_SECONDS)
    differences = _differences(example, result)
    if differences:
        raise TrialFailed("; ".join(differences), result)
    return None


def _differences(example: Example, result: LocalResult) -> list[str]:
    """The ways in which the result is not as the example says."""
    run, found = result.run, []
    status = int(result.document["status"])
    if example.exit_code is not None and run.get("exit_code") != example.exit_code:
        found.append(f"expected exit code {example.exit_code}, found that it {end_of(result)}")
    wanted = example.status if example.status is not None else None if example.exit_code is not None else 1
    if wanted is not None and status != wanted:
        found.append(f"expected status {wanted} ({statuses.name(wanted)}), found {status} ({statuses.name(status)}): "
                     f"it {end_of(result)}")  # fmt: skip
    for stream in ("stdout", "stderr"):
        text = getattr(example, f"{stream}_contains")
        if text is not None and text not in result.output[stream].decode("utf-8", "replace"):
            found.append(f"expected {json_of(text)} in {stream}, found {shortened(result.output[stream])}")
    if example.has_result and result.document.get("result") != example.result:
        came = json_of(result.document["result"]) if "result" in result.document else "none"
        found.append(f"expected the result {json_of(example.result)}, found {came:.200}")
    if "event_errors" in run:
        found.append(of_event_errors(run["event_errors"]))
    return found
