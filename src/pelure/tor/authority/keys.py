"""An authority's v3 keys on disk, in the layout of C tor and ``tor-gencert`` (dir-spec section 3.1).

``keys/authority_identity_key`` (long-term; may be kept elsewhere), ``authority_signing_key`` and
``authority_certificate`` under the data folder.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from pelure.errors import ConfigError, CryptoError, DirectoryError
from pelure.tor.crypto.rsa import RsaKeyPair
from pelure.tor.directory.key_certificate import KeyCertificate, build_key_certificate, parse_key_certificate
from pelure.tor.net.statefile import private_folder, write_private

IDENTITY_KEY_FILE = "authority_identity_key"
SIGNING_KEY_FILE = "authority_signing_key"
CERTIFICATE_FILE = "authority_certificate"
IDENTITY_KEY_BITS = 3072
SIGNING_KEY_BITS = 2048
LIFETIME = 365 * 86400.0
RENEW_BEFORE = 30 * 86400.0
_CLOCK_SLACK = 3600.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AuthorityKeys:
    """The key that signs votes and consensuses, and the identity key's certificate for it."""

    signing: RsaKeyPair = field(repr=False)
    certificate: KeyCertificate

    @property
    def identity(self) -> bytes:
        """The v3 identity digest (20 bytes), the ``v3ident`` of ``DirAuthority`` lines."""
        return self.certificate.identity

    @classmethod
    def create(
        cls, data: Path, address: str, now: float, *, identity_bits: int = IDENTITY_KEY_BITS
    ) -> AuthorityKeys:
        """Make a new identity in ``data`` for an authority at ``address`` (``IP:dirport``).

        Raises ``ConfigError`` if there is one already or it can't be written.
        """
        folder = private_folder(data / "keys")
        if (folder / IDENTITY_KEY_FILE).exists() or (folder / SIGNING_KEY_FILE).exists():
            raise ConfigError(f"{folder} holds an authority's keys already")
        identity = RsaKeyPair.generate(identity_bits)
        _write(folder / IDENTITY_KEY_FILE, identity.to_pem())
        return cls._certify(folder, identity, address, now)

    @classmethod
    def load(cls, data: Path, now: float) -> AuthorityKeys:
        """Read the keys under ``data``; renews a certificate about to expire if the identity key is there.

        Raises ``ConfigError`` if a file is missing, damaged or encrypted, or the certificate is over.
        """
        folder = data / "keys"
        try:
            signing = RsaKeyPair.from_pem(_read(folder / SIGNING_KEY_FILE))
            certificate = parse_key_certificate(_read(folder / CERTIFICATE_FILE))
        except (CryptoError, DirectoryError) as error:
            raise ConfigError(f"the authority's keys in {folder} are damaged: {error}") from error
        if certificate.signing_key_digest != signing.public.identity:
            raise ConfigError(f"{CERTIFICATE_FILE} in {folder} is not for the {SIGNING_KEY_FILE} there")
        if now > certificate.expires - RENEW_BEFORE and (folder / IDENTITY_KEY_FILE).exists():
            try:
                identity = RsaKeyPair.from_pem(_read(folder / IDENTITY_KEY_FILE))
                return cls._certify(folder, identity, certificate.address, now)
            except CryptoError:
                log.warning("the authority's identity key is encrypted: renew its certificate by hand")
        if not certificate.valid_at(now):
            raise ConfigError(f"the certificate in {folder} is not valid now; make a new one")
        return cls(signing, certificate)

    @classmethod
    def _certify(cls, folder: Path, identity: RsaKeyPair, address: str, now: float) -> AuthorityKeys:
        signing = RsaKeyPair.generate(SIGNING_KEY_BITS)
        published = now - _CLOCK_SLACK
        text = build_key_certificate(identity, signing, published, published + LIFETIME, address)
        _write(folder / SIGNING_KEY_FILE, signing.to_pem())
        _write(folder / CERTIFICATE_FILE, text)
        return cls(signing, parse_key_certificate(text))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    try:
        write_private(path, data)
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}") from error
