"""A relay's settings, named and written as in torrc (tor manual, "SERVER OPTIONS")."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pelure.errors import ConfigError, DirectoryError
from pelure.tor.directory.exit_policy import ExitPolicy
from pelure.tor.directory.family import is_legal_member, is_nickname
from pelure.tor.directory.network import Network
from pelure.tor.net.memory import default_limit

log = logging.getLogger(__name__)

DEFAULT_EXIT_POLICY = (
    "reject *:25",
    "reject *:119",
    "reject *:135-139",
    "reject *:445",
    "reject *:563",
    "reject *:1214",
    "reject *:4661-4666",
    "reject *:6346-6429",
    "reject *:6699",
    "reject *:6881-6999",
    "accept *:*",
)
REDUCED_EXIT_PORTS = (
    "20-23,43,53,79-81,88,110,143,194,220,389,443,464,465,531,543-544,554,563,587,636,706,749,873,902-904,981,"
    "989-995,1194,1220,1293,1500,1533,1677,1723,1755,1863,2082-2083,2086-2087,2095-2096,2102-2104,3128,3389,"
    "3690,4321,4643,5050,5190,5222-5223,5228,5900,6660-6669,6679,6697,8000,8008,8074,8080,8082,8087-8088,"
    "8232-8233,8332-8333,8443,8888,9418,9999,10000,11371,19294,19638,50002,64738"
)
"""What ``ReducedExitPolicy`` accepts (tor manual)."""
REDUCED_EXIT_POLICY = (*(f"accept *:{ports}" for ports in REDUCED_EXIT_PORTS.split(",")), "reject *:*")
ANY, ANY6 = "0.0.0.0", "::"
REJECT_PRIVATE = "reject private:*"
UNLIMITED = 1 << 30  # bytes a second: no limit worth the name
LEAST_RATE = 75 * 1024  # bytes a second: below it a relay helps nobody (C tor demands it too)
LEAST_MEMORY = 64 << 20  # bytes: below it a relay does not work (C tor raises it too)


@dataclass(frozen=True)
class RelayConfig:
    """What :class:`~pelure.tor.relay.server.RelayServer` needs to know.

    ``address``: the IPv4 address others reach the relay at; ``bind``: the one to listen on; ``orport``: 0
    takes any free port. ``address6``, ``bind6``, ``orport6``: the same for IPv6; without ``address6`` the
    relay has none. ``assume_reachable``: publish without testing whether others reach these addresses.
    ``bandwidth_rate`` (bytes a second) and ``bandwidth_burst`` (bytes) limit what all links together read,
    and what they write.
    """

    network: Network
    data_directory: Path
    nickname: str = "Unnamed"
    address: str = "127.0.0.1"
    bind: str = "0.0.0.0"
    orport: int = 9001
    address6: str = ""
    bind6: str = "::"
    orport6: int = 9001
    contact: str = ""
    exit_policy: ExitPolicy = field(default_factory=lambda: ExitPolicy.parse(["reject *:*"]))
    ipv6_exit: bool = False
    family: tuple[str, ...] = ()
    directory_cache: bool = True
    allow_private_addresses: bool = False
    bandwidth_rate: int = UNLIMITED
    bandwidth_burst: int = UNLIMITED
    memory_limit: int = field(default_factory=default_limit)
    publish: bool = True
    assume_reachable: bool = False

    def __post_init__(self) -> None:
        if not is_nickname(self.nickname):
            raise ConfigError(f"Nickname {self.nickname!r} is not 1 to 19 letters and digits")
        try:
            ipaddress.IPv4Address(self.address)
            ipaddress.ip_address(self.bind)
        except ValueError:
            raise ConfigError("a relay needs the IPv4 address that others reach it at (Address)") from None
        try:
            ipaddress.IPv6Address(self.address6 or "::1")
            ipaddress.IPv6Address(self.bind6)
        except ValueError:
            raise ConfigError(f"{self.address6!r} or {self.bind6!r} is no IPv6 address") from None
        if self.bandwidth_rate < LEAST_RATE:
            raise ConfigError(f"a relay carries {LEAST_RATE >> 10} KBytes a second at least")
        if self.bandwidth_burst < self.bandwidth_rate:
            raise ConfigError("BandwidthBurst is at least as much as BandwidthRate")
        if len(self.contact.splitlines()) > 1:
            raise ConfigError("ContactInfo is one line")
        for port in (self.orport, self.orport6):
            if not 0 <= port <= 65535:
                raise ConfigError(f"ORPort {port} is not a port")

    @classmethod
    def from_torrc(cls, network: Network, options: Mapping[str, Sequence[str]], data: Path) -> RelayConfig:
        """Read torrc ``options`` (lower-case names, as ``Network.options``). Raises ``ConfigError``."""
        reader = _Options(options)
        addresses, ports = reader.addresses(), reader.endpoints("orport")
        bind, port = ports.get(4, (ANY, 9001))
        address = addresses.get(4) or ("127.0.0.1" if network.testing else "")
        address = address or (bind if bind != ANY else "")
        bind6, port6 = ports.get(6, (ANY6, port))
        address6 = addresses.get(6) or (bind6 if bind6 != ANY6 else "")
        if 6 in ports and not address6:
            raise ConfigError("an IPv6 ORPort needs the IPv6 address that others reach it at (Address)")
        rate, burst = reader.bandwidth()
        return cls(
            network=network,
            data_directory=Path(reader.text("datadirectory", str(data))),
            nickname=reader.text("nickname", "Unnamed"),
            address=address,
            bind=bind,
            orport=port,
            address6=address6,
            bind6=bind6,
            orport6=port6,
            contact=reader.text("contactinfo", ""),
            exit_policy=reader.exit_policy([one for one in (address, address6) if one]),
            ipv6_exit=reader.flag("ipv6exit", False),
            family=reader.family(),
            directory_cache=reader.flag("dircache", True),
            allow_private_addresses=reader.flag("extendallowprivateaddresses", network.testing),
            bandwidth_rate=rate,
            bandwidth_burst=burst,
            memory_limit=reader.memory_limit(),
            publish=reader.text("publishserverdescriptor", "1") != "0",
            assume_reachable=reader.flag("assumereachable", network.testing),
        )


_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([a-z]*)", re.IGNORECASE)
_PORT = re.compile(r"[0-9]{1,5}")


def _units() -> dict[str, int]:
    """Bytes by the name of their unit, in lower case."""
    units = {"": 1, "b": 1, "byte": 1, "bytes": 1, "m": 1 << 20}
    for power, prefix in ((10, "kilo"), (20, "mega"), (30, "giga"), (40, "tera")):
        units[f"{prefix[0]}b"] = 1 << power
        for start in (prefix, prefix[0]):
            units |= dict.fromkeys((f"{start}byte", f"{start}bytes"), 1 << power)
            units |= dict.fromkeys((f"{start}bit", f"{start}bits"), 1 << power - 3)
    return units


_UNITS = _units()


class _Options:
    """Typed access to torrc options; the last of several lines counts."""

    def __init__(self, options: Mapping[str, Sequence[str]]) -> None:
        self._options = options

    def all(self, name: str) -> Sequence[str]:
        return self._options.get(name, ())

    def text(self, name: str, default: str) -> str:
        values = self.all(name)
        return values[-1].strip() if values else default

    def flag(self, name: str, default: bool) -> bool:
        text = self.text(name, "1" if default else "0")
        if text not in ("0", "1", "auto"):
            raise ConfigError(f"{name} is 0 or 1, not {text!r}")
        return default if text == "auto" else text == "1"

    def size(self, name: str, default: int) -> int:
        amount = _AMOUNT.fullmatch(self.text(name, str(default)))
        factor = _UNITS.get(amount[2].lower()) if amount else None
        if amount is None or factor is None:
            raise ConfigError(f"{name} is a number of bytes such as '100 MBytes'")
        return int(float(amount[1]) * factor)

    def memory_limit(self) -> int:
        """Bytes; 0 leaves it to the relay, as in C tor, and too little to work with is raised."""
        limit = self.size("maxmeminqueues", 0) or default_limit()
        if limit < LEAST_MEMORY:
            log.warning("MaxMemInQueues is %d MBytes at least: that much is used", LEAST_MEMORY >> 20)
        return max(limit, LEAST_MEMORY)

    def bandwidth(self) -> tuple[int, int]:
        """Rate and burst: the lesser of what holds for all traffic and for relayed traffic, which is all."""
        rate, burst = self.size("bandwidthrate", UNLIMITED), self.size("bandwidthburst", UNLIMITED)
        relay_rate = self.size("relaybandwidthrate", 0)
        relay_burst = self.size("relaybandwidthburst", 0)
        if relay_rate or relay_burst:  # one that is not given is as the other
            rate, burst = min(rate, relay_rate or relay_burst), min(burst, relay_burst or relay_rate)
        return rate, burst

    def addresses(self) -> dict[int, str]:
        """The ``Address`` lines by IP version."""
        found: dict[int, str] = {}
        for line in self.all("address"):
            text = line.strip().strip("[]")
            try:
                found[ipaddress.ip_address(text).version] = text
            except ValueError:
                raise ConfigError(f"Address {text!r} is no IP address") from None
        return found

    def family(self) -> tuple[str, ...]:
        """The members on the ``MyFamily`` lines; a fingerprint's ``$`` may be left out there."""
        words = [word for line in self.all("myfamily") for word in line.replace(",", " ").split()]
        members = tuple(word if is_legal_member(word) else f"${word}" for word in words)
        for word, member in zip(words, members, strict=True):
            if not is_legal_member(member):
                raise ConfigError(f"MyFamily: {word!r} is neither a fingerprint nor a nickname")
        return members

    def endpoints(self, name: str) -> dict[int, tuple[str, int]]:
        """``[ADDRESS:]PORT`` lines by IP version; the flags behind them are C tor's."""
        found: dict[int, tuple[str, int]] = {}
        for line in self.all(name):
            words = line.split()
            where, colon, number = words[0].rpartition(":") if words else ("", "", "")
            if number == "auto":
                number = "0"
            if not _PORT.fullmatch(number):
                raise ConfigError(f"{name} is a port or ADDRESS:PORT")
            version = 6 if ":" in where else 4
            found[version] = (where.strip("[]") if colon else ANY, int(number))
        return found

    def exit_policy(self, own: Sequence[str]) -> ExitPolicy:
        """An exit is a relay that says so: without ``ExitRelay 1`` or a policy nothing is let out.

        ``own``: this machine's addresses, which count among the private ones: firewalls trust them.
        """
        lines = [part.strip() for line in self.all("exitpolicy") for part in line.split(",") if part.strip()]
        if not self.flag("exitrelay", bool(lines)):
            lines = ["reject *:*"]
        else:
            if not any(line.split(None, 1)[-1].startswith("*:*") for line in lines):
                reduced = self.flag("reducedexitpolicy", False)
                lines += REDUCED_EXIT_POLICY if reduced else DEFAULT_EXIT_POLICY
            if self.flag("exitpolicyrejectprivate", True):
                names = [f"[{one}]" if ":" in one else one for one in own]
                lines[:0] = [REJECT_PRIVATE, *(f"reject {one}:*" for one in names)]
        try:
            return ExitPolicy.parse(lines)
        except DirectoryError as error:
            raise ConfigError(f"ExitPolicy: {error}") from None
