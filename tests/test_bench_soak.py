"""The soak: what counts as a complete answer, and the slope that it reports."""

from __future__ import annotations

from collections import Counter

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from benchmarks.soak import SAMPLES, Soak, Soaked
from tests.support.serving import serving_app


def app(streamed: str, body: dict[str, int], status: int = 200) -> object:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        asked = await Request(scope, receive).json()
        response = Response(streamed) if asked.get("stream") else JSONResponse(body, status)
        await response(scope, receive, send)

    return answer


@pytest.mark.parametrize(
    ("kind", "streamed", "status", "end"),
    [
        ("whole", "", 200, "whole ok"),
        ("whole", "", 503, "whole 503"),
        ("stream", "data: {}\n\ndata: [DONE]\n\n", 200, "stream ok"),
        ("stream", "data: {}\n\n", 200, "stream not complete"),
        ("hang_up", "data: {}\n\n", 200, "hang_up ok"),
    ],
)
async def test_only_complete_answers_count_as_ok(kind: str, streamed: str, status: int, end: str) -> None:
    async with (
        serving_app(app(streamed, {"coe": 1}, status)) as url,  # type: ignore[arg-type]
        aiohttp.ClientSession() as session,
    ):
        assert await Soak(url, None, session).ask(kind, 1) == end


async def test_a_body_without_a_receipt_is_not_complete() -> None:
    async with serving_app(app("", {"id": 1})) as url, aiohttp.ClientSession() as session:  # type: ignore[arg-type]
        assert await Soak(url, None, session).ask("whole", 1) == "whole not complete"


def test_the_slope_leaves_the_warm_up_out() -> None:
    growing = [500.0] * (SAMPLES // 5) + [100.0 + step for step in range(SAMPLES - SAMPLES // 5)]
    assert Soaked(20_000, Counter(), growing).mb_per_10k == pytest.approx(10.0)
