"""A vLLM server as an object: started or found, controlled over HTTP, stopped.

Knows vLLM's endpoints and nothing of experts or policies.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coe.core.errors import LOG_FOLLOWS, EngineError
from coe.core.files import off_the_loop
from coe.core.types import EngineCall
from coe.engines.address import Address, vllm_body
from coe.engines.http import SILENT, UNREACHABLE, HttpAnswer, HttpClient, Rename
from coe.engines.upstream import Upstream
from coe.engines.vllm.canary import Fingerprint, fingerprint, question
from coe.engines.vllm.launch import SERVER_KEEPALIVE_S, Launch
from coe.engines.vllm.process import LogFile, ManagedProcess

POLL_S = 0.2
HEALTH_EVERY_S = 1.0
HEALTH_LIMIT_S = 10.0
RESUME_LIMIT_S = 5.0
TAIL_LIMIT_S = 2.0
MAX_HOME_PATH = 107 - len("/b3e8ff2c-3b11-4a5e-8a1c-0b6a1c5f2d3e")
"""Bytes; the kernel's limit for the path of a Unix socket is 107, and vLLM names its inner ones by UUID."""
CORRUPTION = re.compile(
    r"(?<!RotaryEmbedding): Failed to load weights|weights were not loaded from checkpoint"
)
"""What vLLM logs, while it answers 200, when a reload left old or empty tensors in the model.

It says the same of every rotary embedding, which has nothing to load: that one is harmless."""


class VllmServer:
    """One vLLM server; ``name`` is the model name it is asked by. Used by one engine only."""

    def __init__(
        self, name: str, client: HttpClient, process: ManagedProcess | None, home: Path | None
    ) -> None:
        self.name, self._client, self._process, self._home = name, client, process, home
        self._unreachable = False
        self._silence: str | None = None

    @classmethod
    async def launch(cls, name: str, command: Callable[[Path], Launch], log: Path) -> VllmServer:
        """Start the process that ``command`` builds for a socket; it is not healthy yet."""
        home = private_folder()
        socket = home / "vllm.sock"
        try:
            plan = command(socket)
            process = await ManagedProcess.spawn(plan.argv, plan.env, LogFile(log), home)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        upstream = Upstream(name, "http://vllm", socket=socket, keepalive_s=SERVER_KEEPALIVE_S - 15)
        return cls(name, HttpClient(upstream), process, home)

    @classmethod
    async def connect(cls, url: str) -> VllmServer:
        """A server that already runs at ``url``; its name is the first model that it lists.

        Raises EngineError when it does not answer.
        """
        where = Upstream(
            f"the server at {url}",
            root_url(url),
            hint=f"Is a vLLM server running at {url}? Swapping and sleeping need VLLM_SERVER_DEV_MODE=1.",
        )
        server = cls("", HttpClient(where), None, None)
        try:
            server.name = str((await server.models())[0]["id"])
        except (IndexError, KeyError, TypeError) as error:
            await server.stop()
            raise EngineError(f"{where.name} lists no models.", hint=where.hint) from error
        except BaseException:
            await server.stop()
            raise
        return server

    @property
    def alive(self) -> bool:
        """Whether the process runs; a server that is not ours is alive until a request does not reach it."""
        return self._process.running if self._process else not self._unreachable

    async def died(self) -> EngineError:
        """Wait until the process ends by itself, and say how. Never returns for a server not ours."""
        while self._process is None:
            await asyncio.Event().wait()
        await self._process.wait()
        return await self.death()

    async def death_within(self, seconds: float) -> EngineError | None:
        """How the process ended, if it has or does so within ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self.died()
        return None

    async def sign_of_life(self, limit_s: float) -> None:
        """Raises EngineError unless the engine behind the API answers: ``/health`` would not ask it, and a
        completion would queue behind others."""
        try:
            await self._client.get("/is_sleeping", limit_s)
        except EngineError as error:
            if error.code in (SILENT, UNREACHABLE):
                raise

    async def kill(self, why: str) -> None:
        """End a process that does not answer any more; nothing in it can be asked to stop."""
        self._silence = why
        await self.sweep()

    @property
    def ours(self) -> bool:
        """Whether the process is our child."""
        return self._process is not None

    async def sweep(self) -> None:
        """Kill the workers that a dead process left."""
        if self._process is not None:
            await self._process.sweep()

    async def stop(self, grace_s: float = 10.0) -> None:
        """Close the connections and stop the process, if it is ours. Idempotent."""
        # The connections first: a server that is told to stop waits for them.
        await self._client.close()
        if self._process is not None:
            await self._process.stop(grace_s)
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    async def until_healthy(self, timeout_s: float) -> None:
        """Raises EngineError with the log's last lines when the process dies or ``timeout_s`` pass."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._healthy():  # noqa: ASYNC110 (the process tells nobody that it is up)
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise EngineError(
                f"{self.name} was not ready after {timeout_s:g} s.{await self._tail()}",
                hint="Raise start_timeout_s of the host in experts.yaml, or see the log above.",
            ) from None

    async def ask(self, call: EngineCall, shown: str, model: str | None = None) -> HttpAnswer:
        """Pass ``call`` on. ``shown`` is the expert's id, ``model`` an adapter's name instead of ours."""
        served = model or self.name
        try:
            body = vllm_body(call, served)
            return await self._client.ask(f"/v1/{call.endpoint}", body, Rename(served, shown), call.trace)
        except EngineError as error:
            self._unreachable = error.code == UNREACHABLE
            raise

    def address(self, model: str | None = None) -> Address:
        """Where others may ask it, by our name or an adapter's."""
        where = self._client.upstream
        return Address(where.url, model or self.name, str(where.socket) if where.socket else None)

    async def models(self) -> list[dict[str, Any]]:
        return list((await self._client.get("/v1/models"))["data"])

    async def require_serving(self, models: set[str]) -> None:
        """Raises EngineError unless the server was started with one of ``models``."""
        served = (await self.models())[0]
        if not models & {str(served.get(key)) for key in ("id", "root")}:
            raise EngineError(
                f"{self._client.upstream.name} serves {self.name}, not {min(models)}.",
                hint="Correct `model` or `url` in experts.yaml.",
            )

    async def fingerprint(self, prompt: str, model: str | None = None) -> Fingerprint:
        body = {**question(prompt), "model": model or self.name}
        return fingerprint(prompt, await self._client.post("/v1/completions", body))

    async def swap_weights(self, weights: str) -> None:
        """Replace the weights in place by those of the folder ``weights``. No request may be under way.

        Raises EngineError when vLLM refuses or logs that weights are missing; the weights are then
        undefined. Generation is resumed on every path, so that nothing hangs. The caller limits the time.
        """
        # In this order: what the log said before is of other weights; paused, no request computes with half
        # of them; the prefix cache, which is of the old ones, is empty before generation resumes; and the log
        # is read after that, so that bad weights leave nothing hanging.
        mark = await off_the_loop(self._process.log.trim) if self._process else 0
        try:
            await self._order("/pause?mode=wait")
            await self.reload_weights(weights)
        except BaseException:
            with contextlib.suppress(EngineError):  # the first failure is the one to tell
                await self._client.post("/resume", limit_s=RESUME_LIMIT_S)
            raise
        await self._client.post("/resume", limit_s=RESUME_LIMIT_S)
        await self._require_clean_log(mark)

    async def reload_weights(self, weights: str | None = None) -> None:
        """vLLM's ``reload_weights`` (``None``: those it was started with), and an empty prefix cache."""
        kwargs = {"weights_path": weights} if weights else {}
        await self._order("/collective_rpc", {"method": "reload_weights", "kwargs": kwargs})
        answer = await self._client.post("/reset_prefix_cache")
        if answer is not None and answer.get("success") is False:
            raise EngineError(f"{self.name} did not drop its prefix cache: a request was still under way.")

    async def sleep(self, level: int) -> None:
        await self._order(f"/sleep?level={level}&mode=wait")

    async def wake(self) -> None:
        await self._order("/wake_up")

    async def load_adapter(self, name: str, folder: Path) -> None:
        await self._client.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    async def unload_adapter(self, name: str) -> None:
        await self._client.post("/v1/unload_lora_adapter", {"lora_name": name})

    async def _order(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """POST what takes as long as it takes. vLLM waits for ever for an engine process that died on the
        way, and says so at ``/health`` alone."""
        order = asyncio.create_task(self._client.post(path, body, limit_s=None))
        try:
            while not (await asyncio.wait({order}, timeout=HEALTH_EVERY_S))[0]:
                await self._client.get("/health", HEALTH_LIMIT_S)
            return order.result()
        finally:
            order.cancel()

    async def _healthy(self) -> bool:
        if not self.alive:
            raise await self.death()
        with contextlib.suppress(EngineError):
            await self._client.get("/health")
            return True
        return False

    async def death(self) -> EngineError:
        """:meth:`end`, with the last lines of its log."""
        return self.end(await self._tail())

    def end(self, last_lines: str = "") -> EngineError:
        """How the process ended; of a server not ours, that it is gone."""
        if self._process is None:
            return EngineError(f"{self.name} cannot be reached.", code=UNREACHABLE)
        if self._silence is not None:
            return EngineError(f"{self.name} {self._silence}, so its process was ended.", code=SILENT)
        return EngineError(
            f"The vLLM process of {self.name} ended (exit code {self._process.returncode}).{last_lines}",
            hint=f"The whole log is in {self._process.log.path}.",
        )

    async def _tail(self) -> str:
        tail = ""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(TAIL_LIMIT_S):
                tail = await off_the_loop(self._process.log.tail) if self._process else ""
        return f"{LOG_FOLLOWS}\n{tail}" if tail else ""

    async def _require_clean_log(self, mark: int) -> None:
        written = await off_the_loop(self._process.log.since, mark) if self._process else ""
        line = next((line for line in written.splitlines() if CORRUPTION.search(line)), None)
        if line is not None:
            raise EngineError(
                f"{self.name} did not load all weights: {line.strip()[:300]}",
                code="weights_corrupted",
                hint="Export the checkpoint untied, with the tensors of its slot's architecture.",
            )


def root_url(url: str) -> str:
    """``url`` without a trailing slash or ``/v1``: the control endpoints are beside, not below it."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def private_folder() -> Path:
    """A new folder that only we can enter, with a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="coe-"))
    if len(str(folder)) <= MAX_HOME_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="coe-", dir="/tmp"))
