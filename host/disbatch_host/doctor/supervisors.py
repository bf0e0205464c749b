"""The program that runs of a node here would have as their parent, and those that live on this machine.

Responsible for: which one a node would use and why; which ones live in the state directory, with their runs. Must not
know: stores. Nothing is started but the program itself, to say what it is, and nothing is asked that changes a run.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from disbatch_host.doctor.findings import Finding, count_of, ok, some, warning
from disbatch_host.doctor.machine import homes_in
from disbatch_host.node.home_directory import supervisors_in
from disbatch_host.process import connection
from disbatch_host.settings.values import NodeSettings

_COMM = "disbatch-supervisor"[:15]  # as the kernel keeps it
_ANSWER_SECONDS = 2.0  # for the program to say what it is, or what it has


def program_finding(settings: NodeSettings) -> Finding:
    """Which of the two a node here would use, and why."""
    program = connection.program_path()
    inline = "the runs of a node here have its own process as their parent and end with it"
    if not settings.may_use_program:
        return warning("supervisor", f"{inline}: DISBATCH_SUPERVISOR=no", "unset the variable", program=str(program))
    why_not = connection.why_not_usable(program)
    if why_not is not None:
        todo = "install a wheel that has the program, or a C compiler before this is installed"
        return warning("supervisor", f"{inline}: {why_not}", todo, program=str(program))
    version = _said(program, "--version") or "it does not say its version"
    facts = {"program": str(program), "version": version}
    if not settings.may_keep_runs:
        text = f"{_short(version)}; one for each node, which ends with it (DISBATCH_SUPERVISOR=connection)"
        return warning("supervisor", text, "unset the variable, and runs go on without their node", **facts)
    if settings.state_directory is None:
        text = f"{_short(version)}; one for each node, which ends with it: there is no state directory"
        return warning("supervisor", text, "name one with --state-dir", **facts)
    return ok("supervisor", f"{_short(version)}; runs of a node here go on without it", **facts)


def living_findings(settings: NodeSettings) -> Iterator[Finding]:
    """Those that live in the state directory, and where else on this machine there are some."""
    directory = settings.state_directory
    living = [] if directory is None else [one for home in homes_in(directory) for one in supervisors_in(home)]
    elsewhere = [one for one in _directories_of_processes() if Path(one) not in living]
    others = f"; elsewhere: {some(elsewhere)}" if elsewhere else ""
    if directory is None or not living:
        yield ok("running", f"no supervisor lives in {directory or 'a state directory'}{others}", supervisors=[])
        return
    words: list[str] = []
    silent: list[str] = []
    facts: list[dict[str, object]] = []
    program = connection.program_path()
    for one in living:
        said = _said(program, "--list", str(one))
        runs = None if said is None else len([line for line in said.splitlines() if line.strip()])
        facts.append({"directory": str(one), "runs": runs})
        if runs is None:
            silent.append(str(one))
        words.append(f"{one.relative_to(directory)} with {'?' if runs is None else count_of(runs, 'run')}")
    text = f"{count_of(len(living), 'supervisor')} in {directory}: {some(words)}{others}"
    if silent:
        todo = f"it does not answer, or is another user's; look with disbatch-supervisor --list {silent[0]}"
        yield warning("running", text, todo, supervisors=facts)
    else:
        yield ok("running", text, supervisors=facts)


def _directories_of_processes(proc: Path = Path("/proc")) -> list[str]:
    """Where supervisors live, as the processes of this machine say in their arguments."""
    found = set()
    for entry in proc.iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text(errors="replace").strip() == _COMM:
                words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                if "--directory" in words[:-1]:
                    found.add(words[words.index("--directory") + 1])
        except OSError:
            continue  # it has just ended
    return sorted(found)


def _said(program: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def _short(version: str) -> str:
    """Without most of the hash of its sources."""
    before, separator, digest = version.partition("sources ")
    return f"{before}{separator}{digest[:12]}"
