"""What a directory cache keeps and answers (dir-spec sections 4 and 6): consensuses and their diffs,
microdescriptors, router descriptors, extra-info documents, key certificates.

Used by relays (``BEGIN_DIR``) and by authorities. Documents are the caller's to check before they come in
here. No I/O; ``now`` is epoch seconds.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from pelure.errors import DirectoryError
from pelure.tor.directory.compression import compress, decompress
from pelure.tor.directory.consensus import MAX_CONSENSUS_LENGTH, Consensus
from pelure.tor.directory.diff import make_diff
from pelure.tor.directory.extra_info import ExtraInfo
from pelure.tor.directory.http import DirReply, DirRequest, EncodedBody, encoded_reply
from pelure.tor.directory.key_certificate import KeyCertificate, parse_key_certificate, split_key_certificates
from pelure.tor.directory.microdescriptor import split_microdescriptors
from pelure.tor.directory.router_descriptor import RouterDescriptor
from pelure.tor.directory.router_store import RouterStore
from pelure.tor.directory.tokenizer import decode_base64, parse_hex

CONSENSUS_PATH = "/tor/status-vote/current/consensus"
KEPT_FOR_DIFFS = 12
KEPT_ENCODING = "x-zstd"
"""Older consensuses are kept like that: of the public network's, two times twelve would take 70 MB."""
MAX_KEYS_IN_PATH = 500
MICRODESCRIPTOR_LIFETIME = 7 * 86400.0
DESCRIPTOR_LIFETIME = 48 * 3600
NOT_FOUND = DirReply(404)


@dataclass(slots=True)
class _Flavour:
    """The current consensus of one flavour; older ones (compressed) and made diffs by the base's digest."""

    current: Consensus
    body: EncodedBody
    older: dict[bytes, bytes] = field(default_factory=dict)
    diffs: dict[bytes, EncodedBody] = field(default_factory=dict)


class DirectoryCache:
    """Documents in memory and the replies that give them out."""

    def __init__(self) -> None:
        self._flavours: dict[str, _Flavour] = {}
        self._microdescriptors: dict[bytes, bytes] = {}
        self._last_listed: dict[bytes, float] = {}
        self._certificates: dict[tuple[bytes, bytes], KeyCertificate] = {}
        self._routers = RouterStore()
        self._extra_infos: dict[bytes, ExtraInfo] = {}
        self.own_descriptor: bytes = b""
        self.own_extra_info: bytes = b""

    # -- what comes in

    def set_consensus(self, consensus: Consensus) -> None:
        """Take a consensus of either flavour as the current one."""
        previous = self._flavours.get(consensus.flavour)
        older = dict(previous.older) if previous else {}
        if previous and previous.current.sha3_signed != consensus.sha3_signed:
            older[previous.current.sha3_signed] = compress(previous.current.text, KEPT_ENCODING)
        while len(older) > KEPT_FOR_DIFFS:
            del older[next(iter(older))]
        self._flavours[consensus.flavour] = _Flavour(consensus, EncodedBody(consensus.text), older)
        if consensus.flavour == "microdesc":
            self._forget_microdescriptors(consensus)
        else:
            self._routers.set_consensus(consensus)

    def consensus(self, flavour: str = "microdesc") -> Consensus | None:
        """The current consensus of ``flavour`` (``ns``, ``microdesc``), None if there is none."""
        found = self._flavours.get(flavour)
        return found.current if found else None

    def _forget_microdescriptors(self, consensus: Consensus) -> None:
        for router in consensus.routers:
            self._last_listed[router.md_digest] = consensus.valid_after
        oldest = consensus.valid_after - MICRODESCRIPTOR_LIFETIME
        for digest in [digest for digest, when in self._last_listed.items() if when < oldest]:
            del self._last_listed[digest]
            self._microdescriptors.pop(digest, None)

    def add_microdescriptors(self, texts: bytes, now: float) -> None:
        """Keep each microdescriptor of a run; one in no consensus is dropped after a week."""
        for text in split_microdescriptors(texts):
            digest = hashlib.sha256(text).digest()
            self._microdescriptors[digest] = text
            self._last_listed.setdefault(digest, now)

    def wanted_microdescriptors(self) -> list[bytes]:
        """SHA-256 digests that the current consensus lists and that aren't here."""
        consensus = self.consensus("microdesc")
        listed = [router.md_digest for router in consensus.routers] if consensus else []
        return [digest for digest in listed if digest and digest not in self._microdescriptors]

    def microdescriptor(self, digest: bytes) -> bytes | None:
        """The microdescriptor with this SHA-256, None if it isn't here."""
        return self._microdescriptors.get(digest)

    def add_certificates(self, texts: bytes, authorities: Container[bytes] | None = None) -> None:
        """Keep each key certificate of a run, of two for the same key the later one.

        ``authorities``: whose are kept (20-byte identities), where they come from somebody who may send
        anybody's. Raises ``DirectoryError`` at the first that is malformed.
        """
        for text in split_key_certificates(texts):
            certificate = parse_key_certificate(text)
            key = (certificate.identity, certificate.signing_key_digest)
            if authorities is not None and certificate.identity not in authorities:
                continue
            known = self._certificates.get(key)
            if known is None or known.published < certificate.published:
                self._certificates[key] = certificate

    @property
    def certificates(self) -> dict[tuple[bytes, bytes], KeyCertificate]:
        """Certificates by (identity, signing key digest), as :mod:`consensus_verify` takes them."""
        return self._certificates

    def set_routers(self, routers: Iterable[RouterDescriptor], extra_infos: Iterable[ExtraInfo] = ()) -> None:
        """Replace the router descriptors and extra-info documents that are given out."""
        self._routers.replace(routers)
        self._extra_infos = {extra.rsa_id: extra for extra in extra_infos}

    def add_routers(self, routers: Iterable[RouterDescriptor]) -> None:
        """Keep those router descriptors that the current ns consensus lists."""
        self._routers.add(routers)

    def wanted_routers(self) -> list[bytes]:
        """SHA-1 digests of router descriptors that the current ns consensus lists and that aren't here."""
        return self._routers.wanted()

    # -- what goes out

    def answer(self, request: DirRequest, now: float) -> DirReply:
        """The reply to a GET; 404 for what isn't here, 400 for a malformed path."""
        if request.method != "GET":
            return DirReply(405)
        path = request.path
        try:
            if path == CONSENSUS_PATH or path.startswith((f"{CONSENSUS_PATH}/", f"{CONSENSUS_PATH}-")):
                return self._answer_consensus(request, now)
            for prefix, answer in self._resources().items():
                if path.startswith(prefix):
                    body = b"".join(answer(path.removeprefix(prefix)))
                    return encoded_reply(request, body, DESCRIPTOR_LIFETIME) if body else NOT_FOUND
        except DirectoryError as error:
            return DirReply(400, reason=str(error))
        return NOT_FOUND

    def _resources(self) -> dict[str, Callable[[str], Iterable[bytes]]]:
        return {
            "/tor/micro/d/": self._microdescriptors_at,
            "/tor/server/": self._routers_at,
            "/tor/extra/": self._extra_infos_at,
            "/tor/keys/": self._certificates_at,
        }

    def _answer_consensus(self, request: DirRequest, now: float) -> DirReply:
        rest = request.path.removeprefix(CONSENSUS_PATH)
        flavour, _, fingerprints = rest.removeprefix("-").partition("/")
        found = self._flavours.get((flavour if rest.startswith("-") else "") or "ns")
        if found is None:
            return NOT_FOUND
        consensus = found.current
        if consensus.valid_until + 86400 < now:
            return DirReply(404, reason="Consensus is too old")
        if fingerprints and not _signed_by_most(consensus, fingerprints):
            return DirReply(404, reason="Consensus not signed by sufficient number of requested authorities")
        since = request.modified_since
        if since is not None and since >= consensus.valid_after:
            return DirReply(304)
        lifetime = max(int(consensus.fresh_until - now), 0)
        bases = request.headers.get("x-or-diff-from-consensus", "")
        diff = self._diff_from(found, bases) if bases else None
        return (diff or found.body).reply(request, lifetime)

    @staticmethod
    def _diff_from(found: _Flavour, bases: str) -> EncodedBody | None:
        """A diff from the first known one of ``bases`` (hex SHA3-256, comma separated), None if none is."""
        for word in bases.split(",")[:KEPT_FOR_DIFFS]:
            base = parse_hex(word.strip(), 32)
            if base in found.older and base not in found.diffs:
                old = decompress(found.older[base], KEPT_ENCODING, MAX_CONSENSUS_LENGTH)
                found.diffs[base] = EncodedBody(make_diff(old, found.current.text))
            if base in found.diffs:
                return found.diffs[base]
        return None

    def _microdescriptors_at(self, rest: str) -> Iterable[bytes]:
        wanted = [decode_base64(word, 32) for word in _split(rest, "-")]
        return [self._microdescriptors[digest] for digest in wanted if digest in self._microdescriptors]

    def _routers_at(self, rest: str) -> Iterable[bytes]:
        routers = self._routers
        return _descriptors_at(rest, routers.by_identity(), routers.by_digest, self.own_descriptor)

    def _extra_infos_at(self, rest: str) -> Iterable[bytes]:
        extra_infos = self._extra_infos.values()
        by_identity = {extra.rsa_id: extra.text for extra in extra_infos}
        by_digest = {extra.digest: extra.text for extra in extra_infos}
        return _descriptors_at(rest, by_identity, by_digest, self.own_extra_info)

    def _certificates_at(self, rest: str) -> Iterable[bytes]:
        kind, _, keys = rest.partition("/")
        certificates = self._certificates
        if rest in ("all", "authority"):
            return [one.text for one in certificates.values()]
        if kind == "fp":
            wanted = set(_hex_keys(keys))
            return [one.text for (identity, _), one in certificates.items() if identity in wanted]
        if kind == "sk":
            wanted = set(_hex_keys(keys))
            return [one.text for (_, signing), one in certificates.items() if signing in wanted]
        if kind == "fp-sk":
            pairs = [word.partition("-")[::2] for word in _split(keys, "+")]
            found = [(parse_hex(identity, 20), parse_hex(signing, 20)) for identity, signing in pairs]
            return [certificates[pair].text for pair in found if pair in certificates]
        raise DirectoryError("no such resource")


def _descriptors_at(
    rest: str, by_identity: dict[bytes, bytes], by_digest: dict[bytes, bytes], own: bytes
) -> Iterable[bytes]:
    kind, _, keys = rest.partition("/")
    if rest == "all":
        return by_identity.values()
    if rest == "authority":
        return [own]
    table = {"fp": by_identity, "d": by_digest}.get(kind)
    if table is None:
        raise DirectoryError("no such resource")
    return [table[key] for key in _hex_keys(keys) if key in table]


def _split(text: str, separator: str) -> list[str]:
    words = text.split(separator)
    if len(words) > MAX_KEYS_IN_PATH:
        raise DirectoryError("too many keys in one request")
    return words


def _hex_keys(text: str) -> list[bytes]:
    return [parse_hex(word, 20) for word in _split(text, "+")]


def _signed_by_most(consensus: Consensus, fingerprints: str) -> bool:
    """Whether more than half of the authorities in the path (hex prefixes joined by ``+``) signed."""
    try:
        prefixes = [binascii.unhexlify(word) for word in _split(fingerprints, "+")]
    except ValueError:
        raise DirectoryError("malformed fingerprint in the path") from None
    signers = {signature.identity for signature in consensus.signatures}
    signed = sum(any(signer.startswith(prefix) for signer in signers) for prefix in prefixes)
    return signed > len(prefixes) // 2
