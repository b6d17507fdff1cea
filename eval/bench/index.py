"""``python -m eval.bench.index``: the approximate index against the exact one on a million pilot embeddings.

The pilots are synthetic: sentence vectors of the demonstration's questions, spread by noise into clusters.
Queries are further draws from the same clusters. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.bench.clock import Latency, latency
from routers.encoder import Vectors, open_encoder
from routers.index import PROBES, ApproximateIndex, ExactIndex, Index
from routers.vectors import encode_cached

QUERIES = 200


def clustered(centres: Vectors, count: int, seed: int, noise: float = 0.6) -> Vectors:
    """``count`` unit vectors, each a random centre plus noise of ``noise`` times its length."""
    draw = np.random.default_rng(seed)
    rows = centres[draw.integers(len(centres), size=count)]
    width = centres.shape[1]
    for start in range(0, count, 50_000):  # in parts: the noise of a million rows would double the memory
        part = rows[start : start + 50_000]
        part += draw.standard_normal(part.shape, dtype=np.float32) * np.float32(noise / np.sqrt(width))
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def measured(pilots: int, experts: int, encoder: str, probes: int) -> dict[str, Any]:
    """Recall@1, time of a query, build time and memory."""
    from coe.examples.router_examples import router_examples

    texts = [text for text, _ in router_examples()]
    centres = encode_cached(open_encoder(encoder, Path()), texts)
    rows, queries = clustered(centres, pilots, seed=1), clustered(centres, QUERIES, seed=2)
    exact = ExactIndex(range(pilots), rows)
    right = [int(exact.nearest(query, 1).ids[0]) for query in queries]
    exact_time = _search_time(exact, queries[:20])
    del exact
    started, cpu_started = time.perf_counter(), time.process_time()
    approximate = ApproximateIndex(range(pilots), rows, probes=probes)
    build_s, build_cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    found = [int(approximate.nearest(query, 1).ids[0]) for query in queries]
    cards = ExactIndex(range(experts), clustered(centres, experts, seed=3))
    return {
        "pilots": pilots,
        "dimensions": rows.shape[1],
        "recall_at_1": float(np.mean(np.equal(right, found))),
        "exact_ms": exact_time.as_json(),
        "approximate_ms": _search_time(approximate, queries).as_json(),
        "probes": probes,
        "build_s": round(build_s, 1),
        "build_cpu_s": round(build_cpu_s, 1),
        "exact_mb": round(rows.nbytes / 1e6),
        "approximate_mb": round(approximate.size_bytes() / 1e6),
        "experts": experts,
        "cards_ms": _search_time(cards, queries).as_json(),
    }


def _search_time(index: Index, queries: Vectors) -> Latency:
    return latency([partial(index.nearest, query, 1) for query in queries])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.bench.index", description=__doc__)
    parser.add_argument("--pilots", type=int, default=1_000_000)
    parser.add_argument("--experts", type=int, default=10_000, help="expert cards in the exact index")
    parser.add_argument("--encoder", default="minilm", help="whose vectors the clusters are made of")
    parser.add_argument("--probes", type=int, default=PROBES, help="cells of the index that a query reads")
    options = parser.parse_args()
    print(json.dumps(measured(options.pilots, options.experts, options.encoder, options.probes), indent=2))


if __name__ == "__main__":
    main()
