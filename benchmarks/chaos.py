"""A storm over one service, and what it leaves behind: ``python -m benchmarks.chaos --minutes 10 --seed 1``.

The service of `coe serve` runs on real ports in this process, over processes of stand-ins for vLLM and an
upstream that misbehaves. Clients ask (whole, streamed, several experts, pinned, routed) and hang up; engine
processes are killed and stopped; experts.yaml is edited well and badly; experts join and leave by the admin
API. Afterwards every request must have ended once, with the right answer or a clear error, and nothing may be
held, queued or left: leases, queues, gauges, tasks, file descriptors, processes; what was charged is what was
used.
The same seed gives the same clients and faults, not the same moments. Exit code 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from coe.access.limits import Used, Visit
from coe.core.types import Engine
from coe.engines import build_engine
from coe.engines.vllm.in_place import InPlaceEngine
from coe.gateway.completions import Completion, Completions, Observer
from coe.registry.hosts import Host, VllmHost
from coe.registry.schema import Expert
from coe.service.live_registry import RegistryFile
from coe.service.service import LocalService, build_service
from tests.support.engine_hosts import FAKE
from tests.support.serving import serving, serving_app
from tests.support.tiny_models import TinyFamily, build_tiny_family
from tests.support.upstream import FAULTS, ScriptedUpstream, scripted_upstream
from tests.support.waiting import until

REQUEST_S, QUIET_S, STUCK_S = 15.0, 120.0, 20.0
PATIENCE_S = REQUEST_S + 30.0
"""A client that has no end by then reports a request without one."""
CLIENTS = 6
TOKEN = "a-token-of-enough-characters"
FAR = ("far", "further")
PRICE = 2.0
"""US dollars for a million tokens, in and out."""
REGISTRY = """
service: {{admin: {{port: 0, token_file: token}}}}
limits: {{request_timeout_s: {request_s}}}
pool:
  load_timeout_s: 5
  stuck_after_s: {stuck_s}
  hosts:
    - {{id: slot, device: cpu, threads: 1, max_model_len: 256, max_running: 4, start_timeout_s: 60,
        silence_timeout_s: 3, env: {{FAKE_VLLM_FAULTS: ""}}}}
    - {{id: api, kind: remote, url: "{url}/v1", timeout_s: 0.5, max_failures: 1000}}
experts:
  - {{id: a, host: slot, model: "{a}", price: {{input: 2, output: 2}}}}
  - {{id: b, host: slot, model: "{b}", price: {{input: 2, output: 2}}}}
  - {{id: far, host: api, model: far, price: {{input: 2, output: 2}}}}
  - {{id: further, host: api, model: further, price: {{input: 2, output: 2}}}}
routers: {{default: random}}
"""
EDITS: Sequence[tuple[str, str]] = (
    ("model: far,", "model: far, card: good at sums,"),
    ("routers:", '  - {{id: again, host: slot, model: "{b}"}}\nrouters:'),
    ("load_timeout_s: 5", "load_timeout_s: 6"),
    ("max_failures: 1000", "max_failures: 5"),
    ("routers: {{default: random}}", "routers: {{default: uniform}}"),
    ("pool:", "pool: ["),
    ("host: slot", "host: slto"),
    ("max_running: 4", "max_running: 5"),
    ("{b}", "./nowhere"),
    ("routers:", "unknown: 1\nrouters:"),
)
"""Good and bad ones, each made to the text as it was at first."""


@dataclass(frozen=True)
class End:
    """How one request ended for its client. ``wrong``: what no client may see."""

    kind: str
    wrong: str = ""
    tokens: float = 0.0
    """of all legs, by the receipt"""


class Ledger(Observer):
    """Each request that reached an expert, from inside: begun once, completed once; and what was charged."""

    def __init__(self) -> None:
        self.begun_ids: Counter[str] = Counter()
        self.completed_ids: Counter[str] = Counter()
        self.charged: list[Used] = []

    def watch(self, completions: Completions) -> None:
        completions._observers = (*completions._observers, self)
        charge = completions._access.charge

        async def noted(visit: Visit, used: Used, requests: float) -> None:
            self.charged.append(used)
            await charge(visit, used, requests)

        completions._access.charge = noted  # type: ignore[method-assign]

    def begun(self, done: Completion) -> None:
        self.begun_ids[done.request.id] += 1

    async def completed(self, done: Completion) -> None:
        self.completed_ids[done.request.id] += 1


class Complaints(logging.Handler):
    """What the log says that it should not: tracebacks, and tasks or connections that nobody looked after."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.name == "asyncio" or "stuck" in record.getMessage():
            cause = f" ({record.exc_info[1]!r})" if record.exc_info else ""
            self.found.append(f"{record.name}: {record.getMessage()}{cause}"[:500])


@dataclass
class Storm:
    """``seed`` decides what clients ask and which faults come."""

    service: LocalService
    url: str
    admin: str
    file: Path
    upstream: ScriptedUpstream
    right: dict[str, tuple[str, ...]]
    """what each expert may say"""
    seed: int
    ledger: Ledger = field(default_factory=Ledger)
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    async def rage(self, seconds: float) -> None:
        """Clients and faults for so long; then the clients end what they have begun."""
        until_s = time.monotonic() + seconds
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            troubling = asyncio.create_task(self._trouble(session))
            clients = (
                self._client(session, random.Random(f"{self.seed} {n}"), until_s) for n in range(CLIENTS)
            )
            try:
                await asyncio.gather(*clients)
            finally:
                troubling.cancel()
                await asyncio.gather(troubling, return_exceptions=True)

    async def _client(self, session: aiohttp.ClientSession, chance: random.Random, until_s: float) -> None:
        while time.monotonic() < until_s:
            end = await self.ask(session, chance)
            self.ends[end.kind] += 1
            if end.wrong:
                self.wrong.append(end.wrong)
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.05, 0.3)))

    async def ask(self, session: aiohttp.ClientSession, chance: random.Random, patient: bool = False) -> End:
        """One request, whatever comes of it. ``patient``: without hanging up."""
        model = chance.choice(("a", "b", "far", "further", "coe", "coe"))
        stream, several = chance.random() < 0.5, model == "coe" and chance.random() < 0.4
        body: dict[str, Any] = {"model": model, "stream": stream, "max_tokens": chance.choice((3, 10, 40))}
        body["messages"] = [{"role": "user", "content": f"What is {chance.randrange(99)} times six?"}]
        if several:
            body["coe"] = {"experts": 2, "aggregate": "vote"}
        leaves_s = chance.choice((0.001, 0.03, 0.3, 1.0)) if not patient and chance.random() < 0.25 else None
        what = f"{'stream' if stream else 'whole'} {model}{' x2' if several else ''}"
        self.sent += 1
        try:
            async with asyncio.timeout(leaves_s or PATIENCE_S):
                async with session.post(f"{self.url}/v1/chat/completions", json=body) as response:
                    raw = await response.read()
        except TimeoutError:
            return End("hung up") if leaves_s else End("no end", f"{what}: no end within {PATIENCE_S:g} s")
        except aiohttp.ClientError as error:
            return End("broken", f"{what}: {type(error).__name__}: {error}")
        return self._judge(what, body, response, raw)

    def _judge(self, what: str, body: dict[str, Any], response: aiohttp.ClientResponse, raw: bytes) -> End:
        try:
            if response.status != 200:
                error = json.loads(raw)["error"]
                odd = "" if error["message"] and error["code"] != "internal_error" else f"{what}: {raw!r}"
                return End(f"error {response.status} {error['code']}", odd)
            text, coe, error = _stream_of(raw) if body["stream"] else _whole_of(raw)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            return End("malformed", f"{what}: {error!r} in {raw[:300]!r}")
        if error is not None:
            return End(f"broken off: {error.get('code')}")
        wrong = self._wrong(body, text, coe)
        return End("answer", f"{what}: {wrong}: {text[:80]!r} {coe}" if wrong else "", _tokens(coe))

    def _wrong(self, body: dict[str, Any], text: str, coe: dict[str, Any]) -> str:
        expert, asked = coe["expert"], body["model"]
        if asked != "coe" and expert != asked:
            return f"{expert} answered for {asked}"
        right = any(text and not text.replace(each, "") for each in self.right[expert])
        return "" if right else f"not what {expert} says"

    async def _trouble(self, session: aiohttp.ClientSession) -> None:
        """One fault after another."""
        chance = random.Random(f"{self.seed} faults")
        kinds: Sequence[Callable[[random.Random, aiohttp.ClientSession], Any]] = (
            *(self._kill, self._stop, self._behave, self._join),
            *(self._misbehave, self._misbehave, self._edit, self._edit),
        )
        while True:
            await asyncio.sleep(chance.choice((0.1, 0.4, 1.0, 3.0)))
            kind = chance.choice(kinds)
            self.faults[kind.__name__.strip("_")] += 1
            await kind(chance, session)

    async def _kill(self, chance: random.Random, _: aiohttp.ClientSession) -> None:
        _signal(chance, signal.SIGKILL)

    async def _stop(self, chance: random.Random, _: aiohttp.ClientSession) -> None:
        _signal(chance, signal.SIGSTOP)

    async def _misbehave(self, chance: random.Random, _: aiohttp.ClientSession) -> None:
        self.upstream.play(chance.choice(FAR), *(chance.choice(FAULTS).act for _ in range(3)))

    async def _behave(self, *_: Any) -> None:
        self.upstream.acts.clear()

    async def _edit(self, chance: random.Random, _: aiohttp.ClientSession) -> None:
        old, new = chance.choice((*EDITS, ("", "")))
        names = {"a": self.first_model("a"), "b": self.first_model("b")}
        text = self.original.replace(old.format(**names), new.format(**names), 1) if old else self.original
        self.file.write_text(text, encoding="utf-8")

    async def _join(self, chance: random.Random, session: aiohttp.ClientSession) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        entry = {"id": "new", "host": chance.choice(("api", "slot")), "model": "far"}
        if entry["host"] == "slot":
            entry["model"] = self.first_model("b")
        call = (
            session.post(f"{self.admin}/admin/experts", json={"experts": [entry]}, headers=headers)
            if chance.random() < 0.5
            else session.delete(f"{self.admin}/admin/experts/new", headers=headers)
        )
        async with call as response:
            answer = await response.json()
        if response.status >= 500 or (response.status != 200 and "message" not in answer["error"]):
            self.wrong.append(f"the admin API said {response.status} {answer}")

    @property
    def original(self) -> str:
        return (self.file.parent / "original.yaml").read_text(encoding="utf-8")

    def first_model(self, name: str) -> str:
        return str(self.file.parent / "tiny" / name)


def _stream_of(raw: bytes) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """Text, receipt, and the error that it was broken off with."""
    events = [each.removeprefix("data: ") for each in raw.decode().split("\n\n") if each.startswith("data: ")]
    if events[-1] != "[DONE]":
        error: dict[str, Any] = json.loads(events[-1])["error"]
        return "", {}, error
    chunks = [json.loads(each) for each in events[:-1]]
    deltas = [choice["delta"].get("content") for each in chunks for choice in each.get("choices", ())]
    return "".join(map(_plain, deltas)), chunks[-1]["coe"], None


def _whole_of(raw: bytes) -> tuple[str, dict[str, Any], None]:
    body = json.loads(raw)
    return _plain(body["choices"][0]["message"]["content"]), body["coe"], None


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""


def _tokens(coe: dict[str, Any]) -> float:
    return float(sum(leg.get("tokens") or 0 for leg in coe["legs"]))


def _signal(chance: random.Random, number: signal.Signals) -> None:
    """To one process of an engine."""
    engines = psutil.Process().children(recursive=True)
    if engines:
        with contextlib.suppress(psutil.Error):
            chance.choice(engines).send_signal(number)


@asynccontextmanager
async def stormy(folder: Path, seed: int) -> AsyncIterator[Storm]:
    """A service with everything that a storm needs, not yet troubled."""
    family = build_tiny_family(folder / "tiny")
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(scripted_upstream())
        values = {"url": upstream.url, "a": family.a, "b": family.b}
        text = REGISTRY.format(**values, request_s=REQUEST_S, stuck_s=STUCK_S)
        file = folder / "experts.yaml"
        for name in ("experts.yaml", "original.yaml"):
            (folder / name).write_text(text, encoding="utf-8")
        start = RegistryFile(file, text)
        service = build_service(start.registry(), folder, _stand_in, start)
        ledger = Ledger()
        ledger.watch(service.gateway._completions)
        url = await stack.enter_async_context(serving(service))
        admin = await stack.enter_async_context(serving_app(service.admin_gateway(TOKEN).app()))
        yield Storm(service, url, admin, file, upstream, _answers(family), seed, ledger)


def _stand_in(host: Host, experts: Sequence[Expert], root: Path) -> Engine:
    if isinstance(host, VllmHost):
        return InPlaceEngine(host, experts, root / "var" / "log", program=FAKE)
    return build_engine(host, experts, root)


def _answers(family: TinyFamily) -> dict[str, tuple[str, ...]]:
    def says(folder: Path) -> str:
        digest = hashlib.sha256()
        for file in sorted(folder.glob("*.safetensors")):
            digest.update(file.read_bytes())
        return digest.hexdigest()[:12]

    b = says(family.b)
    return {"a": (says(family.a),), "b": (b,), "again": (b,), "new": (b, "42"), **dict.fromkeys(FAR, ("42",))}


async def weather(folder: Path, seconds: float, seed: int) -> tuple[Storm, list[str]]:
    """A storm of so many seconds, and all that is wrong after it."""
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    children = set(psutil.Process().children(recursive=True))
    try:
        async with stormy(folder, seed) as storm:
            await until(lambda: storm.service.readiness().ready)
            await _calm(storm, [])  # loads what is loaded once
            before = _held()
            await storm.rage(seconds)
            wrong = [*storm.wrong, *await _after(storm, before)]
        left = set(psutil.Process().children(recursive=True)) - children
        wrong += [f"a process is left: {each}" for each in left]
    finally:
        logging.getLogger().removeHandler(complaints)
    return storm, [*wrong, *complaints.found]


async def _after(storm: Storm, before: Counter[str]) -> list[str]:
    """What is held, or does not work any more, once the faults are over."""
    storm.upstream.acts.clear()
    storm.file.write_text(storm.original, encoding="utf-8")
    wrong: list[str] = []
    try:
        await until(lambda: storm.service.live is not None and storm.service.live.refusal is None, QUIET_S)
        await until(lambda: not _kept(storm), QUIET_S)
        await _calm(storm, wrong)
        await until(lambda: not _kept(storm) and not _held() - before, QUIET_S)
    except TimeoutError:
        wrong += [f"still held: {each}" for each in _kept(storm)]
        wrong += [f"more than before: {name} x{count}" for name, count in (_held() - before).items()]
    wrong += [
        f"request {each} was settled {storm.ledger.completed_ids[each]} times"
        for each in _uneven(storm.ledger)
    ]
    wrong += [f"stuck: {name}: {why}" for name, why in storm.service.pool.watch.stuck.items()]
    charged, shown = sum(each.usd for each in storm.ledger.charged), _metric(storm, "coe_usd_total")
    if not math.isclose(charged, shown, rel_tol=1e-9) or not charged:
        wrong.append(f"{charged} dollars were charged, {shown} are shown")
    if len(storm.ledger.charged) < len(storm.ledger.begun_ids):
        wrong.append(
            f"{len(storm.ledger.begun_ids)} requests were begun, {len(storm.ledger.charged)} charged"
        )
    counted = _metric(storm, "coe_requests_total", "completions")
    if not storm.sent - storm.ends["hung up"] <= counted <= storm.sent:  # who hangs up may not have come
        wrong.append(f"{storm.sent} requests were sent and {counted:g} are counted")
    return wrong


def _uneven(ledger: Ledger) -> list[str]:
    return [
        each for each, count in ledger.begun_ids.items() if ledger.completed_ids[each] != count or count != 1
    ]


def _kept(storm: Storm) -> list[str]:
    """What the pool and its scheduler hold, of which nothing may be left when nobody asks."""
    pool, state = storm.service.pool, storm.service.pool._scheduler._state
    orders = pool._transitions.under_way
    moving = {f"{during} of {e} on {h}" for during, at in orders.items() for h, es in at.items() for e in es}
    kept: dict[str, Collection[object]] = {
        "waiting": pool._waiting, "leases": pool._leases, "announced": pool._expected, "moving": moving,
        "queued": state.waiting, "leased": state.leases, "expected": state.expected, "groups": state.groups,
    }  # fmt: skip
    kept["legs"] = [e.id for e in state.experts.values() if e.legs or e.expected or e.stealable]
    running = {h.plan.id: h.running for h in state.hosts.values() if h.running}
    return [f"{name}: {list(each)[:5]}" for name, each in (*kept.items(), ("running", running)) if each]


def _held() -> Counter[str]:
    """Tasks by name of their coroutine, and open files by kind."""
    held = Counter(f"task {getattr(task.get_coro(), '__qualname__', '?')}" for task in asyncio.all_tasks())
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            where = os.readlink(f"/proc/self/fd/{number}")
            held[f"file {where.partition(':')[0]}"] += 1
    return held


async def _calm(storm: Storm, wrong: list[str]) -> None:
    """Each expert answers again, and what is counted and charged meanwhile is what clients were told."""
    async with aiohttp.ClientSession() as session:
        await until(lambda: _all_answer(storm, session), QUIET_S)
        names = ("coe_usd_total", "coe_completion_tokens_total", "coe_answers_total")
        await until(lambda: _all_counted(storm), QUIET_S)
        first = [_metric(storm, name) for name in names]
        ends = [await storm.ask(session, random.Random(f"calm {n}"), patient=True) for n in range(20)]
        await until(lambda: _all_counted(storm), QUIET_S)
    usd, tokens, answers = [_metric(storm, n) - v for n, v in zip(names, first, strict=True)]
    wrong += [each.wrong for each in ends if each.wrong]
    wrong += [f"in calm weather: {each.kind}" for each in ends if each.kind != "answer"]
    told = sum(each.tokens for each in ends)
    if tokens != told or answers != len(ends):
        wrong.append(
            f"clients were told of {told:g} tokens in {len(ends)} answers; counted: {tokens:g}, {answers:g}"
        )
    if usd < told * PRICE / 1e6:
        wrong.append(f"{usd} dollars were charged for {told:g} completion tokens and their prompts")


def _all_counted(storm: Storm) -> bool:
    """A request is counted after its last byte."""
    return _metric(storm, "coe_requests_in_flight", "completions") == 0


async def _all_answer(storm: Storm, session: aiohttp.ClientSession) -> bool:
    for name in ("a", "b", *FAR):
        body = {"model": name, "messages": [{"role": "user", "content": "Well?"}]}
        storm.sent += 1
        async with session.post(f"{storm.url}/v1/chat/completions", json=body) as response:
            await response.read()
        if response.status != 200:
            await asyncio.sleep(0.5)
            return False
    return True


def _metric(storm: Storm, name: str, label: str = "") -> float:
    lines = storm.service.metrics.render().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and label in line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coe-chaos-") as folder:
        storm, wrong = asyncio.run(weather(Path(folder), 60 * options.minutes, options.seed))
    print(
        json.dumps({"requests": storm.sent, "ends": dict(storm.ends), "faults": dict(storm.faults)}, indent=1)
    )
    print("\n".join(wrong) if wrong else "nothing is wrong, and nothing is left")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
