"""Where an outbound call may go: the URL, the address, and what the operator opened. Pure.

* A URL is read once, by yarl, which is the reader that aiohttp connects with. A URL that does not
  read back as it was written is refused, so nobody can see another host in it than we do.
* A host is a name of letters, digits and hyphens (or its valid internationalized form), a dotted
  quad, or an IPv6 address in brackets. ``127.1``, ``0x7f000001``, ``2130706433`` and circled or
  full-width digits are none of these.
* A public address is called by ``https`` on port 443 or 8443, and needs no permission. Anything
  else (a private address, another port, plain ``http``) needs an ``AllowRule``.
* ``NEVER`` is out of reach, rule or not: link-local and the clouds' metadata services.
* No message holds a path or a query; a webhook's path is often its password.

``KEYTURN_EGRESS_ALLOW`` is a comma-separated list of ``[purpose=][http://]host-or-CIDR[:port]``:

==============================  ================================  ============================
entry                           in development                    in production
==============================  ================================  ============================
``10.0.0.0/8``                  every purpose, plain http too     ``provider``, https only
``tool=10.0.0.5:8080``          ``tool``, plain http too          ``tool``, https only
``tool=http://10.0.0.5:8080``   ``tool``, plain http too          ``tool``, plain http too
``https://auth.internal``       every purpose, https only         ``provider``, https only
==============================  ================================  ============================

* An entry without a port opens every port. IPv6 stands in brackets when a port follows.
* A name (``*.internal`` for all names below one) may lead to any address; a network opens every
  name that leads into it.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, Literal, get_args

import idna
from msgspec import Struct
from yarl import URL

from vault.errors import EgressDenied, Misconfigured

Purpose = Literal["provider", "upstream", "tool", "event"]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PURPOSES: Final[tuple[Purpose, ...]] = get_args(Purpose)
PUBLIC_PORTS: Final = frozenset({443, 8443})
MAX_PORT: Final = 65_535
MAX_URL: Final = 8_190
MAX_HOST: Final = 253

LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.ASCII)
# What the C library would take for a number, and so for an address (inet_aton).
NUMERIC: Final = re.compile(r"0x[0-9a-f]*|[0-9]+", re.ASCII)
PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
AUTHORITY: Final = re.compile(
    r"https?://(\[[0-9a-f:.]+\]|[^/?@:\[\]]+)(:[1-9][0-9]{0,4})?(?=[/?]|\Z)"
)


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


NEVER: Final = _networks(
    "0.0.0.0/8",  # Linux takes "this host" for loopback
    "::/128",
    "169.254.0.0/16",  # link-local: nearly every cloud's metadata service, and ECS's credentials
    "fe80::/10",
    "fd00:ec2::/32",  # AWS metadata over IPv6
    "fd20:ce::254/128",  # Google Cloud's
    "100.100.100.200/32",  # Alibaba Cloud's
    "168.63.129.16/32",  # Azure's wire server, a public number
    "192.0.0.192/32",  # Oracle Cloud's older one
    "224.0.0.0/4",  # multicast and broadcast answer nobody
    "ff00::/8",
    "255.255.255.255/32",
)

# From IANA's registry of special-purpose addresses. `ipaddress.is_global` is not used: it calls
# multicast, NAT64 of loopback, fec0::1 and ::127.0.0.1 global.
SPECIAL_V4: Final = _networks(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
UNICAST_V6: Final = IPv6Network("2000::/3")
SPECIAL_V6: Final = _networks(
    "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarking
    "2001:db8::/32",
    "2002::/16",  # 6to4 carries an IPv4 address past us
    "3ffe::/16",
    "3fff::/20",
)
NAT64: Final = IPv6Network("64:ff9b::/96")
COMPATIBLE: Final = IPv6Network("::/96")
LOOPBACK_V6: Final = IPv6Address("::1")
LOW_32: Final = (1 << 32) - 1


@lru_cache(4096)
def read_address(text: str) -> Address:
    """Read an address; the same one is the same object, so that comparing it costs nothing."""
    return ip_address(text)


def judged(address: Address) -> Address:
    """Unpack the two forms that the network itself turns into IPv4: mapped, and NAT64."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & LOW_32)
    return address


@lru_cache(4096)
def faces(address: Address) -> frozenset[Address]:
    """Every address that a packet to this one may end at."""
    found: set[Address] = {address, judged(address)}
    if isinstance(address, IPv6Address):
        if address.sixtofour is not None:
            found.add(address.sixtofour)
        if address.teredo is not None:
            found.update(address.teredo)
        if address in COMPATIBLE and address != LOOPBACK_V6:
            found.add(IPv4Address(int(address) & LOW_32))
    return frozenset(found)


@lru_cache(4096)
def is_public(address: Address) -> bool:
    """Does this address belong to the open Internet?"""
    address = judged(address)
    if isinstance(address, IPv6Address):
        return address in UNICAST_V6 and not any(address in network for network in SPECIAL_V6)
    return not any(address in network for network in SPECIAL_V4)


@lru_cache(4096)
def is_never(address: Address) -> bool:
    """Is this one of the addresses that no rule opens?"""
    return any(face in network for face in faces(address) for network in NEVER)


class VettedUrl(Struct, frozen=True, dict=True):
    """A URL that was read and found well-formed; its repr shows the host and the port only.

    One that is called again and again is kept, and with it what is said of it each time.
    """

    url: URL
    host: str
    port: int
    address: Address | None

    @cached_property
    def plain(self) -> bool:
        return self.url.scheme == "http"

    @cached_property
    def head(self) -> bytes:
        """How a request to it begins, after the method."""
        host = self.url.host_port_subcomponent
        return f"{self.url.raw_path_qs} HTTP/1.1\r\nHost: {host}\r\n".encode("ascii")

    @cached_property
    def has_query(self) -> bool:
        """What is in a query may be a secret, and nobody's twice."""
        return b"?" in self.head

    @cached_property
    def place(self) -> str:
        """The host and the port, for a message."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"VettedUrl({self.place})"


class AllowRule(Struct, frozen=True, kw_only=True):
    """One thing that the operator opened. ``None`` stands for every purpose, or every port."""

    target: str | Network
    purpose: Purpose | None = None
    port: int | None = None
    plain_http: bool = False

    def covers(self, purpose: Purpose, url: VettedUrl, address: Address) -> bool:
        """Does this rule open ``url`` for ``purpose`` when it leads to ``address``?"""
        if not self._serves(purpose, url):
            return False
        if isinstance(self.target, str):
            return _is_named(url.host, self.target)
        return address in self.target or judged(address) in self.target

    def may_cover(self, purpose: Purpose, url: VettedUrl) -> bool:
        """Could it, as far as one can tell without looking the name up?"""
        if url.address is not None:
            return self.covers(purpose, url, url.address)
        if isinstance(self.target, str):
            return self._serves(purpose, url) and _is_named(url.host, self.target)
        return self._serves(purpose, url)

    def _serves(self, purpose: Purpose, url: VettedUrl) -> bool:
        return (
            self.purpose in (None, purpose)
            and self.port in (None, url.port)
            and (self.plain_http or not url.plain)
        )


def _is_named(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def permits(rules: Iterable[AllowRule], purpose: Purpose, url: VettedUrl, address: Address) -> bool:
    """May a call for ``purpose`` to ``url`` connect to ``address``?"""
    if is_never(address):
        return False
    if _is_open(url) and is_public(address):
        return True
    return any(rule.covers(purpose, url, address) for rule in rules)


def vet(rules: Sequence[AllowRule], purpose: Purpose, unverified_url: str) -> VettedUrl:
    """Read a URL, and refuse it when no address at all could make it callable."""
    url = read(unverified_url)
    if url.address is not None:
        possible = permits(rules, purpose, url, url.address)
    else:
        possible = _is_open(url) or any(rule.may_cover(purpose, url) for rule in rules)
    if possible:
        return url
    if url.plain:
        raise EgressDenied(f"{url.place}: only https is allowed here.")
    if url.port not in PUBLIC_PORTS:
        raise EgressDenied(f"{url.place}: only the ports 443 and 8443 are allowed here.")
    raise EgressDenied(f"{url.place}: this address is not public.")


def _is_open(url: VettedUrl) -> bool:
    return not url.plain and url.port in PUBLIC_PORTS


def read(unverified_url: str) -> VettedUrl:
    """Read a URL once, strictly."""
    if len(unverified_url) > MAX_URL:
        raise EgressDenied(f"The URL is longer than {MAX_URL} characters.")
    # Every other kind of space is not printable.
    if not unverified_url.isprintable() or " " in unverified_url or "\\" in unverified_url:
        raise EgressDenied("The URL holds a space, a control character or a backslash.")
    if "#" in unverified_url:
        raise EgressDenied("The URL holds a fragment (#...).")
    url = _parsed(unverified_url)
    written = AUTHORITY.match(unverified_url.lower())
    if url is None or written is None or url.raw_host is None:
        raise EgressDenied(
            "The URL must read https://host/path or https://host:port/path,"
            " without a user name or a password."
        )
    if url.port is None or url.port != int((written[2] or f":{url.port}")[1:]):
        raise EgressDenied("The URL's port is not a port.")
    address = _literal(written[1], url.raw_host)
    if address is None and not _is_name(written[1], url.raw_host):
        raise EgressDenied(
            "The URL's host is neither a host name nor an IP address in its usual form."
        )
    host = url.raw_host if address is None else str(address)
    return VettedUrl(url=url, host=host, port=url.port, address=address and read_address(host))


def _parsed(text: str) -> URL | None:
    try:
        return URL(text)
    except ValueError:  # its text quotes the URL
        return None


def _literal(written: str, host: str) -> Address | None:
    """The address, if the host is one and both readings agree on it."""
    try:
        if written.startswith("["):
            address: Address = IPv6Address(written[1:-1])
            return address if IPv6Address(host) == address else None
        return IPv4Address(host) if written == host else None
    except ValueError:
        return None


def _is_name(written: str, host: str) -> bool:
    if not is_host_name(host):
        return False
    try:
        # yarl maps look-alikes (full-width, circled) to ASCII. Only a name that *is* the decoded
        # form of what will be looked up passes; one that merely maps to it does not.
        return written in (host, ".".join(map(_decoded, host.split("."))))
    except UnicodeError:
        return False


def _decoded(label: str) -> str:
    return idna.decode(label) if label.startswith("xn--") else label


def is_host_name(text: str) -> bool:
    """Is this a host name in ASCII that no resolver reads as a number?"""
    labels = text.split(".")
    return (
        len(text) <= MAX_HOST
        and all(LABEL.fullmatch(label) for label in labels)
        and NUMERIC.fullmatch(labels[-1]) is None
    )


def parse_allow(text: str, *, development: bool) -> tuple[AllowRule, ...]:
    """Read ``KEYTURN_EGRESS_ALLOW``."""
    rules = []
    for number, entry in enumerate(text.split(","), start=1):
        if not entry.strip():
            continue
        problem = ""
        try:
            rules.append(_rule(entry.strip(), development=development))
        except ValueError as error:
            problem = str(error)
        if problem:
            # The entry is not repeated: someone may have written a password into it.
            raise Misconfigured(f"KEYTURN_EGRESS_ALLOW, entry {number}: {problem}")
    return tuple(rules)


def _rule(entry: str, *, development: bool) -> AllowRule:
    before, equals, rest = entry.rpartition("=")
    default: Purpose | None = None if development else "provider"
    purpose = _purpose(before.strip()) if equals else default
    rest = rest.strip().lower()
    plain_http = rest.startswith("http://") or (development and not rest.startswith("https://"))
    target, port = _split_port(rest.removeprefix("http://").removeprefix("https://"))
    return AllowRule(target=_target(target), purpose=purpose, port=port, plain_http=plain_http)


def _purpose(text: str) -> Purpose:
    for purpose in PURPOSES:
        if text == purpose:
            return purpose
    raise ValueError(f"a purpose is one of {', '.join(PURPOSES)}.")


def _split_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        target, bracket, after = text[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise ValueError("after [IPv6] there may only be a colon and a port.")
        return target, _port(after[1:]) if after else None
    if text.count(":") != 1:  # none, or an IPv6 address without brackets
        return text, None
    target, _, port = text.partition(":")
    return target, _port(port)


def _port(text: str) -> int:
    if PORT.fullmatch(text) is None or int(text) > MAX_PORT:
        raise ValueError(f"a port is a number from 1 to {MAX_PORT}.")
    return int(text)


def _target(text: str) -> str | Network:
    network = _network(text)
    if network is None:
        if not is_host_name(text.removeprefix("*.")):
            raise ValueError(
                "expected [purpose=][http://]host-or-CIDR[:port], with a host name in ASCII,"
                " a name below *., an address, or a network without host bits."
            )
        return text
    if any(network.version == other.version and _is_within(network, other) for other in NEVER):
        raise ValueError("link-local, metadata and multicast addresses are never reachable.")
    return network


def _network(text: str) -> Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def _is_within(inner: Network, outer: Network) -> bool:
    return inner.network_address in outer and inner.broadcast_address in outer
