"""What Ray Serve adds: `coe deploy --local`, `coe serve` and a bare Serve echo before the same mock upstream.

``python -m benchmarks.ray [--seconds 5] [--json OUT]``: each Ray contender runs once with Serve's defaults,
once with its throughput settings and once with those and HAProxy. Nothing is bound to cores: a Ray cluster is
many processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.gateway import Contender, Result, free_port, measure_all, table, wait_until_it_answers

STOP_S = 90.0
SETTLE_S = 20.0
"""After its first answer HAProxy takes up its last change of routes, which closes open connections."""
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "Serve's defaults": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"},
    "throughput settings": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "throughput settings and HAProxy": {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
    },
}
COMMON = {
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
}


def contenders(folder: Path, upstream: int) -> Iterator[Contender]:
    coe = str(Path(sys.executable).with_name("coe"))
    file = folder / "experts.yaml"
    file.write_text(json.dumps(_registry(upstream)))
    port = free_port()
    yield Contender(
        "coe serve", (coe, "serve", "--registry", str(file), "--port", str(port)), port, env=COMMON
    )
    for name, settings in SETTINGS.items():
        env = {**COMMON, **settings}
        port = free_port()
        echo = (sys.executable, "-m", "tests.support.ray_echo", str(port))
        yield Contender(f"bare Serve echo, {name}", echo, port, env=env)
        port = free_port()
        deploy = (coe, "deploy", "--local", "--registry", str(file), "--port", str(port))
        yield Contender(f"coe deploy --local, {name}", deploy, port, env=env)


def _registry(upstream: int) -> dict[str, object]:
    host = {"id": "up", "kind": "remote", "url": f"http://127.0.0.1:{upstream}", "max_running": 512}
    static = {"name": "static", "kind": "static", "options": {"expert": "mock"}}
    return {
        "service": {"watch": False},
        "pool": {"hosts": [host]},
        "experts": [{"id": "mock", "host": "up", "model": "mock", "card": "Answers."}],
        "routers": {"default": "static", "available": [static]},
    }


@contextlib.contextmanager
def running(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[None]:
    """A process for as long as the block lasts, with time to stop its cluster."""
    process = subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()


def run(seconds: float) -> list[Result]:
    upstream, results = free_port(), []
    with (
        tempfile.TemporaryDirectory() as name,
        running((sys.executable, "-m", "benchmarks.upstream", str(upstream))),
    ):
        alone = Contender("upstream alone", (), upstream)
        if not wait_until_it_answers(alone):
            raise SystemExit("the mock upstream did not start")
        results.append(measure_all(alone, seconds, None))
        for contender in contenders(Path(name), upstream):
            with running(contender.command, contender.env):
                if wait_until_it_answers(contender):
                    time.sleep(SETTLE_S)
                    results.append(measure_all(contender, seconds, None))
                    print(table(results[-1:]), file=sys.stderr)
                else:
                    print(f"{contender.name} did not answer; left out", file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path, dest="json_out")
    options = parser.parse_args()
    results = run(options.seconds)
    print(table(results))
    if options.json_out:
        options.json_out.write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
