"""A relay's keys, in the ``keys/`` folder of C tor's DataDirectory (dir-spec 1.3, tor-spec 1.1, cert-spec).

================================== =====================================================
``secret_id_key``                  RSA-1024 identity, PKCS#1 PEM
``ed25519_master_id_secret_key``   Ed25519 identity, tagged, 64-byte expanded secret; may be kept elsewhere
``ed25519_master_id_public_key``   tagged, 32 bytes
``ed25519_signing_secret_key``     medium-term signing key, tagged
``ed25519_signing_cert``           its certificate by the identity, tagged
``secret_onion_key_ntor``          current circuit handshake key, tagged, secret and public
``secret_onion_key_ntor.old``      the one before, still accepted for a while
``secret_onion_key``               RSA-1024, of a handshake that nobody uses any more; still published
================================== =====================================================

A folder of C tor's works here and the other way round; files this relay doesn't know are left alone.
Without the secret identity key the signing key and its certificate come from ``tor --keygen`` elsewhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from pelure.errors import ConfigError, ProtocolError
from pelure.tor.cell.certs import CertType, Ed25519Cert, RsaCrossCert
from pelure.tor.crypto.digests import equal
from pelure.tor.crypto.keys import Ed25519KeyPair, Rng, x25519_generate, x25519_public
from pelure.tor.crypto.rsa import RsaKeyPair
from pelure.tor.directory.router_descriptor_build import DescriptorKeys
from pelure.tor.net.identity import LinkIdentity
from pelure.tor.net.statefile import private_folder, write_private

DAY = 86400.0
TAG_LEN = 32
SIGNING_KEY_DAYS = 30
SIGNING_KEY_MARGIN_DAYS = 5  # renewed so long before it expires
CROSS_CERT_DAYS = 180
ONION_KEY_DAYS = 28  # consensus parameter onion-key-rotation-days
ONION_KEY_GRACE_DAYS = 7  # consensus parameter onion-key-grace-period-days

RSA_IDENTITY = "secret_id_key"
ED_SECRET = "ed25519_master_id_secret_key"
ED_PUBLIC = "ed25519_master_id_public_key"
SIGNING_SECRET = "ed25519_signing_secret_key"
SIGNING_CERT = "ed25519_signing_cert"
TAP = "secret_onion_key"
NTOR = "secret_onion_key_ntor"
NTOR_OLD = "secret_onion_key_ntor.old"
log = logging.getLogger(__name__)


OFFLINE_HINT = (
    f"make one by «tor --keygen» where {ED_SECRET} is, and put {SIGNING_SECRET} and {SIGNING_CERT} into {{}}"
)


def _tag(kind: str, detail: str) -> bytes:
    return f"== {kind}: {detail} ==".encode().ljust(TAG_LEN, b"\0")


SECRET_TAG = _tag("ed25519v1-secret", "type0")
PUBLIC_TAG = _tag("ed25519v1-public", "type0")
SIGNING_TAG = _tag("ed25519v1-secret", "type4")  # C tor names what the key is certified as
CERT_TAG = _tag("ed25519v1-cert", "type4")
NTOR_TAG = _tag("c25519v1", "onion")


@dataclass(frozen=True)
class OnionKey:
    """An ntor key pair (X25519), and when it came into use (epoch seconds)."""

    secret: bytes = field(repr=False)
    public: bytes
    since: float


@dataclass(frozen=True)
class OfflineIdentity:
    """The public half of an Ed25519 identity whose secret key isn't on this machine."""

    public: bytes


Identity = Ed25519KeyPair | OfflineIdentity


@dataclass(frozen=True)
class RelayKeys:
    """All keys of a relay. Replaced as a whole by :meth:`renewed`."""

    folder: Path
    rsa: RsaKeyPair
    identity: Identity
    signing: Ed25519KeyPair
    signing_cert: Ed25519Cert
    onion: OnionKey
    old_onion: OnionKey | None
    tap: RsaKeyPair

    @classmethod
    def load(cls, data_directory: Path, rng: Rng, now: float) -> RelayKeys:
        """Read the keys of a DataDirectory; make and store those that are missing or have expired.

        Raises ``ConfigError`` for a file that is damaged or unreadable: a relay's identity is not replaced
        because of a mistake.
        """
        folder = private_folder(private_folder(data_directory) / "keys")
        try:
            rsa = _load_rsa(folder / RSA_IDENTITY)
            tap = _load_rsa(folder / TAP)
            identity = _load_identity(folder, rng)
            signing, cert = _load_signing(folder, identity, rng, now)
            onion = _load_onion(folder / NTOR) or _make_onion(folder, rng, now)
            old = _load_onion(folder / NTOR_OLD)
        except OSError as error:
            raise ConfigError(f"can't use the keys in {folder}: {error.strerror}") from error
        return cls(folder, rsa, identity, signing, cert, onion, old, tap).renewed(rng, now)

    def renewed(self, rng: Rng, now: float) -> RelayKeys:
        """These keys with what is due renewed and stored; itself if nothing is due."""
        signing, cert, onion, old = self.signing, self.signing_cert, self.onion, self.old_onion
        if now > cert.expires - SIGNING_KEY_MARGIN_DAYS * DAY:
            signing, cert = self._next_signing(rng, now)
        if now > onion.since + ONION_KEY_DAYS * DAY:
            (self.folder / NTOR).replace(self.folder / NTOR_OLD)
            old, onion = onion, _make_onion(self.folder, rng, now)
        if old is not None and now > onion.since + ONION_KEY_GRACE_DAYS * DAY:
            (self.folder / NTOR_OLD).unlink(missing_ok=True)
            old = None
        if (signing, onion, old) == (self.signing, self.onion, self.old_onion):
            return self
        return RelayKeys(self.folder, self.rsa, self.identity, signing, cert, onion, old, self.tap)

    def _next_signing(self, rng: Rng, now: float) -> tuple[Ed25519KeyPair, Ed25519Cert]:
        """A new signing key: made here, or put here meanwhile if the identity's secret key is elsewhere."""
        if isinstance(self.identity, Ed25519KeyPair):
            return _make_signing(self.folder, self.identity, rng, now)
        try:
            signing, cert = _load_signing(self.folder, self.identity, rng, now)
        except (ConfigError, OSError) as error:
            log.warning("the signing key in %s can't be used: %s", self.folder, error)
            return self.signing, self.signing_cert
        if now > cert.expires - SIGNING_KEY_MARGIN_DAYS * DAY:
            days = (cert.expires - now) / DAY
            log.warning("the signing key expires in %.1f days: %s", days, OFFLINE_HINT.format(self.folder))
        return signing, cert

    @property
    def accepted_onion_keys(self) -> dict[bytes, bytes]:
        """Secrets by public key, of every ntor key that handshakes may name."""
        keys = [self.onion] if self.old_onion is None else [self.onion, self.old_onion]
        return {key.public: key.secret for key in keys}

    @property
    def descriptor_keys(self) -> DescriptorKeys:
        """What the relay signs its descriptors with."""
        return DescriptorKeys(
            self.rsa,
            self.identity.public,
            self.signing,
            self.signing_cert,
            self.onion.public,
            self.onion.secret,
            self.tap,
        )

    def link_identity(self, addresses: tuple[str, ...], rng: Rng, now: float) -> LinkIdentity:
        """Fresh link keys certified by these ones. ``addresses``: the relay's IP addresses."""
        cross = RsaCrossCert.create(self.identity.public, self.rsa, now + CROSS_CERT_DAYS * DAY)
        return LinkIdentity.make(
            self.rsa,
            self.identity.public,
            self.signing,
            self.signing_cert.encode(),
            cross.encode(),
            addresses,
            rng,
            now,
        )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _untagged(path: Path, tag: bytes, length: int | None = None) -> bytes | None:
    content = _read(path)
    if content is None:
        return None
    if not content.startswith(tag) or length not in (None, len(content) - TAG_LEN):
        raise ConfigError(f"{path} is not a key file of the expected kind")
    return content[TAG_LEN:]


def _load_rsa(path: Path) -> RsaKeyPair:
    pem = _read(path)
    if pem is not None:
        try:
            return RsaKeyPair.from_pem(pem)
        except ProtocolError as error:
            raise ConfigError(f"{path}: {error}") from None
    key = RsaKeyPair.generate(1024)
    write_private(path, key.to_pem())
    return key


def _load_identity(folder: Path, rng: Rng) -> Identity:
    secret = _untagged(folder / ED_SECRET, SECRET_TAG, 64)
    public = _untagged(folder / ED_PUBLIC, PUBLIC_TAG, 32)
    if secret is None and public is not None:
        return OfflineIdentity(public)
    if secret is None:
        pair = Ed25519KeyPair.generate(rng)
        write_private(folder / ED_SECRET, SECRET_TAG + pair.expanded)
    else:
        pair = Ed25519KeyPair.from_expanded(secret)
    if public is None:
        write_private(folder / ED_PUBLIC, PUBLIC_TAG + pair.public)
    elif not equal(public, pair.public):
        raise ConfigError(f"{folder / ED_PUBLIC} is not the public key of {ED_SECRET}")
    return pair


def _load_signing(
    folder: Path, identity: Identity, rng: Rng, now: float
) -> tuple[Ed25519KeyPair, Ed25519Cert]:
    """The stored signing key, or a new one where it is missing, damaged, expired or another identity's.

    Raises ``ConfigError`` if a new one is needed and can't be made here.
    """
    try:
        secret = _untagged(folder / SIGNING_SECRET, SIGNING_TAG, 64)
        encoded = _untagged(folder / SIGNING_CERT, CERT_TAG)
    except ConfigError:
        return _make_signing(folder, identity, rng, now)
    if secret is not None and encoded is not None:
        pair = Ed25519KeyPair.from_expanded(secret)
        try:
            cert = Ed25519Cert.decode(encoded)
            cert.verify(identity.public, cert_type=CertType.IDENTITY_V_SIGNING, now=now)
        except ProtocolError:
            return _make_signing(folder, identity, rng, now)
        if equal(cert.certified_key, pair.public):
            return pair, cert
    return _make_signing(folder, identity, rng, now)


def _make_signing(
    folder: Path, identity: Identity, rng: Rng, now: float
) -> tuple[Ed25519KeyPair, Ed25519Cert]:
    if isinstance(identity, OfflineIdentity):
        raise ConfigError(f"{ED_SECRET} is missing, and a valid signing key: {OFFLINE_HINT.format(folder)}")
    pair = Ed25519KeyPair.generate(rng)
    expires = now + SIGNING_KEY_DAYS * DAY
    cert = Ed25519Cert.create(CertType.IDENTITY_V_SIGNING, pair.public, identity, expires)
    write_private(folder / SIGNING_SECRET, SIGNING_TAG + pair.expanded)
    write_private(folder / SIGNING_CERT, CERT_TAG + cert.encode())
    return pair, cert


def _load_onion(path: Path) -> OnionKey | None:
    content = _untagged(path, NTOR_TAG, 64)
    if content is None:
        return None
    secret, public = content[:32], content[32:]
    if not equal(x25519_public(secret), public):
        raise ConfigError(f"{path} holds a public key that is not of its secret key")
    return OnionKey(secret, public, path.stat().st_mtime)


def _make_onion(folder: Path, rng: Rng, now: float) -> OnionKey:
    secret, public = x25519_generate(rng)
    write_private(folder / NTOR, NTOR_TAG + secret + public)
    return OnionKey(secret, public, now)
