"""What is refused of a descriptor's outer wrapper although it is signed (rend-spec-v3 2.4)."""

from __future__ import annotations

import random

import pytest

from pelure.errors import CryptoError, DirectoryError
from pelure.tor.cell.certs import CertType, Ed25519Cert
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.directory.tokenizer import encode_base64, encode_object
from pelure.tor.onion.outer import REVISION_COUNTER_MAX, SIGNATURE_PREFIX, OuterDescriptor, encode_outer

NOW = 1_800_000_000.0
RNG = random.Random(1).randbytes
BLINDED, SIGNING, OTHER = (Ed25519KeyPair.generate(RNG) for _ in range(3))


def certificate(cert_type: int = CertType.HS_BLINDED_V_SIGNING, expires: float = NOW + 3600) -> bytes:
    return Ed25519Cert.create(cert_type, SIGNING.public, BLINDED, expires).encode()


TEXT = encode_outer(certificate(), SIGNING, 12345, b"payload").split(b"signature ")[0].decode()


def signed(text: str, pair: Ed25519KeyPair = SIGNING, after: str = "") -> bytes:
    signature = encode_base64(pair.sign(SIGNATURE_PREFIX + text.encode()))
    return f"{text}signature {signature}\n{after}".encode()


def test_the_text_of_these_tests_is_good() -> None:
    found = OuterDescriptor.parse(signed(TEXT), NOW)
    assert (found.blinded_key, found.signing_key) == (BLINDED.public, SIGNING.public)
    assert (found.revision_counter, found.lifetime, found.superencrypted) == (12345, 180, b"payload")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hs-descriptor 3", "hs-descriptor 2"),
        ("hs-descriptor 3", "hs-descriptor x"),
        ("hs-descriptor 3", "something-else 1\nhs-descriptor 3"),
        ("hs-descriptor 3\n", ""),
        ("hs-descriptor 3\n", "hs-descriptor 3\nhs-descriptor 3\n"),
        ("descriptor-lifetime 180", "descriptor-lifetime 29"),
        ("descriptor-lifetime 180", "descriptor-lifetime 721"),
        ("descriptor-lifetime 180", "descriptor-lifetime -5"),
        ("revision-counter 12345", f"revision-counter {REVISION_COUNTER_MAX + 1}"),
        ("revision-counter 12345", "revision-counter 1" + "0" * 30),
        ("revision-counter 12345", "revision-counter -1"),
        ("revision-counter 12345", "revision-counter +1"),
        ("revision-counter 12345", "revision-counter 1_000"),
        ("revision-counter 12345\n", ""),
        ("revision-counter 12345\n", "revision-counter 12345\nrevision-counter 12346\n"),
    ],
)
def test_signed_and_malformed(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(DirectoryError):
        OuterDescriptor.parse(signed(TEXT.replace(old, new)), NOW)


@pytest.mark.parametrize(
    ("lifetime", "revision"), [(30, 0), (720, REVISION_COUNTER_MAX), (180, REVISION_COUNTER_MAX - 1)]
)
def test_the_bounds_themselves_are_good(lifetime: int, revision: int) -> None:
    found = OuterDescriptor.parse(encode_outer(certificate(), SIGNING, revision, b"", lifetime), NOW)
    assert (found.lifetime, found.revision_counter) == (lifetime, revision)


def test_lines_that_are_not_known_are_passed_over() -> None:
    text = TEXT.replace("revision-counter", "something-else 1\nrevision-counter")
    assert OuterDescriptor.parse(signed(text), NOW).revision_counter == 12345


@pytest.mark.parametrize("after", ["something-else\n", "revision-counter 99999\n", TEXT])
def test_nothing_follows_the_signature(after: str) -> None:
    """It would not be signed."""
    with pytest.raises(DirectoryError):
        OuterDescriptor.parse(signed(TEXT, after=after), NOW)


def test_only_the_certified_key_signs() -> None:
    with pytest.raises(CryptoError):
        OuterDescriptor.parse(signed(TEXT, OTHER), NOW)


@pytest.mark.parametrize(
    "bad",
    [
        certificate(CertType.HS_INTRO_AUTH),
        certificate(expires=NOW - 3600),
        certificate()[:-1] + b"\0",
        Ed25519Cert.create(
            CertType.HS_BLINDED_V_SIGNING, SIGNING.public, BLINDED, NOW + 3600, include_signer=False
        ).encode(),
    ],
)
def test_a_certificate_that_proves_nothing(bad: bytes) -> None:
    text = TEXT.replace(encode_object("ED25519 CERT", certificate()), encode_object("ED25519 CERT", bad))
    assert text != TEXT
    with pytest.raises(CryptoError):
        OuterDescriptor.parse(signed(text), NOW)
