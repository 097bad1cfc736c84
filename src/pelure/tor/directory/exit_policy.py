"""Exit policies: full ones of router descriptors (dir-spec 2.1.3) and summaries (``p``/``p6``, 3.8.2).

A summary is ``accept`` or ``reject`` and a list of ports; it speaks of "most" addresses, so a relay may
still refuse a stream that its summary allows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from pelure.errors import DirectoryError

MAX_PORT = 65535
MAX_SUMMARY_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class PortPolicy:
    """Port ``ranges`` (low, high inclusive, ascending): those accepted or, unless ``accepts``, rejected."""

    accepts: bool
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> PortPolicy:
        """Read ``"accept 80,443,8000-8100"``. Raises ``DirectoryError``."""
        return _parse(text)

    def allows(self, port: int) -> bool:
        """True if a stream to ``port`` of some ordinary address would be accepted."""
        listed = any(low <= port <= high for low, high in self.ranges)
        return listed == self.accepts

    @property
    def allows_some(self) -> bool:
        """True if at least one port is accepted: the relay is an exit of some kind."""
        whole = self.ranges == ((1, MAX_PORT),)
        return not whole if not self.accepts else bool(self.ranges)

    def __str__(self) -> str:
        ports = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.ranges)
        return f"{'accept' if self.accepts else 'reject'} {ports}"


REJECT_ALL = PortPolicy(False, ((1, MAX_PORT),))


def parse_port_range(text: str) -> tuple[int, int]:
    """Read ``"80"`` or ``"80-90"``; ports are 1 to 65535. Raises ``DirectoryError``."""
    low_text, dash, high_text = text.partition("-")
    high_text = high_text if dash else low_text
    for number in (low_text, high_text):
        if not (number.isascii() and number.isdigit() and len(number) <= 5):
            raise DirectoryError(f"malformed port range {text[:20]!r}")
    low, high = int(low_text), int(high_text)
    if not 1 <= low <= high <= MAX_PORT:
        raise DirectoryError(f"port range {text!r} is out of order or bounds")
    return low, high


@lru_cache(maxsize=1024)
def _parse(text: str) -> PortPolicy:
    verb, _, ports = text.strip().partition(" ")
    if verb not in ("accept", "reject") or not ports or len(text) > MAX_SUMMARY_LENGTH:
        raise DirectoryError(f"malformed exit policy summary {text[:40]!r}")
    ranges = tuple(parse_port_range(piece) for piece in ports.strip().split(","))
    return PortPolicy(verb == "accept", ranges)


IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIVATE_NETWORKS: tuple[IPNetwork, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "192.168.0.0/16",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "::/8",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
        "::/127",
    )
)
"""What ``private`` stands for in a policy, and what a summary takes no notice of being rejected."""

ALL_ADDRESSES: tuple[IPNetwork, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))

# A port counts as rejected once more than an IPv4 /7 or an IPv6 /16 is; IPv6 is counted in units of /64.
_CUTOFF = {4: 1 << 25, 6: 1 << 48}
_SCALED_BITS = {4: 32, 6: 64}


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule: ``networks`` (several for ``*`` and ``private``) and ports ``low``..``high``."""

    accepts: bool
    networks: tuple[IPNetwork, ...]
    low: int
    high: int
    text: str

    @classmethod
    def parse(cls, verb: str, pattern: str) -> PolicyRule:
        """Read ``accept``/``reject`` (or ``accept6``/``reject6``) and ``ADDRESS[/BITS][:PORTS]``.

        One for IPv6 with an IPv4 address matches nothing, as in C tor. Raises ``DirectoryError``.
        """
        if verb not in ("accept", "reject", "accept6", "reject6"):
            raise DirectoryError(f"unknown exit policy verb {verb[:20]!r}")
        address, ports = _split_pattern(pattern.strip())
        low, high = (1, MAX_PORT) if ports == "*" else parse_port_range(ports)
        networks = _parse_networks(address, ipv6_only=verb.endswith("6"))
        return cls(verb.startswith("accept"), networks, low, high, f"{verb} {pattern.strip()}")

    def matches(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bool:
        """Whether the rule speaks of ``address`` and ``port``."""
        return self.low <= port <= self.high and any(address in network for network in self.networks)


def _split_pattern(pattern: str) -> tuple[str, str]:
    if pattern.startswith("["):
        address, bracket, rest = pattern[1:].partition("]")
        mask, _, ports = rest.partition(":")
        if not bracket:
            raise DirectoryError(f"malformed exit policy pattern {pattern[:60]!r}")
        return address + mask, ports or "*"
    address, _, ports = pattern.partition(":")
    return address, ports or "*"


def _parse_networks(address: str, *, ipv6_only: bool) -> tuple[IPNetwork, ...]:
    versions = (6,) if ipv6_only else (4, 6)
    named = {
        "*": ALL_ADDRESSES,
        "*4": ALL_ADDRESSES[:1],
        "*6": ALL_ADDRESSES[1:],
        "private": PRIVATE_NETWORKS,
    }
    if address in named:
        return tuple(network for network in named[address] if network.version in versions)
    try:
        network = ipaddress.ip_network(address, strict=False)
    except ValueError:
        raise DirectoryError(f"malformed address {address[:60]!r} in an exit policy") from None
    return (network,) if network.version in versions else ()


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """An ordered list of rules; the first that matches decides, and what none matches is accepted."""

    rules: tuple[PolicyRule, ...]

    @classmethod
    def parse(cls, lines: Iterable[str]) -> ExitPolicy:
        """Read lines such as ``"accept *:80"``. Raises ``DirectoryError``."""
        pairs = (line.strip().partition(" ") for line in lines)
        return cls(tuple(PolicyRule.parse(verb, pattern) for verb, _, pattern in pairs))

    def allows(self, ip: str, port: int) -> bool:
        """Whether a stream to ``ip``:``port`` is accepted; ``DirectoryError`` for a malformed ``ip``."""
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            raise DirectoryError(f"malformed IP address {ip[:60]!r}") from None
        for rule in self.rules:
            if rule.matches(address, port):
                return rule.accepts
        return True

    def lines(self) -> list[str]:
        """The rules as a router descriptor lists them: for IPv4 only, and without ``*4``.

        C tor's authorities refuse others; what holds for IPv6 is in the descriptor's summary.
        """
        rules = (rule for rule in self.rules if any(network.version == 4 for network in rule.networks))
        return [rule.text.replace(" *4", " *") for rule in rules]

    def summary(self, version: int = 4) -> PortPolicy:
        """The port summary for IP ``version`` (dir-spec 3.8.2), the very one that C tor computes."""
        return PortPolicy.parse(summarize(self.rules, version))


@dataclass(slots=True)
class _PortSpan:
    low: int
    high: int
    rejected: int = 0
    accepted: bool = False


def _cut_spans(spans: list[_PortSpan], low: int, high: int) -> list[_PortSpan]:
    """Split ``spans`` in place so that ``low``..``high`` is made of whole ones; return those."""
    for edge in (low, high + 1):
        for index, span in enumerate(spans):
            if span.low < edge <= span.high:
                spans.insert(index + 1, _PortSpan(edge, span.high, span.rejected, span.accepted))
                span.high = edge - 1
                break
    return [span for span in spans if low <= span.low and span.high <= high]


def summarize(rules: Iterable[PolicyRule], version: int) -> str:
    """The summary of ``rules`` for IP ``version`` as text, cut to 1000 characters as C tor does."""
    spans = [_PortSpan(1, MAX_PORT)]
    for rule in rules:
        for network in rule.networks:
            if network.version == version:
                _apply_rule(spans, rule, network)
    runs: list[_PortSpan] = []
    for span in spans:
        if runs and runs[-1].accepted == span.accepted:
            runs[-1].high = span.high
        else:
            runs.append(_PortSpan(span.low, span.high, 0, span.accepted))
    accepted = [_format_span(span) for span in runs if span.accepted]
    rejected = [_format_span(span) for span in runs if not span.accepted]
    if not accepted:
        return f"reject 1-{MAX_PORT}"
    if not rejected:
        return f"accept 1-{MAX_PORT}"
    accept_text, reject_text = ",".join(accepted), ",".join(rejected)
    room = MAX_SUMMARY_LENGTH - len("accept ")
    if len(accept_text) > room and len(reject_text) > room:
        return "accept " + accept_text[: accept_text.rindex(",", 0, room + 1)]
    return f"reject {reject_text}" if len(reject_text) < len(accept_text) else f"accept {accept_text}"


def _apply_rule(spans: list[_PortSpan], rule: PolicyRule, network: IPNetwork) -> None:
    version = network.version
    if rule.accepts:
        if network.prefixlen == 0:
            for span in _cut_spans(spans, rule.low, rule.high):
                span.accepted = span.accepted or span.rejected <= _CUTOFF[version]
        return
    if network in PRIVATE_NETWORKS or network.prefixlen > _SCALED_BITS[version]:
        return
    for span in _cut_spans(spans, rule.low, rule.high):
        span.rejected += 1 << (_SCALED_BITS[version] - network.prefixlen)


def _format_span(span: _PortSpan) -> str:
    return str(span.low) if span.low == span.high else f"{span.low}-{span.high}"
