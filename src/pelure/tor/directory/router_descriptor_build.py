"""Writing and signing a relay's router descriptor and extra-info (dir-spec sections 2.1.1 and 2.1.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from pelure.tor.cell.certs import CertType, Ed25519Cert, create_ntor_crosscert
from pelure.tor.crypto.keys import Ed25519KeyPair, ed25519_keypair_from_x25519
from pelure.tor.crypto.rsa import RsaKeyPair
from pelure.tor.directory.descriptor_signing import descriptor_digest, sign_descriptor
from pelure.tor.directory.exit_policy import PortPolicy
from pelure.tor.directory.protocols import Protocols
from pelure.tor.directory.tokenizer import encode_base64, encode_object, format_time

ONION_KEY_LIFETIME = 28 * 86400.0
FAMILY_CERT_LIFETIME = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class DescriptorKeys:
    """What a relay signs its descriptors with.

    ``ed_id``: its Ed25519 identity (32 bytes); ``signing_cert`` certifies ``signing`` by that identity
    (type 4). ``ntor_secret``: 32 bytes. ``tap``: an RSA key of 1024 bits nobody uses, without which C
    tor 0.4.9 authorities make no microdescriptor for a relay.
    """

    identity: RsaKeyPair = field(repr=False)
    ed_id: bytes
    signing: Ed25519KeyPair = field(repr=False)
    signing_cert: Ed25519Cert = field(repr=False)
    ntor_public: bytes
    ntor_secret: bytes = field(repr=False)
    tap: RsaKeyPair | None = field(default=None, repr=False)
    families: tuple[Ed25519KeyPair, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class DescriptorFacts:
    """What a relay says of itself. ``bandwidth``: rate, burst, observed capacity in bytes a second.

    ``exit_policy``: lines such as ``"accept *:80"``; ``ipv6_policy``: a summary for IPv6 exits.
    """

    nickname: str
    ip: str
    orport: int
    platform: str
    protocols: Protocols
    published: float
    bandwidth: tuple[int, int, int]
    uptime: int = 0
    dirport: int = 0
    ipv6: tuple[str, int] | None = None
    exit_policy: Sequence[str] = ("reject *:*",)
    ipv6_policy: PortPolicy | None = None
    family: Sequence[str] = ()
    contact: str = ""
    hidden_service_dir: bool = True
    tunnelled_dir_server: bool = True


def build_router_descriptor(
    facts: DescriptorFacts, keys: DescriptorKeys, extra_info: bytes | None = None
) -> bytes:
    """The signed descriptor; it names ``extra_info`` (a document of :func:`build_extra_info`) if given."""
    rate, burst, observed = facts.bandwidth
    fingerprint = keys.identity.public.identity.hex().upper()
    groups = " ".join(fingerprint[index : index + 4] for index in range(0, 40, 4))
    parts = [
        f"router {facts.nickname} {facts.ip} {facts.orport} 0 {facts.dirport}\n",
        "identity-ed25519\n" + encode_object("ED25519 CERT", keys.signing_cert.encode()),
        f"master-key-ed25519 {encode_base64(keys.ed_id)}\n",
        "or-address [{}]:{}\n".format(*facts.ipv6) if facts.ipv6 else "",
        f"platform {facts.platform}\nproto {facts.protocols}\npublished {format_time(facts.published)}\n",
        f"fingerprint {groups}\nuptime {facts.uptime}\nbandwidth {rate} {burst} {observed}\n",
        _extra_info_line(extra_info),
        *_key_items(facts, keys),
        f"family {' '.join(facts.family)}\n" if facts.family else "",
        "hidden-service-dir\n" if facts.hidden_service_dir else "",
        *(_family_cert(family, facts, keys) for family in keys.families),
        f"contact {facts.contact}\n" if facts.contact else "",
        f"ntor-onion-key {encode_base64(keys.ntor_public)}\n",
        *(f"{line}\n" for line in facts.exit_policy),
        f"ipv6-policy {facts.ipv6_policy}\n" if facts.ipv6_policy else "",
        "tunnelled-dir-server\n" if facts.tunnelled_dir_server else "",
    ]
    return sign_descriptor("".join(parts).encode(), keys.signing, keys.identity)


def _extra_info_line(extra_info: bytes | None) -> str:
    if extra_info is None:
        return ""
    digest256 = encode_base64(hashlib.sha256(extra_info).digest())
    return f"extra-info-digest {descriptor_digest(extra_info).hex().upper()} {digest256}\n"


def _key_items(facts: DescriptorFacts, keys: DescriptorKeys) -> list[str]:
    """The RSA keys and the onion keys' cross-certificates, in C tor's order."""
    ntor_signer, sign_bit = ed25519_keypair_from_x25519(keys.ntor_secret)
    ntor_cert = create_ntor_crosscert(ntor_signer, keys.ed_id, facts.published + ONION_KEY_LIFETIME)
    items = ["signing-key\n" + encode_object("RSA PUBLIC KEY", keys.identity.public.der)]
    if keys.tap is not None:
        items.insert(0, "onion-key\n" + encode_object("RSA PUBLIC KEY", keys.tap.public.der))
        crosscert = keys.tap.sign(keys.identity.public.identity + keys.ed_id)
        items.append("onion-key-crosscert\n" + encode_object("CROSSCERT", crosscert))
    head = f"ntor-onion-key-crosscert {sign_bit}\n"
    return [*items, head + encode_object("ED25519 CERT", ntor_cert.encode())]


def _family_cert(family: Ed25519KeyPair, facts: DescriptorFacts, keys: DescriptorKeys) -> str:
    expires = facts.published + FAMILY_CERT_LIFETIME
    cert = Ed25519Cert.create(CertType.FAMILY_V_IDENTITY, keys.ed_id, family, expires)
    return "family-cert\n" + encode_object("FAMILY CERT", cert.encode())


def build_extra_info(
    nickname: str, published: float, keys: DescriptorKeys, statistics: Sequence[str] = ()
) -> bytes:
    """The signed extra-info document with the lines of ``statistics`` (none are needed)."""
    parts = [
        f"extra-info {nickname} {keys.identity.public.identity.hex().upper()}\n",
        "identity-ed25519\n" + encode_object("ED25519 CERT", keys.signing_cert.encode()),
        f"published {format_time(published)}\n",
        *(f"{line}\n" for line in statistics),
    ]
    return sign_descriptor("".join(parts).encode("latin-1"), keys.signing, keys.identity)
