"""How much leniency flatters: our strict extraction beside that of MMLU-Pro's authors, on real outputs.

The authors take "answer is (X)", else "Answer: X", else the last capital letter of A to J that stands
alone anywhere, which also finds the pronoun I; without any they draw an option at random.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coe.core import extraction
from coe.core.errors import ConfigError
from coe.eval.live.questions import LETTERS
from coe.eval.live.tables import read_rows

_DECLARED = re.compile(r"answer is \(?([A-J])\)?")
_ANSWER = re.compile(r"[aA]nswer:\s*([A-J])")
_ANY_LETTER = re.compile(r"\b[A-J]\b")


def lenient_choice(text: str) -> str | None:
    """As ``evaluate_from_local.py`` of MMLU-Pro's authors extracts, in its three steps.

    Written without their greedy and looking-ahead patterns, which take time quadratic in the text.
    """
    if declared := _DECLARED.search(text):
        return declared.group(1)
    answers = list(_ANSWER.finditer(text))
    if answers:
        line_end = text.find("\n", answers[0].start())
        in_line = [found for found in answers if line_end < 0 or found.start() < line_end]
        return in_line[-1].group(1)
    letters = _ANY_LETTER.findall(text)
    return letters[-1] if letters else None


@dataclass(frozen=True)
class Agreement:
    """One expert's outputs under both extractors; all but ``outputs`` are shares of them.

    ``disagree``: both found an answer, and not the same. ``only_lenient_right``: the lenient answer is
    right, and strictly there is none or a wrong one.
    """

    expert: str
    outputs: int
    strict_unparsed: float
    lenient_unparsed: float
    disagree: float
    strict_accuracy: float
    lenient_accuracy: float
    only_lenient_right: float
    only_strict_right: float


def agreements(folder: Path) -> list[Agreement]:
    """One row an expert of the outcome set's outputs.parquet, then all together. Raises ConfigError."""
    questions = {
        str(row["question_id"]): (str(row["gold"]), LETTERS[: len(row.get("options") or LETTERS)])
        for row in read_rows(folder / "questions.parquet")
        if row.get("gold") is not None
    }
    by_expert: dict[str, list[tuple[str | None, str | None, str]]] = {}
    for row in read_rows(folder / "outputs.parquet"):
        if (known := questions.get(str(row["question_id"]))) is not None:
            gold, letters = known
            text = str(row["output"] or "")
            found = extraction.choice(text, letters), lenient_choice(text), gold
            by_expert.setdefault(str(row["expert"]), []).append(found)
    if not by_expert:
        raise ConfigError(f"{folder} has no outputs of questions with a known answer")
    rows = [_agreement(expert, found) for expert, found in sorted(by_expert.items())]
    return [*rows, _agreement("all", [one for found in by_expert.values() for one in found])]


def _agreement(expert: str, found: Sequence[tuple[str | None, str | None, str]]) -> Agreement:
    def share(marks: Sequence[bool]) -> float:
        return sum(marks) / len(found)

    return Agreement(
        expert=expert,
        outputs=len(found),
        strict_unparsed=share([strict is None for strict, _, _ in found]),
        lenient_unparsed=share([lenient is None for _, lenient, _ in found]),
        disagree=share([None not in (strict, lenient) and strict != lenient for strict, lenient, _ in found]),
        strict_accuracy=share([strict == gold for strict, _, gold in found]),
        lenient_accuracy=share([lenient == gold for _, lenient, gold in found]),
        only_lenient_right=share([lenient == gold != strict for strict, lenient, gold in found]),
        only_strict_right=share([strict == gold != lenient for strict, lenient, gold in found]),
    )
