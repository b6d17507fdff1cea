"""Where a ready expert can be asked by another process, and how that process asks it.

The pool owner hands out an :class:`Address` with a lease; tokens then go from the expert's own server to
the gateway, past the pool. On the same machine that is vLLM's Unix socket. From another machine it is the
server's proxy (:mod:`coe.engines.vllm.proxy`): vLLM itself is never on a port.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from coe.core.types import EngineCall, ExpertId
from coe.engines.http import HttpAnswer, HttpClient, Rename
from coe.engines.upstream import Upstream
from coe.engines.vllm.launch import SERVER_KEEPALIVE_S


@dataclass(frozen=True)
class Address:
    """OpenAI's API below ``url``/v1, asked for ``model``. ``token`` is a bearer token, never to be logged.

    ``socket`` is the Unix socket to reach it by where that file exists.
    """

    url: str
    model: str
    socket: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def local(self) -> bool:
        """Whether the Unix socket is on this machine."""
        return self.socket is not None and Path(self.socket).is_socket()

    def by_proxy(self, url: str, token: str) -> Address:
        """The same server by its proxy, for those who cannot reach the socket."""
        return replace(self, url=url, token=token, socket=None)


@runtime_checkable
class Addressable(Protocol):
    """An engine whose experts other processes may ask by themselves."""

    def address(self, expert: ExpertId) -> Address:
        """Of a ready expert; it holds as long as the lease. Raises EngineError when it is not ready."""
        ...


def vllm_body(call: EngineCall, model: str) -> dict[str, Any]:
    """What vLLM is sent. A salt of its own keeps a private prompt out of other requests' prefix cache."""
    salt = {"cache_salt": secrets.token_hex(16)} if call.private else {}
    return {**call.body, **salt, "model": model}


class AddressBook:
    """Asks experts at addresses: one pool of connections for each server. Belongs to one event loop."""

    def __init__(self) -> None:
        self._clients: dict[_Key, HttpClient] = {}

    async def ask(self, address: Address, expert: ExpertId, call: EngineCall) -> HttpAnswer:
        """As :meth:`coe.core.types.Engine.ask`."""
        body = vllm_body(call, address.model)
        return await self._client(address, expert).ask(
            f"/v1/{call.endpoint}", body, Rename(address.model, expert), call.trace
        )

    async def forget(self, address: Address) -> None:
        """Close the connections to a server that is gone."""
        client = self._clients.pop(_key(address), None)
        if client is not None:
            await client.close()

    async def close(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()

    def _client(self, address: Address, expert: ExpertId) -> HttpClient:
        key = _key(address)
        if key not in self._clients:
            self._clients[key] = HttpClient(
                Upstream(
                    f"the server of {expert}",
                    "http://vllm" if address.local else address.url,
                    socket=Path(address.socket) if address.local and address.socket else None,
                    api_key=None if address.local else address.token,
                    keepalive_s=SERVER_KEEPALIVE_S - 15,
                )
            )
        return self._clients[key]


_Key = tuple[str, str | None, str | None]


def _key(address: Address) -> _Key:
    """With the token: another proxy may get the port of one that was closed."""
    return address.url, address.socket if address.local else None, address.token
