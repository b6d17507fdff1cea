"""Importers: other people's result files become outcome sets that our reader reads."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coe.core.errors import ConfigError
from coe.eval.importers import KINDS, importer
from coe.eval.importers.writing import Imported, QuestionRow, with_dev_share, write_outcome_set
from coe.eval.live.lenient import agreements, lenient_choice
from coe.eval.live.prices import Price
from coe.eval.live.questions import Source, read_questions
from coe.eval.live.task import load_task
from coe.outcomes.outcome_set import OutcomeSet, read_outcomes
from coe.profiles.outcomes import training_rows


def imported(kind: str, out: Path, *paths: Path, expert: str | None = None) -> OutcomeSet:
    write_outcome_set(out, importer(kind)(paths, expert), {"model-a": Price(1, 2)})
    return read_outcomes(out)


def write_jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sample(number: int, score: float, filter: str = "none", answer: str = "4") -> dict[str, Any]:
    """A line as lm-evaluation-harness 0.4 writes it."""
    return {
        "doc_id": number,
        "doc": {"question": f"{number} + {number}?", "answer": str(2 * number)},
        "target": str(2 * number),
        "arguments": {"gen_args_0": {"arg_0": f"Q: {number} + {number}?\nA:", "arg_1": {"until": ["Q:"]}}},
        "resps": [[f"The answer is {answer}."]],
        "filtered_resps": [answer],
        "filter": filter,
        "metrics": ["exact_match"],
        "exact_match": score,
    }


def test_lm_eval_logs_of_two_models_become_one_set(tmp_path: Path) -> None:
    for model, score in (("org__model-a", 1.0), ("org__model-b", 0.0)):
        write_jsonl(
            tmp_path / "results" / model / "samples_sums_2026-01-02T03-04-05.678.jsonl",
            *(sample(number, score) for number in range(3)),
        )
    found = imported("lm-eval", tmp_path / "set", tmp_path / "results")
    assert found.experts == ("org/model-a", "org/model-b")
    assert [question.id for question in found.questions] == ["sums/0", "sums/1", "sums/2"]
    assert found.questions[1].stem == "1 + 1?"
    assert found.questions[1].category == "sums"
    assert found.scores.tolist() == [[1.0, 0.0]] * 3
    assert found.answers is not None
    assert found.answers[0].tolist() == ["4", "4"]


def test_the_strict_filter_of_lm_eval_counts(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "model-a" / "samples_gsm8k_2026-01-02T03-04-05.678.jsonl",
        sample(0, 1.0, "flexible-extract"),
        sample(0, 0.0, "strict-match", "[invalid]"),
    )
    found = importer("lm-eval")([path], None)
    assert [(row.expert, row.score, row.parsed) for row in found.outcomes] == [("model-a", 0.0, False)]


def mmlu_row(number: int, output: str, pred: str | None) -> dict[str, Any]:
    return {
        "question_id": number, "question": f"Q{number}", "options": ["w", "x", "y", "z"], "answer": "B",
        "answer_index": 1, "category": "law", "pred": pred, "model_outputs": output,
    }  # fmt: skip


def test_mmlu_pro_result_files_are_extracted_anew(tmp_path: Path) -> None:
    rows = [
        mmlu_row(1, "So the answer is (B).", "B"),
        mmlu_row(2, "B vitamins help; I am not sure", "B"),  # the authors' extraction counts the last letter
        mmlu_row(3, "", "B"),
    ]
    (tmp_path / "model_outputs_Some-Model-7B_5shots.json").write_text(json.dumps(rows))
    with zipfile.ZipFile(tmp_path / "model_outputs_other_5shots.json.zip", "w") as archive:
        archive.writestr("x.json", json.dumps({"law": rows[:1]}))
    found = importer("mmlu-pro")([tmp_path], None)
    marks = {(row.expert, row.question_id): row.score for row in found.outcomes}
    assert marks == {
        ("Some-Model-7B", "1"): 1.0, ("Some-Model-7B", "2"): 0.0, ("Some-Model-7B", "3"): 1.0,
        ("other", "1"): 1.0,
    }  # fmt: skip
    assert "1 answers without a text" in found.notes[0]
    assert len(found.questions) == 3


def write_csv(path: Path, *rows: dict[str, object]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_csv_carries_what_it_knows(tmp_path: Path) -> None:
    row = {"question_id": "1", "question": "Even?", "options": '["2", "3"]', "category": "math"}
    path = write_csv(
        tmp_path / "mine.csv",
        {**row, "expert": "model-a", "score": 1, "prompt_tokens": 100, "output_tokens": 10},
        {**row, "expert": "model-b", "score": 0, "prompt_tokens": 100, "output_tokens": ""},
    )
    found = imported("csv", tmp_path / "set", path)
    assert found.questions[0].text == "Even?\nA. 2\nB. 3"
    assert found.costs[0, 0] == pytest.approx((100 * 1 + 10 * 2) / 1e6)
    assert np.isnan(found.costs[0, 1])  # unknown, not 0


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question_id": "1", "expert": "a"}, "lacks question_id, expert or score"),
        ({"question_id": "1", "expert": "a", "score": "good"}, 'score is not a number: "good"'),
        ({"question_id": "1", "expert": "a", "score": "7"}, "not between 0 and 1"),
        ({"question_id": "1", "expert": "a", "score": "1", "options": "x"}, "must be a JSON list"),
    ],
)
def test_faulty_lines_are_named(tmp_path: Path, row: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        imported("csv", tmp_path / "set", write_csv(tmp_path / "bad.csv", row))


def test_two_outcomes_for_one_question_and_expert_are_refused(tmp_path: Path) -> None:
    row: dict[str, object] = {"question_id": "1", "expert": "a", "score": 1}
    with pytest.raises(ConfigError, match="two outcomes"):
        imported("csv", tmp_path / "set", write_csv(tmp_path / "twice.csv", row, row))


def test_an_outcome_set_is_not_overwritten(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", {"question_id": "1", "expert": "a", "score": 1})
    imported("csv", tmp_path / "set", path)
    with pytest.raises(ConfigError, match="holds an outcome set already"):
        imported("csv", tmp_path / "set", path)


def test_the_last_vote_of_a_client_counts(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "feedback.jsonl",
        {"completion_id": "c1", "expert": "a", "score": 0.0, "category": "law"},
        {"completion_id": "c1", "expert": "a", "score": 1.0, "category": "law"},
        {"completion_id": "c2", "expert": "b", "score": -1, "question": "Why?"},
    )
    found = imported("feedback", tmp_path / "set", path)
    assert found.scores[0, 0] == 1.0
    assert found.scores[1, 1] == 0.0
    assert [question.stem for question in found.questions] == [None, "Why?"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_is_a_clear_error(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing at|holds no records"):
        importer(kind)([tmp_path / "missing"], None)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("the answer is (C). D", "C"),
        ("Answer: D", "D"),
        ("Perhaps I would say so", "I"),
        ("Answer: A or answer: B\nAnswer: C", "B"),
        ("answer:\nE", "E"),
        ("no letters here", None),
    ],
)
def test_lenient_extraction_finds_letters_anywhere(text: str, letter: str | None) -> None:
    assert lenient_choice(text) == letter
    assert authors_choice(text) == letter


def authors_choice(text: str) -> str | None:
    """The authors' own patterns."""
    patterns = (
        (r"answer is \(?([A-J])\)?", 0),
        (r".*[aA]nswer:\s*([A-J])", 0),
        (r"\b([A-J])\b(?!.*\b[A-J]\b)", re.DOTALL),
    )
    found = (re.search(pattern, text, flags) for pattern, flags in patterns)
    return next((one.group(1) for one in found if one), None)


def test_agreement_counts_what_leniency_adds(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    questions = [{"question_id": "1", "gold": "A", "options": ["x", "y"]}]
    texts = ["The answer is (A).", "Vitamin A", "The answer is (B).", "dunno"]
    outputs = [{"question_id": "1", "expert": "m", "output": text} for text in texts]
    parquet.write_table(pyarrow.Table.from_pylist(questions), tmp_path / "questions.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(outputs), tmp_path / "outputs.parquet")
    found = agreements(tmp_path)[0]
    assert (found.strict_unparsed, found.lenient_unparsed) == (0.5, 0.25)
    assert (found.strict_accuracy, found.lenient_accuracy, found.only_lenient_right) == (0.25, 0.5, 0.25)


# What may be learned from


def splits(found: Imported) -> set[str]:
    return {question.split for question in found.questions}


def test_imports_keep_the_split_they_came_with(tmp_path: Path) -> None:
    (tmp_path / "model_outputs_m_5shots.json").write_text(
        json.dumps([mmlu_row(1, "The answer is (B).", "B")])
    )
    assert splits(importer("mmlu-pro")([tmp_path / "model_outputs_m_5shots.json"], None)) == {"test"}
    samples = "samples_sums_2026-01-02T03-04-05.678.jsonl"
    path = write_jsonl(tmp_path / "m" / samples, sample(1, 1.0))
    assert splits(importer("lm-eval")([path], None)) == {"test"}, "what the harness measures on"
    config = {"configs": {"sums": {"test_split": None, "validation_split": "validation"}}}
    (tmp_path / "m" / "results_2026-01-02T03-04-05.678.json").write_text(json.dumps(config))
    assert splits(importer("lm-eval")([path], None)) == {"validation"}


@pytest.mark.parametrize(("recorded", "kept"), [({"split": "held-out"}, "held-out"), ({}, "test")])
def test_a_run_of_held_out_questions_is_no_material_for_a_profile(
    tmp_path: Path, recorded: dict[str, str], kept: str
) -> None:
    row = {"id": "sql-test-2026-4", "question": "Names?", "category": "sql", "gold": "x", "experts": ["a"],
           "answers": ["x"], "scores": [1.0], "completion_tokens": 1, "cost_usd": None}  # fmt: skip
    write_jsonl(tmp_path / "run" / "records.jsonl", row | recorded)
    found = imported("run", tmp_path / "set", tmp_path / "run")
    assert found.questions[0].split == kept
    with pytest.raises(ConfigError, match="nothing to learn from"):
        training_rows(found)


def test_the_demonstrations_questions_are_held_out() -> None:
    asked = read_questions(load_task("demo"), Source())
    assert {item.split for item in asked.items} == {"held-out"}


def test_a_share_of_a_test_split_may_be_learned_from_and_the_rest_is_not() -> None:
    rows = tuple(QuestionRow(str(i), f"question {i}", split="test") for i in range(400))
    whole = Imported((*rows, QuestionRow("mine", "kept", split="held-out")), ())
    parted = {q.question_id: q.split for q in with_dev_share(whole, 0.25).questions}
    again = {q.question_id: q.split for q in with_dev_share(whole, 0.25).questions}
    other = {q.question_id: q.split for q in with_dev_share(whole, 0.25, seed=1).questions}
    assert parted == again != other
    assert 60 < Counter(parted.values())["dev"] < 140
    assert parted["mine"] == "held-out"
