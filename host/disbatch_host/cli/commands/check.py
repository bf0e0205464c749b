"""`disbatch-host check`: the plugins here, and the results of trying them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click

from disbatch_host.cli import bars, common, plugin_facts, render
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.kinds import NewFile
from disbatch_host.errors import ExitCode, UsageError
from disbatch_host.plugin.catalog import BrokenPlugin, Catalog, Plugin, load_plugins
from disbatch_host.plugin.new import scaffold
from disbatch_host.trial import trials
from disbatch_host.trial.findings import Finding, Verdict
from disbatch_protocol.faults import Fault, Severity, near_name


@click.command()
@click.argument("names", nargs=-1, metavar="[PLUGIN]...")
@click.option("--run", "wants_run", is_flag=True, help="Also run each example of the manifests.")
@click.option("--torture", is_flag=True, help="Also put each plugin through what production will.")
@click.option("--junit", type=NewFile(), metavar="FILE", help="Write the results as JUnit XML.")
@common_options
def check(names: tuple[str, ...], wants_run: bool, torture: bool, junit: str | None) -> int:
    """Validate plugins: by name, by directory, or all of the plugin directories.

    Without an option no plugin code is run. --run runs the examples, each exactly as a node would. --torture does
    that too, then tries what production will do: 1 MiB of parameters, odd text, two at once, no input, being
    stopped; for workers also two tasks in a row, a crash, a graceful end.

    \b
      disbatch-host check
      disbatch-host check ./plugins/mail --run
      disbatch-host check Mail::Move --torture --junit check.xml

    Exit codes: 0 fine (there may be hints), 1 errors, 2 nothing found, or something named was not found.
    """
    found = _find(names)
    if not found:
        where = ", ".join(str(one) for one in common.settings().plugins)
        raise UsageError(f"no plugin.json found below {where}; name a directory with --plugins DIR")
    reports = []
    with bars.current("trying") as show:
        for one in found:

            def tell(trial: str, name: str = plugin_facts.name_of(one)) -> None:
                show(f"{name}: {trial}")

            findings = _trials_of(one, tell, wants_run=wants_run or torture, wants_torture=torture)
            reports.append(Report(one, findings, _hints_of(one)))
    if junit is not None:
        write_junit(Path(junit), reports)
    if common.wants_json():
        for report in reports:
            render.print_json(
                {
                    **plugin_facts.document_of(report.plugin),
                    "ok": report.is_fine,
                    "hints": report.hints,
                    **_trial_documents(report),
                }
            )
    else:
        _print_reports(reports)
    return ExitCode.DONE if all(report.is_fine for report in reports) else ExitCode.FAILED


@dataclass(frozen=True, slots=True)
class Report:
    """The findings about one plugin, at the requested levels."""

    plugin: Plugin | BrokenPlugin
    findings: Sequence[Finding]
    hints: Sequence[str] = ()  # besides those of the findings

    @property
    def name(self) -> str:
        return plugin_facts.name_of(self.plugin)

    @property
    def is_fine(self) -> bool:
        return isinstance(self.plugin, Plugin) and all(one.verdict is not Verdict.FAILED for one in self.findings)


def _trials_of(
    one: Plugin | BrokenPlugin, tell: trials.OnBegin, *, wants_run: bool, wants_torture: bool
) -> list[Finding]:
    if not isinstance(one, Plugin) or not wants_run:
        return []
    findings = trials.run_examples(one, tell)
    return [*findings, *trials.torture(one, tell)] if wants_torture else findings


def _hints_of(one: Plugin | BrokenPlugin) -> list[str]:
    """What was copied from a new plugin and not changed: people and `check --run` would believe it."""
    left = scaffold.leftovers(one.manifest) if isinstance(one, Plugin) else []
    if not left:
        return []
    what, those = (f"the {left[0]}", "that") if left == ["description"] else (f"the {' and the '.join(left)}", "those")
    verb = "is" if left == ["description"] else "are"
    return [f"{what} {verb} still {those} of a new plugin: say what this one does"]


def _print_reports(reports: Sequence[Report]) -> None:
    rows = [(report.name, _result_cell(report), common.in_here(report.plugin.manifest_path)) for report in reports]
    render.print_table(("plugin", "result", "manifest"), rows)
    if any(report.findings for report in reports):
        click.echo()
        results = [
            (report.name, finding.trial, (str(finding.verdict), _STYLES[finding.verdict]), f"{finding.seconds:.2f} s")
            for report in reports
            for finding in report.findings
        ]
        render.print_table(("plugin", "trial", "result", "time"), results, right=(3,))
    for report in reports:
        where = render.printable(common.in_here(report.plugin.manifest_path))
        for fault in plugin_facts.faults_of(report.plugin):
            style = "red" if fault.severity is Severity.ERROR else "yellow"
            separator = " " if fault.pointer else ": "
            click.echo(f"{render.style(str(fault.severity), style)}: {where}{separator}{render.printable(str(fault))}")
        for hint in report.hints:
            click.echo(f"{render.style('hint', 'yellow')}: {where}: {hint}")
        for finding in report.findings:
            if finding.message:
                word = "error" if finding.verdict is Verdict.FAILED else str(finding.verdict)
                style = _STYLES[finding.verdict]
                text = render.printable(f"{finding.trial}: {finding.message}")
                click.echo(f"{render.style(word, style)}: {where}: {text}")
                for line in finding.output.splitlines():
                    click.echo(f"    {render.printable(line)}")


_STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "red", Verdict.HINT: "yellow", Verdict.SKIPPED: "bright_black"}


def _trial_documents(report: Report) -> dict[str, Any]:
    if not report.findings:
        return {}
    return {"trials": [{**dataclasses.asdict(one), "verdict": str(one.verdict)} for one in report.findings]}


def write_junit(path: Path, reports: Sequence[Report]) -> None:
    """Writes the results as JUnit XML: a suite for each plugin, a case for the static check and for each trial. Raises
    UsageError if the file cannot be written."""
    root = ElementTree.Element("testsuites", name="disbatch-host check")
    for report in reports:
        errors = [fault for fault in plugin_facts.faults_of(report.plugin) if fault.severity is Severity.ERROR]
        failed = [one for one in report.findings if one.verdict is Verdict.FAILED]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_xml_text(report.name),
            tests=str(1 + len(report.findings)),
            failures=str(bool(errors) + len(failed)),
            skipped=str(sum(one.verdict is Verdict.SKIPPED for one in report.findings)),
            time=f"{sum(one.seconds for one in report.findings):.3f}",
            file=_xml_text(common.in_here(report.plugin.manifest_path)),
        )
        case = ElementTree.SubElement(suite, "testcase", classname=_xml_text(report.name), name="static", time="0")
        if errors:
            failure = ElementTree.SubElement(case, "failure", message=_xml_text(str(errors[0])))
            failure.text = _xml_text("\n".join(map(str, errors)))
        for one in report.findings:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=_xml_text(report.name),
                name=_xml_text(one.trial),
                time=f"{one.seconds:.3f}",
            )
            if one.verdict is Verdict.FAILED:
                failure = ElementTree.SubElement(case, "failure", message=_xml_text(one.message))
                failure.text = _xml_text(f"{one.message}\n{one.output}".rstrip())
            elif one.verdict is Verdict.SKIPPED:
                ElementTree.SubElement(case, "skipped", message=_xml_text(one.message))
            elif one.message:
                ElementTree.SubElement(case, "system-out").text = _xml_text(one.message)
    ElementTree.indent(root)
    try:
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another file with --junit") from error


def _xml_text(text: str) -> str:
    """Without the characters that XML 1.0 cannot represent."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _find(names: Sequence[str]) -> list[Plugin | BrokenPlugin]:
    """The plugins with these names or directories; all if none is given. Raises UsageError for a name that none has."""
    if not names:
        return _all_of(load_plugins(common.settings().plugins))
    found: dict[Path, Plugin | BrokenPlugin] = {}
    for name in names:
        path = Path(name)
        if path.name == "plugin.json" and path.is_file():
            path = path.parent
        if path.is_dir():
            matches = _all_of(load_plugins([path]))
        else:
            matches = [one for one in _all_of(common.known_plugins()) if plugin_facts.name_of(one) == name]
        if not matches:
            raise UsageError(_not_found(name))
        found.update({one.manifest_path: one for one in matches})
    return list(found.values())


def _not_found(name: str) -> str:
    where = ", ".join(str(one) for one in common.settings().plugins)
    near = near_name(name, [plugin_facts.name_of(one) for one in _all_of(common.known_plugins())])
    hint = f"did you mean {near!r}?" if near else "name a directory with --plugins DIR"
    return f"no plugin {name!r} found below {where}; {hint}"


def _all_of(catalog: Catalog) -> list[Plugin | BrokenPlugin]:
    return sorted([*catalog.plugins.values(), *catalog.broken], key=lambda one: one.manifest_path)


def _result_cell(report: Report) -> tuple[str, str]:
    if isinstance(report.plugin, BrokenPlugin):
        return _severities(plugin_facts.faults_of(report.plugin)), "red"
    failed = sum(one.verdict is Verdict.FAILED for one in report.findings)
    if failed:
        return f"{failed} of {common.count_of(len(report.findings), 'trial')} failed", "red"
    hints = len(report.hints) + sum(one.verdict is Verdict.HINT for one in report.findings)
    but = [_severities(plugin_facts.faults_of(report.plugin)), common.count_of(hints, "hint") if hints else ""]
    return (", ".join(["fine", *filter(None, but)]), "yellow") if any(but) else ("fine", "green")


def _severities(faults: Sequence[Fault]) -> str:
    """How many errors and warnings, in the words of the lines that name them."""
    counts = [(one, sum(fault.severity is one for fault in faults)) for one in Severity]
    return ", ".join(common.count_of(count, str(severity)) for severity, count in counts if count)
