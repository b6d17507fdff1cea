"""Addresses that no expert is at: where clouds keep machines' credentials. A remote host that points there
would send prompts there and show what comes back."""

from __future__ import annotations

import errno
import ipaddress
import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

_METADATA = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local: AWS, Azure, Google, ...
        "fe80::/10",
        "fd00:ec2::/32",  # AWS
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure
        "192.0.0.192/32",  # Oracle
    )
)


def is_metadata(address: str) -> bool:
    """Whether an IP address, in the form that ``ipaddress`` reads, is link-local or a metadata service's."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return any(mapped.version == network.version and mapped in network for network in _METADATA)


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
