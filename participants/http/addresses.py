"""Where a request may go: to the one origin that was registered, at addresses that were looked at first.

A name is looked up when a connection is made, every address that it has is checked, and the connection goes to one of
those. A name that answers otherwise a moment later leads nowhere else.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from coordinator.errors import Misconfigured

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Only canonical forms: what other parsers read otherwise (0x7f.1, 127.1, full-width digits, a@b) is nobody's address.
_ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?/?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_PATH = re.compile(
    r"/(?!/)(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-F]{2})*(?:\?[A-Za-z0-9._~!$&'()*+,;=:@/?%-]+)?", re.ASCII
)
_DOTS = re.compile(r"(?:^|/)(?:\.|%2E){1,2}(?:/|$)", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}

# Never, whatever is listed: the metadata services of clouds, and what is no single host.
_NEVER = tuple(
    ip_network(each)
    for each in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "fe80::/10",
        "fec0::/10",
        "fd00:42::42/128",
        "fd00:ec2::/32",
        "fd20:ce::254/128",
        "ff00::/8",
    )
)
# IPv4 addresses in the clothes of IPv6: which bits of them are the IPv4 address, from the right.
_EMBEDDED = ((ip_network("::/96"), 0), (ip_network("64:ff9b::/96"), 0), (ip_network("2002::/16"), 80))
# Those that nobody has for a service, so none is allowed: Teredo, NAT64 in one network, and IPv4-translated (RFC 2765).
_NO_HOSTS = (ip_network("2001::/32"), ip_network("64:ff9b:1::/48"), ip_network("::ffff:0:0:0/96"))
# Nor ISATAP's (RFC 5214, section 6.1), in any network: they are told by the upper half of the interface's id.
_ISATAP, _ISATAP_MASK = 0x00005EFE, 0xFDFFFFFF


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port, in canonical form."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> "Origin":
        """Read *url*: scheme, host and maybe a port. Raises `Misconfigured`, which quotes no more than the host."""
        found = _ORIGIN.fullmatch(url)
        if found is None:
            raise Misconfigured(
                "the URL of a service is http(s)://host or http(s)://host:port in lower case: no user, path or query"
            )
        scheme, host, port = found[1], found[2].strip("[]"), int(found[3] or _PORTS[found[1]])
        if port > 0xFFFF:
            raise Misconfigured(f"there is no port {port}")
        if ":" in host or _NUMERIC.fullmatch(host.rpartition(".")[2]):
            _refuse_other_spelling(host)
        elif len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
            raise Misconfigured(f"{host!r} is no name of a host")
        return cls(scheme, host, port)

    @property
    def literal(self) -> Address | None:
        """The address that its host is; None where it is a name."""
        return ip_address(self.host) if ":" in self.host or self.host.rpartition(".")[2].isdigit() else None

    @property
    def is_plain(self) -> bool:
        """Whether what is said there can be read, and changed, by whoever is on the way to another machine."""
        literal = self.literal
        here = self.host == "localhost" if literal is None else literal.is_loopback
        return self.scheme == "http" and not here

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def checked_path(path: str) -> str:
    """*path*, with its query if it has one. Raises `Misconfigured` where it could be read as something else.

    An empty query (`/charge?`) is dropped on the way by some, so what arrives would not be what was signed.
    """
    if not _PATH.fullmatch(path) or _DOTS.search(path.partition("?")[0]):
        raise Misconfigured(f"the path of a service begins with one /, and needs no interpretation; not {path[:80]!r}")
    return path


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which addresses a service may have: those of the public internet, and the *networks* that are listed."""

    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, networks: Iterable[str]) -> "Allowed":
        """Raises `Misconfigured` for what is no network."""
        try:
            return cls(tuple(ip_network(each) for each in networks))
        except ValueError as error:
            raise Misconfigured(f"an allowed network is like 10.20.0.0/16: {error}") from error

    def allows(self, address: Address) -> bool:
        """Whether a request may go there."""
        if any(_within(address, network) for network in (*_NEVER, *_NO_HOSTS)) or _is_isatap(address):
            return False
        inner = _embedded(address)
        if inner is not None and not self.allows(inner):
            return False
        if any(_within(address, network) for network in self.networks):
            return True
        return inner is not None or (address.is_global and not address.is_reserved)


def _embedded(address: Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address == IPv6Address("::1"):
        return None
    for network, shift in _EMBEDDED:
        if address in network:
            return IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
    return None


def _is_isatap(address: Address) -> bool:
    return address.version == 6 and (int(address) >> 32) & _ISATAP_MASK == _ISATAP


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _refuse_other_spelling(host: str) -> None:
    try:
        if str(ip_address(host)) == host:
            return
    except ValueError:
        pass
    raise Misconfigured(f"{host!r} is not the usual spelling of an address")
