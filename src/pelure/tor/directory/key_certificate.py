"""Authority key certificates (dir-spec section 3.1): parse, check, build.

An authority's long-term identity key signs a medium-term signing key, which signs votes and consensuses.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from pelure.errors import CryptoError, DirectoryError
from pelure.tor.crypto.rsa import RsaKeyPair, RsaPublicKey
from pelure.tor.directory.tokenizer import (
    Section,
    decode_document,
    encode_object,
    format_time,
    parse_hex,
    parse_time,
    split_at,
    tokenize,
)

MAX_CERTIFICATE_LENGTH = 128 << 10
MAX_CERTIFICATES = 1000
MIN_SIGNING_KEY_BITS = 1024
_START = re.compile(rb"^dir-key-certificate-version ", re.MULTILINE)
_END = b"\ndir-key-certification\n"


@dataclass(frozen=True, slots=True)
class KeyCertificate:
    """A verified certificate. ``identity`` and ``signing_key_digest``: 20 bytes; times in seconds (epoch)."""

    identity: bytes
    identity_key: RsaPublicKey = field(repr=False)
    signing_key: RsaPublicKey = field(repr=False)
    signing_key_digest: bytes
    published: float
    expires: float
    address: str
    text: bytes = field(repr=False)

    def valid_at(self, now: float) -> bool:
        """Whether ``now`` (epoch seconds) is within the certificate's lifetime."""
        return self.published <= now <= self.expires


def parse_key_certificate(document: bytes) -> KeyCertificate:
    """Parse one certificate and check both of its signatures. Raises ``DirectoryError``."""
    text = decode_document(document, MAX_CERTIFICATE_LENGTH)
    section = Section(list(tokenize(text)), "the key certificate")
    if section.one("dir-key-certificate-version").rest != "3":
        raise DirectoryError("a key certificate of unknown version")
    if section.items[0].keyword != "dir-key-certificate-version":
        raise DirectoryError("the key certificate does not start with its version")
    if section.items[-1].keyword != "dir-key-certification":
        raise DirectoryError("the key certificate does not end with its signature")
    identity = parse_hex(section.one("fingerprint").arg(0), 20)
    address = section.maybe("dir-address")
    try:
        identity_key = RsaPublicKey.from_der(section.one("dir-identity-key").need_object("RSA PUBLIC KEY"))
        signing_key = RsaPublicKey.from_der(section.one("dir-signing-key").need_object("RSA PUBLIC KEY"))
        if identity_key.identity != identity or signing_key.bits < MIN_SIGNING_KEY_BITS:
            raise DirectoryError("the key certificate's fingerprint or signing key is wrong")
        crosscert = section.one("dir-key-crosscert")
        if crosscert.label not in ("ID SIGNATURE", "SIGNATURE"):
            raise DirectoryError("the key certificate lacks its cross-certificate")
        signing_key.verify(crosscert.object, identity)
        certification = section.one("dir-key-certification")
        identity_key.verify(certification.need_object("SIGNATURE"), _digest(document))
    except CryptoError as error:
        raise DirectoryError(f"the key certificate does not verify: {error}") from error
    return KeyCertificate(
        identity=identity,
        identity_key=identity_key,
        signing_key=signing_key,
        signing_key_digest=signing_key.identity,
        published=parse_time(section.one("dir-key-published").rest),
        expires=parse_time(section.one("dir-key-expires").rest),
        address=address.rest if address else "",
        text=document,
    )


def _digest(document: bytes) -> bytes:
    """SHA-1 from the version keyword through the ``dir-key-certification`` line."""
    end = document.find(_END)
    if end < 0:
        raise DirectoryError("the key certificate has no signature")
    return hashlib.sha1(document[: end + len(_END)]).digest()


def split_key_certificates(document: bytes) -> list[bytes]:
    """The text of each certificate in a run. Raises ``DirectoryError`` if there are far too many."""
    pieces = list(split_at(document, _START))
    if len(pieces) > MAX_CERTIFICATES:
        raise DirectoryError("too many key certificates at once")
    return pieces


def build_key_certificate(
    identity: RsaKeyPair, signing: RsaKeyPair, published: float, expires: float, address: str = ""
) -> bytes:
    """A certificate for ``signing`` by ``identity``, valid from ``published`` to ``expires`` (epoch seconds).

    ``address`` is the authority's ``IP:dirport``, left out if empty.
    """
    fingerprint = identity.public.identity
    head = "".join(
        [
            "dir-key-certificate-version 3\n",
            f"dir-address {address}\n" if address else "",
            f"fingerprint {fingerprint.hex().upper()}\n",
            f"dir-key-published {format_time(published)}\n",
            f"dir-key-expires {format_time(expires)}\n",
            "dir-identity-key\n" + encode_object("RSA PUBLIC KEY", identity.public.der),
            "dir-signing-key\n" + encode_object("RSA PUBLIC KEY", signing.public.der),
            "dir-key-crosscert\n" + encode_object("ID SIGNATURE", signing.sign(fingerprint)),
            "dir-key-certification\n",
        ]
    ).encode()
    return head + encode_object("SIGNATURE", identity.sign(hashlib.sha1(head).digest())).encode()
