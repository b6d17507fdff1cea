"""Several experts asked for one request: their ends, quorum, early stop, and the answer made of theirs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from coe.core.errors import (
    BadRequest,
    CoeError,
    EngineError,
    ExpertRefused,
    ExpertTimeout,
    ExpertUnavailable,
    QuorumMissed,
)
from coe.pipeline import Pipeline
from coe.pipeline.generation import Generation, Generations
from tests.support.several import EXPERTS, Says, Script, completion, generation, get, request

# ---------------------------------------------------------------- whether to ask several


async def test_a_clear_query_passes_one_expert_through_at_no_extra_cost() -> None:
    script = Script({"sums": "4"})
    got = await get(script, request(), generation(confidence=0.95))
    assert [expert for expert, _ in script.asked] == ["sums"]
    assert got.raw == json.dumps(completion("sums", "4")).encode(), "the expert's own bytes"
    assert [leg.role for leg in got.receipt.legs] == ["answer"]


async def test_an_unclear_query_asks_as_many_as_it_needs() -> None:
    script = Script(dict.fromkeys(EXPERTS, "4"))
    await get(script, request(quality=0.4), generation(confidence=0.5))
    assert len(script.asked) == 2, "one of the first two is right with the probability that is enough"


async def test_quality_and_cost_move_the_bar() -> None:
    careful, cheap = Script({}), Script({})
    await get(careful, request(quality=1.0), generation(confidence=0.75))
    await get(cheap, request(cost=2.0), generation(confidence=0.5))
    assert (len(careful.asked) > 1, len(cheap.asked)) == (True, 1)


async def test_not_adaptive_always_asks_as_many_as_configured() -> None:
    script = Script({"sums": "1", "words": "2", "base": "3"})
    await get(script, request(), generation(confidence=0.99, adaptive=False))
    assert {expert for expert, _ in script.asked} == {"sums", "words", "base"}


async def test_the_request_says_how_many_and_by_what() -> None:
    script = Script({})
    got = await get(script, request(experts=4, aggregate="weighted_vote"), generation(confidence=0.99))
    assert got.receipt.aggregator == "weighted_vote"
    assert [leg.expert for leg in got.receipt.legs] == list(EXPERTS)


async def test_a_route_has_its_own_aggregator_and_number() -> None:
    script = Script({"sums": ["4", "four, I would say"], "words": "5"})
    got = await get(script, request(model="coe-deep"), generation(confidence=0.99))
    assert got.receipt.aggregator == "synthesise"
    assert got.outcomes() == {"proposer sums": "ok", "proposer words": "ok", "aggregator sums": "ok"}


@pytest.mark.parametrize(
    ("body", "options", "code"),
    [
        ({}, {"aggregate": "vot"}, "unknown_aggregator"),
        ({}, {"experts": 17}, "too_many_experts"),
        ({"n": 2}, {"experts": 3}, "not_aggregable"),
    ],
)
async def test_what_cannot_be_aggregated_is_refused_before_anybody_is_asked(
    body: dict[str, Any], options: dict[str, Any], code: str
) -> None:
    script = Script({})
    with pytest.raises(BadRequest) as caught:
        await get(script, request(body=body, **options))
    assert caught.value.code == code
    assert script.asked == []


async def test_details_of_usage_are_those_of_all_legs_together() -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    says: dict[str, Says | list[Says]] = {}
    for name in ("sums", "words"):
        body = completion(name, "4")
        says[name] = {**body, "usage": {**body["usage"], **details}}
    got = await get(Script(says), request(experts=2, aggregate="weighted_vote"))
    assert json.loads(got.raw)["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 4,
        "total_tokens": 24,
        "prompt_tokens_details": {"cached_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


async def test_several_choices_unasked_are_left_to_one_expert() -> None:
    script = Script({})
    await get(script, request(body={"n": 2}))
    assert len(script.asked) == 1


async def test_a_named_expert_answers_alone_unless_its_samples_are_asked_for() -> None:
    script = Script({"words": ["7", "8", "7"]})
    with pytest.raises(BadRequest, match="answers alone"):
        await get(script, request(model="words", aggregate="vote"))
    got = await get(script, request(model="words", aggregate="self_consistency"))
    assert got.text == "7"
    assert [expert for expert, _ in script.asked] == ["words"] * 3


async def test_a_budget_bounds_experts_and_tokens() -> None:
    script = Script({})
    budget = {"max_experts": 2, "max_tokens": 100}
    await get(script, request(experts=4), generation(budget=budget))
    assert [body["max_tokens"] for _, body in script.asked] == [50, 50]


# ---------------------------------------------------------------- the ends of legs


async def test_the_majority_answers_and_all_legs_are_one_group() -> None:
    script = Script({"sums": "5", "words": "4", "base": "The answer is 4."})
    got = await get(script, request(experts=3))
    assert got.text == "4"
    assert got.receipt.expert == "words", "the better ranked of those who agree"
    assert "2 of 3 answers agree (words, base)" in got.receipt.reason
    assert set(got.outcomes().values()) == {"ok"}
    assert script.groups == {"req-1"}
    assert got.body["usage"] == {"prompt_tokens": 30, "completion_tokens": 6, "total_tokens": 36}


async def test_when_the_rest_cannot_change_the_vote_it_is_cancelled_wherever_it_is() -> None:
    never = asyncio.Event()
    script = Script({"sums": "4", "words": "4", "base": "4", "sql": never}, queued={"base"})
    got = await get(script, request(experts=3))
    assert got.text == "4"
    assert got.outcomes()["proposer base"] == "not needed"
    assert script.withdrawn == ["base"], "it never got its lease, so nothing was swapped in for it"
    running = Script({"sums": "4", "words": "4", "base": never})
    got = await get(running, request(experts=3))
    assert got.outcomes()["proposer base"] == "not needed"
    assert running.aborted == ["base"]


async def test_a_failed_leg_is_dropped_when_the_quorum_is_met() -> None:
    script = Script({"sums": EngineError("it broke"), "words": "4", "base": "5"})
    got = await get(script, request(experts=3))
    assert got.text == "4"
    assert got.outcomes()["proposer sums"] == "failed: engine_failed"


async def test_below_the_quorum_the_error_names_each_leg() -> None:
    script = Script(
        {"sums": EngineError("it broke"), "words": ExpertUnavailable("not loadable"), "base": "4"}
    )
    with pytest.raises(QuorumMissed) as caught:
        await get(script, request(experts=3))
    assert "2 of 3 experts gave no answer, and 2 answers are needed" in caught.value.message
    assert "sums: failed: engine_failed, it broke" in caught.value.message
    assert "words: failed: expert_unavailable, not loadable" in caught.value.message
    assert script.out == script.waiting == []


async def test_a_refusal_by_all_is_the_refusal_itself() -> None:
    refusal = ExpertRefused(400, "the prompt is too long", code="context_length_exceeded")
    with pytest.raises(ExpertRefused, match="too long"):
        await get(Script(dict.fromkeys(EXPERTS, refusal)), request(experts=3))


async def test_a_late_leg_is_dropped_when_the_quorum_is_met() -> None:
    script = Script({"sums": asyncio.Event(), "words": "4", "base": "5"})
    got = await get(script, request(experts=3, patience_s=0.05))
    assert got.outcomes()["proposer sums"] == "late"
    assert script.aborted == ["sums"]


async def test_too_many_late_legs_are_a_timeout() -> None:
    with pytest.raises(ExpertTimeout, match="sums, words gave no answer in time"):
        await get(Script({}, queued={"sums", "words"}), request(experts=3, patience_s=0.05))


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_ends_every_leg(stream: bool) -> None:
    script = Script({"sums": asyncio.Event(), "words": asyncio.Event()}, queued={"base"})
    pipeline = Pipeline(Generations(generation()), script)
    waiting = asyncio.create_task(pipeline.answer(request(body={"stream": stream}, experts=3)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert script.out == script.waiting == []
    assert sorted(script.aborted) == ["sums", "words"]


async def test_closing_a_stream_under_way_ends_every_leg_once() -> None:
    script = Script({"sums": "4", "words": asyncio.Event()}, queued={"base"})
    answer = await Pipeline(Generations(generation()), script).answer(
        request(body={"stream": True}, experts=3)
    )
    assert await anext(answer.chunks()) == b": coe proposer sums done\n\n"
    await answer.aclose()
    await answer.aclose()
    outcomes = {leg.expert: leg.outcome for leg in answer.receipt().legs}
    assert outcomes == {"sums": "ok", "words": "cancelled", "base": "cancelled"}
    assert answer.receipt().expert is None
    assert script.out == script.waiting == []


# ---------------------------------------------------------------- the merged answer


async def test_a_vote_streams_its_progress_and_then_the_winner_s_answer() -> None:
    script = Script({"sums": "four it is", "words": "four it is", "base": "no"})
    body = {"stream": True, "stream_options": {"include_usage": True}}
    got = await get(script, request(body=body, experts=3))
    assert got.raw.startswith(b": coe proposer sums done\n\n: coe proposer words done\n\n")
    assert got.streamed == "four it is"
    assert {event["model"] for event in got.events} == {"sums"}
    assert got.events[-1]["choices"] == []
    assert got.events[-1]["usage"]["completion_tokens"] == sum(leg.tokens or 0 for leg in got.receipt.legs)
    assert b"[DONE]" not in got.raw  # the gateway ends the stream, after the receipt
    assert all("stream" not in body for _, body in script.asked)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_written_answer_comes_from_the_writer_and_counts_all_legs(stream: bool) -> None:
    script = Script({"sums": "4", "words": "5", "base": "The answer is four."})
    current = generation(kind="synthesise", options={"expert": "base"})
    body = {"stream": stream, "stream_options": {"include_usage": True}} if stream else {}
    got = await get(script, request(body=body, experts=2), current)
    assert (got.streamed.strip() if stream else got.text) == "The answer is four."
    assert script.expected == ["base"], "it may be brought in while the proposers run"
    assert got.outcomes() == {"proposer sums": "ok", "proposer words": "ok", "aggregator base": "ok"}
    usage = got.events[-1]["usage"] if stream else got.body["usage"]
    assert usage == {"prompt_tokens": 30, "completion_tokens": 6, "total_tokens": 36}
    (written,) = script.bodies("base")
    assert "Answer 1:\n4" in written["messages"][0]["content"]
    assert "Answer 2:\n5" in written["messages"][0]["content"]


@pytest.mark.parametrize("stream", [False, True])
async def test_when_the_writer_cannot_answer_the_best_proposal_does(stream: bool) -> None:
    script = Script({"sums": "4", "words": "5", "base": EngineError("it broke")})
    current = generation(kind="synthesise", options={"expert": "base"})
    got = await get(script, request(body={"stream": stream}, experts=2), current)
    assert (got.streamed if stream else got.text) == "4"
    assert got.outcomes()["aggregator base"] == "failed: engine_failed"
    assert "base could not write (engine_failed)" in got.receipt.reason


async def test_a_unanimous_answer_is_not_written_anew() -> None:
    script = Script({"sums": "4", "words": "The answer is 4."})
    await get(script, request(experts=2), generation(kind="synthesise", options={"expert": "base"}))
    assert script.bodies("base") == []


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call-{name}", "type": "function", "function": function}


@pytest.mark.parametrize("kind", ["vote", "weighted_vote", "synthesise", "self_consistency", "best_of"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_is_agreed_on_and_passed_through(kind: str, stream: bool) -> None:
    agreed = [_call("add", a=2, b=2)]
    says: dict[str, Says | list[Says]] = {
        "sums": completion("sums", None, tool_calls=agreed),
        "words": completion("words", None, tool_calls=[_call("add", b=2, a=2)]),
        "base": "I would add them.",
    }
    if kind == "self_consistency":
        says = {"sums": [completion("sums", None, tool_calls=agreed), "no", says["words"]]}  # type: ignore[list-item]
    got = await get(Script(says), request(body={"stream": stream}, experts=3), generation(kind=kind))
    if stream:
        deltas = [e["choices"][0]["delta"] for e in got.events]
        assert [d["tool_calls"] for d in deltas if "tool_calls" in d] == [[{"index": 0, **agreed[0]}]]
        assert got.events[-1]["choices"][0]["finish_reason"] == "tool_calls"
        assert got.streamed == ""
    else:
        assert got.body["choices"][0]["message"]["tool_calls"] == agreed


async def test_structured_output_is_voted_on_as_values() -> None:
    script = Script({"sums": '{"a": 1}', "words": '{ "a":1.0 }', "base": '{"a": 2}'})
    got = await get(script, request(body={"response_format": {"type": "json_object"}}, experts=3))
    assert got.text == '{"a": 1}'
    assert all(body["response_format"] == {"type": "json_object"} for _, body in script.asked)


async def test_log_probabilities_are_those_of_the_winner() -> None:
    body = completion("words", "4")
    body["choices"][0]["logprobs"] = {"content": [{"token": "4", "logprob": -0.1, "top_logprobs": []}]}
    script = Script({"sums": "5", "words": body, "base": "4"})
    got = await get(script, request(body={"logprobs": True, "stream": True}, experts=3))
    said = [e["choices"][0]["logprobs"] for e in got.events if e["choices"][0]["delta"].get("content")]
    assert said == [{"content": [{"token": "4", "logprob": -0.1, "top_logprobs": []}], "refusal": None}]


async def test_samples_are_hot_and_differ_by_seed() -> None:
    script = Script({"sums": ["4", "5", "4"]})
    body = {"temperature": 0, "seed": 7}
    await get(script, request(body=body, aggregate="self_consistency", experts=3))
    assert [(b["temperature"], b["seed"]) for b in script.bodies("sums")] == [(0.7, 7), (0.7, 8), (0.7, 9)]


async def test_the_sequential_form_reads_a_window_at_a_time() -> None:
    samples = [f"answer number {n}" for n in range(5)]
    script = Script({"sums": list(samples), "base": ["merged once", "merged twice", "merged at last"]})
    current = generation(kind="self_moa_seq", options={"expert": "base", "window": 3})
    got = await get(script, request(experts=5), current)
    prompts = [body["messages"][0]["content"] for body in script.bodies("base")]
    assert all(prompt.count("Answer ") <= 3 for prompt in prompts)
    assert "merged once" in prompts[1]
    assert got.text == "merged twice"


async def test_an_aggregator_that_breaks_is_a_clear_error() -> None:
    current = generation()
    aggregators = {**current.aggregators, "vote": Broken()}
    broken = Generation(1, current.registry, current.experts, current.routers, aggregators, 0)
    script = Script({})
    with pytest.raises(CoeError, match=r"broken could not decide \(KeyError\)") as caught:
        await get(script, request(experts=2), broken)
    assert caught.value.code == "aggregation_failed"
    assert script.out == script.waiting == []


class Broken:
    name = "broken"
    max_experts = 5

    def __init__(self) -> None:
        from coe.aggregators import Proposing

        self.proposing = Proposing()

    def writer(self, asked: Any) -> None:
        return None

    async def combine(self, request: Any, answers: Any) -> Any:
        raise KeyError("inside")
