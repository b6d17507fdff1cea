"""The HTTP client of all engines that speak OpenAI's API, and what its errors mean.

What goes wrong before the first byte: a 4xx about the request becomes :class:`ExpertRefused`; all else
(5xx, a lost connection, a refused key, a redirect) becomes :class:`EngineError`, as does a break in the
middle of an answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from coe.core import json_codec as quick_json
from coe.core.errors import CoeError, EngineError
from coe.engines.remote.ssrf_guard import GuardedResolver
from coe.engines.upstream import Upstream, refusal

CONNECT_TIMEOUT_S = 10.0
MAX_ERROR_BYTES = 65_536
UNREACHABLE = "engine_unreachable"
BROKE_OFF = "engine_broke_off"
"""A server of others failed after it had got the request: it may have done the work, and be paid for it."""
MAX_LINE_BYTES = 2**20
SILENT = "engine_silent"
CONTROL_LIMIT_S = 30.0
"""How long a control call may take where the caller says nothing else."""
TRANSPORT_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)
JSON_BODY = {"Content-Type": "application/json"}
PRIVATE = {"Cache-Control": "no-store"}
UNASKED = ("Accept", "Accept-Encoding", "User-Agent")
"""Headers that aiohttp would add: answers shall come uncompressed, and the rest says nothing."""


class HttpClient:
    """Keep-alive connections to one upstream. Belongs to one event loop; close it."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._session: aiohttp.ClientSession | None = None
        self._asked: dict[str, URL] = {}
        """by path: parsing a URL costs as much as sending it"""

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get(self, path: str, limit_s: float = CONTROL_LIMIT_S) -> Any:
        """The JSON (or ``None`` for an empty or other body) of a GET; raises EngineError unless 2xx, also
        (``engine_silent``) when no whole answer is there after ``limit_s``."""
        return await self._control("GET", path, None, limit_s)

    async def post(
        self, path: str, body: Mapping[str, Any] | None = None, limit_s: float | None = CONTROL_LIMIT_S
    ) -> Any:
        """As :meth:`get`, for a POST with a JSON body; without a limit where the caller has one."""
        return await self._control("POST", path, body, limit_s)

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any],
        rename: Rename | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """POST ``body``; returns at the head of a 2xx answer, else raises (see the module)."""
        url = self._asked.get(path) or self._asked.setdefault(path, URL(self.upstream.url + path))
        try:
            response = await self._open().post(
                url,
                data=quick_json.encode(body),
                headers={**JSON_BODY, **headers} if headers else JSON_BODY,
                allow_redirects=False,
            )
        except TRANSPORT_ERRORS as error:
            raise lost(self.upstream, error) from error
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if response.status < 300 and encoding == "identity":
            return HttpAnswer(self.upstream, response, rename)
        if response.status < 300:
            response.close()  # nobody asked for it, and a small body can unpack to any size
            name = self.upstream.name
            raise EngineError(f"{name} answered in the encoding {encoding[:50]}", hint=self.upstream.hint)
        raise await self._failure(response)

    async def _control(
        self, method: str, path: str, body: Mapping[str, Any] | None, limit_s: float | None
    ) -> Any:
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await self._controlled(method, path, body)
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"{self.upstream.name} did not answer {method} {path} within {limit_s:g} s"
            raise EngineError(message, code=SILENT, hint=self.upstream.hint) from None

    async def _controlled(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        async with self._translated():
            url = self.upstream.url + path
            session = self._open()
            async with session.request(method, url, json=body, allow_redirects=False) as response:
                if response.status >= 300:
                    refusal = await self._failure(response)
                    message = f"{self.upstream.name}: {method} {path}: {refusal.message}"
                    raise EngineError(message, hint=self.upstream.hint)
                text = await response.text()
        try:
            return json.loads(text) if text else None
        except ValueError:
            return None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            where, keep = self.upstream, self.upstream.keepalive_s
            connector: aiohttp.BaseConnector = (
                aiohttp.UnixConnector(path=str(where.socket), limit=0, keepalive_timeout=keep)
                if where.socket
                else aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=keep, resolver=GuardedResolver() if where.guarded else None
                )
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Authorization": f"Bearer {where.api_key}"} if where.api_key else None,
                skip_auto_headers=UNASKED,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=where.read_timeout_s
                ),
            )
        return self._session

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except TRANSPORT_ERRORS as error:
            raise lost(self.upstream, error) from error

    async def _failure(self, response: aiohttp.ClientResponse) -> CoeError:
        """The error for a 4xx or 5xx answer; releases the connection."""
        try:
            async with self._translated():
                raw = await response.content.read(MAX_ERROR_BYTES)
        finally:
            response.close()
        return refusal(self.upstream, response.status, raw, response.headers.get("Retry-After"))


class Rename:
    """The upstream's internal model name, and the expert's id that clients shall read in its place.

    Replaced in the bytes: inside a JSON string the quotes are escaped, so only the field can match.
    """

    def __init__(self, served: str, shown: str) -> None:
        old, new = json.dumps(served).encode(), json.dumps(shown).encode()
        fields = (b'"model":', b'"model": ') if served != shown else ()
        self._pairs = tuple((field + old, field + new) for field in fields)

    def apply(self, data: bytes) -> bytes:
        for old, new in self._pairs:
            data = data.replace(old, new)
        return data


class HttpAnswer:
    """An answer under way (:class:`coe.core.types.EngineAnswer`). Closing it early makes vLLM abort."""

    def __init__(self, upstream: Upstream, response: aiohttp.ClientResponse, rename: Rename | None) -> None:
        self._upstream, self._response, self._rename = upstream, response, rename
        self.status = response.status
        self.content_type = response.headers.get("Content-Type")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, cut at line ends. Raises EngineError when the connection breaks."""
        held: list[bytes] = []
        size = 0
        try:
            async for data in self._response.content.iter_any():
                cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
                size = size + len(data) if not cut else len(data) - cut
                if cut or size > MAX_LINE_BYTES:  # a line without an end is passed on: its reader has a bound
                    cut = cut or len(data)
                    yield self._edit(b"".join((*held, data[:cut])))
                    held, data = [], data[cut:]
                held.append(data)
        except TRANSPORT_ERRORS as error:
            raise lost(self._upstream, error, "The answer broke off; ask again.") from error
        if rest := b"".join(held):
            yield self._edit(rest)

    async def aclose(self) -> None:
        """Closes the connection unless the body was read to its end. Idempotent."""
        self._response.close()

    def _edit(self, data: bytes) -> bytes:
        data = self._upstream.without_key(data)
        return self._rename.apply(data) if self._rename else data


def lost(upstream: Upstream, error: BaseException, hint: str | None = None) -> EngineError:
    """No answer, or no end of one. The code says whether the request may be sent to the same server again."""
    what = "took too long" if isinstance(error, TimeoutError) else (str(error) or type(error).__name__)
    never_sent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    code = UNREACHABLE if never_sent or upstream.ours else BROKE_OFF
    return EngineError(f"{upstream.name} did not answer: {what}", code=code, hint=hint or upstream.hint)
