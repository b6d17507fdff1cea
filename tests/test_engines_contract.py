"""Every engine keeps the contract (real vLLM: test_engines_real_vllm.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer

from coe.engines import build_engine
from coe.registry.hosts import RemoteHost
from coe.registry.schema import Expert
from coe.testing.conformance_engine import Adoption, EngineContractError, check_engine
from coe.testing.engines import FakeEngine
from tests.support import engine_hosts
from tests.support.fake_vllm import FakeVllm
from tests.support.tiny_models import TinyFamily


@pytest_asyncio.fixture
async def api(tiny_family: TinyFamily) -> AsyncIterator[TestServer]:
    """An OpenAI-compatible server on a port of this machine."""
    fake = FakeVllm("tiny-model", str(tiny_family.a))
    server = TestServer(fake.application())
    await server.start_server()
    yield server
    await server.close()


@pytest.mark.slow
@pytest.mark.parametrize("expert", ["a", "b"])
async def test_slot_keeps_the_contract(tiny_family: TinyFamily, tmp_path: Path, expert: str) -> None:
    slot, adoption = engine_hosts.slot(tiny_family, tmp_path), engine_hosts.slot_adoption(tiny_family)
    await check_engine(slot, expert, adoption=adoption)


@pytest.mark.slow
@pytest.mark.parametrize("expert", ["a", "b"])
async def test_sleepers_keep_the_contract(tiny_family: TinyFamily, tmp_path: Path, expert: str) -> None:
    sleepers, adoption = engine_hosts.sleepers(tiny_family, tmp_path), engine_hosts.slot_adoption(tiny_family)
    await check_engine(sleepers, expert, adoption=adoption)


@pytest.mark.slow
@pytest.mark.parametrize("expert", ["a", "lora"])
async def test_adapters_keep_the_contract(tiny_family: TinyFamily, tmp_path: Path, expert: str) -> None:
    adapters = engine_hosts.adapters(tiny_family, tmp_path)
    await check_engine(adapters, expert, adoption=engine_hosts.adapter_adoption(tiny_family))


async def test_remote_url_keeps_the_contract(api: TestServer, tmp_path: Path) -> None:
    host = RemoteHost(id="far", kind="remote", url=str(api.make_url("/v1")))
    expert = Expert(id="remote-a", host="far", model="tiny-model")
    adoption = Adoption((expert,), Expert(id="remote-new", host="far", model="tiny-model"))
    engine = build_engine(host, (expert,), tmp_path)
    await check_engine(engine, "remote-a", always_awake=True, adoption=adoption)


@pytest.mark.slow
async def test_litellm_provider_keeps_the_contract(
    api: TestServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", str(api.make_url("/v1")))
    monkeypatch.setenv("TEST_KEY", "sk-test")
    host = RemoteHost(id="far", kind="remote", provider="openai", api_key_env="TEST_KEY")
    expert = Expert(id="remote-a", host="far", model="tiny-model")
    await check_engine(build_engine(host, (expert,), tmp_path), "remote-a", always_awake=True)


async def test_check_finds_an_engine_that_hides_its_experts() -> None:
    class Forgetful(FakeEngine):
        async def ensure_ready(self, expert: str) -> None:
            """Says yes and does nothing."""

    with pytest.raises(EngineContractError, match="among stats"):
        await check_engine(Forgetful(), "a")
