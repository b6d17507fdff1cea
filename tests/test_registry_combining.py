"""Aggregators, budgets and routes in experts.yaml: faults at their own place, with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from coe.core.errors import ConfigError
from coe.service.registry_file import load_registry

TOP = """\
pool: {hosts: [{id: slot}]}
experts:
  - {id: base, host: slot, model: m}
  - {id: sums, host: slot, model: m}
routers: {available: [{name: fixed, kind: static, options: {expert: base}}]}
"""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("aggregator: {kind: vot}", '6:14: unknown aggregator kind "vot"; did you mean "vote"'),
        ("aggregator: {kind: vote, quorum: 0}", "aggregator.quorum: must be at least 1, not 0"),
        ("aggregator: {kind: vote, proposers: 17}", "aggregator.proposers: must be at most 16, not 17"),
        ("aggregator: {kind: vote, proposers: 5, top_p: {p: 0}}", "top_p.p: must be greater than 0, not 0"),
        ("aggregator: {kind: vote, top_p: {}}", "give proposers above 1, and leave adaptive out"),
        ("aggregator: {kind: vote, proposers: 5, adaptive: false, top_p: {}}", "leave adaptive out"),
        ("aggregator: {kind: vote, budget: {usd: 1}}", 'unknown key "usd" in aggregator.budget'),
        (
            "aggregator: {kind: synthesise, options: {exprt: base}}",
            'unknown key "exprt" in aggregator.options',
        ),
        ("aggregator: {kind: self_moa_seq, options: {window: 1}}", "window: must be at least 2, not 1"),
        ("aggregator: {kind: learned, options: {paht: x}}", 'unknown key "paht" in aggregator.options'),
        (
            "aggregators: [{kind: synthesise, options: {expert: bse}}]",
            'there is no expert "bse"; did you mean "base"',
        ),
        (
            "aggregator: {kind: vote}\naggregators: [{kind: vote}]",
            'two aggregators are called "vote"; give one another name',
        ),
        ("routes: [{model: sums}]", '6:11: the model name "sums" is taken; give the route another'),
        ("routes: [{model: coe}]", 'the model name "coe" is taken'),
        ("routes: [{model: a}, {model: a}]", 'the model name "a" is taken'),
        ("routes: [{model: a, router: fixd}]", 'unknown router "fixd"; did you mean "fixed"'),
        ("routes: [{model: a, aggregator: vot}]", 'unknown aggregator "vot"; did you mean "vote"'),
        ("routes: [{model: a, aggregator: learned}]", 'unknown aggregator "learned"'),
    ],
)
def test_a_fault_is_reported_with_its_remedy(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text(TOP + text + "\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_registry(file)
    assert fault in caught.value.message


def test_aggregators_and_routes_are_read(tmp_path: Path) -> None:
    text = """\
aggregator: {name: careful, kind: weighted_vote, proposers: 3, quorum: 2, budget: {max_tokens: 90}}
aggregators: [{kind: synthesise, options: {expert: base}}, {name: mine, kind: "my.package:Mine"}]
routes: [{model: deep, router: fixed, aggregator: synthesise, experts: 3}, {model: own, aggregator: mine}]
"""
    file = tmp_path / "experts.yaml"
    file.write_text(TOP + text, encoding="utf-8")
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "package.py").write_text("from coe.aggregators.first import First as Mine\n")
    registry = load_registry(file)
    assert registry.aggregator.label == "careful"
    assert registry.aggregator_spec("synthesise").options == {"expert": "base"}
    route = registry.routed_names.get("deep")
    assert route is not None
    assert (route.aggregator, route.experts) == ("synthesise", 3)
    assert registry.routed_names.get("base") is None
    unlisted = registry.aggregator_spec("vote")
    assert (unlisted.kind, unlisted.proposers, unlisted.quorum) == ("vote", 3, 2)
