"""The least that a Ray Serve application can do, to measure what Serve itself costs:
``python -m tests.support.ray_echo PORT``. It answers every request with the mock upstream's completion."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve

ANSWER = {"id": "echo", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "42"}}]}


class Echo:
    """Reads the body, as any service must."""

    async def __call__(self, request: Any) -> Any:
        from starlette.responses import Response

        await request.body()
        return Response(json.dumps(ANSWER), media_type="application/json")


def main(arguments: Sequence[str]) -> None:
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(arguments[0])})
    echo = serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})(Echo)
    serve.run(echo.bind(), name="echo", route_prefix="/")
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
