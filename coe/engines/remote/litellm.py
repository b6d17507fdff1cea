"""Any provider that LiteLLM knows, made to look like an OpenAI-compatible server.

LiteLLM is imported when the first such host opens: it takes seconds and reads a price list. What a
client sends never reaches LiteLLM as a keyword unless it is one of OpenAI's own parameters: others
(``api_base``, ``api_key``, ``fallbacks``, ...) would steer where we connect and with which key.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from coe.core.errors import CoeError, EngineError, ExpertRefused
from coe.core.files import off_the_loop
from coe.core.openai import named_elsewhere
from coe.core.types import EngineAnswer, EngineCall, ExpertId
from coe.engines.remote.openai_url import read_key
from coe.engines.upstream import Upstream, refusal
from coe.registry.hosts import RemoteHost

REFUSED_VERSIONS: Mapping[str, str] = {
    "1.82.7": "a release with malware",
    "1.82.8": "a release with malware",
    "1.107.0": "a known bad release",
}
COMMON = frozenset(
    [
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_tokens",
        "n",
        "presence_penalty",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "user",
    ]
)
PARAMETERS: Mapping[str, frozenset[str]] = {
    "chat/completions": COMMON
    | frozenset(
        [
            "messages",
            "audio",
            "functions",
            "function_call",
            "max_completion_tokens",
            "modalities",
            "parallel_tool_calls",
            "prediction",
            "reasoning_effort",
            "response_format",
            "safety_identifier",
            "service_tier",
            "store",
            "tool_choice",
            "tools",
            "top_logprobs",
            "verbosity",
        ]
    ),
    "completions": COMMON | frozenset(["prompt", "best_of", "echo", "suffix"]),
}
PREFIX = re.compile(r"^(litellm\.)?\w+: ((litellm\.)?\w*(Exception|Error)( - |: ))?")
"""What LiteLLM puts before a provider's own words: "litellm.BadRequestError: OpenAIException - "."""


class LiteLlmBackend:
    """Models of ``host.provider``. Where it is and other keys are set as LiteLLM's documentation says."""

    def __init__(self, host: RemoteHost, root: Path) -> None:
        self._host, self._root = host, root
        self._where = Upstream(
            host.id,
            f"litellm:{host.provider}",
            ours=False,
            hint=f"Check provider, key and model names of the host {host.id} in experts.yaml.",
        )
        self._litellm: Any = None
        self._key: str | None = None

    async def open(self) -> None:
        if self._litellm is None:
            self._key = await off_the_loop(read_key, self._host, self._root)
            self._where = replace(self._where, api_key=self._key)
            self._litellm = await asyncio.to_thread(import_litellm)

    async def ask(self, model: str, call: EngineCall, shown: ExpertId) -> EngineAnswer:
        if self._litellm is None:
            raise EngineError(f"{self._host.id} is not open.", code="engine_not_running")
        arguments = checked_arguments(call)
        function = (
            self._litellm.acompletion
            if call.endpoint == "chat/completions"
            else self._litellm.atext_completion
        )
        try:
            async with asyncio.timeout(self._host.timeout_s):
                answer = await function(
                    **arguments,
                    model=f"{self._host.provider}/{model}",
                    api_key=self._key,
                    timeout=self._host.timeout_s,
                    num_retries=0,
                    max_retries=0,
                    extra_headers=self._trace_headers(call),
                )
        except Exception as error:  # LiteLLM's exceptions have no base of their own
            raise translated(self._where, error) from error
        return StreamedAnswer(self._where, answer, shown) if call.stream else WholeAnswer(answer, shown)

    def _trace_headers(self, call: EngineCall) -> dict[str, str] | None:
        """What tells the provider of our span. LiteLLM sends these instead of the ``litellm.headers`` that
        somebody may have set for all requests, so those are among them, and win."""
        return {**call.trace, **(self._litellm.headers or {})} if call.trace else None

    async def close(self) -> None:
        self._litellm = None


class WholeAnswer:
    """A complete answer as the bytes of one JSON body."""

    status = 200

    def __init__(self, answer: Any, shown: ExpertId) -> None:
        self._body = _as_json(answer, shown)

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body

    async def aclose(self) -> None:
        """Nothing is under way."""


class StreamedAnswer:
    """LiteLLM's chunks as server-sent events, ended by ``[DONE]``."""

    status = 200

    def __init__(self, where: Upstream, stream: Any, shown: ExpertId) -> None:
        self._where, self._stream, self._shown = where, stream, shown
        self._closed = False

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                if any(choice.finish_reason for choice in chunk.choices) and not self._ended:
                    break  # LiteLLM says "stop" also of a stream that its provider broke off
                yield b"data: " + _as_json(chunk, self._shown) + b"\n\n"
        except Exception as error:
            message = translated(self._where, error).message
            raise EngineError(message, hint="The answer broke off; ask again.") from error
        if self._ended:
            yield b"data: [DONE]\n\n"

    @property
    def _ended(self) -> bool:
        """Whether the provider itself said that the answer ended."""
        reasons = ("received_finish_reason", "intermittent_finish_reason")
        return any(getattr(self._stream, reason, None) is not None for reason in reasons)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._stream.aclose()


def import_litellm(version: str | None = None) -> Any:
    """The module, without a look at the network. Raises EngineError when missing or known to be bad."""
    try:
        version = version or metadata.version("litellm")
    except metadata.PackageNotFoundError:
        raise EngineError(
            "A host names a provider, which needs LiteLLM.", hint='Install it: pip install "litellm>=1.106.2"'
        ) from None
    if version in REFUSED_VERSIONS:
        raise EngineError(
            f"litellm {version} is {REFUSED_VERSIONS[version]} and is not used.",
            code="litellm_refused",
            hint="Install the version of the lock file (1.106.2). If 1.82.7 or 1.82.8 ever ran on this"
            " machine, change the secrets that it could read.",
        )
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else the import fetches a price list
    litellm: Any = import_module("litellm")
    litellm.suppress_debug_info = True  # else each error prints an advertisement to stdout
    litellm.telemetry = False
    return litellm


def checked_arguments(call: EngineCall) -> dict[str, Any]:
    """The request's parameters for LiteLLM. Raises ExpertRefused for one that OpenAI's API does not have, and
    for media and tools by URL, which LiteLLM may ask for from here."""
    body = {key: value for key, value in call.body.items() if key != "model"}
    if "stream" in body:
        body["stream"] = call.stream
    unknown = sorted(set(body) - PARAMETERS[call.endpoint])
    if unknown:
        hint = "It runs at a remote provider, which takes only OpenAI's own parameters."
        raise _refused(f"the parameter {unknown[0]!r}", "unknown_parameter", unknown[0], hint)
    messages = body.get("messages")
    # LiteLLM fetches some of that itself, for Gemini and Anthropic also what a ``file_id`` names.
    if any(isinstance(each, dict) and named_elsewhere(each) for each in messages or ()):
        hint = "Send the media itself, as a data: URL."
        raise _refused("media by URL", "remote_media", "messages", hint)
    if _names_remote_tools(body.get("tools")):
        hint = "Describe the functions themselves, as tools of type function."
        raise _refused("tools of other servers", "remote_tools", "tools", hint)
    return body


def _refused(what: str, code: str, param: str, hint: str) -> ExpertRefused:
    return ExpertRefused(400, f"This expert does not take {what}.", code=code, param=param, hint=hint)


def translated(where: Upstream, error: Exception) -> CoeError:
    """LiteLLM's exceptions carry the provider's HTTP status; they mean what such an answer would."""
    if isinstance(error, TimeoutError):
        return EngineError(f"{where.name} did not answer in time.", hint=where.hint)
    message = PREFIX.sub("", str(getattr(error, "message", None) or error))
    too_long = type(error).__name__ == "ContextWindowExceededError"
    code = "context_length_exceeded" if too_long else getattr(error, "code", None)
    status = getattr(error, "status_code", None)
    fields = {"message": message, "code": code, "param": getattr(error, "param", None)}
    raw = json.dumps({"error": fields}, default=str).encode()
    meant = refusal(where, status if isinstance(status, int) else 502, raw)
    if isinstance(meant, EngineError) and type(error).__name__ != "InternalServerError":
        meant.answered = False  # LiteLLM says 500 also where nobody answered
    return meant


def _as_json(answer: Any, shown: ExpertId) -> bytes:
    fields = answer.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    return json.dumps({**fields, "model": shown}, separators=(",", ":")).encode()


def _names_remote_tools(tools: Any) -> bool:
    """LiteLLM asks servers for what is of type ``mcp``, from here."""
    listed = tools if isinstance(tools, list) else []
    return any(
        isinstance(tool, dict) and (tool.get("type") == "mcp" or "server_url" in tool) for tool in listed
    )
