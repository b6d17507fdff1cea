"""``python -m benchmarks.encoders``: time, size and accuracy of the built-in encoders. Prints JSON.

Time: encode and route a query of 200 characters, never seen before, among 150 experts, on one core.
Accuracy, with ``--outcomes DIR`` (MMLU-Pro): the 14 categories told apart from the question by a logistic
regression on the vectors, learned on the part ``fit`` of :func:`benchmarks.distil.part` and measured on
``report``, none of which taught the static encoder.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clock import latency
from benchmarks.distil import part
from coe.core.types import ExpertView
from coe.demo.questions import held_out_questions
from coe.demo.router_examples import router_examples
from coe.routers.base import Setting
from coe.routers.category import CategoryOptions, CategoryRouter
from coe.routers.encoders.disk_cache import encode_cached
from coe.routers.encoders.encoder import ENCODERS, Encoder, open_encoder

EXPERTS = 150
QUERY_CHARS = 200
INVERSE_REGULARISATION = 3.0


def queries(count: int) -> list[str]:
    """Different texts of :data:`QUERY_CHARS` characters, made of the demonstration's held-out questions."""
    texts = [question.text for question in held_out_questions(per_skill=count)]
    joined = " ".join(texts)
    return [joined[start * QUERY_CHARS : (start + 1) * QUERY_CHARS] for start in range(count)]


def experts() -> list[ExpertView]:
    """A general expert, and experts that share the demonstration's categories."""
    skills = sorted({category for _, category in router_examples() if category != "general"})
    named = [(f"expert-{number}", skills[number % len(skills)]) for number in range(EXPERTS - 1)]
    general = ExpertView("base", card="General chat.", general=True)
    return [general, *(ExpertView(name, card=f"About {skill}.", skills=(skill,)) for name, skill in named)]


def measured(name: str, count: int, outcomes: Path | None) -> dict[str, Any]:
    encoder = open_encoder(name, Path())
    views = experts()
    options = CategoryOptions(examples="package:demo", encoder=name)
    router = CategoryRouter("bench", options, Setting(experts=tuple(views)), encoder=encoder)
    texts = queries(2 * count)
    row: dict[str, Any] = {
        "encoder": name,
        "dimensions": encoder.encode([]).shape[1],
        "encode_ms": latency([partial(encoder.encode, [text]) for text in texts[:count]]).as_json(),
        "encode_and_route_ms": latency(
            [partial(router.route, text, views) for text in texts[count:]]
        ).as_json(),
    }
    if outcomes is not None:
        row |= category_accuracy(encoder, outcomes)
    return row


def category_accuracy(encoder: Encoder, outcomes: Path) -> dict[str, Any]:
    """Share of MMLU-Pro questions of the part ``report`` whose category is found, and how many they are."""
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    table = pd.read_parquet(outcomes / "questions.parquet").dropna(subset=["question"])
    vectors = encode_cached(encoder, table.question.tolist())
    parts, labels = np.array([part(question) for question in table.question]), table.category.to_numpy()

    model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopping at max_iter is fine here
        model.fit(vectors[parts == "fit"], labels[parts == "fit"])
    reported = parts == "report"
    accuracy = float(model.score(vectors[reported], labels[reported]))
    return {"category_accuracy": round(accuracy, 4), "questions": int(reported.sum())}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders", description=__doc__)
    parser.add_argument("--encoders", default=",".join(ENCODERS), help="names, separated by commas")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--outcomes", type=Path, help="outcome set of MMLU-Pro; without it no accuracy")
    options = parser.parse_args()
    rows = [measured(name, options.queries, options.outcomes) for name in options.encoders.split(",")]
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
