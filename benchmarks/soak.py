"""Does `coe serve` leak? Many mixed requests through it, and the slope of its resident memory.

``python -m benchmarks.soak --requests 20000 [--clients 16] [--json OUT]``: one process in front of the mock
upstream; of every ten requests five are whole answers, three are streams and two are streams that the client
hangs up on. Memory is read after every twentieth of them; the first fifth is warm-up and does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.gateway import (
    coe_contenders,
    free_port,
    resident_mb,
    running,
    wait_until_it_answers,
)

KINDS = ("whole", "stream", "whole", "hang_up", "whole", "stream", "whole", "hang_up", "whole", "stream")
SAMPLES = 20
UPSTREAM_DELAY_MS = 2
CORE = 0


@dataclass
class Soaked:
    """How requests ended, by kind, and resident memory in MB after each twentieth of them."""

    requests: int
    ends: Counter[str] = field(default_factory=Counter)
    memory_mb: list[float] = field(default_factory=list)

    @property
    def mb_per_10k(self) -> float:
        """Slope of memory by least squares, the first fifth left out."""
        after = self.memory_mb[SAMPLES // 5 :]
        step = self.requests / SAMPLES
        return float(np.polyfit(np.arange(len(after)) * step, after, 1)[0] * 10_000)


class Soak:
    """Asks one service, with its model ``coe`` so that every request is routed."""

    def __init__(self, url: str, key: str | None, session: aiohttp.ClientSession) -> None:
        self._url, self._session = f"{url}/v1/chat/completions", session
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def ask(self, kind: str, number: int) -> str:
        """How one request ended: ``<kind> ok``, or its kind and what was wrong."""
        body = {"model": "coe", "messages": [{"role": "user", "content": f"What is {number} times six?"}]}
        stream = {} if kind == "whole" else {"stream": True}
        try:
            async with self._session.post(
                self._url, json={**body, **stream}, headers=self._headers
            ) as response:
                if response.status != 200:
                    return f"{kind} {response.status}"
                if kind == "hang_up":
                    response.close()
                    return f"{kind} ok"
                text = await response.text()
        except aiohttp.ClientError as error:
            return f"{kind} {type(error).__name__}"
        whole = text.rstrip().endswith("data: [DONE]") if kind == "stream" else '"coe"' in text
        return f"{kind} ok" if whole else f"{kind} not complete"

    async def run(self, numbers: Iterator[int], upto: int, ends: Counter[str]) -> None:
        """Requests until ``numbers`` reaches ``upto``."""
        for number in numbers:
            ends[await self.ask(KINDS[number % len(KINDS)], number)] += 1
            if number + 1 >= upto:
                return


async def soak(url: str, key: str | None, process: int, requests: int, clients: int) -> Soaked:
    result = Soaked(requests)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        one = Soak(url, key, session)
        for part in range(SAMPLES):
            numbers = itertools.count(part * requests // SAMPLES)
            shared = itertools.islice(numbers, requests // SAMPLES)
            upto = (part + 1) * requests // SAMPLES
            await asyncio.gather(*(one.run(shared, upto, result.ends) for _ in range(clients)))
            result.memory_mb.append(resident_mb(process) or float("nan"))
    return result


def run(requests: int, clients: int) -> Soaked:
    upstream = free_port()
    with tempfile.TemporaryDirectory() as name:
        mock = (sys.executable, "-m", "benchmarks.upstream", str(upstream), str(UPSTREAM_DELAY_MS))
        contender = coe_contenders(Path(name), upstream)[0]
        core = (os.cpu_count() or 1) - 1
        with running(mock, core), running(contender.command, CORE) as process:
            if not wait_until_it_answers(contender):
                raise SystemExit("coe serve did not start: run it by hand to see why")
            url = f"http://127.0.0.1:{contender.port}"
            return asyncio.run(soak(url, contender.key, process, requests, clients))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000, help="at least 20")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--json", type=Path, dest="json_out")
    options = parser.parse_args()
    result = run(max(SAMPLES, options.requests), options.clients)
    report = {**vars(result), "mb_per_10k": round(result.mb_per_10k, 3)}
    print(f"{result.requests} requests: {dict(sorted(result.ends.items()))}")
    print(f"resident memory MB: {result.memory_mb}; slope {result.mb_per_10k:.2f} MB per 10,000 requests")
    if options.json_out:
        options.json_out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
