"""Where web hooks may be sent to: public addresses, and what the operator allows besides.

Whoever may add an endpoint chooses an address that this process connects to, from inside the operator's network. So a
name is resolved here, every answer is judged, and the sender connects to what was judged and to nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal, TypeAlias

from storage.errors import EgressRefused, InvalidInput

log = logging.getLogger(__name__)

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host name and a port to its addresses, as text, the preferred one first; OSError if it has none."""

_Question: TypeAlias = tuple[asyncio.AbstractEventLoop, str, int]

SETTING: Final = "STORAGE_WEBHOOK_ALLOWED_NETWORKS"

LOOKUP_THREADS: Final = 16
"""Names looked up at once. Threads of their own: a name server that never answers holds one for half a minute, and the
event loop's own are those that files are read and written on."""

LONGEST_NAME: Final = 253
"""Characters of a host name (RFC 1035 section 2.3.4, without the dot at its end)."""

NOT_PUBLIC: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        # IANA's registry of special IPv4 addresses (RFC 6890), what is globally reachable left out.
        "0.0.0.0/8",  # "this network"; 0.0.0.0 reaches this machine
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by a provider's customers (CGNAT); also metadata of Alibaba Cloud, and Tailscale
        "127.0.0.0/8",  # this machine
        "168.63.129.16/32",  # a public address by its number; on Azure the host's agent
        "169.254.0.0/16",  # link-local; 169.254.169.254 gives out a cloud machine's credentials
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; also metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4, given up by RFC 7526
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; 255.255.255.255 is broadcast
        # The same of IPv6, of which only 2000::/3 is given out at all: the two below are the rest. That covers ::,
        # ::1, fc00::/7 (with fd00:ec2::254, metadata of AWS), fe80::/10, ff00::/8, 64:ff9b:1::/48 and ::a.b.c.d.
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",  # protocol assignments, among them Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, given up by RFC 7526
        "3fff::/20",  # documentation
    )
)
"""Addresses that are not to be reached from outside, or that nobody's receiver has."""

_NAT64: Final = ip_network("64:ff9b::/96")
"""RFC 6052 section 2.1: the last 32 bits are the IPv4 address that a translator connects to."""

_USUAL_PORTS: Final = {"http": 80, "https": 443}
_LAST_PORT: Final = 65_535

_CHARACTERS: Final = re.compile(r"(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=])+")
"""What a URL consists of (RFC 3986 appendix A). Parsers disagree about anything else, such as a backslash."""

_URL: Final = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>.*)", re.IGNORECASE)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]{1,5}))?")
_PORT_AT_END: Final = re.compile(r":[0-9]+$")

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")

_NUMBER: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")
"""A host whose last label is one is an IPv4 address (WHATWG URL, "ends in a number"), as it is for getaddrinfo."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, taken apart once, so that nobody takes it apart differently.

    Attributes:
        scheme: `http` or `https`.
        host: in lower case, without a dot at its end; an IP address in its usual form, without brackets.
        port: where to connect.
        path: with the query, as it is sent; begins with a slash.
        authority: for the header Host.
        address: what `host` is, if it is an address.
    """

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str
    authority: str
    address: Address | None


class Egress:
    """The rule, for one process.

    Args:
        allowed_networks: in CIDR notation: what is not public and may be reached nevertheless, also without TLS.
        trusted_hosts: hosts, or `host:port`, from the operator's own configuration: they may have any address, and need
            no TLS. `host` means each of its ports.
        resolver: looks names up; the system's if None.

    Raises:
        InvalidInput: a network that is none.
    """

    def __init__(
        self,
        allowed_networks: Sequence[str],
        trusted_hosts: Collection[str] = (),
        *,
        resolver: Resolver | None = None,
    ) -> None:
        self._allowed = tuple(_network(text) for text in allowed_networks)
        self._trusted = frozenset(_trusted(text) for text in trusted_hosts)
        self._resolver = resolver or self._look_up
        self._threads: ThreadPoolExecutor | None = None
        self._under_way: dict[_Question, asyncio.Future[Sequence[str]]] = {}

    def check_url(self, url: str) -> None:
        """Say whether anything may be sent to a URL, as far as can be said without looking its host up.

        Raises:
            InvalidInput: not an absolute http or https URL, or one with user, password or fragment.
            EgressRefused: its host is an address that is not allowed, or it is http: to what no allow-list names.
        """
        self.target(url)

    def target(self, url: str) -> Target:
        """Take a URL apart; raises as check_url does."""
        target = parse(url)
        if self._trusts(target.host, target.port):
            return target
        if target.address is not None:
            self._judge(target.host, [target.address], is_encrypted=target.scheme == "https")
        elif target.host == "localhost" or target.host.endswith(".localhost"):
            # RFC 6761 section 6.3: never anything but this machine, whatever a name server says.
            self._judge(target.host, [IPv4Address("127.0.0.1")], is_encrypted=target.scheme == "https")
        elif target.scheme == "http" and not self._allowed:
            raise _unencrypted(target.host)
        return target

    async def resolve(self, host: str, port: int, *, is_encrypted: bool = True) -> list[str]:
        """The addresses of a host, each of which may be connected to; looked up once.

        A single answer that is not allowed refuses them all: a name that has public and private addresses is either a
        mistake or an attack.

        Args:
            host: a name or an address, as in Target.
            port: where to connect.
            is_encrypted: whether TLS is spoken; without it only allowed networks and trusted hosts are left.

        Raises:
            EgressRefused: one of them is not allowed.
            OSError: there is no such host, or it cannot be looked up now.
        """
        literal = _literal(host)
        if literal is not None:
            addresses = [literal]
        else:
            addresses = [ip_address(text) for text in dict.fromkeys(await self._answers(host, port))]
        if not addresses:
            raise OSError(f"{host} has no address")
        if not self._trusts(host, port):
            self._judge(host, addresses, is_encrypted=is_encrypted)
        return [str(address) for address in addresses]

    def _trusts(self, host: str, port: int) -> bool:
        return (host, None) in self._trusted or (host, port) in self._trusted

    def _judge(self, host: str, addresses: Sequence[Address], *, is_encrypted: bool) -> None:
        for address in addresses:
            unlisted = [each for each in _reached(address) if not self._is_listed(each)]
            for each in unlisted:
                if not is_public(each):
                    # Whoever added the endpoint reads the error, and is not told what the names of this network mean.
                    log.info("web hooks to %s are refused: %s is not a public address", host, address)
                    raise EgressRefused(
                        f"web hooks are not sent to {host}: that is not a public address. If it is meant to receive "
                        f"them, the operator adds its network to {SETTING}"
                    )
            if unlisted and not is_encrypted:
                raise _unencrypted(host)

    def _is_listed(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)

    async def _answers(self, host: str, port: int) -> Sequence[str]:
        """Look a name up, together with whoever is waiting for the same answer."""
        # A future belongs to its loop, and this object may serve several.
        key = (asyncio.get_running_loop(), host, port)
        under_way = self._under_way.get(key)
        if under_way is None:
            under_way = asyncio.ensure_future(self._resolver(host, port))
            self._under_way[key] = under_way
            under_way.add_done_callback(lambda done: self._answered(key, done))
        # One of those who wait may give up without taking the answer from the others.
        return await asyncio.shield(under_way)

    def _answered(self, key: _Question, done: asyncio.Future[Sequence[str]]) -> None:
        self._under_way.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever still waits raises it; if nobody does it is no news

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="storage-webhooks-dns")
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(address[0]) for *_, address in found]


def parse(url: str) -> Target:
    """Take a URL apart, by the strict reading of RFC 3986; says nothing about whether it is allowed.

    Raises:
        InvalidInput: not an absolute http or https URL, or one with user, password or fragment. The message does not
            quote it: a URL may hold a token.
    """
    if not _CHARACTERS.fullmatch(url):
        raise InvalidInput("the url holds a character that no URL may; percent-encode it (and write its host in ASCII)")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise InvalidInput("the url must begin with https:// (or http:// to an allowed network)")
    if "@" in parts["authority"]:
        raise InvalidInput("the url holds a user or password; give an Authorization header instead")
    if "#" in url:
        raise InvalidInput("the url holds a fragment (#), which is never sent; leave it out")
    scheme: Literal["http", "https"] = "https" if parts["scheme"].lower() == "https" else "http"
    usual = _USUAL_PORTS[scheme]
    where = _AUTHORITY.fullmatch(parts["authority"])
    if where is None:
        raise InvalidInput("the url's host or port cannot be understood; write https://host:port/path")
    port = usual if where["port"] is None else int(where["port"])
    if not 0 < port <= _LAST_PORT:
        raise InvalidInput(f"the url's port must be from 1 to {_LAST_PORT}, not {port}")
    host = where["host"].lower().removesuffix(".")
    address = _bracketed(host[1:-1]) if host.startswith("[") else _literal(host)
    if address is not None:
        host = str(address)
    elif len(host) > LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise InvalidInput("the url's host is not a host name or an IP address")
    shown = f"[{host}]" if ":" in host else host
    path = parts["path"] if parts["path"].startswith("/") else f"/{parts['path']}"
    return Target(scheme, host, port, path, shown if port == usual else f"{shown}:{port}", address)


def _unencrypted(host: str) -> EgressRefused:
    return EgressRefused(
        f"web hooks are sent to {host} over https:// only; http:// is for networks that the operator names in {SETTING}"
    )


def is_public(address: Address) -> bool:
    """Whether anybody may have a receiver at this address."""
    return not any(address in network for network in NOT_PUBLIC)


def _reached(address: Address) -> Iterator[Address]:
    """Where a packet to an address may end: itself, or what is written inside it."""
    if isinstance(address, IPv4Address):
        yield address
    elif address.ipv4_mapped is not None:
        yield address.ipv4_mapped  # RFC 4291 section 2.5.5.2: the socket speaks IPv4
    elif address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFF_FFFF)
    else:
        # With a zone (fe80::1%eth0) it would be in no network.
        yield IPv6Address(int(address))
        if address.sixtofour is not None:
            yield address.sixtofour
        if address.teredo is not None:
            yield from address.teredo


def _literal(host: str) -> Address | None:
    """The address that a host is, in any way of writing it that getaddrinfo takes; None for a name.

    2130706433, 0177.0.0.1 and 0x7f.1 are 127.0.0.1 too.

    Raises:
        InvalidInput: it ends in a number and is none.
    """
    if ":" in host:
        return _bracketed(host)
    if not _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2].lower()):
        return None
    try:
        return IPv4Address(socket.inet_aton(host.removesuffix(".")))
    except OSError:
        raise InvalidInput("the host ends in a number and is not an IP address") from None


def _bracketed(host: str) -> Address:
    if "%" in host:
        raise InvalidInput("an IPv6 address with a zone (%) is one of a single machine's; leave the zone out")
    try:
        return IPv6Address(host)
    except ValueError:
        raise InvalidInput("the url's host in brackets is not an IPv6 address") from None


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no network; write one such as '127.0.0.0/8': {error}") from None


def _trusted(text: str) -> tuple[str, int | None]:
    """A host as in Target, and the port if only that one is trusted."""
    is_bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
    target = parse(f"https://[{text}]" if is_bare_ipv6 else f"https://{text}")
    names_port = not is_bare_ipv6 and _PORT_AT_END.search(text) is not None
    return target.host, target.port if names_port else None
