"""The retrieval tasks of ``coe eval run``: an encoder behind a URL, or a local one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from coe.eval.live.retrieval import Collection, Vectors
    from coe.eval.live.service import Address
    from coe.eval.live.task import Task

_BATCH = 64


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

    from coe.eval.live.retrieval import measure
    from coe.eval.live.service import Address

    total = len(collection.documents) + len(collection.queries)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("encoding", total=total)

        def advanced(count: int) -> None:
            bar.update(task, advance=count)

        if options["encoder"]:
            return await measure(collection, _Local(encoder, advanced))
        address = Address(options["url"], options["api_key_env"], options["timeout_s"])
        return await measure(collection, _Remote(address, encoder, advanced))


class _Local:
    """An encoder of the routers: ``minilm``, or a sentence-transformers folder."""

    def __init__(self, name: str, advanced: Any) -> None:
        from coe.routers.encoders.encoder import open_encoder

        self._encoder, self._advanced = open_encoder(name, Path()), advanced

    async def __call__(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        parts = []
        for start in range(0, len(texts), _BATCH):
            batch = texts[start : start + _BATCH]
            parts.append(await asyncio.to_thread(self._encoder.encode, batch))
            self._advanced(len(batch))
        return np.concatenate(parts)


class _Remote:
    """An OpenAI-compatible /v1/embeddings."""

    def __init__(self, address: Address, model: str, advanced: Any) -> None:
        self._address, self._model, self._advanced = address, model, advanced

    async def __call__(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        from coe.eval.live.service import connect

        rows: list[list[float]] = []
        async with connect(self._address, 1) as service:
            for start in range(0, len(texts), _BATCH):
                batch = texts[start : start + _BATCH]
                rows += await service.embed(self._model, batch)
                self._advanced(len(batch))
        return np.asarray(rows, dtype=np.float32)
