"""``python -m benchmarks.compare_peers``: other libraries' routers on the same folds."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple
from pathlib import Path

import click


@click.command()
@click.option("--outcomes", type=click.Path(path_type=Path), required=True, help="Set with two experts.")
@click.option("--pool", help="The two experts, with a comma between; default: the set's.")
@click.option("--routers", help="Ours to compare with; default: all that learn.")
@click.option("--folds", default=5, show_default=True, help="Folds of cross-validation.")
@click.option("--seed", default=0, show_default=True, help="Of the folds.")
@click.option("--encoder", default="minilm", show_default=True, help="Sentence encoder of the questions.")
@click.option("--json", "json_out", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(
    outcomes: Path,
    pool: str | None,
    routers: str | None,
    folds: int,
    seed: int,
    encoder: str,
    json_out: Path | None,
) -> None:
    """Choose between a strong and a weak model: routers of RouteLLM and LLMRouter, through their packages,
    beside ours.

    How many calls to the strong model reach 95% and 99% of its accuracy, and the gap recovered on average.
    All learn on the same training folds. Needs `pip install --no-deps routellm llmrouter-lib`; what is not
    there is left out.
    """
    from benchmarks.peers import own_routers, peer_rows, routellm_installed
    from benchmarks.peers_llmrouter import llmrouter_installed
    from coe.eval.recorded.run import Settings, listed, open_study
    from coe.eval.report.tables import markdown

    ours = listed(routers or "") or own_routers()
    settings = Settings(outcomes, listed(pool or ""), ours, (), (1,), folds=folds, seed=seed, encoder=encoder)
    rows = peer_rows(open_study(settings))
    head = ("router", "gap recovered", "strong calls for 95%", "strong calls for 99%")
    click.echo(markdown(head, [astuple(row) for row in rows]))
    for package, installed in (("routellm", routellm_installed()), ("llmrouter-lib", llmrouter_installed())):
        if not installed:
            click.echo(f"left out, because it is not installed: pip install --no-deps {package}", err=True)
    if json_out:
        json_out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
