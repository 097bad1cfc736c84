"""Which Tor network: its directory authorities and fallbacks, from torrc syntax (tor manual, "DirAuthority").

The public network's list is built in; a private network is a file with ``DirAuthority`` lines exactly as
C tor takes them. Other torrc options are kept by name for whoever needs them; none is ever an error.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pelure.errors import ConfigError
from pelure.tor.directory.public_network import PUBLIC_TORRC
from pelure.tor.directory.relay import Relay

MAX_TORRC_LENGTH = 1 << 20
_NICKNAME = re.compile(r"[A-Za-z0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class DirAuthority:
    """One ``DirAuthority``: ``v3ident`` (20 bytes, None unless it votes), ``rsa_id`` of its relay half."""

    nickname: str
    v3ident: bytes | None
    rsa_id: bytes
    ip: str
    dirport: int
    orport: int
    ipv6: tuple[str, int] | None = None

    def relay(self) -> Relay:
        """The relay half, reachable by CREATE_FAST (its onion keys aren't known beforehand)."""
        return _bare_relay(self.nickname, self.rsa_id, self.ip, self.orport, self.ipv6)


@dataclass(frozen=True, slots=True)
class FallbackDir:
    """One ``FallbackDir``: a stable relay that answers directory requests of clients that know nothing."""

    rsa_id: bytes
    ip: str
    orport: int
    ipv6: tuple[str, int] | None = None

    def relay(self) -> Relay:
        """The relay to connect to, reachable by CREATE_FAST."""
        return _bare_relay(self.rsa_id.hex().upper()[:8], self.rsa_id, self.ip, self.orport, self.ipv6)


def _bare_relay(nickname: str, rsa_id: bytes, ip: str, port: int, ipv6: tuple[str, int] | None) -> Relay:
    return Relay(nickname, rsa_id, None, None, ((ip, port), *((ipv6,) if ipv6 else ())))


@dataclass(frozen=True, slots=True)
class Network:
    """A network's fixed points. ``options`` maps lower-case torrc option names to their values in order."""

    name: str
    authorities: tuple[DirAuthority, ...]
    fallbacks: tuple[FallbackDir, ...] = ()
    testing: bool = False
    options: dict[str, list[str]] = field(default_factory=dict)

    @property
    def voters(self) -> tuple[DirAuthority, ...]:
        """The authorities that sign consensuses."""
        return tuple(authority for authority in self.authorities if authority.v3ident is not None)

    def flag(self, option: str, default: bool) -> bool:
        """The boolean torrc ``option`` (``0``/``1``); ``default`` if it isn't set."""
        values = self.options.get(option.lower())
        return values[-1].strip() == "1" if values else default

    @property
    def distinct_subnets(self) -> bool:
        """Whether two relays of one /16 may not share a circuit (``EnforceDistinctSubnets``)."""
        return self.flag("EnforceDistinctSubnets", not self.testing)


def parse_network(text: str, name: str = "private") -> Network:
    """Read a network from torrc ``text``. Raises ``ConfigError`` with the line at fault."""
    if len(text) > MAX_TORRC_LENGTH:
        raise ConfigError("the network file is too large")
    authorities: list[DirAuthority] = []
    fallbacks: list[FallbackDir] = []
    options: dict[str, list[str]] = {}
    for number, key, value in _torrc_lines(text):
        try:
            if key in ("dirauthority", "alternatedirauthority"):
                authorities.append(_parse_authority(value))
            elif key == "fallbackdir":
                fallbacks.append(_parse_fallback(value))
            else:
                options.setdefault(key, []).append(value)
        except ValueError as error:
            raise ConfigError(f"network file, line {number}: {error}") from None
    if not any(authority.v3ident is not None for authority in authorities):
        raise ConfigError("the network file has no DirAuthority line with a v3ident")
    testing = options.get("testingtornetwork", ["0"])[-1].strip() == "1"
    return Network(name, tuple(authorities), tuple(fallbacks), testing, options)


def torrc_options(text: str) -> dict[str, list[str]]:
    """All options of a torrc by lower-case name, values in order. Raises ``ConfigError`` if too large."""
    if len(text) > MAX_TORRC_LENGTH:
        raise ConfigError("the torrc is too large")
    options: dict[str, list[str]] = {}
    for _, key, value in _torrc_lines(text):
        options.setdefault(key, []).append(value)
    return options


def _torrc_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, lower-case key, value); comments and continuations are resolved."""
    pending, first = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].rstrip()
        first = first if pending else number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        words = (pending + line).strip().split(None, 1)
        pending = ""
        if words:
            value = words[1].strip() if len(words) > 1 else ""
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            yield first, words[0].lstrip("+/").lower(), value


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError(f"{text[:20]!r} is not a port")
    return int(text)


def _parse_identity(text: str) -> bytes:
    if len(text) != 40:
        raise ValueError(f"fingerprint {text[:50]!r} needs 40 hexadecimal digits")
    return bytes.fromhex(text)


def _parse_ipv6(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return str(ipaddress.IPv6Address(host.strip("[]"))), _parse_port(port)


def _parse_flags(words: list[str]) -> dict[str, str]:
    """Take the leading ``key=value`` and bare words off ``words``, until one starts with a digit."""
    flags: dict[str, str] = {}
    while words and not words[0][0].isdigit():
        key, _, value = words.pop(0).partition("=")
        flags[key.lower()] = value
    return flags


def _parse_authority(value: str) -> DirAuthority:
    words = value.split()
    nickname = words.pop(0) if words and _NICKNAME.fullmatch(words[0]) else "unnamed"
    flags = _parse_flags(words)
    if len(words) < 2:
        raise ValueError("DirAuthority needs an address and a fingerprint")
    host, _, dirport = words[0].partition(":")
    return DirAuthority(
        nickname=nickname,
        v3ident=_parse_identity(flags["v3ident"]) if "v3ident" in flags else None,
        rsa_id=_parse_identity("".join(words[1:])),
        ip=str(ipaddress.IPv4Address(host)),
        dirport=_parse_port(dirport),
        orport=_parse_port(flags["orport"]) if "orport" in flags else 0,
        ipv6=_parse_ipv6(flags["ipv6"]) if "ipv6" in flags else None,
    )


def _parse_fallback(value: str) -> FallbackDir:
    words = value.split()
    if not words:
        raise ValueError("FallbackDir needs an address")
    flags = _parse_flags(words[1:])
    if "id" not in flags or "orport" not in flags:
        raise ValueError("FallbackDir needs orport= and id=")
    return FallbackDir(
        rsa_id=_parse_identity(flags["id"]),
        ip=str(ipaddress.IPv4Address(words[0].partition(":")[0])),
        orport=_parse_port(flags["orport"]),
        ipv6=_parse_ipv6(flags["ipv6"]) if "ipv6" in flags else None,
    )


PUBLIC = parse_network(PUBLIC_TORRC, "public")
