"""``coe registry history``: the accepted generations, and what they differ in."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from coe.cli._admin import editor
from coe.cli._options import json_option, registry_option


@click.command()
@click.option(
    "--diff", "compare", type=int, metavar="N", help="Show the difference from generation N to now."
)
@registry_option
@json_option
def main(compare: int | None, registry: Path, as_json: bool) -> None:
    """List the accepted versions of the registry, newest last, each with what it changed."""
    from coe.registry.history import difference

    entries = editor(registry).history().entries()
    if compare is not None:
        old, new = editor(registry).history().entry(compare), entries[-1]
        diff = difference(old.text, new.text, f"generation {old.number}", f"generation {new.number}")
        click.echo(json.dumps({"diff": diff}) if as_json else diff or "nothing differs")
        return
    rows: list[dict[str, Any]] = []
    for index, entry in enumerate(entries):
        before = entries[index - 1].text if index else entry.text
        lines = difference(before, entry.text, "", "").splitlines()[2:]
        added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
        row = {"number": entry.number, "accepted_at": entry.at, "added": added, "removed": removed}
        rows.append({**row, "reason": entry.circumstances.reason})
    click.echo(json.dumps({"generations": rows}, indent=1) if as_json else _table(rows))


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no version was accepted yet: a service keeps them when it runs"
    return "\n".join(
        f"{row['number']:>4}  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(row['accepted_at']))}"
        f"  +{row['added']} -{row['removed']} lines  {row['reason']}".rstrip()
        for row in rows
    )
