"""A stand-in for a vLLM server process, for tests of how engines treat processes and faults.

``python -m tests.support.fake_vllm`` takes the options of vLLM that it knows, ignores the others, is up in
half a second and answers like vLLM 0.32 on the endpoints that engines use. Its "weights" are the digest
of the checkpoint's files. ``FAKE_VLLM_FAULTS`` (names of :data:`FAULTS`, comma-separated) makes it
misbehave. It proves nothing about vLLM: the tests marked ``real_vllm`` do that.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

MAX_PROMPT_CHARS = 4_000


FAULTS = frozenset(
    {
        "die_at_start",
        "never_healthy",
        "fail_reload",
        "die_at_reload",
        "ignore_reload",
        "hang_at_reload",  # as vLLM does whose engine process is killed meanwhile: /health knows of it
        "log_corruption",  # answer 200 to a reload and log what vLLM logs when it loaded not all weights
        "keep_prefix_cache",
        "nan",
        "break_stream",
        "error_in_stream",
    }
)


@dataclass
class FakeVllm:
    """The server's state. ``under_way`` counts generations; pausing waits until it is zero, as vLLM's
    ``mode=wait`` does."""

    name: str
    weights: str
    faults: frozenset[str] = frozenset()
    paused: bool = False
    dead: bool = False
    asleep: int = 0
    adapters: dict[str, str] = field(default_factory=dict)
    under_way: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    awake: asyncio.Event = field(default_factory=asyncio.Event)

    def application(self) -> web.Application:
        self.idle.set()
        self.awake.set()
        app = web.Application()
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/is_sleeping", self.is_sleeping),
                web.get("/is_paused", self.is_paused),
                web.get("/v1/models", self.models),
                web.post("/v1/chat/completions", self.complete),
                web.post("/v1/completions", self.complete),
                web.post("/pause", self.pause),
                web.post("/resume", self.resume),
                web.post("/collective_rpc", self.rpc),
                web.post("/reset_prefix_cache", self.reset),
                web.post("/sleep", self.sleep),
                web.post("/wake_up", self.wake),
                web.post("/v1/load_lora_adapter", self.load_adapter),
                web.post("/v1/unload_lora_adapter", self.unload_adapter),
            ]
        )
        return app

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if "never_healthy" in self.faults or self.dead else 200)

    async def is_sleeping(self, _: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": self.asleep > 0})

    async def is_paused(self, _: web.Request) -> web.Response:
        return web.json_response({"is_paused": self.paused})

    async def models(self, _: web.Request) -> web.Response:
        cards = [{"id": self.name, "root": self.weights}]
        return web.json_response({"data": cards + [{"id": i, "root": r} for i, r in self.adapters.items()]})

    async def pause(self, _: web.Request) -> web.Response:
        self.paused = True
        await self.idle.wait()
        return web.json_response({"status": "paused"})

    async def resume(self, _: web.Request) -> web.Response:
        self.paused = False
        return web.json_response({"status": "resumed"})

    async def rpc(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["method"] != "reload_weights" or "fail_reload" in self.faults:
            return _error(500, "Internal server error")
        if "die_at_reload" in self.faults:
            print("out of memory", flush=True)
            os._exit(9)
        if "hang_at_reload" in self.faults:
            self.dead = True
            await asyncio.Event().wait()
        if "log_corruption" in self.faults:
            print("WARNING [layerwise.py:266] ParallelLMHead: Failed to load weights", flush=True)
        print("WARNING [layerwise.py:266] RotaryEmbedding: Failed to load weights", flush=True)
        if "ignore_reload" not in self.faults:
            self.weights = body["kwargs"].get("weights_path", self.weights)
        return web.json_response({"results": [None]})

    async def reset(self, _: web.Request) -> web.Response:
        return web.json_response({"success": "keep_prefix_cache" not in self.faults})

    async def sleep(self, request: web.Request) -> web.Response:
        self.asleep = int(request.query["level"])
        self.awake.clear()
        return web.json_response({"status": "sleeping", "level": self.asleep})

    async def wake(self, _: web.Request) -> web.Response:
        self.asleep = 0
        self.awake.set()
        return web.json_response({"status": "awake", "tags": None})

    async def load_adapter(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["lora_name"] in self.adapters:
            return _error(400, f"The lora adapter '{body['lora_name']}' has already been loaded.")
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")

    async def unload_adapter(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.adapters.pop(body["lora_name"], None) is None:
            return _error(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        return web.Response(text="Success")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model, prompt = body["model"], json.dumps(body.get("messages") or body.get("prompt"))
        if model != self.name and model not in self.adapters:
            return _error(404, f"The model `{model}` does not exist.")
        if len(prompt) > MAX_PROMPT_CHARS:
            return _error(400, "This model's maximum context length is 1024 tokens. Shorten the prompt.")
        await self.awake.wait()
        self.under_way += 1
        self.idle.clear()
        try:
            return await (self._stream(request, body) if body.get("stream") else self._whole(body))
        finally:
            self.under_way -= 1
            if not self.under_way:
                self.idle.set()

    async def _whole(self, body: dict[str, Any]) -> web.Response:
        seed = self._seed(body["model"])
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "text": seed}
        choice["message"] = {"role": "assistant", "content": seed}
        if body.get("logprobs"):
            value = float("nan") if "nan" in self.faults else -int(seed[:4], 16) / 65_536
            choice["logprobs"] = {"top_logprobs": [{"token_id:1": value, "token_id:2": value - 1}]}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        content = {"id": "fake", "object": "chat.completion", "model": body["model"]}
        return web.json_response({**content, "choices": [choice], "usage": usage})

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        tokens = int(body.get("max_tokens") or 3)
        for index in range(tokens):
            if index == 1 and "break_stream" in self.faults:
                os._exit(9)
            if index == 1 and "error_in_stream" in self.faults:
                await response.write(b'data: {"error":{"message":"EngineCore died","code":500}}\n\n')
            ended = "length" if index == tokens - 1 else None
            delta = {"index": 0, "delta": {"content": self._seed(body["model"])}, "finish_reason": ended}
            chunk = {"id": "fake", "object": "chat.completion.chunk", "model": body["model"]}
            event = json.dumps({**chunk, "choices": [delta]}, separators=(",", ":"))
            await response.write(f"data: {event}\n\n".encode())
            await asyncio.sleep(0.01)
        await response.write(b"data: [DONE]\n\n")
        return response

    def _seed(self, model: str) -> str:
        folder = Path(self.adapters.get(model, self.weights))
        digest = hashlib.sha256(self.adapters.get(model, "").encode())
        for file in sorted(folder.glob("*.safetensors")):
            digest.update(file.read_bytes())
        return digest.hexdigest()[:12]


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status, "param": None}}, status=status)


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--uds", required=True)
    options, _ = parser.parse_known_args(arguments)
    faults = frozenset(filter(None, os.environ.get("FAKE_VLLM_FAULTS", "").split(",")))
    if faults - FAULTS:
        sys.exit(f"unknown faults: {sorted(faults - FAULTS)}")
    print("fake vLLM with", options.model, flush=True)
    if "die_at_start" in faults:
        sys.exit("ValueError: this checkpoint cannot be loaded")
    server = FakeVllm(options.served_model_name, options.model, faults)
    web.run_app(server.application(), path=options.uds, print=None, handler_cancellation=True)


if __name__ == "__main__":
    main(sys.argv[1:])
