"""Tasks and their data: what is asked, in which words, and what happens when data is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coe.core.errors import ConfigError
from coe.eval.live.archive import read_member
from coe.eval.live.marking import mark
from coe.eval.live.prompting import messages
from coe.eval.live.questions import Item, Questions, Source, read_questions, shuffled
from coe.eval.live.task import Task, load_task, shipped_tasks

ARCHIVES = [Path(__file__).parent / "data" / f"gpqa_layout_{kind}.zip" for kind in ("classic", "aes")]
PASSWORD = "made-up-password"
CHOICE = {
    "id": "q1",
    "question": "Which is even?",
    "options": ["1", "2", "3"],
    "answer": "B",
    "category": "math",
}


def write_jsonl(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(task: str, path: Path | str, **options: object) -> Questions:
    return read_questions(load_task(task), Source(str(path), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", shipped_tasks())
def test_shipped_tasks_are_named_as_their_files_and_say_how_to_get_their_data(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    if task.data.kind == "demo":
        assert read_questions(task, Source()).items
    else:
        with pytest.raises(ConfigError, match=r"needs its data|retrieval") as refused:
            read_questions(task, Source())
        assert refused.value.hint or task.data.kind == "beir"


def test_a_wrong_name_suggests_the_right_one() -> None:
    with pytest.raises(ConfigError, match="gsm8k"):
        load_task("gsm8")


def test_a_task_file_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text('name = "mine"\nversion = 3\ndescription = "x"\nextractor = "number"\n[data]\n')
    assert load_task(str(own)).version == 3
    own.write_text('name = "mine"\nversion = 3\ndescription = "x"\nextraktor = "number"\n[data]\n')
    with pytest.raises(ConfigError, match="extraktor"):
        load_task(str(own))


def test_the_digest_changes_with_what_is_asked_and_not_with_its_description() -> None:
    task = load_task("gsm8k")
    assert task.model_copy(update={"description": "other"}).digest == task.digest
    assert task.model_copy(update={"version": 2}).digest != task.digest


def test_multiple_choice_is_asked_with_letters(tmp_path: Path) -> None:
    task = load_task("own_choice")
    questions = read("own_choice", write_jsonl(tmp_path / "q.jsonl", CHOICE))
    asked = messages(task, questions.items[0], questions.exemplars)
    assert [message["role"] for message in asked] == ["system", "user"]
    assert asked[1]["content"] == "Question:\nWhich is even?\nOptions:\nA. 1\nB. 2\nC. 3"


def test_exemplars_are_turns_before_the_question(tmp_path: Path) -> None:
    solved = CHOICE | {"cot_content": "A: Let's think step by step. The answer is (B)."}
    write_jsonl(tmp_path / "exemplars.jsonl", *({**solved, "id": f"e{n}"} for n in range(7)))
    write_jsonl(tmp_path / "questions.jsonl", CHOICE)
    task, questions = load_task("mmlu_pro_5shot"), read("mmlu_pro_5shot", tmp_path)
    asked = messages(task, questions.items[0], questions.exemplars)
    assert [message["role"] for message in asked] == ["system", *["user", "assistant"] * 5, "user"]
    assert asked[2]["content"] == "Let's think step by step. The answer is (B)."
    assert "about math" in asked[0]["content"]
    assert "math" not in asked[-1]["content"]


@pytest.mark.parametrize(
    ("task", "row", "gold"),
    [
        ("gsm8k", {"question": "1+1?", "answer": "One and one.\n#### 2"}, "2"),
        ("aime", {"problem": "x", "answer": "073"}, "073"),
        ("medmcqa", {"question": "x", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 2}, "C"),
        ("mmlu_pro", {"question": "x", "options": ["a", "b"], "answer": "A", "answer_index": 0}, "A"),
    ],
)
def test_golds_of_the_public_layouts(tmp_path: Path, task: str, row: dict[str, object], gold: str) -> None:
    name = {"medmcqa": "dev.jsonl", "mmlu_pro": "questions.jsonl"}.get(task, "test.jsonl")
    write_jsonl(tmp_path / name, row)
    assert read(task, tmp_path).items[0].gold == gold


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "x", "options": ["a", "b"], "answer": "C"}, "not the letter of an option"),
        ({"question": "x"}, "no answer"),
        ({"answer": "A"}, "no question"),
    ],
)
def test_faulty_questions_are_named(tmp_path: Path, row: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read("own_choice", write_jsonl(tmp_path / "q.jsonl", row))


def test_an_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="q1 twice"):
        read("own_choice", write_jsonl(tmp_path / "q.jsonl", CHOICE, CHOICE))


def test_a_limit_draws_the_same_questions_for_the_same_seed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", *({**CHOICE, "id": str(n)} for n in range(50)))
    drawn = [item.id for item in read("own_choice", path, limit=10, seed=1).items]
    assert drawn == [item.id for item in read("own_choice", path, limit=10, seed=1).items]
    assert drawn != [item.id for item in read("own_choice", path, limit=10, seed=2).items]
    assert drawn == sorted(drawn, key=int)


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.stem)
def test_gpqa_is_read_from_its_encrypted_archive(archive: Path) -> None:
    items = read("gpqa_diamond", archive, password=PASSWORD).items
    assert len(items) == 6
    for number, item in enumerate(items):
        assert item.options["ABCD".index(item.gold)] == str(2 * number)
    assert len({item.gold for item in items}) > 1  # the right one does not always stand first
    assert read("gpqa_diamond", archive, password=PASSWORD).items == items


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.stem)
def test_an_archive_without_its_password_says_so(archive: Path) -> None:
    with pytest.raises(ConfigError, match="no password is given"):
        read("gpqa_diamond", archive)
    with pytest.raises(ConfigError, match="does not open"):
        read("gpqa_diamond", archive, password="wrong")
    with pytest.raises(ConfigError, match=r"has no gpqa_main\.csv"):
        read_member(archive, "gpqa_main.csv", PASSWORD)


def test_shuffling_follows_the_right_option() -> None:
    for seed in range(20):
        options, letter = shuffled(["right", "b", "c", "d"], 0, f"{seed}/q")
        assert options["ABCD".index(letter)] == "right"
        assert sorted(options) == ["b", "c", "d", "right"]


def marked(task: Task | str, gold: str, output: str, options: int = 0) -> float:
    item = Item("q", "?", gold, tuple("x" * options))
    return mark(load_task(task) if isinstance(task, str) else task, item, output).score


def test_marks_are_strict_about_the_answer_and_blind_to_its_dress() -> None:
    assert marked("mmlu_pro", "B", "So the answer is (B).", options=4) == 1
    assert marked("mmlu_pro", "B", "The answer is (E).", options=4) == 0
    assert marked("gsm8k", "1,200", "The answer is 1200.") == 1
    assert marked("gsm8k", "18", "It is hard to say.") == 0
    assert marked("aime", "073", "The answer is 73.") == 1
    assert marked("own", "Paris", 'The answer is "paris".') == 1
    assert marked("own", "Paris", "") == 0


def test_demo_questions_are_marked_by_their_skill() -> None:
    task = load_task("demo")
    item = read_questions(task, Source(limit=1)).items[0]
    assert mark(task, item, item.gold).score == 1
    assert mark(task, item, "no idea").score == 0
