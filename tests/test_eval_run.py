"""Live runs against a counting upstream: nothing asked twice, nothing lost, nothing kept that is withheld."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from coe.core.errors import ConfigError
from coe.eval.live.journal import Journal
from coe.eval.live.leaks import files_with, pieces_of
from coe.eval.live.plan import Settings
from coe.eval.live.prices import read_prices
from coe.eval.live.questions import Questions, Source
from coe.eval.live.records import Summary, read_records
from coe.eval.live.run import Asked, Progress
from coe.eval.live.service import Address
from coe.eval.live.session import Order, run_session
from coe.eval.live.task import load_task
from coe.eval.report.live import write_live_report

QUESTIONS = 24
ARCHIVE = Path(__file__).parent / "data" / "gpqa_layout_classic.zip"


class Upstream:
    """Answers chat completions and rankings; counts by question. After ``hold_after`` answers it holds all
    further requests until :meth:`release`."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.order: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.refuse: dict[str, int] = {}
        self.refusal: int | None = None
        self.hold_after: int | None = None
        self.holding = asyncio.Event()
        self.waiting = 0
        self._open = asyncio.Event()
        self.url = ""

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.get("/metrics", self._metrics),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/route", self._route),
            ]
        )
        return app

    def release(self) -> None:
        self.hold_after = None
        self._open.set()

    async def hold(self, answers: int, clients: int) -> None:
        """Returns when ``clients`` requests wait after ``answers`` answers."""
        self.hold_after, self._clients = answers, clients
        await self.holding.wait()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "coe"}]})

    async def _metrics(self, _: web.Request) -> web.Response:
        swaps = sum(a != b for a, b in zip(self.order, self.order[1:], strict=False))
        return web.Response(text=f'coe_engine_swaps_total{{engine="slot"}} {swaps}.0\n')

    async def _route(self, request: web.Request) -> web.Response:
        number = _number((await request.json())["input"])
        rows = [{"expert": f"e{(number + rank) % 3}", "probability": 0.6 - 0.2 * rank} for rank in range(3)]
        return web.json_response({"experts": rows})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        text = body["messages"][-1]["content"]
        self.asked[text] += 1
        if self.refusal is not None:
            return web.json_response({"error": {"message": f"cannot read {text}"}}, status=self.refusal)
        if self.refuse.get(text, 0) > 0:
            self.refuse[text] -= 1
            error = {"error": {"message": "busy"}}
            return web.json_response(error, status=429, headers={"Retry-After": "0"})
        if self.hold_after is not None and self.served.total() >= self.hold_after:
            self.waiting += 1
            if self.waiting == self._clients:
                self.holding.set()
            await self._open.wait()
        if request.transport is None or request.transport.is_closing():
            raise asyncio.CancelledError  # nobody is there to be answered
        self.served[text] += 1
        self.order.append(body["model"])
        return web.json_response(_completion(body["model"], text))


def _number(text: str) -> int:
    return int("".join(character for character in text.split("?")[0] if character.isdigit()) or 0)


def _completion(model: str, text: str) -> dict[str, Any]:
    answer = f"I think so. The answer is ({'AB'[_number(text) % 2]})."
    receipt = {"expert": f"{model}-expert", "reason": text, "confidence": 0.5, "swap_ms": 0.0,
               "legs": [{"expert": f"{model}-expert", "tokens": 7}]}  # fmt: skip
    return {
        "model": model,
        "choices": [{"message": {"content": answer}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 7},
        "coe": receipt,
    }


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    one = Upstream()
    runner = web.AppRunner(one.application(), handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    one.release()
    await runner.cleanup()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = (
        {"id": f"q{n}", "question": f"Is {n} even?", "options": ["yes", "no"], "answer": "AB"[n % 2]}
        for n in range(QUESTIONS)
    )
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def start(*args: object, **env: str) -> asyncio.subprocess.Process:
    """``coe eval run`` as a process of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coe.cli", "eval", "run", *map(str, args),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **env},
    )  # fmt: skip


async def finish(process: asyncio.subprocess.Process) -> tuple[str, str]:
    out, err = await process.communicate()
    return out.decode(), err.decode()


def order(upstream: Upstream, data: Path, task: str = "own_choice", **settings: Any) -> Order:
    source = Source(str(data), "made-up-password", settings.pop("limit", None))
    loaded, concurrency = load_task(task), settings.pop("concurrency", 4)
    address = Address(upstream.url, private=loaded.data.withheld)
    return Order(loaded, source, Settings(**settings), address, {}, concurrency)


async def run(asked: Order, folder: Path) -> Summary:
    """The same in this process, which is quicker."""
    return await run_session(asked, folder, Progress())


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_killed_run_goes_on_and_no_answered_question_is_asked_again(
    upstream: Upstream, data: Path, tmp_path: Path, concurrency: int
) -> None:
    args = ["own_choice", "--url", upstream.url, "--data", data, "--concurrency", concurrency]
    process = await start(*args, "--out", tmp_path / "killed")
    await upstream.hold(answers=QUESTIONS // 2, clients=concurrency)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    upstream.release()
    asked = order(upstream, data, concurrency=concurrency)
    summary = await run(asked, tmp_path / "killed")

    assert set(upstream.served.values()) == {1}
    assert upstream.served.total() == QUESTIONS
    in_flight = [text for text, times in upstream.asked.items() if times > 1]
    assert len(in_flight) == concurrency  # their answers never came
    assert (summary.questions, summary.asked_again, summary.sessions) == (QUESTIONS, concurrency, 2)

    await run(asked, tmp_path / "whole")
    assert _answers(tmp_path / "killed") == _answers(tmp_path / "whole")
    assert summary.accuracy == 1.0


def _answers(folder: Path) -> list[tuple[Any, ...]]:
    return [(row["id"], row["answer"], row["outputs"], row["score"]) for row in read_records(folder)]


async def test_a_finished_run_asks_nothing(upstream: Upstream, data: Path, tmp_path: Path) -> None:
    first = await run(order(upstream, data), tmp_path)
    before = upstream.asked.copy()
    again = await run(order(upstream, data), tmp_path)
    assert upstream.asked == before
    assert (again.accuracy, again.sessions) == (first.accuracy, 2)


async def test_other_questions_do_not_go_into_the_same_folder(
    upstream: Upstream, data: Path, tmp_path: Path
) -> None:
    await run(order(upstream, data, limit=3), tmp_path)
    with pytest.raises(ConfigError, match="holds another run"):
        await run(order(upstream, data, limit=4), tmp_path)
    assert upstream.served.total() == 3
    assert len(read_records(tmp_path)) == 3


async def test_a_model_that_the_service_lacks_is_named_before_anything_is_asked(
    upstream: Upstream, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match='has no model "ceo"'):
        await run(order(upstream, data, model="ceo"), tmp_path)
    assert not upstream.asked


async def test_a_passing_refusal_is_waited_out_and_a_lasting_one_is_reported(
    upstream: Upstream, data: Path, tmp_path: Path
) -> None:
    texts = [f"Question:\nIs {n} even?\nOptions:\nA. yes\nB. no" for n in range(2)]
    upstream.refuse = {texts[0]: 2, texts[1]: 1000}
    assert (await run(order(upstream, data), tmp_path)).failed == 1
    failed = [row for row in read_records(tmp_path) if row["error"]]
    assert [row["id"] for row in failed] == ["q1"]
    assert "busy" in failed[0]["error"]
    upstream.refuse = {}
    assert (await run(order(upstream, data), tmp_path)).failed == 0


async def test_a_stopped_run_finishes_what_is_under_way(
    upstream: Upstream, data: Path, tmp_path: Path
) -> None:
    progress = Progress()
    progress.advanced = lambda _: progress.stop.set()
    summary = await run_session(order(upstream, data), tmp_path, progress)
    assert 1 <= summary.questions < summary.wanted
    assert upstream.asked == upstream.served
    await run(order(upstream, data), tmp_path)
    assert set(upstream.asked.values()) == {1}


@pytest.mark.slow
async def test_no_service_is_a_clear_error_and_leaves_the_run_open(data: Path, tmp_path: Path) -> None:
    process = await start(
        "own_choice", "--url", "http://127.0.0.1:9", "--data", data, "--out", tmp_path / "r"
    )
    _, err = await finish(process)
    assert process.returncode == 1
    assert "no service answers at http://127.0.0.1:9" in err
    assert "Traceback" not in err


@pytest.mark.slow
async def test_withheld_texts_stand_nowhere(upstream: Upstream, tmp_path: Path) -> None:
    await run(order(upstream, ARCHIVE, "gpqa_diamond"), tmp_path)
    write_live_report(tmp_path, tmp_path / "page.html")
    assert "Made-up question" in upstream.bodies[0]["messages"][-1]["content"]
    assert all(headers["cache-control"] == "no-store" for headers in upstream.headers)
    kept = list(tmp_path.iterdir())  # noqa: ASYNC240
    assert {path.name for path in kept} >= {"journal.jsonl", "records.jsonl", "records.parquet"}
    for path in kept:
        assert b"Made-up question" not in path.read_bytes()
        assert b"I think so" not in path.read_bytes()
    record = read_records(tmp_path)[0]
    assert (record["prompt"], record["gold"], record["outputs"]) == (None, None, [None])
    assert record["answer"] in "AB"
    assert len(record["output_hashes"][0]) == 64


async def test_what_a_service_says_when_it_refuses_a_withheld_question_is_not_recorded(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.refusal = 400
    summary = await run(order(upstream, ARCHIVE, "gpqa_diamond"), tmp_path)
    assert summary.failed == summary.questions > 0
    assert {record["error"] for record in read_records(tmp_path)} == {"http_400"}
    assert b"Made-up question" not in (tmp_path / "journal.jsonl").read_bytes()


def test_a_copied_piece_of_a_text_is_found_in_whatever_file_it_stands(tmp_path: Path) -> None:
    text = 'Which "reaction" yields the product? A flask holds one mole of a solid made up for this test.'
    pieces = pieces_of([text, "too short"])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "log").write_text(json.dumps({"prompt": text[36:]}))
    (tmp_path / "harmless").write_text("too short; one mole of a solid; Which reaction yields the product?")
    assert files_with(pieces, [tmp_path]) == [tmp_path / "deep" / "log"]
    assert files_with(pieces, [tmp_path / "harmless"]) == []


def test_withheld_texts_are_not_given_to_an_expert_that_merges() -> None:
    with pytest.raises(ConfigError, match="withholds texts"):
        Asked(
            load_task("gpqa_main"), Questions((), {}), Settings(recruit=3, aggregator="synthesise:x"), {}, ""
        )


async def test_grouping_by_expert_makes_the_same_calls_with_fewer_swaps(
    upstream: Upstream, data: Path, tmp_path: Path
) -> None:
    one_by_one = await run(order(upstream, data, recruit=2, concurrency=1), tmp_path / "by_question")
    ungrouped, upstream.order = upstream.order, []
    asked = order(upstream, data, recruit=2, grouped=True, concurrency=1)
    grouped = await run(asked, tmp_path / "by_expert")
    assert Counter(upstream.order) == Counter(ungrouped)
    assert upstream.order == sorted(upstream.order)  # each expert is asked all its questions at once
    assert grouped.swaps == 2
    assert (one_by_one.swaps or 0) > QUESTIONS / 2
    assert _answers(tmp_path / "by_expert") == _answers(tmp_path / "by_question")


async def test_an_expert_merges_what_the_others_said(upstream: Upstream, data: Path, tmp_path: Path) -> None:
    asked = order(upstream, data, limit=4, recruit=3, grouped=True, aggregator="synthesise:judge")
    summary = await run(asked, tmp_path)
    merges = [body for body in upstream.bodies if body["model"] == "judge"]
    assert len(merges) == 4
    assert merges[0]["messages"][-1]["content"].count("I think so.") == 3
    assert upstream.order[-4:] == ["judge"] * 4
    assert summary.mean_experts == 4


async def test_costs_are_tokens_times_price(upstream: Upstream, data: Path, tmp_path: Path) -> None:
    prices = tmp_path / "experts.csv"
    prices.write_text("expert,input_usd_per_mtok,output_usd_per_mtok\ncoe-expert,1,2\n")
    asked = replace(order(upstream, data, limit=5), prices=read_prices(prices))
    summary = await run(asked, tmp_path / "run")
    assert summary.cost_usd == pytest.approx(5 * (10 * 1 + 7 * 2) / 1e6)
    assert (summary.prompt_tokens, summary.completion_tokens) == (50, 35)


def test_a_torn_line_is_cut_off_and_its_call_counts_as_not_answered(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.begin({"task": "x"}, at=1.0)
    journal.intend("q1", at=2.0)
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "answered", "call": "q1", "expe')
    again = Journal(path)
    assert again.answers == {}
    assert again.asked["q1"] == 1
    again.close()
    assert path.read_bytes() == whole


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(Exception, match="another process"):
        Journal(tmp_path / "journal.jsonl")
    first.close()
