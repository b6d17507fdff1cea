"""What the version before called otherwise: keys of experts.yaml are read and metrics emitted once more, each
with the new name said."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coe.access.response_cache import ResponseCache
from coe.cli import main
from coe.cluster.settings import Deployed
from coe.core import plugins
from coe.core.status import RebalanceCounts
from coe.gateway.metrics import Metrics
from coe.gateway.middlewares import without_access
from coe.registry.errors import RegistryError
from coe.registry.renamed import RENAMED
from coe.registry.schema import Registry
from coe.scheduler.policies import BASELINES, Policy, make_policy
from coe.service.registry_file import load_registry, parse_registry
from coe.state.memory import MemoryStore
from tests.support.live import live_world
from tests.support.waiting import until

HOST = "  hosts: [{id: far, kind: remote, url: 'http://127.0.0.1:9'}]\n"
EXPERTS = "experts: [{id: a, host: far, model: m, card: c, general: true}]\nrouters: {default: random}\n"
OLD = f"pool:\n  replan_s: 60\n{HOST}{EXPERTS}answers:\n  ttl_s: 5\n"
NEW = OLD.replace("replan_s", "rebalance_s").replace("answers", "cache")


def test_former_keys_mean_what_the_new_ones_mean() -> None:
    assert parse_registry(OLD, Path("experts.yaml")) == parse_registry(NEW, Path("experts.yaml"))
    assert parse_registry(NEW, Path("experts.yaml")).cache is not None


def test_every_former_key_has_a_place_in_the_models_under_its_new_name() -> None:
    for former, name in RENAMED.items():
        fields: Any = Registry.model_fields
        for step in former[:-1]:
            fields = fields[str(step)].annotation.model_fields
        assert name in fields
        assert former[-1] not in fields


def test_reading_a_file_warns_once_for_each_former_key_with_its_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text(OLD, encoding="utf-8")
    load_registry(file)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert 'experts.yaml:5: "answers" is called "cache" now' not in said  # line 5 is the routers
    assert f'{file}:6: "answers" is called "cache" now' in said
    assert f'{file}:2: "pool.replan_s" is called "pool.rebalance_s" now' in said
    caplog.clear()
    file.write_text(NEW, encoding="utf-8")
    load_registry(file)
    assert not caplog.records


def test_check_shows_them_as_warnings_with_their_lines_and_the_file_is_usable(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text(OLD, encoding="utf-8")
    shown = CliRunner().invoke(main, ["check", str(file)])
    assert shown.exit_code == 0
    assert 'warning: line 6: "answers" is called "cache" now' in shown.output
    assert "Write `cache:` instead of `answers:`." in shown.output
    report = json.loads(CliRunner().invoke(main, ["check", "--json", str(file)]).output)
    found = {each["subject"]: (each["severity"], each["line"]) for each in report["findings"]}
    assert found["answers"] == ("warning", 6)
    assert found["pool.replan_s"] == ("warning", 2)


def test_a_removed_option_of_the_policy_is_left_out_with_a_warning_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    removed = "pool:\n  options:\n    belady: false\n"
    file.write_text(NEW.replace("pool:\n", removed), encoding="utf-8")
    assert load_registry(file).pool.options == {}
    shown = CliRunner().invoke(main, ["check", str(file)])
    assert shown.exit_code == 0
    assert 'warning: line 3: "pool.options.belady" is not read any more' in shown.output
    file.write_text(NEW.replace("pool:\n", f"{removed}  policy: static\n"), encoding="utf-8")
    with pytest.raises(RegistryError, match="belady"):  # it never was one of another policy
        load_registry(file)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_the_former_short_name_of_a_baseline_is_read_with_a_warning_that_says_what_to_write(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def named(policy: str) -> Policy:
        caplog.clear()
        file = tmp_path / "experts.yaml"
        file.write_text(NEW.replace("pool:\n", f"pool:\n  policy: {policy}\n"), encoding="utf-8")
        return make_policy(load_registry(file).pool, tmp_path)

    plugins._warn.cache_clear()
    assert named(name).name == name
    assert [BASELINES[name] in record.getMessage() for record in caplog.records] == [True]
    assert named(BASELINES[name]).name == name
    assert caplog.records == []


def test_both_names_in_one_file_are_an_error() -> None:
    with pytest.raises(RegistryError, match=r'experts.yaml:8:1: "answers" is the former name of "cache"'):
        parse_registry(NEW + "answers: {}\n", Path("experts.yaml"))


def test_what_is_wrong_under_a_former_key_is_told_at_its_line() -> None:
    with pytest.raises(RegistryError, match=r"experts.yaml:7:3: answers.ttl_s: must be greater than 0"):
        parse_registry(OLD.replace("ttl_s: 5", "ttl_s: 0"), Path("experts.yaml"))


async def test_a_running_service_says_it_at_the_start_and_for_an_edit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def warnings() -> int:
        return sum("is called" in record.getMessage() for record in caplog.records)

    async with live_world(tmp_path) as w:
        assert warnings() == 0
        w.write("pool:\n", "answers: {}\npool:\n")
        await until(lambda: w.generation == 2)
        assert warnings() == 1
        await w.live.edit(lambda text: text.replace("org/words", "org/other"))
        assert (w.generation, warnings()) == (3, 2)
    async with live_world(tmp_path, text=w.file.read_text(encoding="utf-8")):
        await until(lambda: warnings() == 3)


def test_a_manifest_of_the_version_before_is_read() -> None:
    registry = {
        "pool": {"hosts": [{"id": "slot"}]},
        "experts": [{"id": "a", "host": "slot", "model": "m"}],
        "answers": {"ttl_s": 5},
    }
    deployed = Deployed("/", 1, registry)
    cache = deployed.parsed().cache
    assert cache is not None
    assert cache.ttl_s == 5
    assert "answers" in deployed.registry


class _Status:
    def engines(self) -> dict[str, Any]:
        return {}

    experts = engines


def test_former_metrics_have_the_same_numbers_and_name_the_new_ones() -> None:
    cache = ResponseCache(MemoryStore(), 60.0)
    cache.lookups["hit"], cache.down = 3, 2
    counts = RebalanceCounts()
    counts.moved, counts.experts = 4, 5
    metrics = Metrics(_Status())  # type: ignore[arg-type]
    replace(without_access(), cache=cache).show_in(metrics)
    metrics.watch("writer_calls", "Texts.", "result", lambda: {"kept": 6})
    metrics.watch_rebalances(counts)
    text = metrics.render().decode()
    for name, former, labels, value in (
        ("coe_cache_lookups_total", "coe_kept_answers_total", '{result="hit"}', 3),
        ("coe_writer_calls_total", "coe_router_notes_total", '{result="kept"}', 6),
        ("coe_rebalances_total", "coe_replans_total", '{result="moved"}', 4),
        ("coe_rebalanced_experts_total", "coe_replanned_experts_total", "", 5),
    ):
        assert f"{name}{labels} {value}.0" in text
        assert f"{former}{labels} {value}.0" in text
        assert re.search(rf"^# HELP {former} Deprecated, use {name}:", text, re.MULTILINE)
    assert 'coe_state_failures_total{user="cache"} 2.0' in text
    assert 'coe_state_down_total{user="answers"} 2.0' in text
