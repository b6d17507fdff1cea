"""The path of a request, on fakes of its three neighbours: router, pool and engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from coe.core.errors import (
    BadRequest,
    ConfigError,
    EngineError,
    ExpertRefused,
    ExpertUnavailable,
    RoutingError,
    UnknownModel,
)
from coe.core.types import (
    Decision,
    EngineCall,
    ExpertView,
    Ranked,
    Receipt,
    Request,
)
from coe.pipeline import Pipeline
from coe.pipeline.generation import Generation, Generations
from coe.registry.schema import Registry
from tests.support.asking import (
    EXPERTS,
    FakeAnswer,
    FakeEngine,
    FakePool,
    Ranking,
    generation,
    pipeline,
    read,
    registry,
    request,
)


async def test_a_routed_request_is_answered_by_the_best_ranked_expert() -> None:
    pool = FakePool()
    raw, receipt = await read(pool, request())
    assert raw == b'{"choices":[{"index":0}],"usage":{"completion_tokens":3}}'
    assert (receipt.router, receipt.expert, receipt.runner_up) == ("ranking", "sums", "words")
    assert receipt.confidence == 0.8
    assert receipt.margin == pytest.approx(1 / 3)
    assert "looks like sums" in receipt.reason
    assert pool.out == []


async def test_the_receipt_has_the_lease_s_times_the_tokens_and_the_outcome() -> None:
    _, receipt = await read(FakePool(), request())
    (leg,) = receipt.legs
    assert (leg.queue_ms, leg.swap_ms, leg.wake_from, leg.tokens, leg.outcome) == (12, 700, "cold", 3, "ok")
    assert leg.run_ms is not None
    assert (receipt.queue_ms, receipt.swap_ms) == (12, 700)


def streamed(stream_options: dict[str, bool] | None) -> Request:
    asked = request(stream=True)
    return replace(asked, body={**asked.body, "stream_options": stream_options})


async def test_tokens_of_a_stream_come_from_its_last_chunks() -> None:
    script: list[bytes | BaseException] = [b"data: {}\n\n"] * 9
    script += [
        b'data: {"usage":{"completion_tok',
        b'ens": 41}}\n\n',
        b"data: [DONE]\n\n",
    ]
    chunks = b"".join(step for step in script[:-1] if isinstance(step, bytes))
    for asked, passed in (({"include_usage": True}, chunks), (None, b"data: {}\n\n" * 9)):
        pool = FakePool(FakeEngine(scripts={"sums": list(script)}))
        raw, receipt = await read(pool, streamed(asked))
        assert raw == passed  # untouched, but for usage that the client did not ask for
        assert receipt.legs[0].tokens == 41


async def test_tokens_in_an_answer_s_text_do_not_count() -> None:
    script: list[bytes | BaseException] = [b'{"choices":[{"text":"\\"completion_tokens\\":5"}]}']
    _, receipt = await read(FakePool(FakeEngine(scripts={"sums": script})), request())
    assert receipt.legs[0].tokens is None


async def test_a_named_expert_is_asked_without_a_router() -> None:
    _, receipt = await read(FakePool(), request(model="words", router="confused"))
    assert (receipt.router, receipt.expert, receipt.runner_up, receipt.margin) == (
        "pinned",
        "words",
        None,
        None,
    )
    assert receipt.confidence is None
    assert receipt.reason == "the request named words"


async def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownModel, match='"wrods" does not exist; did you mean "words"') as caught:
        await pipeline(FakePool()).answer(request(model="wrods"))
    assert caught.value.param == "model"


@pytest.mark.parametrize("model", ["coe", "words"])
async def test_an_unknown_router_names_the_nearest(model: str) -> None:
    with pytest.raises(BadRequest, match='did you mean "ranking"') as caught:
        await pipeline(FakePool()).answer(request(model=model, router="rankin"))
    assert caught.value.param == "coe.router"


@pytest.mark.parametrize("model", ["coe", "words"])
@pytest.mark.parametrize(
    ("options", "param"), [({"experts": 17}, "coe.experts"), ({"aggregate": "vot"}, "coe.aggregate")]
)
async def test_what_the_aggregator_cannot_do_is_refused(
    options: dict[str, Any], param: str, model: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        await pipeline(FakePool()).answer(request(model=model, **options))
    assert caught.value.param == param


async def test_a_prompt_of_token_ids_needs_a_named_expert() -> None:
    body = {"model": "coe", "prompt": [1, 2, 3]}
    with pytest.raises(BadRequest, match="token ids"):
        await pipeline(FakePool()).answer(Request("req-1", "completions", "coe", body, ""))
    await (await pipeline(FakePool()).answer(Request("req-1", "completions", "sums", body, ""))).aclose()


class Restarting(FakeEngine):
    """Its process is gone for the first ``failures`` questions."""

    failures = 1

    async def ask(self, expert: str, call: EngineCall) -> FakeAnswer:
        if len(self.asked) < self.failures:
            self.asked.append(expert)
            raise EngineError("connection refused", code="engine_unreachable")
        return await super().ask(expert, call)


async def test_an_expert_whose_process_was_lost_is_asked_once_more_where_there_is_no_other() -> None:
    pool = FakePool(engine=Restarting())
    _, receipt = await read(pool, request(model="sums"))
    assert [(leg.expert, leg.outcome) for leg in receipt.legs] == [
        ("sums", "failed: engine_unreachable"),
        ("sums", "ok"),
    ]


async def test_an_expert_that_stays_lost_is_an_error_after_the_second_time() -> None:
    engine = Restarting()
    engine.failures = 9
    with pytest.raises(EngineError, match="connection refused"):
        await pipeline(FakePool(engine=engine)).answer(request(model="sums"))
    assert engine.asked == ["sums", "sums"]


async def test_an_unavailable_expert_is_replaced_by_the_next_and_the_receipt_says_so() -> None:
    pool = FakePool(unavailable={"sums"})
    _, receipt = await read(pool, request())
    assert receipt.expert == "words"
    assert "sums could not answer (failed: expert_unavailable), so words was asked" in receipt.reason
    assert [(leg.expert, leg.outcome) for leg in receipt.legs] == [
        ("sums", "failed: expert_unavailable"),
        ("words", "ok"),
    ]
    assert receipt.runner_up == "sums"
    assert receipt.margin is None


@pytest.mark.parametrize("script", [[EngineError("the connection broke")], []])
async def test_an_expert_that_fails_before_its_first_byte_is_replaced(
    script: list[bytes | BaseException],
) -> None:
    pool = FakePool(FakeEngine(scripts={"sums": script}))
    _, receipt = await read(pool, request(stream=True))
    assert pool.engine.asked == ["sums", "words"]
    assert receipt.legs[0].outcome == "failed: engine_failed"
    assert all(answer.closed for answer in pool.engine.answers)
    assert pool.out == []


class CloseCall(Ranking):
    """Its second expert is nearly as good as the first, its third is not."""

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        ranking = tuple(Ranked(e, p) for e, p in zip(EXPERTS, (0.46, 0.43, 0.11), strict=True))
        return Decision(self.name, ranking, EXPERTS[:1], 0.5, "sums or words")


async def answered(pool: FakePool, **options: Any) -> Receipt:
    answer = await pipeline(pool, generation(ranking=CloseCall())).answer(request(**options))
    _ = [chunk async for chunk in answer.chunks()]
    await answer.aclose()
    return answer.receipt()


async def test_an_expert_nearly_as_good_that_is_free_sooner_answers_and_the_receipt_says_so() -> None:
    pool = FakePool(awake={"words", "base"})
    receipt = await answered(pool)
    assert (receipt.expert, receipt.runner_up, receipt.legs[0].expert) == ("words", "sums", "words")
    assert "words answered instead of sums: nearly as good for this, and free sooner" in receipt.reason
    assert pool.engine.asked == ["words"]


async def test_an_expert_clearly_less_likely_to_be_right_never_answers_instead() -> None:
    assert (await answered(FakePool(awake={"base"}))).expert == "sums"
    assert (await answered(FakePool(awake={"words"}), model="sums")).expert == "sums"


async def test_when_the_expert_that_stepped_in_fails_the_chosen_one_is_asked() -> None:
    pool = FakePool(FakeEngine(refusals={"words": EngineError("gone")}), awake={"words"})
    receipt = await answered(pool)
    assert pool.engine.asked == ["words", "sums"]
    assert (receipt.expert, receipt.runner_up) == ("sums", "words")
    assert "words could not answer (failed: engine_failed), so sums was asked" in receipt.reason


@pytest.mark.parametrize("private", [False, True])
async def test_the_log_quotes_an_upstream_s_error_unless_the_request_is_private(
    private: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = FakePool(FakeEngine(refusals={"sums": EngineError("cannot read: a secret")}))
    asked = replace(request(), private=private)
    answer = await pipeline(pool).answer(asked)
    await answer.aclose()
    assert ("a secret" in caplog.text) is not private
    assert "sums could not answer" in caplog.text


async def test_only_one_other_expert_is_tried() -> None:
    pool = FakePool(unavailable={"sums", "words"})
    with pytest.raises(ExpertUnavailable, match="words"):
        await pipeline(pool).answer(request())
    assert pool.engine.asked == []


async def test_a_named_expert_is_never_replaced() -> None:
    with pytest.raises(ExpertUnavailable, match="sums"):
        await pipeline(FakePool(unavailable={"sums"})).answer(request(model="sums"))


def with_fallback(expert: str, fallback: str) -> Generation:
    spec = registry()
    experts = [{**e.model_dump(), "fallback": fallback if e.id == expert else None} for e in spec.experts]
    return replace(generation(), registry=Registry.model_validate({**spec.model_dump(), "experts": experts}))


async def test_the_configured_fallback_answers_for_a_named_expert_that_cannot() -> None:
    pool = FakePool(unavailable={"sums"})
    answer = await pipeline(pool, with_fallback("sums", "words")).answer(request(model="sums"))
    assert answer.receipt().expert == "words"
    assert "sums could not answer (failed: expert_unavailable), so words was asked" in answer.receipt().reason
    await answer.aclose()


async def test_an_expert_s_own_refusal_is_passed_on_without_asking_another() -> None:
    pool = FakePool(FakeEngine(refusals={"sums": ExpertRefused(400, "the prompt is too long")}))
    with pytest.raises(ExpertRefused):
        await pipeline(pool).answer(request())
    assert pool.engine.asked == ["sums"]
    assert pool.out == []


async def test_after_the_first_byte_a_failure_is_the_client_s_to_see() -> None:
    pool = FakePool(FakeEngine(scripts={"sums": [b"data: {}\n\n", EngineError("gone")]}))
    answer = await pipeline(pool).answer(request(stream=True))
    with pytest.raises(EngineError, match="gone"):
        _ = [chunk async for chunk in answer.chunks()]
    await answer.aclose()
    assert answer.receipt().legs[0].outcome == "failed: engine_failed"
    assert pool.engine.asked == ["sums"]
    assert pool.out == []


async def test_closing_an_answer_under_way_aborts_it_and_gives_the_lease_back() -> None:
    pool = FakePool(FakeEngine(scripts={"sums": [b"data: {}\n\n"] * 3}))
    answer = await pipeline(pool).answer(request(stream=True))
    await anext(answer.chunks())
    assert pool.out == ["sums"]
    await answer.aclose()
    await answer.aclose()
    assert pool.engine.answers[0].closed
    assert pool.out == []
    assert answer.receipt().legs[0].outcome == "cancelled"


@pytest.mark.parametrize("where", ["queue", "engine"])
async def test_cancelling_a_waiting_request_gives_everything_back(where: str) -> None:
    pool = FakePool(FakeEngine(hang=where == "engine"), full=where == "queue")
    waiting = asyncio.create_task(pipeline(pool).answer(request()))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool.out == []
    assert len(pool.timeouts) == 1  # a cancelled request does not go on to the next expert


async def test_a_blocking_router_runs_beside_the_loop_and_a_quick_one_in_it() -> None:
    slow, quick = Ranking(blocking=True), Ranking()
    current = generation(slow=slow, quick=quick)
    for name in ("slow", "quick"):
        await (await pipeline(FakePool(), current).answer(request(router=name))).aclose()
    assert quick.thread == threading.get_ident() != slow.thread


async def test_a_router_that_breaks_is_a_routing_error_without_its_insides() -> None:
    with pytest.raises(RoutingError, match=r"confused could not decide \(KeyError\)") as caught:
        await pipeline(FakePool()).answer(request(router="confused"))
    assert caught.value.source == "router"


async def test_a_router_that_invents_an_expert_is_a_routing_error() -> None:
    with pytest.raises(RoutingError, match="does not exist"):
        await pipeline(FakePool(), generation(odd=Ranking("ghost"))).answer(request(router="odd"))


async def test_a_request_keeps_the_generation_that_it_began_with() -> None:
    generations = Generations(generation(1))
    pool = FakePool()
    subject = Pipeline(generations, pool)
    answer = await subject.answer(request())
    generations.publish(generation(2))
    later = await subject.answer(request())
    assert (answer.receipt().generation, later.receipt().generation) == (1, 2)
    await answer.aclose()
    await later.aclose()


@pytest.mark.parametrize(("patience_s", "expected"), [(None, 60), (5, 5), (500, 60)])
async def test_the_wait_is_bounded_by_the_client_s_patience_and_the_service_s(
    patience_s: float | None, expected: float
) -> None:
    pool = FakePool()
    await read(pool, request(patience_s=patience_s))
    assert pool.timeouts == [expected]


async def test_a_preview_ranks_with_waits_and_asks_nobody() -> None:
    pool = FakePool()
    preview = await pipeline(pool).preview(request())
    assert preview.decision.expert == "sums"
    assert preview.waits_s == (0.0, 1.5, 1.5)
    assert pool.timeouts == []


class Sized(Ranking):
    """Misconfigured: what it needs of the experts is not there."""

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        raise ConfigError("no map keeps the budget", hint="Raise it.")


async def test_a_router_s_misconfiguration_is_no_client_s_fault() -> None:
    with pytest.raises(RoutingError, match="no map keeps the budget") as caught:
        await pipeline(FakePool(), generation(ranking=Sized())).answer(request())
    assert (caught.value.http_status, caught.value.hint) == (500, "Raise it.")


@pytest.mark.parametrize("cost", [0.1, 5.0])
async def test_a_weight_of_cost_is_refused_where_nobody_has_a_price(cost: float) -> None:
    with pytest.raises(BadRequest, match="no expert of this service has a price") as caught:
        await pipeline(FakePool()).answer(request(cost=cost))
    assert (caught.value.code, caught.value.param) == ("no_prices", "coe.cost")
    assert "price" in (caught.value.hint or "")


async def test_without_a_weight_of_cost_or_with_a_named_expert_prices_do_not_matter() -> None:
    assert (await read(FakePool(), request(cost=0.0)))[1].expert == "sums"
    assert (await read(FakePool(), request(model="words", cost=2.0)))[1].expert == "words"


def priced(dear: str) -> Generation:
    spec = registry()
    experts = [
        {**e.model_dump(), "price": {"input": 0, "output": 10 if e.id == dear else 1}} for e in spec.experts
    ]
    whole = Registry.model_validate({**spec.model_dump(), "experts": experts})
    views = tuple(expert.view() for expert in whole.experts)
    return replace(generation(ranking=CloseCall()), registry=whole, experts=views)


@pytest.mark.parametrize(
    ("options", "why", "expert"),
    [
        ({"cost": 0.5}, "cost", "words"),
        ({"cost": 0.5, "quality": 0.5}, "cost", "words"),
        ({"cost": 0.5, "quality": 0.01}, "cost", "words"),
        ({"cost": 0.01}, "best", "sums"),
        ({"quality": 0.1}, "best", "sums"),
        ({}, "best", "sums"),
    ],
)
async def test_a_wish_is_kept_although_another_is_awake(
    options: dict[str, Any], why: str, expert: str
) -> None:
    """base, awake, is far worse; sums is likeliest and dear; words is nearly as good and cheap."""
    pool = FakePool(awake={"base"})
    answer = await pipeline(pool, priced("sums")).answer(request(**options))
    await answer.aclose()
    receipt = answer.receipt()
    assert (receipt.expert, receipt.why) == (expert, why)
    assert receipt.confidence == pytest.approx({"sums": 0.5, "words": 0.43}[expert])


async def test_a_dear_expert_that_is_awake_never_answers_for_one_chosen_by_cost() -> None:
    """The likeliest is also the cheapest, and one nearly as good is awake and ten times as dear."""
    pool = FakePool(awake={"words"})
    tried: list[tuple[dict[str, Any], str]] = [({"cost": 0.5}, "sums"), ({}, "words")]
    for options, expert in tried:
        answer = await pipeline(pool, priced("words")).answer(request(**options))
        await answer.aclose()
        assert answer.receipt().expert == expert


async def test_the_preview_says_why_and_who_may_step_in_when() -> None:
    shown = (await pipeline(FakePool(), generation(ranking=CloseCall())).preview(request())).as_json()
    assert shown["why"] == "best"
    assert [(row["expert"], row["steps_in"]) for row in shown["experts"]] == [
        ("sums", []),
        ("words", ["awake", "failure", "panel"]),
        ("base", ["awake", "panel"]),
    ]
