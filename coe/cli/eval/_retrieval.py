"""The retrieval tasks of ``coe eval run``: an encoder behind a URL, or a local one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from coe.eval.live.retrieval import Collection
    from coe.eval.live.task import Task


def run_retrieval(task: Task, out: Path, options: Mapping[str, Any]) -> None:
    """Measure the encoder and write records.jsonl and summary.json. Not resumable."""
    from coe.eval.live.retrieval import read_collection

    collection = read_collection(task, options["data"])
    asked = str(options["encoder"] or options["model"])
    scores = asyncio.run(_measure(collection, asked, options))
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": query, "score": score}) + "\n" for query, score in scores.items()]
    (out / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    mean = sum(scores.values()) / len(scores)
    figures = {"task": task.name, "encoder": asked, "queries": len(scores), "ndcg10": mean}
    (out / "summary.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    click.echo(f"{task.name}: nDCG@10 {mean:.4f} over {len(scores)} queries ({asked})")


async def _measure(collection: Collection, encoder: str, options: Mapping[str, Any]) -> dict[str, float]:
    from rich.console import Console
    from rich.progress import Progress

    from coe.eval.live.retrieval import local, measure, remote
    from coe.eval.live.service import Address, connect

    total = len(collection.documents) + len(collection.queries)
    with Progress(console=Console(stderr=True)) as bar:
        advanced = partial(bar.advance, bar.add_task("encoding", total=total))
        if options["encoder"]:
            return await measure(collection, local(encoder), advanced)
        address = Address(options["url"], options["api_key_env"], options["timeout_s"])
        async with connect(address, 1) as service:
            return await measure(collection, remote(service, encoder), advanced)
