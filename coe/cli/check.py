"""``coe check``: is this registry right, and what will it do?"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coe.cli._options import json_option

if TYPE_CHECKING:
    from coe.registry.errors import RegistryError
    from coe.service.check import Explanation

EXIT_FAULTY = 1


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("experts.yaml"))
@json_option
def main(file: Path, as_json: bool) -> None:
    """Validate FILE (default: experts.yaml) and explain what the service will do with it.

    Exit code 0: usable (perhaps with warnings); 1: it has errors.
    """
    from coe.registry.errors import RegistryError
    from coe.service.check import explain
    from coe.service.registry_file import load_registry

    try:
        registry = load_registry(file)
    except RegistryError as error:
        _refuse(error, as_json)
        sys.exit(EXIT_FAULTY)
    explanation = explain(registry, file.resolve().parent)
    if as_json:
        click.echo(json.dumps(_explained(file, explanation), indent=1))
    else:
        _print(file, explanation)
    sys.exit(EXIT_FAULTY if explanation.errors else 0)


def _refuse(error: RegistryError, as_json: bool) -> None:
    if not as_json:
        click.echo(error.message, err=True)
        click.echo(f"Hint: {error.hint}", err=True)
        return
    findings = [
        {
            "severity": "error",
            "subject": None,
            "message": problem.message,
            "hint": None,
            "line": problem.position.line if problem.position else None,
            "column": problem.position.column if problem.position else None,
        }
        for problem in error.problems
    ]
    click.echo(
        json.dumps({"file": str(error.path), "ok": False, "findings": findings, "summary": []}, indent=1)
    )


def _explained(file: Path, explanation: Explanation) -> dict[str, Any]:
    findings = [{**asdict(finding), "line": None, "column": None} for finding in explanation.findings]
    return {
        "file": str(file),
        "ok": not explanation.errors,
        "findings": findings,
        "summary": list(explanation.summary),
    }


def _print(file: Path, explanation: Explanation) -> None:
    click.echo("\n".join(explanation.summary))
    for (severity, hint), group in itertools.groupby(explanation.findings, lambda f: (f.severity, f.hint)):
        click.echo()
        for finding in group:
            click.echo(f"{severity}: {finding.message}")
        if hint:
            click.echo(f"  {hint}")
    verdict = f"{len(explanation.errors)} to correct" if explanation.errors else "can be served"
    click.echo(f"\n{file}: {verdict}")
