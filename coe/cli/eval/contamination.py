"""``coe eval contamination``: does a profile know the test?"""

from __future__ import annotations

from pathlib import Path

import click

from coe.cli._options import PATH


@click.command()
@click.argument("profile", type=PATH)
@click.argument("test", type=PATH)
def main(profile: Path, test: Path) -> None:
    """Look for questions of TEST among those of PROFILE, by id and by text.

    Both are folders of outcome sets or of `coe eval run`. Exit code 1 when any is found.
    """
    from coe.eval.live.contamination import contamination, texts_by_id

    found = contamination(texts_by_id(profile), texts_by_id(test))
    click.echo(str(found))
    for identity in sorted(found.ids)[:20]:
        click.echo(identity)
    if not found.clean:
        raise click.exceptions.Exit(1)
