"""Who a relay is on its links, and the checks of who the other side is (tor-spec 4.2, cert-spec).

:class:`LinkIdentity` holds the certificates a relay shows in CERTS; :func:`check_responder` and
:func:`check_initiator` apply every rule of tor-spec 4.2 to those of the other side.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from pelure.errors import CryptoError, ProtocolError
from pelure.tor.cell.certs import CertType, Ed25519Cert, KeyType, RsaCrossCert
from pelure.tor.cell.messages import Certs
from pelure.tor.crypto.digests import equal, sha256
from pelure.tor.crypto.keys import Ed25519KeyPair, Rng
from pelure.tor.crypto.rsa import RsaKeyPair, RsaPublicKey
from pelure.tor.net.tls import TlsIdentity, make_tls_identity, random_hostname

# Clocks differ, and the X.509 dates guard little: C tor's own tolerances.
EARLY_TOLERANCE = datetime.timedelta(days=30)
LATE_TOLERANCE = datetime.timedelta(hours=48)
RSA_ID_BITS = 1024
RSA_CERTIFICATE_DAYS = 365
LINK_CERTIFICATE_SECONDS = 2 * 86400.0
TLS_LIFETIME_SECONDS = 30 * 86400.0


@dataclass(frozen=True)
class LinkIdentity:
    """What a relay proves itself with on links. Secrets are not shown by ``repr``.

    ``addresses``: the IP addresses it tells in NETINFO; ``expires``: when the first of its link
    certificates does (seconds since the epoch), so renew it before.
    """

    rsa_public: RsaPublicKey
    ed_id: bytes
    tls: TlsIdentity = field(repr=False)
    auth_key: Ed25519KeyPair = field(repr=False)
    responder_certs: Certs = field(repr=False)
    initiator_certs: Certs = field(repr=False)
    addresses: tuple[str, ...]
    expires: float

    @classmethod
    def make(
        cls,
        rsa_key: RsaKeyPair,
        ed_id: bytes,
        signing_key: Ed25519KeyPair,
        signing_cert: bytes,
        cross_cert: bytes,
        addresses: tuple[str, ...],
        rng: Rng,
        now: float,
    ) -> LinkIdentity:
        """Fresh TLS and authentication keys, certified by ``signing_key``.

        ``signing_cert``: encoded type 4 certificate of ``signing_key`` by ``ed_id``; ``cross_cert``: encoded
        type 7 certificate of ``ed_id`` by ``rsa_key``.
        """
        tls = make_tls_identity(rng, now, TLS_LIFETIME_SECONDS)
        auth_key = Ed25519KeyPair.generate(rng)
        expires = now + LINK_CERTIFICATE_SECONDS
        link_cert = Ed25519Cert.create(
            CertType.SIGNING_V_TLS_CERT,
            tls.digest,
            signing_key,
            expires,
            key_type=KeyType.X509_SHA256,
            include_signer=False,
        )
        auth_cert = Ed25519Cert.create(
            CertType.SIGNING_V_LINK_AUTH, auth_key.public, signing_key, expires, include_signer=False
        )
        shared = (
            (CertType.RSA_ID_X509, make_rsa_certificate(rsa_key, rng, now)),
            (CertType.IDENTITY_V_SIGNING, signing_cert),
        )
        cross = (CertType.RSA_ID_V_IDENTITY, cross_cert)
        return cls(
            rsa_key.public,
            ed_id,
            tls,
            auth_key,
            Certs((*shared, (CertType.SIGNING_V_TLS_CERT, link_cert.encode()), cross)),
            Certs((*shared, (CertType.SIGNING_V_LINK_AUTH, auth_cert.encode()), cross)),
            addresses,
            expires,
        )


def make_rsa_certificate(key: RsaKeyPair, rng: Rng, now: float) -> bytes:
    """DER of the self-signed certificate of an RSA identity key (CERTS type 2)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, random_hostname(rng))])
    start = datetime.datetime.fromtimestamp(now - now % 86400, datetime.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public.key, int.from_bytes(rng(8), "big") | 1, start,
        start + datetime.timedelta(days=RSA_CERTIFICATE_DAYS),
    )  # fmt: skip
    return builder.sign(key.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True)
class CheckedKeys:
    """What a CERTS cell proved: identities, and for an initiator its key for AUTHENTICATE."""

    rsa_public: RsaPublicKey
    ed_id: bytes
    auth_key: bytes | None = None


def check_responder(certs: Certs, tls_certificate: bytes, now: float) -> CheckedKeys:
    """Check a responder's chain; ``tls_certificate``: DER of what TLS showed. Raises ``ProtocolError``."""
    keys, signing_key = _check_identities(certs, now)
    link_cert = _ed_cert(certs, CertType.SIGNING_V_TLS_CERT, signing_key, now)
    if not equal(link_cert.certified_key, sha256(tls_certificate)):
        raise CryptoError("the relay's link certificate is not for its TLS certificate")
    return keys


def check_initiator(certs: Certs, now: float) -> CheckedKeys:
    """Check an initiator's chain; it is proven only once AUTHENTICATE is signed. Raises ``ProtocolError``."""
    keys, signing_key = _check_identities(certs, now)
    auth_cert = _ed_cert(certs, CertType.SIGNING_V_LINK_AUTH, signing_key, now)
    return CheckedKeys(keys.rsa_public, keys.ed_id, auth_cert.certified_key)


def _check_identities(certs: Certs, now: float) -> tuple[CheckedKeys, bytes]:
    """The part that both roles share: RSA identity, Ed25519 identity, signing key; returns the latter too."""
    rsa_public = _check_rsa_certificate(_required(certs, CertType.RSA_ID_X509), now)
    id_signing = _ed_cert(certs, CertType.IDENTITY_V_SIGNING, None, now)
    ed_id = id_signing.signing_key
    assert ed_id is not None  # verified with it
    cross = RsaCrossCert.decode(_required(certs, CertType.RSA_ID_V_IDENTITY))
    cross.verify(rsa_public, now)
    if not equal(cross.ed25519_key, ed_id):
        raise CryptoError("the RSA identity certifies another Ed25519 identity than the one that is claimed")
    return CheckedKeys(rsa_public, ed_id), id_signing.certified_key


def _required(certs: Certs, kind: CertType) -> bytes:
    data = certs.get(kind)
    if data is None:
        raise ProtocolError(f"CERTS lacks the certificate of type {int(kind)}")
    return data


def _ed_cert(certs: Certs, kind: CertType, signer: bytes | None, now: float) -> Ed25519Cert:
    """The certificate of ``kind``, checked; ``signer`` None: by the identity key that it carries."""
    cert = Ed25519Cert.decode(_required(certs, kind))
    cert.verify(signer, cert_type=kind, now=now)
    return cert


def _check_rsa_certificate(der: bytes, now: float) -> RsaPublicKey:
    """The key of a self-signed RSA-1024 certificate that is valid now."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        algorithm = certificate.signature_hash_algorithm
        moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
        early = moment < certificate.not_valid_before_utc - EARLY_TOLERANCE
        late = moment > certificate.not_valid_after_utc + LATE_TOLERANCE
    except (ValueError, UnsupportedAlgorithm, OverflowError, x509.InvalidVersion) as error:
        raise ProtocolError("the RSA identity certificate is malformed") from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != RSA_ID_BITS or algorithm is None:
        raise ProtocolError("the RSA identity certificate does not hold a 1024-bit RSA key")
    if early or late:
        raise CryptoError("the RSA identity certificate is not valid today; is the clock right?")
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, padding.PKCS1v15(), algorithm)
    except (InvalidSignature, UnsupportedAlgorithm) as error:
        raise CryptoError("the RSA identity certificate is not signed by its own key") from error
    return RsaPublicKey.wrap(key)
