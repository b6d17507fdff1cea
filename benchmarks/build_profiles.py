"""Builds the profiles of open models that CoE ships: ``python -m benchmarks.build_profiles --outcomes DIR``.

DIR is the development part of the MMLU-Pro outcome set: runs of the official 5-shot chain-of-thought prompt
that the benchmark's authors published (Apache-2.0). Only models whose identity is certain are taken
(:data:`coe.profiles.names.HUB_IDS`). Questions become pilots: groups of about six like questions of one
category, of which the mean vector, the mean scores and a hash of each text are kept; no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from coe.outcomes.outcome_set import Indices, OutcomeSet, read_outcomes
from coe.outcomes.text_key import text_key
from coe.outcomes.vectors import question_vectors
from coe.profiles.names import HUB_IDS
from coe.profiles.outcomes import Recorded, Source, full_profile, training_rows
from coe.profiles.profile import ExpertProfile, Outcomes
from coe.profiles.store import SHIPPED_FOLDER, ProfileFolder
from coe.profiles.table import QuestionTable
from coe.routers.encoders.encoder import Vectors, open_encoder

SOURCE = Source(
    name="MMLU-Pro, development part (result files of the benchmark's authors)",
    licence="Apache-2.0",
    prompt="5-shot chain of thought, the benchmark's own",
)
GROUP = 6
"""Questions behind a pilot, on average."""
ENCODERS = ("minilm-int8", "static")


@click.command()
@click.option("--outcomes", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), default=SHIPPED_FOLDER, show_default=True)
def main(outcomes: Path, out: Path) -> None:
    """Build the shipped profiles from an outcome set."""
    whole = read_outcomes(outcomes)
    part = whole.pool([name for name in whole.experts if name in HUB_IDS])
    part = part.rows(training_rows(part))
    vectors = {name: question_vectors(part, open_encoder(name, Path())) for name in ENCODERS}
    groups = pilots([q.category for q in part.questions], vectors[ENCODERS[0]])
    table = pilot_table(part, vectors, groups)
    folder = ProfileFolder(out)
    folder.write_table(table)
    singles = Recorded(part, table, ENCODERS[0])
    for expert in part.experts:
        folder.write(pilot_profile(singles, expert, groups))
    click.echo(f"{out}: {len(table)} pilots of {len(part)} questions, {len(part.experts)} experts")


def pilots(categories: Sequence[str], vectors: Vectors, group: int = GROUP, seed: int = 0) -> list[Indices]:
    """Rows of like questions: k-means inside each category. Every row is in one group."""
    from sklearn.cluster import KMeans

    labels = np.asarray(categories, dtype=object)
    groups: list[Indices] = []
    for category in sorted(set(categories)):
        rows = np.flatnonzero(labels == category)
        count = max(1, round(len(rows) / group))
        found = KMeans(count, n_init=1, random_state=seed).fit_predict(vectors[rows])
        groups += [rows[found == k] for k in range(count) if (found == k).any()]
    return groups


def pilot_table(part: OutcomeSet, vectors: dict[str, Vectors], groups: Sequence[Indices]) -> QuestionTable:
    """One row for each group, with the centroid of its questions by every encoder."""
    questions = part.questions
    categories = [questions[int(rows[0])].category for rows in groups]
    return QuestionTable(
        name=part.name,
        ids=tuple(f"{part.name}/{category}/{k}" for k, category in enumerate(categories)),
        categories=tuple(categories),
        splits=tuple(questions[int(rows[0])].split for rows in groups),
        vectors={
            name: np.stack([_unit(found[rows].mean(axis=0)) for rows in groups])
            for name, found in vectors.items()
        },
        questions=tuple(len(rows) for rows in groups),
        keys=frozenset(text_key(q.stem) for q in questions if q.stem),
        source=SOURCE.name,
        licence=SOURCE.licence,
    )


def pilot_profile(data: Recorded, expert: str, groups: Sequence[Indices]) -> ExpertProfile:
    """Tallies over single questions; outcomes are means over the groups."""
    scores = data.outcomes.scores[:, data.outcomes.experts.index(expert)]
    told = [rows[np.isfinite(scores[rows])] for rows in groups]
    whole = full_profile(data, expert, SOURCE)
    return whole.model_copy(
        update={
            "outcomes": Outcomes(
                table=data.table.fingerprint,
                scores=tuple(round(float(scores[rows].mean()), 3) if len(rows) else None for rows in told),
                counts=tuple(float(len(rows)) for rows in told),
            )
        }
    )


def _unit(vector: Vectors) -> Vectors:
    unit: Vectors = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit


if __name__ == "__main__":
    main()
