"""Whether enough authorities signed a consensus, and whether it is of this time (dir-spec 3.4.3, 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pelure.errors import CryptoError, DirectoryError
from pelure.tor.directory.consensus import Consensus, DocumentSignature
from pelure.tor.directory.key_certificate import KeyCertificate
from pelure.tor.directory.tokenizer import format_time

CertificateStore = Mapping[tuple[bytes, bytes], KeyCertificate]
"""Certificates by (authority identity, signing key digest), 20 bytes each."""

REASONABLY_LIVE = 24 * 3600.0


class ClockError(DirectoryError):
    """A document is of another time: the clock here is wrong, or whoever sent it keeps old documents."""


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    """The outcome: authorities (20-byte identities) with a good signature, and certificates still needed.

    ``expired``: authorities whose certificate is known, but no longer valid; they are among ``missing`` too.
    """

    good: frozenset[bytes]
    missing: frozenset[tuple[bytes, bytes]]
    expired: frozenset[bytes]
    needed: int

    @property
    def enough(self) -> bool:
        """More than half of the known authorities signed."""
        return len(self.good) >= self.needed


def check_signatures(
    consensus: Consensus,
    authorities: Iterable[bytes],
    certificates: CertificateStore,
    now: float | None = None,
) -> SignatureCheck:
    """Check every signature by one of ``authorities`` (v3 identities) for which a certificate is known.

    With ``now`` (epoch seconds) a certificate must not have expired.
    """
    known = frozenset(authorities)
    good: set[bytes] = set()
    missing: set[tuple[bytes, bytes]] = set()
    expired: set[bytes] = set()
    for signature in consensus.signatures:
        if signature.identity not in known:
            continue
        certificate = certificates.get((signature.identity, signature.signing_key))
        if certificate is None:
            missing.add((signature.identity, signature.signing_key))
        elif now is not None and now > certificate.expires:
            missing.add((signature.identity, signature.signing_key))
            expired.add(signature.identity)
        elif signature_is_good(consensus, signature, certificate):
            good.add(signature.identity)
    return SignatureCheck(frozenset(good), frozenset(missing), frozenset(expired), len(known) // 2 + 1)


def signature_is_good(
    consensus: Consensus, signature: DocumentSignature, certificate: KeyCertificate
) -> bool:
    """Whether ``signature`` is one by ``certificate``'s signing key on this consensus."""
    digest = consensus.digests.get(signature.algorithm)
    if digest is None:
        return False
    try:
        certificate.signing_key.verify(signature.signature, digest)
    except CryptoError:
        return False
    return True


def verify_consensus(
    consensus: Consensus,
    authorities: Iterable[bytes],
    certificates: CertificateStore,
    now: float | None = None,
) -> None:
    """Raise ``DirectoryError`` unless more than half of ``authorities`` signed ``consensus``.

    With ``now`` (epoch seconds) certificates must not have expired; ``ClockError`` if that is the only flaw.
    """
    outcome = check_signatures(consensus, authorities, certificates, now)
    if outcome.enough:
        return
    if now is not None and len(outcome.good) + len(outcome.expired) >= outcome.needed:
        raise ClockError(
            f"this machine's clock says {format_time(now)} UTC, when the authorities' certificates have "
            "expired: the clock is probably fast, set it and try again"
        )
    raise DirectoryError(
        f"the consensus has {len(outcome.good)} good signatures of known authorities; "
        f"{outcome.needed} are needed"
    )


def check_clock(consensus: Consensus, now: float, tolerance: float = REASONABLY_LIVE) -> None:
    """Raise ``ClockError`` if ``now`` is too far outside the consensus's validity.

    A signed consensus from the future, or only expired ones to be had, means that this machine's clock is
    wrong far more often than that all authorities are. ``tolerance``: seconds allowed on either side.
    """
    if now < consensus.valid_after - tolerance:
        raise ClockError(
            f"this machine's clock says {format_time(now)} UTC, but the newest consensus starts at "
            f"{format_time(consensus.valid_after)}: the clock is probably slow, set it and try again"
        )
    if now > consensus.valid_until + tolerance:
        raise ClockError(
            f"this machine's clock says {format_time(now)} UTC, but the newest consensus ended at "
            f"{format_time(consensus.valid_until)}: the clock is probably fast, set it and try again"
        )
