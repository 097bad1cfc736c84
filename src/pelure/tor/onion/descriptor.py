"""Whole descriptors: built by a service, opened by a client (rend-spec-v3 2.4, 2.5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pelure.errors import AccessDenied, ConfigError, CryptoError, DirectoryError
from pelure.tor.cell.certs import CertType, Ed25519Cert
from pelure.tor.cell.linkspec import LinkSpecifier
from pelure.tor.crypto.keys import Ed25519KeyPair, Rng, x25519_generate
from pelure.tor.onion.client_auth import authorize
from pelure.tor.onion.first_layer import FirstLayer
from pelure.tor.onion.layer_crypto import FIRST_LAYER, SECOND_LAYER, LayerSecrets
from pelure.tor.onion.outer import LIFETIME_MINUTES, MAX_DESCRIPTOR_LEN, OuterDescriptor, encode_outer
from pelure.tor.onion.pow import EFFORT_MAX, PowParams
from pelure.tor.onion.second_layer import FlowControl, IntroPoint, SecondLayer

CERT_LIFETIME = 54 * 3600


@dataclass(frozen=True)
class DescriptorKeys:
    """The keys of one descriptor: blinded key pair, short-term signing key pair, subcredential."""

    blinded: Ed25519KeyPair
    signing: Ed25519KeyPair
    subcredential: bytes = field(repr=False)


class MissingClientAuth(AccessDenied):
    """The descriptor is for authorized clients only and no client key was given (SOCKS code 0xF4)."""


class WrongClientAuth(AccessDenied):
    """The descriptor is for authorized clients only and no key given opens it (SOCKS code 0xF5)."""


def build_descriptor(
    content: SecondLayer,
    keys: DescriptorKeys,
    revision_counter: int,
    client_keys: Sequence[bytes],
    now: float,
    rng: Rng,
    *,
    lifetime: int = LIFETIME_MINUTES,
    limit: int = MAX_DESCRIPTOR_LEN,
) -> bytes:
    """Return a signed descriptor that only ``client_keys`` (X25519, 32 bytes each; none: anyone) can open.

    Raises :class:`ConfigError` if it would be ``limit`` bytes or more: too many clients.
    """
    expires = now + CERT_LIFETIME
    secrets = LayerSecrets(keys.subcredential, revision_counter)
    auth, cookie = authorize(client_keys, keys.subcredential, rng)
    blinded_key = keys.blinded.public
    inner = secrets.encrypt(
        content.encode(keys.signing, expires), blinded_key + (cookie or b""), SECOND_LAYER, rng
    )
    superencrypted = secrets.encrypt(FirstLayer(auth, inner).encode(), blinded_key, FIRST_LAYER, rng)
    cert = Ed25519Cert.create(CertType.HS_BLINDED_V_SIGNING, keys.signing.public, keys.blinded, expires)
    document = encode_outer(cert.encode(), keys.signing, revision_counter, superencrypted, lifetime)
    if len(document) >= limit:
        raise ConfigError(
            f"{len(client_keys)} authorized clients don't fit one onion service descriptor of {limit} bytes"
        )
    return document


def check_room(clients: int, intro_points: int, now: float, rng: Rng) -> None:
    """Raise :class:`ConfigError` if no descriptor could hold so many clients and introduction points."""
    specifiers = (
        LinkSpecifier.address("0.0.0.0", 1),
        LinkSpecifier.rsa(bytes(20)),
        LinkSpecifier.ed25519(bytes(32)),
        LinkSpecifier.address("::", 1),
    )
    point = IntroPoint(specifiers, bytes(32), bytes(32), bytes(32))
    work = PowParams(bytes(32), EFFORT_MAX, now)
    content = SecondLayer((point,) * intro_points, flow_control=FlowControl("1-2", 31), pow_params=work)
    keys = DescriptorKeys(Ed25519KeyPair.generate(rng), Ed25519KeyPair.generate(rng), bytes(32))
    build_descriptor(content, keys, 1 << 32, [x25519_generate(rng)[1]] * clients, now, rng)


def open_descriptor(
    outer: OuterDescriptor,
    blinded_key: bytes,
    subcredential: bytes,
    client_secrets: Iterable[bytes],
    now: float,
) -> SecondLayer:
    """Decrypt both layers of a verified descriptor with the client's X25519 secrets, if any are needed.

    Raises :class:`MissingClientAuth` or :class:`WrongClientAuth` if the service wants authorized clients,
    :class:`DirectoryError` or :class:`CryptoError` if the descriptor is of another key or malformed.
    """
    if outer.blinded_key != blinded_key:
        raise DirectoryError("a directory sent the descriptor of another onion service")
    secrets = LayerSecrets(subcredential, outer.revision_counter)
    first = FirstLayer.parse(secrets.decrypt(outer.superencrypted, blinded_key, FIRST_LAYER))
    client_secrets = list(client_secrets)
    cookie = first.auth.find_cookie(client_secrets, subcredential)
    try:
        plaintext = secrets.decrypt(first.encrypted, blinded_key + (cookie or b""), SECOND_LAYER)
    except CryptoError as error:
        if client_secrets:
            raise WrongClientAuth(
                "this client's key does not open the onion service's descriptor; access may have been revoked"
            ) from error
        raise MissingClientAuth(
            "the onion service answers authorized clients only; a client key is needed"
        ) from error
    return SecondLayer.parse(plaintext, outer.signing_key, now)
