"""Edits of experts.yaml keep what a person wrote there; the history keeps what was accepted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from coe.core.errors import BadRequest, UnknownModel
from coe.core.files import write_atomically
from coe.registry.edit import add_experts, read_entries, remove_expert, set_shadow
from coe.registry.history import History, difference
from coe.registry.source import parse_source
from coe.service.registry_file import parse_registry

ROOT = Path(__file__).parents[1]
FILE = Path("experts.yaml")
NEW: dict[str, Any] = {"id": "newcomer", "host": "slot", "model": "org/law", "skills": ["law", "tax"]}

TEXT = """\
# our pool
pool:
  hosts: [{id: slot}]

experts:   # the people
  # does sums
  - id: sums
    host:   slot        # odd spacing stays
    model: 'org/sums'
    card: >
      Adds
      numbers.

  # does words
  - id: words
    host: slot
    model: org/words
    # no skills yet

routers:
  default: random
"""


def ids(text: str) -> list[str]:
    return [entry["id"] for entry in parse_source(text, FILE).data["experts"]]


def test_an_added_expert_comes_last_and_no_other_line_changes() -> None:
    text = add_experts(TEXT, FILE, [NEW])
    assert ids(text) == ["sums", "words", "newcomer"]
    added = difference(TEXT, text, "old", "new").splitlines()
    assert [line for line in added if line.startswith("-") and not line.startswith("---")] == []
    assert "+    skills: [law, tax]" in added
    assert parse_registry(text, FILE).expert("newcomer") is not None


def test_a_removed_expert_takes_its_own_comment_along_and_nothing_else() -> None:
    text = remove_expert(TEXT, FILE, "words")
    assert ids(text) == ["sums"]
    assert "# does words" not in text
    assert "# does sums" in text
    assert "host:   slot        # odd spacing stays" in text
    assert text.endswith("routers:\n  default: random\n")
    assert ids(remove_expert(TEXT, FILE, "sums")) == ["words"]


@pytest.mark.parametrize("name", ["experts.yaml", "docs/experts.example.yaml"])
def test_adding_and_removing_gives_the_shipped_files_back_byte_for_byte(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert remove_expert(add_experts(text, FILE, [NEW]), FILE, "newcomer") == text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["experts.yaml", "docs/experts.example.yaml"])
def test_every_expert_of_the_shipped_files_can_be_removed_alone(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for expert in ids(text):
        shorter = remove_expert(text, FILE, expert)
        assert ids(shorter) == [other for other in ids(text) if other != expert]
        assert set(shorter.splitlines()) <= set(text.splitlines())


def test_a_shadow_comes_and_goes_without_a_trace() -> None:
    shadow = set_shadow(TEXT, FILE, "sums", True)
    assert parse_source(shadow, FILE).data["experts"][0]["shadow"] is True
    assert len(shadow.splitlines()) == len(TEXT.splitlines()) + 1
    assert set_shadow(shadow, FILE, "sums", False) == TEXT
    assert set_shadow(TEXT, FILE, "sums", False) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        "pool: {hosts: [{id: slot}]}\nexperts: [{id: sums, host: slot, model: m}]  # all\n",
        "pool: {hosts: [{id: slot}]}\nexperts:\n- {id: sums, host: slot, model: m}",
        "experts:\n- id: sums\n  host: slot\n  model: |\n    # m\n# the end\npool:\n  hosts:\n  - id: slot\n",
    ],
)
def test_other_ways_to_write_the_list_are_edited_too(text: str) -> None:
    longer = add_experts(text, FILE, [NEW])
    assert ids(longer) == ["sums", "newcomer"]
    assert ids(remove_expert(longer, FILE, "sums")) == ["newcomer"]
    assert parse_source(set_shadow(longer, FILE, "newcomer", True), FILE).data["experts"][1]["shadow"] is True


def test_edits_that_cannot_be_made_say_why() -> None:
    with pytest.raises(BadRequest, match='expert "sums" already exists'):
        add_experts(TEXT, FILE, [{**NEW, "id": "sums"}])
    with pytest.raises(UnknownModel, match='expert "sum" does not exist; did you mean "sums"'):
        remove_expert(TEXT, FILE, "sum")


@pytest.mark.parametrize(
    ("snippet", "found"),
    [
        ("id: a\nhost: slot\nmodel: m\n", ["a"]),
        ("- id: a\n- id: b\n", ["a", "b"]),
        ("experts:\n  - id: a\n", ["a"]),
    ],
)
def test_a_snippet_is_one_entry_a_list_or_a_part_of_a_file(snippet: str, found: list[str]) -> None:
    assert [entry["id"] for entry in read_entries(snippet, "new.yaml")] == found


@pytest.mark.parametrize("snippet", ["just words", "[]", "- host: slot", "- 3"])
def test_a_snippet_without_experts_is_refused(snippet: str) -> None:
    with pytest.raises(BadRequest, match=r"new\.yaml has no experts"):
        read_entries(snippet, "new.yaml")


def test_a_file_is_replaced_whole_with_its_permissions_and_through_links(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_atomically(link, "new\r\n")
    assert link.is_symlink()
    assert real.read_bytes() == b"new\r\n"
    assert real.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.yaml", "real.yaml"]


def test_the_history_keeps_the_newest_and_numbers_on(tmp_path: Path) -> None:
    history = History(tmp_path / "generations", keep=2)
    assert history.entries() == ()
    assert history.number_of("one") == 1
    for number, text in enumerate(("one", "two", "three"), 1):
        history.add(number, text)
    assert [entry.number for entry in history.entries()] == [2, 3]
    assert history.entry(2).text == "two"
    assert (history.number_of("three"), history.number_of("four")) == (3, 4)
    with pytest.raises(BadRequest, match="generation 1 is not in the history"):
        history.entry(1)


@pytest.mark.parametrize("bad", [b"a: \xff\n", b"\x00\xfe", None])
def test_a_damaged_entry_is_named_and_never_served_again(
    tmp_path: Path, bad: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(tmp_path, keep=3)
    history.add(1, "one")
    path = tmp_path / "0002.yaml"
    path.mkdir() if bad is None else path.write_bytes(bad)
    assert history.number_of("one") == 3
    assert "0002.yaml is damaged" in caplog.text
    history.add(3, "three")
    assert (history.number_of("three"), history.number_of("four")) == (3, 4)
    assert all(isinstance(entry.text, str) for entry in history.entries())
    with pytest.raises(BadRequest, match=r"0002\.yaml is damaged"):
        history.entry(2)
    for number in range(4, 9):
        history.add(number, f"text {number}")
    assert [entry.number for entry in history.entries() if entry.path.is_file()] == [6, 7, 8]


def test_a_dangling_link_in_the_history_does_not_prevent_a_start(tmp_path: Path) -> None:
    (tmp_path / "0001.yaml").symlink_to(tmp_path / "gone")
    assert History(tmp_path, keep=3).number_of("one") == 2
