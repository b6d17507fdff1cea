"""What `coe check` says beyond the schema: whether the pieces exist and fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from coe.registry.errors import Issue, RegistryError
from coe.service.check import explain
from coe.service.registry_file import load_registry
from tests.support.tiny_models import TinyFamily

ROOT = Path(__file__).parents[1]


def findings(folder: Path, text: str, severity: str = "error") -> list[Issue]:
    file = folder / "experts.yaml"
    file.write_text(text, encoding="utf-8")
    explanation = explain(load_registry(file), folder)
    return [finding for finding in explanation.issues if finding.severity == severity]


def test_missing_checkpoint_is_an_error_that_names_make_experts(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, family_yaml(Path("models/base")))
    assert "models/base" in found.message
    assert found.hint is not None
    assert "make experts" in found.hint


def family_yaml(*folders: Path, host: str = "") -> str:
    experts = "".join(
        f"  - {{id: e{number}, host: slot, model: '{folder}', card: c, general: true}}\n"
        for number, folder in enumerate(folders)
    )
    return f"pool:\n  hosts:\n    - {{id: slot, device: cpu, dtype: float32{host}}}\nexperts:\n{experts}"


def test_checkpoints_of_one_architecture_share_a_slot(tmp_path: Path, tiny_family: TinyFamily) -> None:
    assert not findings(tmp_path, family_yaml(tiny_family.a, tiny_family.b))


def test_tied_checkpoint_in_a_shared_slot_is_an_error(tmp_path: Path, tiny_family: TinyFamily) -> None:
    (found,) = findings(tmp_path, family_yaml(tiny_family.a, tiny_family.tied))
    assert "tied" in found.message


def test_other_architecture_in_a_shared_slot_is_an_error(tmp_path: Path, tiny_family: TinyFamily) -> None:
    (found,) = findings(tmp_path, family_yaml(tiny_family.a, tiny_family.wide))
    assert "architecture" in found.message


def test_expert_larger_than_its_host_is_an_error(tmp_path: Path, tiny_family: TinyFamily) -> None:
    text = family_yaml(tiny_family.a, host=", memory_gb: 2").replace("card: c", "card: c, parameters_b: 1")
    (found,) = findings(tmp_path, text)
    assert "4.0 GB" in found.message


def test_prompt_longer_than_the_host_allows_is_a_warning(tmp_path: Path, tiny_family: TinyFamily) -> None:
    text = family_yaml(tiny_family.a, host=", max_model_len: 64")
    (found,) = findings(tmp_path, text.replace("card: c", "card: c, context_length: 128"), "warning")
    assert "max_model_len 64" in found.message


def test_pool_without_general_expert_or_card_is_a_warning(tmp_path: Path, tiny_family: TinyFamily) -> None:
    text = family_yaml(tiny_family.a).replace(", card: c, general: true", "")
    messages = [found.message for found in findings(tmp_path, text, "warning")]
    assert any("general" in message for message in messages)
    assert any("no card" in message for message in messages)


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        (
            "routers: {default: x, available: [{name: x, kind: category, options: {examples: no.jsonl}}]}\n",
            "no.jsonl",
        ),
    ],
)
def test_part_that_cannot_be_built_is_an_error(
    tmp_path: Path, tiny_family: TinyFamily, addition: str, expected: str
) -> None:
    (found,) = findings(tmp_path, family_yaml(tiny_family.a) + addition)
    assert expected in found.message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("experts:", "aggregator: {kind: 'no.such:Merger'}\nexperts:"),
            '4:14: aggregator kind "no.such:Merger',
        ),
        (
            ("experts:", "routers: {default: x, available: [{name: x, kind: 'no.such:Thing'}]}\nexperts:"),
            '4:45: router kind "no.such:Thing" cannot be imported',
        ),
        (("pool:\n", "pool:\n  policy: ceo\n"), '2:3: unknown policy kind "ceo"; did you mean "coe"'),
        (("pool:\n", "pool:\n  policy: 'no.such:Policy'\n"), '2:3: policy kind "no.such:Policy"'),
        (("pool:\n", "pool:\n  options: {belday: true}\n"), '2:13: unknown key "belday" in pool.options'),
        (("pool:\n", "pool:\n  policy: static\n  options: {prefetch: true}\n"), "the keys here are none"),
    ],
)
def test_what_experts_yaml_names_and_is_not_there_is_an_error(
    tmp_path: Path, tiny_family: TinyFamily, change: tuple[str, str], expected: str
) -> None:
    with pytest.raises(RegistryError) as caught:
        findings(tmp_path, family_yaml(tiny_family.a).replace(*change))
    assert expected in caught.value.message


def test_summary_says_how_each_host_works() -> None:
    lines = "\n".join(explain(load_registry(ROOT / "docs" / "experts.example.yaml"), ROOT).summary)
    for words in ("holds its only expert", "put to sleep", "through LiteLLM", "adapters", "(default)"):
        assert words in lines
