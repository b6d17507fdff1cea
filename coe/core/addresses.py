"""What the host in a URL means, however it is written, and whether clouds keep credentials there."""

from __future__ import annotations

import ipaddress
import socket
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

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
_CARRYING = {  # networks whose addresses lead to an IPv4 address in them, and the bits after it
    ipaddress.IPv6Network("::ffff:0:0/96"): 0,
    ipaddress.IPv6Network("::ffff:0:0:0/96"): 0,  # SIIT
    ipaddress.IPv6Network("::/96"): 0,
    ipaddress.IPv6Network("64:ff9b::/96"): 0,  # NAT64
    ipaddress.IPv6Network("64:ff9b:1::/48"): 0,
    ipaddress.IPv6Network("2002::/16"): 80,  # 6to4
}
_ISATAP = (0x5EFE, 0x200_5EFE)


def meant_host(host: str) -> str:
    """``host`` as a resolver takes it: one case, ASCII, and an IP address in its usual form."""
    plain = unicodedata.normalize("NFKC", unquote(host)).replace("\u3002", ".").lower()
    plain = plain.strip("[]").partition("%")[0].rstrip(".")
    try:
        return str(ipaddress.ip_address(plain))
    except ValueError:
        pass
    if plain and set(plain) <= set("0123456789abcdefx."):
        try:  # 2852039166, 0xa9fea9fe, 0251.0376.169.254, 169.254.43518
            return socket.inet_ntoa(socket.inet_aton(plain))
        except OSError:
            return plain
    try:
        return plain if plain.isascii() else plain.encode("idna").decode()
    except UnicodeError:
        return plain


def is_metadata(host: str) -> bool:
    """Whether ``host`` is an IP address, in any form, that is link-local or a metadata service's, or leads
    to one."""
    try:
        found = ipaddress.ip_address(meant_host(host))
    except ValueError:
        return False
    # An address of the other version is in no network.
    return any(each in network for each in _reached(found) for network in _METADATA)


def _reached(address: Address) -> Iterator[Address]:
    """``address``, and the IPv4 addresses that it may lead to."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    number = int(address)
    for network, after in _CARRYING.items():
        if address in network:
            yield ipaddress.IPv4Address(number >> after & 0xFFFF_FFFF)
    if address.teredo is not None:
        yield from address.teredo
    if number >> 32 & 0xFFFF_FFFF in _ISATAP:
        yield ipaddress.IPv4Address(number & 0xFFFF_FFFF)
