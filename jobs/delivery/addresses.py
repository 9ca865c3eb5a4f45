"""Where the service sends nothing: addresses that are not public, however they are written (SSRF).

A name is resolved once, every address that it has is checked, and the connection is made to a
checked address: nobody resolves the name a second time. `is_global` of the standard library is not
enough: it lets through NAT64, 6to4 and multicast.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence

import httpx

from jobs.settings import IPNetwork
from trainer_core.errors import ForbiddenTarget

MAX_URL = 2000

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # IETF protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # IETF protocol assignments: Teredo, ORCHID
        "2001:db8::/32",  # documentation, as the next but one
        "2002::/16",  # 6to4: an IPv4 address is within
        "3fff::/20",
    )
)
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")  # a last label that makes a host an IPv4 address


def parse(url: str) -> httpx.URL:
    """Return a URL to which a webhook may lead by its form, or raise ForbiddenTarget."""
    if len(url) > MAX_URL:
        raise _forbidden(f"it has more than {MAX_URL} characters")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise _forbidden(f"it can't be read: {error}") from error
    host = parsed.raw_host.decode("ascii")
    if parsed.scheme not in ("http", "https"):
        raise _forbidden(f"its scheme is '{parsed.scheme[:20]}'")
    if not host:
        raise _forbidden("it names no host")
    if parsed.userinfo:
        raise _forbidden("it holds a user name or a password")
    if parsed.fragment:
        raise _forbidden("it has a fragment")
    if parsed.port is not None and not 0 < parsed.port < 1 << 16:
        raise _forbidden(f"there is no port {parsed.port}")
    if _literal(host) is None:
        _check_name(host)
    return parsed


def _check_name(host: str) -> None:
    name = host.rstrip(".").lower()
    if not _NAME.fullmatch(name):
        raise _forbidden(f"'{host[:80]}' is no name of a host")
    last = name.rpartition(".")[2]
    if _NUMBER.fullmatch(last):
        raise _forbidden(f"'{host[:80]}' is no IPv4 address in the usual form")
    if last == "localhost":
        raise _forbidden(f"{host[:80]} is not a public address")


async def addresses_of(
    url: httpx.URL, *, networks: Sequence[IPNetwork], resolve: Resolve
) -> list[IPAddress]:
    """Return the addresses to which a URL leads, each of them checked.

    Args:
        url: as `parse` returned it.
        networks: what is allowed though it is not public.
        resolve: gives the addresses of a name.

    Raises:
        ForbiddenTarget: one of the addresses is not public, nor in an allowed network.
        OSError: the name can't be resolved.
    """
    host = url.raw_host.decode("ascii")
    literal = _literal(host)
    if literal is not None:
        found = [literal]
    else:
        texts = await resolve(host, url.port or (443 if url.scheme == "https" else 80))
        found = [ipaddress.ip_address(text) for text in texts]
    if not found:
        raise OSError(f"{host} has no address")
    for address in found:
        if not is_public(address) and not _is_in(address, networks):
            raise ForbiddenTarget(
                f"{host[:200]} is {address}, which is not a public address.",
                hint="Give a public URL; for a network of your own, see LUTHIER_WEBHOOK_NETWORKS.",
                param="url",
            )
    return found


def is_public(address: IPAddress) -> bool:
    """Return whether an address belongs to one host of the public internet."""
    if not address.is_global or address.is_multicast:
        return False
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return False  # mapped, compatible, NAT64, site-local and all that is not handed out
    return not _is_in(address, _SPECIAL)


async def resolve_name(host: str, port: int) -> list[str]:
    """Return the addresses of a name, as the system resolves it."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_in(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _forbidden(why: str) -> ForbiddenTarget:
    return ForbiddenTarget(
        f"the URL is refused: {why}.",
        hint="Give an http or https URL, such as https://example.org/hooks.",
        param="url",
    )
