"""Extra-info documents (dir-spec section 2.1.2): parsing. Building is in :mod:`router_descriptor_build`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from pelure.errors import DirectoryError
from pelure.tor.crypto.rsa import RsaPublicKey
from pelure.tor.directory.descriptor_signing import (
    check_ed25519,
    check_positions,
    check_rsa,
    descriptor_digest,
)
from pelure.tor.directory.tokenizer import Section, decode_document, parse_hex, parse_time, tokenize

MAX_EXTRA_INFO_LENGTH = 50_000


@dataclass(frozen=True, slots=True)
class ExtraInfo:
    """An extra-info document of relay ``rsa_id``; ``digest`` is its SHA-1, ``digest256`` its SHA-256."""

    nickname: str
    rsa_id: bytes
    ed_id: bytes
    published: float
    digest: bytes
    digest256: bytes
    text: bytes = field(repr=False)


def parse_extra_info(document: bytes, rsa_key: RsaPublicKey | None = None) -> ExtraInfo:
    """Parse one document and check its Ed25519 signature, and the RSA one if the relay's key is given.

    Raises ``DirectoryError``.
    """
    text = decode_document(document, MAX_EXTRA_INFO_LENGTH)
    section = Section(list(tokenize(text)), "the extra-info document")
    if not section.items or section.items[0].keyword != "extra-info":
        raise DirectoryError("an extra-info document must start with 'extra-info'")
    check_positions(section)
    cert = check_ed25519(document, section)
    head = section.one("extra-info")
    rsa_id = parse_hex(head.arg(1), 20)
    if rsa_key is None:
        digest = descriptor_digest(document)
    elif rsa_key.identity == rsa_id:
        digest = check_rsa(document, section, rsa_key)
    else:
        raise DirectoryError("the extra-info document is of another relay")
    return ExtraInfo(
        nickname=head.arg(0),
        rsa_id=rsa_id,
        ed_id=cert.signing_key or b"",
        published=parse_time(section.one("published").rest),
        digest=digest,
        digest256=hashlib.sha256(document).digest(),
        text=document,
    )
