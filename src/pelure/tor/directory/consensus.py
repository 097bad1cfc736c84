"""Consensus documents, "ns" and "microdesc" flavours (dir-spec section 3.4.1 and 3.9.2): parsing.

Signatures are kept, and checked by :mod:`pelure.tor.directory.consensus_verify`. A consensus of 8,000 relays
parses in a fraction of a second; callers on an event loop still hand it to a thread.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from pelure.errors import DirectoryError
from pelure.tor.directory.exit_policy import PortPolicy
from pelure.tor.directory.protocols import NO_PROTOCOLS, Protocols
from pelure.tor.directory.tokenizer import (
    Item,
    Section,
    decode_base64,
    decode_document,
    parse_hex,
    parse_int,
    parse_time,
    tokenize,
)

MAX_CONSENSUS_LENGTH = 32 << 20
MAX_ROUTERS = 50_000
MAX_SIGNATURES = 64
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


@dataclass(slots=True)
class RouterStatus:
    """One relay's entry. ``published`` and ``descriptor_digest`` are meaningful in the ns flavour only.

    ``bandwidth``: consensus weight, None without a ``w`` line; ``md_digest``: SHA-256 of the
    microdescriptor (microdesc flavour); ``ipv6``: (address, port).
    """

    nickname: str
    rsa_id: bytes
    descriptor_digest: bytes
    published: str
    ip: str
    orport: int
    dirport: int
    ipv6: tuple[str, int] | None = None
    flags: frozenset[str] = frozenset()
    version: str = ""
    protocols: Protocols = NO_PROTOCOLS
    bandwidth: int | None = None
    unmeasured: bool = False
    exit_summary: PortPolicy | None = None
    md_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class SharedRandomValue:
    """A shared random value (srv-spec 4.1.3): 32 bytes and how many reveals went into it."""

    reveals: int
    value: bytes


@dataclass(frozen=True, slots=True)
class DirSource:
    """An authority whose vote went in (or its legacy entry, which has no ``vote_digest``)."""

    nickname: str
    identity: bytes
    hostname: str
    ip: str
    dirport: int
    orport: int
    contact: str = ""
    vote_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class DocumentSignature:
    """A ``directory-signature``: by key ``signing_key`` of authority ``identity`` (20-byte digests)."""

    algorithm: str
    identity: bytes
    signing_key: bytes
    signature: bytes = field(repr=False)


@dataclass(slots=True)
class Consensus:
    """A parsed consensus. Times are seconds since the epoch; ``digests`` are of the signed part.

    ``text`` is the document itself; ``sha3_signed`` the SHA3-256 of the signed part without the
    signatures' keyword, by which consensus diffs name their base.
    """

    flavour: str
    text: bytes = field(repr=False)
    method: int
    valid_after: float
    fresh_until: float
    valid_until: float
    voting_delay: tuple[int, int]
    known_flags: tuple[str, ...]
    params: dict[str, int]
    recommended_client: Protocols
    recommended_relay: Protocols
    required_client: Protocols
    required_relay: Protocols
    client_versions: str
    server_versions: str
    shared_rand_current: SharedRandomValue | None
    shared_rand_previous: SharedRandomValue | None
    sources: list[DirSource]
    routers: list[RouterStatus] = field(repr=False)
    bandwidth_weights: dict[str, int]
    signatures: list[DocumentSignature] = field(repr=False)
    digests: dict[str, bytes]
    sha3_signed: bytes

    @property
    def digest(self) -> bytes:
        """The digest that signatures of this flavour cover: SHA-256 (microdesc) or SHA-1 (ns)."""
        return self.digests["sha1" if self.flavour == "ns" else "sha256"]

    def param(self, name: str, default: int, low: int = INT32_MIN, high: int = INT32_MAX) -> int:
        """The consensus parameter ``name``, clamped to ``low``..``high``; ``default`` if not voted on."""
        return min(max(self.params.get(name, default), low), high)


def parse_consensus(document: bytes) -> Consensus:
    """Parse a consensus of either flavour. Raises ``DirectoryError`` if it is malformed in any way."""
    text = decode_document(document, MAX_CONSENSUS_LENGTH)
    routers_at = _section_start(text, "\nr ", "directory-footer\n")
    footer_at = text.find("\ndirectory-footer\n") + 1
    if footer_at == 0 or footer_at < routers_at:
        raise DirectoryError("the consensus lacks its footer")
    header = Section(list(tokenize(text, 0, routers_at)), "the consensus header")
    footer = Section(list(tokenize(text, footer_at)), "the consensus footer")
    flavour = _flavour(header)
    digests, sha3_signed = _signed_digests(document)
    times = [parse_time(header.one(key).rest) for key in ("valid-after", "fresh-until", "valid-until")]
    if not times[0] < times[1] <= times[2]:
        raise DirectoryError("the consensus's times are out of order")
    delays = header.one("voting-delay")
    return Consensus(
        flavour=flavour,
        text=document,
        method=parse_int(header.one("consensus-method").rest, 1, INT32_MAX),
        valid_after=times[0],
        fresh_until=times[1],
        valid_until=times[2],
        voting_delay=(parse_int(delays.arg(0), 0, INT32_MAX), parse_int(delays.arg(1), 0, INT32_MAX)),
        known_flags=tuple(header.one("known-flags").args),
        params=parse_params(header.maybe("params")),
        recommended_client=_protocols(header, "recommended-client-protocols"),
        recommended_relay=_protocols(header, "recommended-relay-protocols"),
        required_client=_protocols(header, "required-client-protocols"),
        required_relay=_protocols(header, "required-relay-protocols"),
        client_versions=_text(header, "client-versions"),
        server_versions=_text(header, "server-versions"),
        shared_rand_current=parse_shared_random(header.maybe("shared-rand-current-value")),
        shared_rand_previous=parse_shared_random(header.maybe("shared-rand-previous-value")),
        sources=_parse_sources(header),
        routers=_parse_routers(text, routers_at, footer_at, flavour),
        bandwidth_weights=parse_params(footer.maybe("bandwidth-weights")),
        signatures=parse_signatures(footer),
        digests=digests,
        sha3_signed=sha3_signed,
    )


def _section_start(text: str, marker: str, otherwise: str) -> int:
    found = text.find(marker)
    return found + 1 if found >= 0 else max(text.find(f"\n{otherwise}") + 1, 0)


def _flavour(header: Section) -> str:
    version = header.one("network-status-version")
    if header.items[0] is not version or version.arg(0) != "3":
        raise DirectoryError("not a version 3 network status")
    if header.one("vote-status").rest != "consensus":
        raise DirectoryError("a vote where a consensus was expected")
    flavour = version.args[1] if len(version.args) > 1 else "ns"
    if flavour not in ("ns", "microdesc"):
        raise DirectoryError(f"consensus flavour {flavour[:20]!r} is unknown")
    return flavour


def signed_part(document: bytes) -> bytes:
    """What the signatures cover: up to and with the space after the first ``directory-signature``."""
    keyword = b"\ndirectory-signature "
    found = document.find(keyword)
    if found < 0:
        raise DirectoryError("the network status has no signature")
    return document[: found + len(keyword)]


def _signed_digests(document: bytes) -> tuple[dict[str, bytes], bytes]:
    signed = signed_part(document)
    digests = {"sha1": hashlib.sha1(signed).digest(), "sha256": hashlib.sha256(signed).digest()}
    return digests, hashlib.sha3_256(signed).digest()


def _text(section: Section, keyword: str) -> str:
    item = section.maybe(keyword)
    return item.rest if item else ""


def _protocols(section: Section, keyword: str) -> Protocols:
    return Protocols.parse(_text(section, keyword))


def parse_params(item: Item | None) -> dict[str, int]:
    """``key=value`` pairs of a ``params`` or ``bandwidth-weights`` line; 32-bit values, no repeats."""
    values: dict[str, int] = {}
    for word in item.args if item else ():
        key, equals, value = word.partition("=")
        if not key or not equals or key in values:
            raise DirectoryError(f"malformed parameter {word[:40]!r}")
        values[key] = parse_int(value, INT32_MIN, INT32_MAX)
    return values


def parse_shared_random(item: Item | None) -> SharedRandomValue | None:
    """The value of a ``shared-rand-*-value`` line: number of reveals and 32 bytes in base64."""
    if item is None:
        return None
    return SharedRandomValue(parse_int(item.arg(0), 0, INT32_MAX), decode_base64(item.arg(1), 32))


def parse_ip(text: str, version: int) -> str:
    """An IP address of ``version`` in canonical text. Raises ``DirectoryError``."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise DirectoryError(f"malformed IP address {text[:50]!r}") from None
    if address.version != version:
        raise DirectoryError(f"IP address {text!r} is of the wrong family")
    return str(address)


def parse_dir_source(item: Item) -> DirSource:
    """The fixed part of a ``dir-source`` line."""
    return DirSource(
        nickname=item.arg(0),
        identity=parse_hex(item.arg(1), 20),
        hostname=item.arg(2),
        ip=parse_ip(item.arg(3), 4),
        dirport=parse_int(item.arg(4), 0, 65535),
        orport=parse_int(item.arg(5), 0, 65535),
    )


def _parse_sources(header: Section) -> list[DirSource]:
    sources: list[DirSource] = []
    source: DirSource | None = None
    contact = ""
    for item in header.items:
        if item.keyword == "dir-source":
            if source is not None:
                sources.append(source)
            source, contact = parse_dir_source(item), ""
        elif item.keyword == "contact" and source is not None:
            contact = item.rest
        elif item.keyword == "vote-digest" and source is not None:
            fixed = (source.nickname, source.identity, source.hostname, source.ip)
            digest = parse_hex(item.arg(0), 20)
            sources.append(DirSource(*fixed, source.dirport, source.orport, contact, digest))
            source = None
    if source is not None:
        sources.append(source)
    return sources


def parse_signatures(footer: Section) -> list[DocumentSignature]:
    """The ``directory-signature`` items of a footer; the algorithm is SHA-1 where none is named."""
    items = footer.all("directory-signature")
    if len(items) > MAX_SIGNATURES:
        raise DirectoryError("the network status has too many signatures")
    signatures = []
    for item in items:
        args = item.args
        algorithm = args.pop(0) if len(args) >= 3 else "sha1"
        if len(args) < 2:
            raise DirectoryError("too few arguments to 'directory-signature'")
        identity, signing_key = parse_hex(args[0], 20), parse_hex(args[1], 20)
        signatures.append(DocumentSignature(algorithm, identity, signing_key, item.need_object("SIGNATURE")))
    return signatures


@lru_cache(maxsize=4096)
def _flags(text: str) -> frozenset[str]:
    return frozenset(text.split())


@lru_cache(maxsize=4096)
def _shared(text: str) -> str:
    """One object for all equal texts: thousands of relays run a few dozen versions."""
    return text


def _parse_routers(text: str, start: int, end: int, flavour: str) -> list[RouterStatus]:
    """Parse the run of router entries; they must be in strictly ascending order of identity."""
    routers: list[RouterStatus] = []
    previous = b""
    for entry in _router_entries(text, start, end):
        router = _parse_router(entry, flavour)
        if router.rsa_id <= previous or len(routers) >= MAX_ROUTERS:
            raise DirectoryError("the consensus's router entries are out of order or too many")
        previous = router.rsa_id
        routers.append(router)
    return routers


def _router_entries(text: str, start: int, end: int) -> Iterator[str]:
    """The entries of ``text[start:end]``, one by one, without the ``r `` that each starts with."""
    position = start + 2
    while position < end:
        stop = text.find("\nr ", position, end)
        stop = end if stop < 0 else stop
        yield text[position:stop]
        position = stop + 3


def _parse_router(entry: str, flavour: str) -> RouterStatus:
    lines = entry.split("\n")
    router = parse_router_line(lines[0], with_digest=flavour == "ns")
    for line in lines[1:]:
        keyword, _, rest = line.partition(" ")
        if keyword == "s":
            router.flags = _flags(rest)
        elif keyword == "m" and flavour == "microdesc":
            router.md_digest = decode_base64(rest.split(" ", 1)[0], 32)
        elif keyword == "v":
            router.version = _shared(rest)
        elif keyword == "pr":
            router.protocols = Protocols.parse(rest)
        elif keyword == "w":
            _parse_weight(router, rest)
        elif keyword == "a":
            parse_or_address(router, rest)
        elif keyword == "p":
            router.exit_summary = PortPolicy.parse(rest)
    return router


def parse_router_line(rest: str, *, with_digest: bool) -> RouterStatus:
    """The arguments of an ``r`` line; ``with_digest`` if they hold the descriptor digest."""
    args = rest.split()
    if len(args) < 7 + with_digest:
        raise DirectoryError("too few arguments to 'r'")
    digest = decode_base64(args.pop(2), 20) if with_digest else b""
    nickname, identity, date, clock, ip, orport, dirport = args[:7]
    if not 1 <= len(nickname) <= 19 or not nickname.isascii() or not nickname.isalnum():
        raise DirectoryError(f"malformed nickname {nickname[:30]!r}")
    return RouterStatus(
        nickname=nickname,
        rsa_id=decode_base64(identity, 20),
        descriptor_digest=digest,
        published=_shared(f"{date} {clock}"),
        ip=parse_ip(ip, 4),
        orport=parse_int(orport, 0, 65535),
        dirport=parse_int(dirport, 0, 65535),
    )


def parse_or_address(router: RouterStatus, rest: str) -> None:
    """Take the first IPv6 ``a`` line into ``router``; others are ignored, as C tor does."""
    host, _, port = rest.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]") and router.ipv6 is None:
        router.ipv6 = (parse_ip(host[1:-1], 6), parse_int(port, 1, 65535))


def _parse_weight(router: RouterStatus, rest: str) -> None:
    for word in rest.split():
        key, _, value = word.partition("=")
        if key == "Bandwidth":
            router.bandwidth = parse_int(value, 0, (1 << 32) - 1)
        elif key == "Unmeasured":
            router.unmeasured = value == "1"
