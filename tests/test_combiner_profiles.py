"""Teaching the aggregator learned from recorded answers, and finding what was taught next to the profiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from coe.aggregators import Setting, build_aggregators
from coe.aggregators.combiner.fitted import FittedCombiner
from coe.cli import main as coe
from coe.core.errors import ConfigError
from coe.onboarding.teach_combiner import teach_registry
from coe.outcomes.outcome_set import OutcomeSet, Question
from coe.profiles.outcomes import Recorded, Source, recorded
from coe.profiles.store import fitted_combiner
from coe.registry.schema import Registry


def registry(*experts: str, **more: Any) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [
                {"id": name, "host": "slot", "model": f"m-{name}", "profile": name} for name in experts
            ],
            "routers": {"default": "knn"},
            "profiles": ["profiles"],
            **more,
        }
    )


def answered(count: int = 240, answers: bool = True) -> Recorded:
    """ "sure" is right four times in five, the others two times in five; they agree in error."""
    draws = np.random.default_rng(2)
    sure, crowd = draws.random(count) < 0.8, draws.random(count) < 0.4
    right = np.column_stack([crowd, crowd, sure]).astype(float)
    said = np.where(right > 0.5, "A", "B").astype(object)
    vectors = draws.normal(size=(count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nothing = np.full(3, np.nan)
    outcomes = OutcomeSet(
        "toy",
        tuple(Question(str(i), f"Question {i}?", ("yes", "no", "both")) for i in range(count)),
        ("crowd", "follower", "sure"),
        right,
        said if answers else None,
        np.full((count, 3), np.nan),
        nothing,
        nothing,
    )
    return recorded(outcomes, vectors, "minilm", Source("toy"))


def test_what_was_taught_is_next_to_the_profiles_under_the_registry_s_names(tmp_path: Path) -> None:
    known = registry("sure", "crowd", "follower", "new")
    assert fitted_combiner(known, tmp_path) is None
    taught = teach_registry(known, tmp_path, answered(), mean_experts=1.5)
    assert taught.path == fitted_combiner(known, tmp_path) == tmp_path / "profiles" / "combiner.json"
    assert (taught.experts, taught.limit) == (("sure", "crowd", "follower"), 3)
    assert FittedCombiner.load(taught.path).combiner.experts_ == taught.experts


def test_once_taught_learned_can_be_named_without_options(tmp_path: Path) -> None:
    known = registry("sure", "crowd")
    assert "learned" not in build_aggregators(known, Setting(root=tmp_path))
    teach_registry(known, tmp_path, answered(), mean_experts=1.5)
    setting = Setting(root=tmp_path, combiner=fitted_combiner(known, tmp_path))
    assert build_aggregators(known, setting)["learned"].proposing.at_once == 1


def test_learned_that_nobody_taught_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing taught it yet") as caught:
        build_aggregators(registry("sure", aggregator={"kind": "learned"}), Setting(root=tmp_path))
    assert "coe experts profile --combiner" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("experts", "answers", "message"),
    [(("sure", "new"), True, "answers of 1 experts"), (("sure", "crowd"), False, "records no answers")],
)
def test_too_little_to_learn_from_is_a_clear_error(
    tmp_path: Path, experts: tuple[str, ...], answers: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        teach_registry(registry(*experts), tmp_path, answered(answers=answers), mean_experts=1.5)


def test_the_command_says_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coe.onboarding.profiler.read_recorded", lambda *_: answered())
    file = tmp_path / "experts.yaml"
    file.write_text(registry("sure", "crowd", "follower").model_dump_json())
    asked = ["experts", "profile", "--combiner", "--from", str(tmp_path), "--registry", str(file)]
    found = CliRunner().invoke(coe, [*asked, "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.output)["questions"] == 240
    assert "in stages" in CliRunner().invoke(coe, asked).output
    assert CliRunner().invoke(coe, [*asked, "sure"]).exit_code == 2
