"""What clients see while parts of a cluster are killed or changed: ``python -m benchmarks.chaos_cluster``.

A Ray cluster of several nodes runs on this machine, with stand-ins for vLLM; clients ask without pause, half
of them for streams; one after another things are changed and killed. Prints a table
(docs/measurements/cluster.md).
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiohttp

from coe.cluster.settings import set_local_env

End = Literal["answer", "error", "broken", "foreign", "silent", "hung"]
"""answer: complete; error: one of ours, as JSON or as an event that ends a stream; broken: the connection
ended in the middle, which HTTP shows; foreign: an error that is not in OpenAI's envelope (Serve's own);
silent: it looks like an answer and is not one; hung: no end within :data:`PATIENCE_S`."""
PATIENCE_S = 130.0
SETTLE_S = 3.0
TOKENS = 30


@dataclass(frozen=True)
class Outcome:
    """How a request ended. Times: ``time.monotonic()``."""

    started: float
    ended: float
    kind: End
    stream: bool
    detail: str = ""


@dataclass(frozen=True)
class Event:
    """Something that is done to the service; ``restored`` blocks until it is whole again."""

    name: str
    do: Callable[[], object]
    restored: Callable[[], object]


@dataclass(frozen=True)
class Row:
    """An event and the requests that ended from then until the next one."""

    event: str
    ends: Counter[str]
    errors_until_s: float
    """from the event to the last end that was not an answer"""
    restored_s: float
    worst_s: float
    """the longest answer"""
    details: tuple[str, ...] = ()

    @property
    def requests(self) -> int:
        return sum(self.ends.values())


class Load:
    """Clients in a thread of their own, each with one request after the other."""

    def __init__(self, url: str, clients: int, key: str | None = None) -> None:
        self._url, self._clients, self._key = url, clients, key
        self.outcomes: list[Outcome] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let every request end."""
        self._stop.set()
        self._thread.join(PATIENCE_S + 10)

    async def _run(self) -> None:
        async with aiohttp.ClientSession(headers=bearer(self._key)) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(self._clients)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        count = number
        while not self._stop.is_set():
            self.outcomes.append(await ask(session, self._url, "ab"[count // 2 % 2], stream=count % 2 == 0))
            count += 1


def bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


async def ask(session: aiohttp.ClientSession, url: str, model: str, *, stream: bool) -> Outcome:
    """One request, however it ends."""
    started = time.monotonic()
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": TOKENS}
    try:
        async with (
            asyncio.timeout(PATIENCE_S),
            session.post(f"{url}/v1/chat/completions", json={**body, "stream": stream}) as response,
        ):
            raw = await response.read()
            kind = end_of(response.status, raw, stream)
            detail = "" if kind == "answer" else f"{response.status} {raw[-200:].decode(errors='replace')}"
    except TimeoutError:
        kind, detail = "hung", ""
    except aiohttp.ClientError as error:
        kind, detail = "broken", f"{type(error).__name__}: {error}"
    return Outcome(started, time.monotonic(), kind, stream, detail)


def end_of(status: int, raw: bytes, stream: bool) -> End:
    """What a response that HTTP calls complete is."""
    if status != 200:
        return "error" if _envelope(raw) else "foreign"
    if not stream:
        try:
            return "answer" if json.loads(raw)["choices"] else "silent"
        except (ValueError, KeyError, TypeError):
            return "silent"
    events = [line.removeprefix(b"data: ") for line in raw.split(b"\n\n") if line.strip()]
    if any(_envelope(event) for event in events):
        return "error"
    return "answer" if events and events[-1].strip() == b"[DONE]" else "silent"


def _envelope(raw: bytes) -> bool:
    try:
        found = json.loads(raw)
        return isinstance(found, dict) and "message" in found["error"]
    except (ValueError, KeyError, TypeError):
        return False


def run_events(load: Load, events: Sequence[Event], settle_s: float = SETTLE_S) -> list[Row]:
    """Do them one after another under ``load``, which ends then; each has ``settle_s`` more after the
    service is whole."""
    begun, whole = [], []
    for event in events:
        begun.append(time.monotonic())
        event.do()
        event.restored()
        whole.append(time.monotonic())
        time.sleep(settle_s)
    load.__exit__()
    ends = [*begun[1:], math.inf]
    return [
        _row(event.name, start, restored, end, load.outcomes)
        for event, start, restored, end in zip(events, begun, whole, ends, strict=True)
    ]


def _row(name: str, begun: float, restored: float, end: float, outcomes: Sequence[Outcome]) -> Row:
    """A request belongs to the last event before its end."""
    ours = [o for o in outcomes if begun <= o.ended < end]
    bad = [o for o in ours if o.kind != "answer"]
    return Row(
        event=name,
        ends=Counter(o.kind for o in ours),
        errors_until_s=round(max((o.ended - begun for o in bad), default=0.0), 1),
        restored_s=round(restored - begun, 1),
        worst_s=round(max((o.ended - o.started for o in ours if o.kind == "answer"), default=0.0), 1),
        details=tuple(
            dict.fromkeys(f"{o.kind} {'stream' if o.stream else 'whole'}: {o.detail}" for o in bad)
        ),
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = "| event | requests | answered | clear errors | connection broken | Serve's error | silent | hung "
    lines = [head + "| errors until | whole again | slowest answer |", "|---|" + "--:|" * 10]
    for row in rows:
        ends = [row.ends[kind] for kind in ("answer", "error", "broken", "foreign", "silent", "hung")]
        times = [f"{row.errors_until_s:g} s", f"{row.restored_s:g} s", f"{row.worst_s:g} s"]
        lines.append("| " + " | ".join(map(str, [row.event, row.requests, *ends, *times])) + " |")
    return "\n".join(lines)


def main() -> None:
    from tests.support.ray_cluster import service_on_ray
    from tests.support.tiny_models import build_tiny_family

    set_local_env()
    with tempfile.TemporaryDirectory(prefix="coe-chaos-") as name:
        folder = Path(name)
        family = build_tiny_family(folder / "tiny")
        with service_on_ray(family, folder, workers=3, copies=2, gateways=2) as service:

            def whole() -> None:
                service.until_whole(copies=2, gateways=2)

            events = [
                Event("nothing", lambda: time.sleep(5), whole),
                Event("registry changed", lambda: service.deploy("edited"), whole),
                Event("directory killed", service.kill_directory, whole),
                Event("expert's process killed", service.kill_expert, whole),
                Event("pool owner killed", service.kill_owner, whole),
                Event("gateway killed", service.kill_gateway, whole),
                Event("node killed", service.kill_node, whole),
                Event("all replicas replaced", lambda: service.deploy("moved", cpus=0.5), whole),
            ]
            with Load(service.where.url, clients=6) as load:
                rows = run_events(load, events)
    print(table(rows))
    for row in rows:
        for detail in row.details[:4]:
            print(f"{row.event}: {detail}")


if __name__ == "__main__":
    main()
