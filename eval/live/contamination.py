"""Is a test question among those that a profile was made from?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coe.core.errors import ConfigError
from coe.eval.live.tables import read_rows
from coe.outcomes.text_key import text_key


@dataclass(frozen=True)
class Contamination:
    """Test questions that the profile knows: by id, and by text under another id."""

    by_id: tuple[str, ...]
    by_text: tuple[str, ...]
    total: int

    @property
    def clean(self) -> bool:
        return not self.by_id and not self.by_text

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self.by_id) | frozenset(self.by_text)

    def __str__(self) -> str:
        if self.clean:
            return f"none of {self.total} test questions is among the profile's"
        return (
            f"{len(self.ids)} of {self.total} test questions are among the profile's "
            f"({len(self.by_id)} by id, {len(self.by_text)} more by text)"
        )


def texts_by_id(folder: Path) -> dict[str, str | None]:
    """The questions of an outcome set or of a live run. Raises ConfigError for anything else."""
    for name, column in (("questions.parquet", "question_id"), ("records.jsonl", "id")):
        if (folder / name).is_file():
            return {str(row[column]): row.get("question") for row in read_rows(folder / name)}
    raise ConfigError(
        f"{folder} holds neither questions.parquet nor records.jsonl",
        hint="Name the folder of an outcome set or of a `coe eval run`.",
    )


def contamination(profile: Mapping[str, str | None], test: Mapping[str, str | None]) -> Contamination:
    """Both map a question's id to its text (None where it may not be stored). Pure."""
    keys = {text_key(text) for text in profile.values() if text}
    by_id = tuple(question for question in test if question in profile)
    by_text = tuple(
        question
        for question, text in test.items()
        if question not in profile and text and text_key(text) in keys
    )
    return Contamination(by_id, by_text, len(test))
