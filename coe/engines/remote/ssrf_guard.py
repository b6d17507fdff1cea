"""Addresses that no expert is at: where clouds keep machines' credentials. A remote host that points there
would send prompts there and show what comes back."""

from __future__ import annotations

import errno
import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from coe.core.addresses import is_metadata


class GuardedResolver(AbstractResolver):
    """Names that resolve to such an address do not resolve at all, whatever they resolved to before."""

    def __init__(self) -> None:
        self._plain = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._plain.resolve(host, port, family)
        if any(is_metadata(each["host"]) for each in found):
            raise OSError(errno.EACCES, f"{host} is at a link-local or metadata address")
        return found

    async def close(self) -> None:
        await self._plain.close()
