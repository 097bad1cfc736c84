"""Signing a computed consensus and exchanging detached signatures (dir-spec sections 3.9.3 and 3.10)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pelure.errors import CryptoError, DirectoryError
from pelure.tor.crypto.rsa import RsaKeyPair
from pelure.tor.directory.consensus import DocumentSignature
from pelure.tor.directory.consensus_verify import CertificateStore
from pelure.tor.directory.tokenizer import (
    Item,
    Section,
    decode_document,
    encode_object,
    format_time,
    parse_hex,
    parse_time,
    tokenize,
)

MAX_DETACHED_LENGTH = 1 << 20
MAX_DETACHED_SIGNATURES = 256
_KEYWORD = b"directory-signature "
_DIGEST_LENGTHS = {"sha1": 20, "sha256": 32}
_FLAVOUR_DIGEST = {"ns": "sha1", "microdesc": "sha256"}


@dataclass(slots=True)
class PendingConsensus:
    """A consensus that gathers signatures. ``body``: the unsigned document of :func:`compute_consensus`.

    ``signatures``: the checked ones, by authority identity (20 bytes).
    """

    flavour: str
    body: bytes = field(repr=False)
    signatures: dict[bytes, DocumentSignature] = field(default_factory=dict)

    @property
    def algorithm(self) -> str:
        """The digest algorithm of this flavour's signatures."""
        return _FLAVOUR_DIGEST[self.flavour]

    @property
    def digest(self) -> bytes:
        """What the signatures sign."""
        return hashlib.new(self.algorithm, self.body + _KEYWORD).digest()

    def sign(self, identity: bytes, signing_key: RsaKeyPair) -> None:
        """Add this authority's own signature."""
        signature = signing_key.sign(self.digest)
        key_digest = signing_key.public.identity
        self.signatures[identity] = DocumentSignature(self.algorithm, identity, key_digest, signature)

    def add(self, signatures: Iterable[DocumentSignature], certificates: CertificateStore) -> int:
        """Take over the good signatures of authorities with a known certificate; return how many were new."""
        added = 0
        for signature in signatures:
            certificate = certificates.get((signature.identity, signature.signing_key))
            if certificate is None or signature.identity in self.signatures:
                continue
            if signature.algorithm != self.algorithm:
                continue
            try:
                certificate.signing_key.verify(signature.signature, self.digest)
            except CryptoError:
                continue
            self.signatures[signature.identity] = signature
            added += 1
        return added

    def document(self) -> bytes:
        """The consensus with the signatures gathered so far, ordered by authority identity."""
        algorithm = "" if self.flavour == "ns" else f"{self.algorithm} "
        return self.body + b"".join(
            _format_signature(f"directory-signature {algorithm}", self.signatures[identity])
            for identity in sorted(self.signatures)
        )


def _format_signature(head: str, signature: DocumentSignature) -> bytes:
    names = f"{signature.identity.hex().upper()} {signature.signing_key.hex().upper()}\n"
    return (head + names + encode_object("SIGNATURE", signature.signature)).encode()


@dataclass(slots=True)
class DetachedSignatures:
    """A detached signatures document: digests by flavour and algorithm, signatures by flavour.

    The signatures are as they came; :meth:`PendingConsensus.add` checks them.
    """

    valid_after: float
    fresh_until: float
    valid_until: float
    digests: dict[str, dict[str, bytes]]
    signatures: dict[str, list[DocumentSignature]]

    @classmethod
    def of(
        cls, pending: Mapping[str, PendingConsensus], times: tuple[float, float, float]
    ) -> DetachedSignatures:
        """The signatures on ``pending`` (by flavour); ``times``: valid-after, fresh-until and valid-until."""
        return cls(
            *times,
            digests={flavour: {one.algorithm: one.digest} for flavour, one in pending.items()},
            signatures={
                flavour: [one.signatures[identity] for identity in sorted(one.signatures)]
                for flavour, one in pending.items()
            },
        )

    def matches(self, pending: PendingConsensus) -> bool:
        """Whether this document is about the very consensus ``pending``."""
        return self.digests.get(pending.flavour, {}).get(pending.algorithm) == pending.digest

    def encode(self) -> bytes:
        """The document. Raises ``DirectoryError`` without a digest of the ns flavour."""
        basic = self.digests.get("ns", {}).get("sha1")
        if basic is None:
            raise DirectoryError("detached signatures need an ns consensus")
        lines = [
            f"consensus-digest {basic.hex().upper()}",
            f"valid-after {format_time(self.valid_after)}",
            f"fresh-until {format_time(self.fresh_until)}",
            f"valid-until {format_time(self.valid_until)}",
        ]
        others = sorted(flavour for flavour in self.digests if flavour != "ns")
        for flavour in others:
            for algorithm, digest in self.digests[flavour].items():
                lines.append(f"additional-digest {flavour} {algorithm} {digest.hex().upper()}")
        pieces = ["".join(f"{line}\n" for line in lines).encode()]
        for flavour in others:
            for signature in self.signatures.get(flavour, []):
                head = f"additional-signature {flavour} {signature.algorithm} "
                pieces.append(_format_signature(head, signature))
        pieces += [_format_signature("directory-signature ", one) for one in self.signatures.get("ns", [])]
        return b"".join(pieces)


def parse_detached(document: bytes) -> DetachedSignatures:
    """Parse a detached signatures document. Raises ``DirectoryError``."""
    text = decode_document(document, MAX_DETACHED_LENGTH)
    section = Section(list(tokenize(text)), "the detached signatures document")
    if not section.items or section.items[0].keyword != "consensus-digest":
        raise DirectoryError("detached signatures must start with a consensus digest")
    digests = {"ns": {"sha1": parse_hex(section.one("consensus-digest").arg(0), 20)}}
    for item in section.all("additional-digest"):
        flavour, algorithm = item.arg(0), item.arg(1)
        if algorithm in _DIGEST_LENGTHS:
            digest = parse_hex(item.arg(2), _DIGEST_LENGTHS[algorithm])
            digests.setdefault(flavour, {}).setdefault(algorithm, digest)
    signatures: dict[str, list[DocumentSignature]] = {}
    items = section.all("directory-signature") + section.all("additional-signature")
    if len(items) > MAX_DETACHED_SIGNATURES:
        raise DirectoryError("too many detached signatures")
    for item in items:
        flavour, signature = _parse_signature(item)
        signatures.setdefault(flavour, []).append(signature)
    times = [parse_time(section.one(key).rest) for key in ("valid-after", "fresh-until", "valid-until")]
    return DetachedSignatures(times[0], times[1], times[2], digests, signatures)


def _parse_signature(item: Item) -> tuple[str, DocumentSignature]:
    if item.keyword == "directory-signature":
        flavour, algorithm, first = "ns", "sha1", 0
    else:
        flavour, algorithm, first = item.arg(0), item.arg(1), 2
    identity, signing_key = parse_hex(item.arg(first), 20), parse_hex(item.arg(first + 1), 20)
    return flavour, DocumentSignature(algorithm, identity, signing_key, item.need_object("SIGNATURE"))
