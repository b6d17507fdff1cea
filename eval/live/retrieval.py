"""Retrieval tasks in the layout of BEIR: exact search with an encoder's vectors, nDCG@10."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coe.core.errors import ConfigError
from coe.core.files import readable
from coe.eval.live.service import Service
from coe.eval.live.tables import find_files, locate, read_rows
from coe.eval.live.task import Task
from coe.routers.encoders.encoder import open_encoder

Vectors = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Awaitable[Vectors]]
"""One row a text, in order; any length above 0."""
DEPTH = 10
_BATCH = 64


@dataclass(frozen=True)
class Collection:
    """Texts by id. ``relevant``: query -> document -> graded relevance above 0."""

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, int]]


def read_collection(task: Task, data: str | None) -> Collection:
    """corpus.jsonl, queries.jsonl and qrels/test.tsv. Raises ConfigError."""
    corpus = find_files(locate(task, data), task.data.files, task)[0]
    judged = corpus.parent / "qrels" / f"{task.data.split}.tsv"
    relevant = _judgements(judged)
    queries = {str(row["_id"]): str(row["text"]) for row in read_rows(corpus.parent / "queries.jsonl")}
    documents = {
        str(row["_id"]): f"{row.get('title') or ''} {row['text']}".strip() for row in read_rows(corpus)
    }
    missing = [query for query in relevant if query not in queries]
    if missing:
        raise ConfigError(f"{judged} judges the query {missing[0]}, which queries.jsonl lacks")
    return Collection(documents, {query: queries[query] for query in relevant}, relevant)


def _judgements(path: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    with readable(path):
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        for query, document, grade in (line.split("\t")[:3] for line in lines if line.strip()):
            if int(grade) > 0:
                found.setdefault(query, {})[document] = int(grade)
    return found


def local(encoder: str) -> Encode:
    """An encoder of the routers: ``minilm``, or a sentence-transformers folder. Raises ConfigError."""
    opened = open_encoder(encoder, Path())

    async def encode(texts: Sequence[str]) -> Vectors:
        return await asyncio.to_thread(opened.encode, texts)

    return encode


def remote(service: Service, model: str) -> Encode:
    """An OpenAI-compatible /v1/embeddings."""

    async def encode(texts: Sequence[str]) -> Vectors:
        return np.asarray(await service.embed(model, texts), dtype=np.float32)

    return encode


async def measure(
    collection: Collection, encode: Encode, advanced: Callable[[int], None] = lambda _: None
) -> dict[str, float]:
    """nDCG@10 of every judged query. ``advanced`` hears how many more texts are encoded."""

    async def encoded(texts: Sequence[str]) -> Vectors:
        parts = []
        for start in range(0, len(texts), _BATCH):
            parts.append(await encode(texts[start : start + _BATCH]))
            advanced(len(parts[-1]))
        return _unit(np.concatenate(parts))

    ids = list(collection.documents)
    documents = await encoded([collection.documents[one] for one in ids])
    queries = await encoded(list(collection.queries.values()))
    found: dict[str, float] = {}
    for query, vector in zip(collection.queries, queries, strict=True):
        best = _best(documents @ vector, ids, query)
        found[query] = ndcg(best, collection.relevant[query])
    return found


def _best(scores: npt.NDArray[np.float32], ids: Sequence[str], query: str) -> list[str]:
    """The ids of the best documents, best first; a document that is the query itself is left out, as
    BEIR does (ArguAna asks with documents of the corpus)."""
    order = np.argsort(-scores, kind="stable")[: DEPTH + 1]
    return [ids[place] for place in order if ids[place] != query][:DEPTH]


def ndcg(ranked: Sequence[str], relevant: Mapping[str, int]) -> float:
    """nDCG@10 with linear gains, as trec_eval and BEIR count it."""
    gained = sum(relevant.get(one, 0) / math.log2(place + 2) for place, one in enumerate(ranked[:DEPTH]))
    ideal = sorted(relevant.values(), reverse=True)[:DEPTH]
    best = sum(grade / math.log2(place + 2) for place, grade in enumerate(ideal))
    return gained / best if best else 0.0


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
