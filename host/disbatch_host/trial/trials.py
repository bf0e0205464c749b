"""Trials of a plugin: its examples through the very run of a node, and the things that production will do to it.

Responsible for: a host for the trials, and leaving nothing behind, even when they are interrupted. Must not know:
which trials there are, the command line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.this_process import close_others_on_exec
from disbatch_host.trial.examples import try_examples
from disbatch_host.trial.findings import Finding, TrialRunner, Verdict, of_faults
from disbatch_host.trial.local_host import LocalHost
from disbatch_host.trial.torture import CLOSED_STDIN_SECONDS, Torture

OnBegin = Callable[[str], object]  # the name of a trial that is about to be made


def run_examples(plugin: Plugin, on_begin: OnBegin = lambda trial: None) -> list[Finding]:
    """Each example of the manifest, compared with what it says. Interrupted by a signal, it stops the running programs
    and raises SystemExit; so does `torture`."""
    return _perform(plugin, try_examples, on_begin)


def torture(
    plugin: Plugin, on_begin: OnBegin = lambda trial: None, *, closed_stdin_seconds: float = CLOSED_STDIN_SECONDS
) -> list[Finding]:
    """The things that production will do to it."""
    return _perform(
        plugin, lambda runner: Torture(runner, closed_stdin_seconds=closed_stdin_seconds).torments(), on_begin
    )


def _perform(
    plugin: Plugin, which: Callable[[TrialRunner], AsyncIterator[Finding]], on_begin: OnBegin
) -> list[Finding]:
    close_others_on_exec()

    async def perform() -> tuple[list[Finding], int | None]:
        host = LocalHost()
        findings = []
        async with host.interruptible():
            async for finding in which(TrialRunner(plugin, host, on_begin)):
                if host.interrupted_by is not None:
                    break
                findings.append(finding)
        late = host.take_faults()  # known only once the process had ended
        if late:
            findings.append(Finding(trial="between tasks", verdict=Verdict.FAILED, message=of_faults(late)))
        return findings, host.interrupted_by

    findings, interrupted_by = asyncio.run(perform())
    if interrupted_by is not None:
        raise SystemExit(128 + interrupted_by)  # the shell's exit code for a program that a signal ended
    return findings
