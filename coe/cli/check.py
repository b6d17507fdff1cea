"""``coe check``: is this registry right, and what will it do?"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coe.cli._options import PATH, json_option

if TYPE_CHECKING:
    from coe.registry.errors import Issue
    from coe.service.check import Explanation

EXIT_FAULTY = 1


@click.command()
@click.argument("file", type=PATH, default=Path("experts.yaml"))
@json_option
def main(file: Path, as_json: bool) -> None:
    """Validate FILE (default: experts.yaml) and explain what the service will do with it.

    Exit code 0: it can be served (perhaps with warnings); 1: it has errors.
    """
    from coe.core.files import folder_of
    from coe.registry.errors import RegistryError
    from coe.registry.source import parse_source, read_text
    from coe.service.check import explain
    from coe.service.registry_file import parse_registry

    try:
        text = read_text(file)
        source, registry = parse_source(text, file), parse_registry(text, file)
    except RegistryError as error:
        if as_json:
            _print_json(error.path, error.issues, ())
        else:
            click.echo(f"{error.message}\nHint: {error.hint}", err=True)
        sys.exit(EXIT_FAULTY)
    explanation = explain(registry, folder_of(file), source.issues)
    issues = source.located(explanation.issues)
    if as_json:
        _print_json(file, issues, explanation.summary)
    else:
        _print(file, issues, explanation)
    sys.exit(EXIT_FAULTY if explanation.errors else 0)


def _print_json(file: Path, issues: Sequence[Issue], summary: Sequence[str]) -> None:
    from coe.registry.errors import dotted

    findings = [
        {
            "severity": issue.severity,
            "subject": dotted(issue.loc),
            "message": issue.message,
            "hint": issue.hint,
            "line": issue.position.line if issue.position else None,
            "column": issue.position.column if issue.position else None,
        }
        for issue in issues
    ]
    ok = all(issue.severity != "error" for issue in issues)
    report = {"file": str(file), "ok": ok, "findings": findings, "summary": list(summary)}
    click.echo(json.dumps(report, indent=1))


def _print(file: Path, issues: Sequence[Issue], explanation: Explanation) -> None:
    click.echo("\n".join(explanation.summary))
    for (severity, hint), group in itertools.groupby(issues, lambda issue: (issue.severity, issue.hint)):
        click.echo()
        for issue in group:
            where = f"line {issue.position.line}: " if issue.position else ""
            click.echo(f"{severity}: {where}{issue.message}")
        if hint:
            click.echo(f"  {hint}")
    count = len(explanation.errors)
    verdict = f"{count} {'error' if count == 1 else 'errors'} to correct" if count else "can be served"
    click.echo(f"\n{file}: {verdict}")
