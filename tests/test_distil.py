"""Learning the static encoder's table: what may be learned from, and that it learns."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.distil import Recipe, corpus, learned_table, normalised, part


def test_parts_do_not_depend_on_form_and_have_their_shares() -> None:
    assert part("What is  2 + 2?") == part("what is 2 2")
    parts = [part(f"question {number}") for number in range(3000)]
    assert np.mean([each == "fit" for each in parts]) == pytest.approx(0.6, abs=0.03)
    assert np.mean([each == "report" for each in parts]) == pytest.approx(0.2, abs=0.03)


@pytest.mark.slow
def test_rows_are_learned_whose_mean_points_where_the_teacher_does() -> None:
    draw = np.random.default_rng(0)
    hidden = draw.standard_normal((40, 8)).astype(np.float32)
    ids = [draw.integers(40, size=6).tolist() for _ in range(400)]
    taught = np.stack([hidden[each].mean(axis=0) for each in ids])
    taught /= np.linalg.norm(taught, axis=1, keepdims=True)
    poor = draw.standard_normal((40, 8)).astype(np.float32)
    recipe = Recipe(dimensions=8, epochs=30, learning_rate=0.05, batch=50)
    rows = learned_table(poor, ids, taught, recipe)
    made = np.stack([rows[each].mean(axis=0) for each in ids])
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    alike, wanted = made @ made.T, taught @ taught.T
    assert np.corrcoef(alike.ravel(), wanted.ravel())[0, 1] > 0.95


@pytest.mark.slow
def test_no_question_that_reports_is_learned_from() -> None:
    data = os.environ.get("COE_DATA")
    if data is None:
        pytest.skip("needs COE_DATA, the recorded outcomes")
    import pandas as pd

    table = pd.read_parquet(Path(data) / "outcomes/mmlu_pro/questions.parquet").dropna(subset=["question"])
    reporting = {normalised(question) for question in table.question if part(question) != "fit"}
    assert not reporting & {normalised(text) for text in corpus(Path(data))}
