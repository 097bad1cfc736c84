"""Status votes of directory authorities (dir-spec section 3.4.1): their contents, parsed and checked.

A vote's entries are kept as the consensus computation needs them (:mod:`consensus_compute`): text that is
only counted and copied, such as protocol lists and policy summaries, stays text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from pelure.errors import CryptoError, DirectoryError
from pelure.tor.directory.consensus import (
    INT32_MAX,
    MAX_ROUTERS,
    DirSource,
    SharedRandomValue,
    parse_dir_source,
    parse_or_address,
    parse_params,
    parse_router_line,
    parse_shared_random,
    parse_signatures,
    signed_part,
)
from pelure.tor.directory.exit_policy import PortPolicy
from pelure.tor.directory.key_certificate import KeyCertificate, parse_key_certificate
from pelure.tor.directory.protocols import Protocols
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

MAX_VOTE_LENGTH = 64 << 20
MAX_HEADER_LENGTH = 1 << 20
MAX_FOOTER_LENGTH = 1 << 16
MAX_KNOWN_FLAGS = 64
MAX_COMMITS = 256
MIN_DELAY = 2
NO_ED25519_ID = bytes(32)
UINT32_MAX = (1 << 32) - 1
PROTOCOL_LISTS = (
    "recommended-relay-protocols",
    "recommended-client-protocols",
    "required-relay-protocols",
    "required-client-protocols",
)


@dataclass(slots=True)
class VoteEntry:
    """What one authority says of one relay.

    ``published``: epoch seconds. ``ed_id``: 32 bytes, all zero for ``id ed25519 none``, None without ``id``
    line. ``version``, ``protocols``, ``exit_summary``: text of the ``v``, ``pr`` and ``p`` lines, None if
    absent. ``bandwidth``, ``measured``: kilobytes a second. ``microdescs``: arguments of the ``m`` lines.
    """

    nickname: str
    rsa_id: bytes
    descriptor_digest: bytes
    published: float
    ip: str
    orport: int
    dirport: int
    flags: frozenset[str]
    ipv6: tuple[str, int] | None = None
    version: str | None = None
    protocols: str | None = None
    bandwidth: int | None = None
    measured: int | None = None
    exit_summary: str | None = None
    ed_id: bytes | None = None
    stats: str = ""
    microdescs: list[str] = field(default_factory=list)

    def microdesc_digest(self, method: int) -> bytes | None:
        """The SHA-256 (32 bytes) of the microdescriptor made by consensus ``method``, if the vote has one."""
        for line in self.microdescs:
            methods, _, digests = line.partition(" ")
            if str(method) in methods.split(","):
                for word in digests.split():
                    if word.startswith("sha256="):
                        return decode_base64(word.removeprefix("sha256="), 32)
                return None
        return None


@dataclass(frozen=True, slots=True)
class SharedRandomCommit:
    """A ``shared-rand-commit`` line (srv-spec 4.1.1): base64 ``commit`` and, if revealed, ``reveal``."""

    identity: bytes
    commit: str
    reveal: str = ""


@dataclass(slots=True)
class Vote:
    """One authority's vote. Times: epoch seconds; ``digest``: SHA-1 of the signed part (empty until encoded).

    ``source`` carries the contact line. ``protocol_lists`` maps the keywords of ``PROTOCOL_LISTS`` to text.
    """

    methods: tuple[int, ...]
    published: float
    valid_after: float
    fresh_until: float
    valid_until: float
    voting_delay: tuple[int, int]
    known_flags: tuple[str, ...]
    source: DirSource
    certificate: KeyCertificate
    entries: list[VoteEntry] = field(repr=False)
    params: dict[str, int] = field(default_factory=dict)
    protocol_lists: dict[str, str] = field(default_factory=dict)
    client_versions: str | None = None
    server_versions: str | None = None
    packages: list[str] = field(default_factory=list)
    flag_thresholds: str = ""
    legacy_identity: bytes | None = None
    shared_rand_participates: bool = False
    commits: list[SharedRandomCommit] = field(default_factory=list)
    shared_rand_previous: SharedRandomValue | None = None
    shared_rand_current: SharedRandomValue | None = None
    digest: bytes = b""
    text: bytes = field(default=b"", repr=False)

    @property
    def identity(self) -> bytes:
        """The voting authority's v3 identity (20 bytes)."""
        return self.source.identity


def parse_vote(document: bytes, acceptable: Callable[[bytes, float], None] | None = None) -> Vote:
    """Parse a vote and check its certificate and signature.

    Whether the authority is one that may vote, and the vote's times, are the caller's to check:
    ``acceptable(identity, valid_after)`` may raise ``DirectoryError`` before thousands of entries are read
    for nothing. Raises ``DirectoryError``.
    """
    text = decode_document(document, MAX_VOTE_LENGTH)
    footer_at = text.find("\ndirectory-footer\n") + 1
    routers_at = text.find("\nr ", 0, footer_at) + 1 or footer_at
    if footer_at == 0:
        raise DirectoryError("the vote lacks its footer")
    if routers_at > MAX_HEADER_LENGTH or len(text) - footer_at > MAX_FOOTER_LENGTH:
        raise DirectoryError("the vote's header or footer is too long")
    header = Section(list(tokenize(text, 0, routers_at)), "the vote header")
    footer = Section(list(tokenize(text, footer_at)), "the vote footer")
    certificate = _embedded_certificate(document, header)
    source = _check_source(header, certificate)
    digest = _check_signature(document, footer, certificate)
    known_flags = tuple(header.one("known-flags").args)
    if list(known_flags) != sorted(set(known_flags)) or len(known_flags) > MAX_KNOWN_FLAGS:
        raise DirectoryError("the vote's known-flags are out of order or too many")
    valid_after, fresh_until, valid_until = _times(header)
    if acceptable is not None:
        acceptable(source.identity, valid_after)
    participates = header.maybe("shared-rand-participate") is not None
    return Vote(
        methods=tuple(parse_int(word, 1, INT32_MAX) for word in header.one("consensus-methods").args),
        published=parse_time(header.one("published").rest),
        valid_after=valid_after,
        fresh_until=fresh_until,
        valid_until=valid_until,
        voting_delay=_voting_delay(header.one("voting-delay")),
        known_flags=known_flags,
        source=source,
        certificate=certificate,
        entries=_parse_entries(text[routers_at:footer_at], frozenset(known_flags)),
        params=parse_params(header.maybe("params")),
        protocol_lists=_protocol_lists(header),
        client_versions=_optional(header, "client-versions"),
        server_versions=_optional(header, "server-versions"),
        packages=[item.rest for item in header.all("package")],
        flag_thresholds=_optional(header, "flag-thresholds") or "",
        legacy_identity=_legacy_identity(header),
        shared_rand_participates=participates,
        commits=_parse_commits(header) if participates else [],
        shared_rand_previous=parse_shared_random(header.maybe("shared-rand-previous-value")),
        shared_rand_current=parse_shared_random(header.maybe("shared-rand-current-value")),
        digest=digest,
        text=document,
    )


def _embedded_certificate(document: bytes, header: Section) -> KeyCertificate:
    start = header.one("dir-key-certificate-version").start
    end = header.one("dir-key-certification").end
    if start >= end:
        raise DirectoryError("the vote's key certificate is malformed")
    return parse_key_certificate(document[start:end])


def _check_source(header: Section, certificate: KeyCertificate) -> DirSource:
    if header.items[0].keyword != "network-status-version" or header.items[0].arg(0) != "3":
        raise DirectoryError("not a version 3 network status")
    if header.one("vote-status").rest != "vote":
        raise DirectoryError("a consensus where a vote was expected")
    source = parse_dir_source(header.one("dir-source"))
    if source.identity != certificate.identity:
        raise DirectoryError("the vote's source is not the owner of its certificate")
    fixed = (source.nickname, source.identity, source.hostname, source.ip, source.dirport, source.orport)
    return DirSource(*fixed, contact=header.one("contact").rest)


def _check_signature(document: bytes, footer: Section, certificate: KeyCertificate) -> bytes:
    """Return the SHA-1 that the vote's one signature covers, after checking it."""
    signatures = parse_signatures(footer)
    digest = hashlib.sha1(signed_part(document)).digest()
    if len(signatures) != 1 or footer.items[-1].keyword != "directory-signature":
        raise DirectoryError("a vote must end with exactly one signature")
    signature = signatures[0]
    if (signature.algorithm, signature.identity) != ("sha1", certificate.identity):
        raise DirectoryError("the vote is signed by another authority")
    if signature.signing_key != certificate.signing_key_digest:
        raise DirectoryError("the vote is signed by another key than its certificate's")
    try:
        certificate.signing_key.verify(signature.signature, digest)
    except CryptoError as error:
        raise DirectoryError("the vote's signature does not verify") from error
    return digest


def _times(header: Section) -> list[float]:
    """Valid-after, fresh-until and valid-until."""
    times = [parse_time(header.one(key).rest) for key in ("valid-after", "fresh-until", "valid-until")]
    if not times[0] < times[1] < times[2]:
        raise DirectoryError("the vote's times are out of order")
    return times


def _voting_delay(item: Item) -> tuple[int, int]:
    return parse_int(item.arg(0), MIN_DELAY, INT32_MAX), parse_int(item.arg(1), MIN_DELAY, INT32_MAX)


def _optional(section: Section, keyword: str) -> str | None:
    item = section.maybe(keyword)
    return item.rest if item else None


def _protocol_lists(header: Section) -> dict[str, str]:
    lists = {keyword: text for keyword in PROTOCOL_LISTS if (text := _optional(header, keyword)) is not None}
    for text in lists.values():
        Protocols.parse(text)
    return lists


def _legacy_identity(header: Section) -> bytes | None:
    item = header.maybe("legacy-dir-key")
    return parse_hex(item.arg(0), 20) if item else None


def _parse_commits(header: Section) -> list[SharedRandomCommit]:
    items = header.all("shared-rand-commit")
    if len(items) > MAX_COMMITS:
        raise DirectoryError("the vote has too many shared random commitments")
    commits = []
    for item in items:
        args = item.args
        if len(args) < 4 or args[:2] != ["1", "sha3-256"]:
            continue  # of a later version of the protocol: not counted by anybody who does not know it
        commits.append(SharedRandomCommit(parse_hex(args[2], 20), args[3], args[4] if len(args) > 4 else ""))
    return commits


def _parse_entries(text: str, known_flags: frozenset[str]) -> list[VoteEntry]:
    if not text:
        return []
    chunks = text.removeprefix("r ").split("\nr ")
    if len(chunks) > MAX_ROUTERS:
        raise DirectoryError("the vote lists too many routers")
    entries = [_parse_entry(chunk, known_flags) for chunk in chunks]
    identities = [entry.rsa_id for entry in entries]
    if any(one >= other for one, other in pairwise(identities)):
        raise DirectoryError("the vote's router entries are out of order")
    ed_ids = [entry.ed_id for entry in entries if entry.ed_id not in (None, NO_ED25519_ID)]
    if len(set(ed_ids)) != len(ed_ids):
        raise DirectoryError("the vote lists an Ed25519 identity twice")
    return entries


def _parse_entry(chunk: str, known_flags: frozenset[str]) -> VoteEntry:
    lines = chunk.split("\n")
    router = parse_router_line(lines[0], with_digest=True)
    entry = VoteEntry(
        nickname=router.nickname,
        rsa_id=router.rsa_id,
        descriptor_digest=router.descriptor_digest,
        published=parse_time(router.published),
        ip=router.ip,
        orport=router.orport,
        dirport=router.dirport,
        flags=frozenset(),
    )
    for line in lines[1:]:
        keyword, _, rest = line.partition(" ")
        if keyword == "s":
            entry.flags = frozenset(rest.split())
            if not entry.flags <= known_flags:
                raise DirectoryError("the vote uses a flag that it does not know")
        elif keyword == "a":
            parse_or_address(router, rest)
        else:
            _parse_entry_line(entry, keyword, rest)
    entry.ipv6 = router.ipv6
    return entry


def _parse_entry_line(entry: VoteEntry, keyword: str, rest: str) -> None:
    if keyword == "v":
        entry.version = rest
    elif keyword == "pr":
        Protocols.parse(rest)
        entry.protocols = rest
    elif keyword == "w":
        for word in rest.split():
            key, _, value = word.partition("=")
            if key == "Bandwidth":
                entry.bandwidth = parse_int(value, 0, UINT32_MAX)
            elif key == "Measured":
                entry.measured = parse_int(value, 0, UINT32_MAX)
    elif keyword == "p":
        PortPolicy.parse(rest)
        entry.exit_summary = rest
    elif keyword == "id" and rest.startswith("ed25519 "):
        value = rest.split(" ")[1]
        entry.ed_id = NO_ED25519_ID if value == "none" else decode_base64(value, 32)
    elif keyword == "m":
        entry.microdescs.append(rest)
    elif keyword == "stats":
        entry.stats = rest
