"""Which addresses a model server that a user named may have.

Link-local and metadata addresses are refused to all; loopback and private ones to users who may not reach this
machine's own network. A name is looked up where it is set, and every connection is checked again by the address that it
goes to: a name may change what it points to.
"""

import asyncio
import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

from rag.core.errors import InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LONGEST_URL: Final = 1024
_FORM: Final = "The base address must look like https://host/v1."
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_METADATA: Final = frozenset(
    ipaddress.ip_address(one) for one in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)
"""Where clouds tell their machines secrets, beside 169.254.169.254."""


class AddressRefused(OSError):
    """A connection to an address that its user may not reach."""


def check_ip(ip: str, *, private: bool) -> None:
    """Whether a connection may go to `ip`.

    Args:
        private: Whether loopback and private addresses are allowed.
    Raises:
        AddressRefused: not there.
    """
    address = _inner(ipaddress.ip_address(ip.partition("%")[0]))
    if (
        address in _METADATA
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (address.is_reserved and not address.is_loopback)
    ):
        raise AddressRefused("It is a link-local, metadata or reserved address.")
    if not private and not address.is_global:
        raise AddressRefused("It is an address of this machine or of a private network.")


async def check_url(url: str, *, private: bool) -> None:
    """Whether `url` may be the address of a model server.

    Raises:
        InvalidInput: it is no http(s) address, carries a login, a query or a fragment, its host is unknown, or one of
            the host's addresses is refused.
    """
    host, port = host_of(url)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"The host {host!r} of the base address cannot be found.", field="base_url") from error
    for *_, place in found:
        try:
            check_ip(str(place[0]), private=private)
        except AddressRefused as error:
            raise InvalidInput(f"The base address {url!r} is not allowed. {error}", field="base_url") from error


def host_of(url: str) -> tuple[str, int]:
    """Host and port of a base address.

    Raises:
        InvalidInput: as for `check_url`; nothing is looked up.
    """
    plain = len(url) <= LONGEST_URL and url.isprintable() and not {" ", "\\"} & set(url)
    try:
        parts = urlsplit(url if plain else "")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput(_FORM, field="base_url") from error
    if not host or port == 0 or parts.scheme not in ("http", "https"):
        raise InvalidInput(_FORM, field="base_url")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidInput("The base address must carry no login, query or fragment.", field="base_url")
    return host, port or (443 if parts.scheme == "https" else 80)


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in net for net in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def guarded_socket(info: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
    """A socket for `info` (of getaddrinfo), for clients that make one right before they connect.

    Raises:
        AddressRefused: a private or refused address.
    """
    family, kind, protocol, _, place = info
    check_ip(str(place[0]), private=False)
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    return made
