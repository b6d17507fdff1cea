"""A named expert whose fallback answered is not measured by it: by the harness, profiles or the admin API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from coe.core.errors import EngineError, ExpertUnavailable
from coe.core.openai import stand_in
from coe.eval.demo.asking import complete
from coe.eval.live.service import Address, Refused, connect
from coe.profiles.asking import through_url
from coe.registry.schema import Registry
from coe.service.admin import _asker
from coe.service.service import LocalService, build_service
from tests.support.serving import serving
from tests.support.upstream import ScriptedUpstream, scripted_upstream, whole

BODY = {"messages": [{"role": "user", "content": "2+2?"}], "temperature": 0}


@asynccontextmanager
async def world(broken: bool) -> AsyncIterator[tuple[LocalService, str, ScriptedUpstream]]:
    """``first``, which answers 503 if ``broken``, and its fallback ``second``."""
    async with scripted_upstream() as upstream:
        registry = Registry.model_validate(
            {
                "pool": {"hosts": [{"id": "far", "kind": "remote", "url": upstream.url}]},
                "experts": [
                    {"id": "first", "host": "far", "model": "first", "fallback": "second"},
                    {"id": "second", "host": "far", "model": "second"},
                ],
                "routers": {"default": "random"},
            }
        )
        if broken:
            upstream.play("first", whole({"error": {"message": "loading"}}, 503))
        service = build_service(registry, Path())
        async with serving(service) as url:
            yield service, url, upstream


async def test_a_named_expert_s_fallback_answers_and_the_receipt_says_so() -> None:
    async with world(broken=True) as (_, url, _), httpx.AsyncClient(base_url=url) as http:
        answer = (await http.post("/v1/chat/completions", json={"model": "first", **BODY})).json()
    receipt = answer["coe"]
    assert (receipt["router"], receipt["expert"], answer["model"]) == ("pinned", "second", "second")
    assert [(leg["expert"], leg["outcome"]) for leg in receipt["legs"]] == [
        ("first", "failed: engine_failed"),
        ("second", "ok"),
    ]
    assert "first could not answer" in receipt["reason"]


async def by_harness(service: LocalService, url: str) -> str:
    async with connect(Address(url, timeout_s=30.0, attempts=1), 1) as open_service:
        reply = await open_service.chat({"model": "first", **BODY})
    return reply.expert


async def by_probes(service: LocalService, url: str) -> str:
    return (await through_url(url, "first")("2+2?")).text


async def by_admin(service: LocalService, url: str) -> str:
    return await _asker(service.pipeline, "first")("2+2?")


async def by_demo(service: LocalService, url: str) -> str:
    async with aiohttp.ClientSession() as session:
        return str((await complete(session, url, {"model": "first", **BODY}))["model"])


@pytest.mark.parametrize(
    ("measured", "found", "refused"),
    [
        (by_harness, "first", Refused),
        (by_probes, "42", EngineError),
        (by_admin, "42", EngineError),
        (by_demo, "first", ExpertUnavailable),
    ],
)
async def test_an_answer_of_the_fallback_is_not_counted(
    measured: Any, found: str, refused: type[Exception]
) -> None:
    async with world(broken=False) as (service, url, _):
        assert await measured(service, url) == found
    async with world(broken=True) as (service, url, upstream):
        with pytest.raises(refused, match="second answered"):
            await measured(service, url)
        assert upstream.asked_of("second") == 1


@pytest.mark.parametrize(
    ("receipt", "other"),
    [
        (None, None),
        ({"router": "pinned", "expert": "first"}, None),
        ({"router": "pinned", "expert": None}, None),
        ({"router": "pinned", "expert": "second"}, "second"),
        ({"router": "category", "expert": "second"}, None),
    ],
)
def test_who_stands_in_is_read_from_the_receipt(receipt: Any, other: str | None) -> None:
    assert stand_in({"coe": receipt}, "first") == other
    assert stand_in({}, "first") is None
