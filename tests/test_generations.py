"""One change from a generation to the next, for one process and for the parts of a cluster: what a running
engine would not follow is refused everywhere, with the same words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from coe.cli import main
from coe.cluster.gateway_replica import GatewayReplica
from coe.cluster.messages import GatewayReport, OwnerReport
from coe.cluster.node import NodeOwner
from coe.core.errors import ConfigError
from coe.core.status import ExpertStatus
from coe.registry.hosts import Host
from coe.registry.schema import Expert, Registry
from coe.service.build_generation import GenerationBuilder
from coe.service.service import build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.owners import Slot
from tests.support.waiting import until

CHANGES = {"url": "http://127.0.0.1:9", "dtype": "float32", "max_model_len": 64, "args": ["--seed", "1"]}
REFUSAL = "host slot cannot change its {} while it runs"
HINT = "Give the changed host another id"

each_change = pytest.mark.parametrize("field", sorted(CHANGES))


def data(slot: Mapping[str, Any] | None = None, host: str = "slot", names: str = "ab") -> dict[str, Any]:
    return {
        "pool": {"hosts": [{"id": host, **(slot or {})}]},
        "experts": [{"id": name, "host": host, "model": f"org/{name}", "card": "c"} for name in names],
        "routers": {"default": "random"},
    }


def registry(slot: Mapping[str, Any] | None = None, host: str = "slot", names: str = "ab") -> Registry:
    return Registry.model_validate(data(slot, host, names))


class NoOwners:
    async def owners(self) -> Mapping[str, Any]:
        return {}

    def miss(self, host: str) -> None: ...


@asynccontextmanager
async def node(folder: Path, built: list[str]) -> AsyncIterator[NodeOwner]:
    def build(host: Host, experts: Sequence[Expert], root: Path) -> Slot:
        built.append(host.id)
        return Slot(host.id, Script())

    owner = NodeOwner("one", "main", ["slot", "other"], folder, "here", "127.0.0.1", build)
    try:
        yield owner
    finally:
        await owner.stop(drain_s=0.1)


async def generation_of(owner: NodeOwner, number: int, wanted: Registry) -> tuple[int, str | None]:
    await owner.apply_generation(number, wanted.model_dump_json())
    report = owner.report()
    assert report is not None
    return report.generation, report.refused


@each_change
async def test_an_owner_refuses_what_its_running_engine_would_not_follow(tmp_path: Path, field: str) -> None:
    built: list[str] = []
    async with node(tmp_path, built) as owner:
        assert await generation_of(owner, 1, registry()) == (1, None)
        number, refused = await generation_of(owner, 2, registry({field: CHANGES[field]}))
        assert (number, built) == (1, ["slot"])
        assert refused is not None
        assert refused.startswith("generation 2: " + REFUSAL.format(field))
        # Another id is what the hint says, and the refusal is over.
        changed = registry({field: CHANGES[field]}, host="other")
        assert await generation_of(owner, 3, changed) == (3, None)
        assert built == ["slot", "other"]


async def test_an_owner_takes_up_a_host_again_once_its_work_under_other_settings_has_ended(
    tmp_path: Path,
) -> None:
    """Gateways bring a refused generation again with each heartbeat."""
    built: list[str] = []
    async with node(tmp_path, built) as owner:
        await generation_of(owner, 1, registry())
        await generation_of(owner, 2, registry(host="other"))
        back = registry({"dtype": "float32"})

        async def taken_up() -> bool:
            number, refused = await generation_of(owner, 3, back)
            assert refused is None or "still finishes its work" in refused
            return number == 3

        await until(taken_up)
        assert built == ["slot", "other", "slot"]


async def test_an_owner_says_which_settings_of_the_pool_it_was_made_without(tmp_path: Path) -> None:
    async with node(tmp_path, []) as owner:
        await generation_of(owner, 1, registry())
        changed = data()
        changed["pool"]["load_timeout_s"] = 7.0
        assert await generation_of(owner, 2, Registry.model_validate(changed)) == (2, None)
        report = owner.report()
        assert report is not None
        assert report.outdated == ("pool.load_timeout_s",)
        await generation_of(owner, 3, registry())
        back = owner.report()
        assert back is not None
        assert back.outdated == ()


def test_coe_status_shows_what_a_part_of_the_cluster_refuses_or_does_not_follow() -> None:
    from coe.cli.status import lines
    from coe.cluster.operator import ClusterStatus

    experts = {"a": ExpertStatus("awake", 3, 1, "no grant"), "b": ExpertStatus("cold", 0, 0)}
    owner = OwnerReport("one", 1, {}, experts, {}, 0, "generation 2: because", ("pool.policy",))
    gateway = GatewayReport("gateway-1", "here", 1, 2, None, ("access.keys_file",))
    shown = lines(ClusterStatus(2, "RUNNING", "", "http://x", {}, (gateway,), (owner,)))
    assert "  a: awake, 3 waiting, 1 running, STUCK: no grant" in shown
    assert "  b: cold, 0 waiting, 0 running" in shown
    assert "gateway-1: generation 2, still with former access.keys_file" in shown
    assert any(
        "one: generation 1, refuses generation 2: because, still with former pool.policy" in line
        for line in shown
    )


@each_change
async def test_one_process_refuses_it_with_the_same_words(tmp_path: Path, field: str) -> None:
    service = build_service(registry(), tmp_path, lambda host, *_: FakeEngine(host.id, Script()))
    next_one = GenerationBuilder(tmp_path).build(registry({field: CHANGES[field]}), 2)
    with pytest.raises(ConfigError, match=REFUSAL.format(field)) as refused:
        await service.switch(next_one)
    assert HINT in str(refused.value.hint)
    assert service.generations.current.number == 1


@each_change
async def test_a_gateway_refuses_it_before_a_request_goes_by_it(tmp_path: Path, field: str) -> None:
    replica = GatewayReplica("gateway-1", "here", NoOwners(), 1, registry(), tmp_path)
    with pytest.raises(ConfigError, match=REFUSAL.format(field)):
        await replica.change_to(2, registry({field: CHANGES[field]}))
    assert replica.generation == 1
    await replica.change_to(3, registry(names="abc"))
    assert replica.generation == 3


@pytest.mark.slow
@each_change
def test_it_is_not_even_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    from coe.cluster import operator

    monkeypatch.setattr(operator, "connected", nullcontext)
    monkeypatch.setattr(operator, "deployed_registry", registry)
    file = tmp_path / "experts.yaml"
    file.write_text(yaml.safe_dump(data({field: CHANGES[field]})), encoding="utf-8")
    line = next(number for number, text in enumerate(file.read_text().splitlines(), 1) if field in text)
    result = CliRunner().invoke(main, ["deploy", "--registry", str(file), "--address", "127.0.0.1:1"])
    assert result.exit_code == 2
    assert f"experts.yaml:{line}:" in result.stderr
    assert REFUSAL.format(field) in result.stderr
