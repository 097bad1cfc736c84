"""Router descriptors (dir-spec section 2.1.1): parsing with every check of keys and signatures.

TAP onion keys are optional (proposal 350). Building is in :mod:`router_descriptor_build`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pelure.errors import CryptoError, DirectoryError, ProtocolError
from pelure.tor.cell.certs import CertType, Ed25519Cert
from pelure.tor.crypto.keys import ed25519_public_from_x25519
from pelure.tor.crypto.rsa import RsaPublicKey
from pelure.tor.directory.consensus import INT32_MAX, parse_ip
from pelure.tor.directory.descriptor_signing import check_ed25519, check_positions, check_rsa
from pelure.tor.directory.exit_policy import ExitPolicy, PortPolicy
from pelure.tor.directory.family import is_legal_member
from pelure.tor.directory.protocols import Protocols
from pelure.tor.directory.tokenizer import (
    Section,
    decode_base64,
    decode_document,
    encode_base64,
    parse_hex,
    parse_int,
    parse_time,
    split_at,
    tokenize,
)

MAX_DESCRIPTOR_LENGTH = 50_000
MAX_DESCRIPTORS_LENGTH = 64 << 20
MAX_FAMILY = 2000
RSA_BITS = 1024
RSA_EXPONENT = 65537
_NICKNAME = re.compile(r"[A-Za-z0-9]{1,19}")
_START = re.compile(rb"^router ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RouterDescriptor:
    """A verified descriptor. ``digest``: SHA-1 (20 bytes); times in epoch seconds; bandwidths in bytes per s.

    ``expires``: when the first of its certificates does. ``tap_key``: DER, None if there is none.
    ``extra_info_digest``: SHA-1 of its extra-info, None without one.
    """

    nickname: str
    ip: str
    orport: int
    dirport: int
    ipv6: tuple[str, int] | None
    rsa_key: RsaPublicKey = field(repr=False)
    ed_id: bytes
    ntor_key: bytes
    tap_key: bytes | None = field(repr=False)
    platform: str
    protocols: Protocols
    published: float
    expires: float
    uptime: int
    bandwidth: tuple[int, int, int]
    exit_policy: ExitPolicy = field(repr=False)
    ipv6_policy: PortPolicy | None
    family: tuple[str, ...]
    family_ids: tuple[str, ...]
    contact: str
    hibernating: bool
    hidden_service_dir: bool
    tunnelled_dir_server: bool
    extra_info_digest: bytes | None
    digest: bytes
    text: bytes = field(repr=False)

    @property
    def rsa_id(self) -> bytes:
        """The relay's RSA identity (20 bytes)."""
        return self.rsa_key.identity

    @property
    def advertised_bandwidth(self) -> int:
        """The least of rate and observed capacity, bytes a second (dir-spec 3.4.1 "Bandwidth")."""
        return min(self.bandwidth[0], self.bandwidth[2])


def parse_router_descriptor(document: bytes) -> RouterDescriptor:
    """Parse one descriptor and check all its signatures and cross-certificates.

    Whether it is recent is the caller's to check. Raises ``DirectoryError``.
    """
    text = decode_document(document, MAX_DESCRIPTOR_LENGTH)
    section = Section(list(tokenize(text)), "the router descriptor")
    if not section.items or section.items[0].keyword != "router":
        raise DirectoryError("a router descriptor must start with 'router'")
    check_positions(section)
    if section.all("accept6") or section.all("reject6"):
        raise DirectoryError("a router descriptor may not have accept6 or reject6 lines")
    cert = check_ed25519(document, section)
    ed_id = cert.signing_key
    if ed_id is None or decode_base64(section.one("master-key-ed25519").arg(0), 32) != ed_id:
        raise DirectoryError("the router descriptor's master key is not its certificate's")
    rsa_key = _rsa_key(section.one("signing-key").need_object("RSA PUBLIC KEY"))
    ntor_key, ntor_expires = _check_ntor(section, ed_id)
    family_ids, family_expires = _family_ids(section, ed_id)
    router = section.one("router")
    nickname = router.arg(0)
    if not _NICKNAME.fullmatch(nickname):
        raise DirectoryError(f"malformed nickname {nickname[:30]!r}")
    fingerprint = section.maybe("fingerprint")
    if fingerprint and parse_hex(fingerprint.rest.replace(" ", ""), 20) != rsa_key.identity:
        raise DirectoryError("the router descriptor's fingerprint is not its identity key's")
    extra_info = section.maybe("extra-info-digest")
    ipv6_policy = section.maybe("ipv6-policy")
    dirport = parse_int(router.arg(4), 0, 65535)
    return RouterDescriptor(
        nickname=nickname,
        ip=parse_ip(router.arg(1), 4),
        orport=parse_int(router.arg(2), 1, 65535),
        dirport=dirport,
        ipv6=_ipv6(section),
        rsa_key=rsa_key,
        ed_id=ed_id,
        ntor_key=ntor_key,
        tap_key=_check_tap(section, rsa_key, ed_id),
        platform=_text(section, "platform"),
        protocols=Protocols.parse(section.one("proto").rest),
        published=parse_time(section.one("published").rest),
        expires=min(float(cert.expires), ntor_expires, family_expires),
        uptime=parse_int(section.one("uptime").arg(0), 0, INT32_MAX) if section.all("uptime") else 0,
        bandwidth=_bandwidth(section),
        exit_policy=_exit_policy(section),
        ipv6_policy=PortPolicy.parse(ipv6_policy.rest) if ipv6_policy else None,
        family=_family(section),
        family_ids=family_ids,
        contact=_text(section, "contact"),
        hibernating=_text(section, "hibernating") not in ("", "0"),
        hidden_service_dir=bool(section.all("hidden-service-dir")),
        tunnelled_dir_server=bool(section.all("tunnelled-dir-server")) or dirport > 0,
        extra_info_digest=parse_hex(extra_info.arg(0), 20) if extra_info else None,
        digest=check_rsa(document, section, rsa_key),
        text=document,
    )


def split_router_descriptors(document: bytes) -> Iterator[bytes]:
    """Yield the text of each descriptor of a run. Raises ``DirectoryError`` if the whole is too large."""
    if len(document) > MAX_DESCRIPTORS_LENGTH:
        raise DirectoryError("too many router descriptors at once")
    end_marker = b"\n-----END SIGNATURE-----\n"
    for piece in split_at(document, _START):
        end = piece.rfind(end_marker)
        yield piece if end < 0 else piece[: end + len(end_marker)]


def _text(section: Section, keyword: str) -> str:
    item = section.maybe(keyword)
    return item.rest if item else ""


def _rsa_key(der: bytes) -> RsaPublicKey:
    try:
        key = RsaPublicKey.from_der(der)
    except CryptoError as error:
        raise DirectoryError("malformed RSA key in the router descriptor") from error
    if key.bits != RSA_BITS or key.exponent != RSA_EXPONENT:
        raise DirectoryError("an RSA key of the router descriptor has the wrong size or exponent")
    return key


def _check_ntor(section: Section, ed_id: bytes) -> tuple[bytes, float]:
    """The ntor key and when its cross-certificate expires, after checking the latter."""
    ntor_key = decode_base64(section.one("ntor-onion-key").arg(0), 32)
    item = section.one("ntor-onion-key-crosscert")
    if item.args not in (["0"], ["1"]):
        raise DirectoryError("the ntor cross-certificate's sign bit is malformed")
    try:
        cert = Ed25519Cert.decode(item.need_object("ED25519 CERT"))
        signer = ed25519_public_from_x25519(ntor_key, int(item.rest))
        cert.verify(signer, cert_type=CertType.NTOR_V_IDENTITY)
    except ProtocolError as error:
        raise DirectoryError(f"the ntor cross-certificate does not verify: {error}") from error
    if cert.certified_key != ed_id:
        raise DirectoryError("the ntor cross-certificate is for another relay")
    return ntor_key, float(cert.expires)


def _check_tap(section: Section, rsa_key: RsaPublicKey, ed_id: bytes) -> bytes | None:
    item, crosscert = section.maybe("onion-key"), section.maybe("onion-key-crosscert")
    if item is None and crosscert is None:
        return None
    if item is None or crosscert is None:
        raise DirectoryError("the router descriptor has an onion key or its cross-certificate, not both")
    der = item.need_object("RSA PUBLIC KEY")
    try:
        _rsa_key(der).verify(crosscert.need_object("CROSSCERT"), rsa_key.identity + ed_id)
    except CryptoError as error:
        raise DirectoryError("the onion key's cross-certificate does not verify") from error
    return der


def _family_ids(section: Section, ed_id: bytes) -> tuple[tuple[str, ...], float]:
    """Sorted family ids proven by ``family-cert`` items (proposal 321), and when the first one expires."""
    ids: set[str] = set()
    expires = float("inf")
    for item in section.all("family-cert"):
        try:
            cert = Ed25519Cert.decode(item.need_object("FAMILY CERT"))
            family_key = cert.verify(cert_type=CertType.FAMILY_V_IDENTITY)
        except ProtocolError as error:
            raise DirectoryError(f"a family certificate does not verify: {error}") from error
        if cert.certified_key != ed_id:
            raise DirectoryError("a family certificate is for another relay")
        ids.add(f"ed25519:{encode_base64(family_key)}")
        expires = min(expires, float(cert.expires))
    return tuple(sorted(ids)), expires


def _ipv6(section: Section) -> tuple[str, int] | None:
    """The first IPv6 ``or-address`` line."""
    for item in section.all("or-address"):
        host, _, port = item.arg(0).rpartition(":")
        if host.startswith("["):
            return parse_ip(host.strip("[]"), 6), parse_int(port, 1, 65535)
    return None


def _bandwidth(section: Section) -> tuple[int, int, int]:
    item = section.one("bandwidth")
    rate, burst = parse_int(item.arg(0), 1, INT32_MAX), parse_int(item.arg(1), 0, INT32_MAX)
    return rate, burst, parse_int(item.arg(2), 0, INT32_MAX)


def _exit_policy(section: Section) -> ExitPolicy:
    lines = [f"{item.keyword} {item.rest}" for item in section.items if item.keyword in ("accept", "reject")]
    if not lines:
        raise DirectoryError("the router descriptor has no exit policy")
    return ExitPolicy.parse(lines)


def _family(section: Section) -> tuple[str, ...]:
    item = section.maybe("family")
    members = item.args if item else []
    if len(members) > MAX_FAMILY or not all(map(is_legal_member, members)):
        raise DirectoryError("the router descriptor's family line is malformed")
    return tuple(members)
