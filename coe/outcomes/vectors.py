"""Vectors of the questions of an outcome set."""

from __future__ import annotations

import os

import numpy as np

from coe.outcomes.outcome_set import OutcomeSet
from coe.routers.encoders.disk_cache import encode_cached
from coe.routers.encoders.encoder import Encoder, Vectors


def question_vectors(outcomes: OutcomeSet, encoder: Encoder) -> Vectors:
    """(n, d), zero where a question has no text. Kept on disk, so only the first run takes minutes."""
    readable = [i for i, question in enumerate(outcomes.questions) if question.text is not None]
    texts = [outcomes.questions[i].text or "" for i in readable]
    found = encode_cached(encoder, texts, workers=os.cpu_count() or 1)
    rows = np.zeros((len(outcomes), found.shape[1]), dtype=np.float32)
    rows[readable] = found
    return rows
