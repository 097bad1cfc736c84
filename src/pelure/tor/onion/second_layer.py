"""The second layer of a descriptor: introduction points and what the service supports (rend-spec-v3 2.5.2).

Also the ``flow-control`` line (proposal 324 section 10.3) and the ``pow-params`` line (proposal 327).
"""

from __future__ import annotations

import base64
import logging
import re
from dataclasses import dataclass, field
from itertools import pairwise

from pelure.errors import DirectoryError, ProtocolError
from pelure.tor.cell.certs import CertType, Ed25519Cert
from pelure.tor.cell.linkspec import LinkSpecifier, decode_specifiers, encode_specifiers
from pelure.tor.crypto.keys import Ed25519KeyPair, ed25519_public_from_x25519
from pelure.tor.directory.relay import Relay
from pelure.tor.directory.tokenizer import (
    Item,
    Section,
    decode_base64,
    decode_document,
    encode_object,
    parse_int,
    tokenize,
)
from pelure.tor.onion.pow import PowParams

HANDSHAKE_NTOR = 2
INTRO_POINTS_MAX = 20
_RANGE = re.compile(r"[0-9]{1,2}(-[0-9]{1,2})?(,[0-9]{1,2}(-[0-9]{1,2})?)*")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IntroPoint:
    """An introduction point as a descriptor names it: the relay, and the service's two keys there.

    ``onion_key`` is the relay's ntor key, ``auth_key`` is KP_hs_ipt_sid (Ed25519), ``enc_key`` is KP_hss_ntor
    (X25519); 32 bytes each.
    """

    link_specifiers: tuple[LinkSpecifier, ...]
    onion_key: bytes
    auth_key: bytes
    enc_key: bytes
    certificates: tuple[Ed25519Cert, ...] = field(default=(), repr=False, compare=False)
    """Those of the two keys, where it was read from a descriptor; their signatures are not checked yet."""

    def relay(self) -> Relay:
        """Return the relay to extend to. Raises :class:`ProtocolError` if the specifiers name none."""
        return Relay.from_link_specifiers(self.link_specifiers, self.onion_key)

    def verify(self, signing_key: bytes) -> None:
        """Check that the descriptor signing key certifies both keys. Raises :class:`CryptoError`."""
        for certificate in self.certificates:
            certificate.verify(signing_key, cert_type=certificate.cert_type)

    def encode(self, signing_pair: Ed25519KeyPair, expires: float) -> str:
        """Return the lines, certified by the descriptor signing key until ``expires``."""
        auth_cert = Ed25519Cert.create(CertType.HS_INTRO_AUTH, self.auth_key, signing_pair, expires)
        enc_cert = Ed25519Cert.create(
            CertType.HS_INTRO_ENC, ed25519_public_from_x25519(self.enc_key, 0), signing_pair, expires
        )
        return (
            f"introduction-point {_base64(encode_specifiers(self.link_specifiers))}\n"
            f"onion-key ntor {_base64(self.onion_key)}\n"
            f"auth-key\n{encode_object('ED25519 CERT', auth_cert.encode())}"
            f"enc-key ntor {_base64(self.enc_key)}\n"
            f"enc-key-cert\n{encode_object('ED25519 CERT', enc_cert.encode())}"
        )


@dataclass(frozen=True)
class FlowControl:
    """The ``flow-control`` line: FlowCtrl versions the service speaks, and its SENDME increment in cells."""

    versions: str
    sendme_inc: int

    @property
    def congestion_control(self) -> bool:
        """Whether version 2, congestion control, is among the versions."""
        for part in self.versions.split(","):
            low, _, high = part.partition("-")
            if int(low) <= 2 <= int(high or low):
                return True
        return False


@dataclass(frozen=True)
class SecondLayer:
    """The decrypted second layer."""

    intro_points: tuple[IntroPoint, ...]
    create2_formats: tuple[int, ...] = (HANDSHAKE_NTOR,)
    intro_auth_required: tuple[str, ...] = ()
    single_onion_service: bool = False
    flow_control: FlowControl | None = None
    pow_params: PowParams | None = None

    def encode(self, signing_pair: Ed25519KeyPair, expires: float) -> bytes:
        """Return the plaintext; certificates are by the descriptor signing key and end at ``expires``."""
        lines = [f"create2-formats {' '.join(map(str, self.create2_formats))}\n"]
        if self.intro_auth_required:
            lines.append(f"intro-auth-required {' '.join(self.intro_auth_required)}\n")
        if self.single_onion_service:
            lines.append("single-onion-service\n")
        if self.flow_control is not None:
            lines.append(f"flow-control {self.flow_control.versions} {self.flow_control.sendme_inc}\n")
        if self.pow_params is not None:
            lines.append(self.pow_params.encode())
        lines += [point.encode(signing_pair, expires) for point in self.intro_points]
        return "".join(lines).encode("ascii")

    @classmethod
    def parse(cls, plaintext: bytes, signing_key: bytes, now: float) -> SecondLayer:
        """Parse a decrypted second layer; ``signing_key`` is the descriptor signing key.

        An introduction point that can't be understood is left out, as C tor does; :meth:`IntroPoint.verify`
        is for the one that is used. Anything else that is malformed raises :class:`DirectoryError`.
        """
        items = list(tokenize(decode_document(plaintext.rstrip(b"\0"))))
        starts = [index for index, item in enumerate(items) if item.keyword == "introduction-point"]
        if len(starts) > INTRO_POINTS_MAX:
            raise DirectoryError("a descriptor has more than 20 introduction points")
        head = Section(items[: starts[0]] if starts else items, "a descriptor's second layer")
        formats = tuple(parse_int(text, 0, 0xFFFF) for text in head.one("create2-formats").args)
        if HANDSHAKE_NTOR not in formats:
            raise DirectoryError("a descriptor's service doesn't support the ntor handshake")
        auth = head.maybe("intro-auth-required")
        points = []
        for start, end in pairwise([*starts, len(items)]):
            try:
                points.append(_parse_intro_point(items[start:end], signing_key, now))
            except ProtocolError as error:
                log.info("A descriptor's introduction point can't be used: %s", error)
            except DirectoryError as error:
                log.info("A descriptor's introduction point is malformed: %s", error)
        return cls(
            tuple(points),
            formats,
            tuple(auth.args) if auth else (),
            head.maybe("single-onion-service") is not None,
            _flow_control(head.maybe("flow-control")),
            PowParams.parse(head.all("pow-params")),
        )


def _parse_intro_point(items: list[Item], signing_key: bytes, now: float) -> IntroPoint:
    section = Section(items, "an introduction point")
    specifiers = tuple(decode_specifiers(decode_base64(items[0].arg(0))))
    auth_cert = Ed25519Cert.decode(section.one("auth-key").need_object("ED25519 CERT"))
    enc_cert = Ed25519Cert.decode(section.one("enc-key-cert").need_object("ED25519 CERT"))
    for cert, kind in ((auth_cert, CertType.HS_INTRO_AUTH), (enc_cert, CertType.HS_INTRO_ENC)):
        cert.check(signing_key, cert_type=kind, now=now)
    point = IntroPoint(
        specifiers,
        _ntor_key(section, "onion-key"),
        auth_cert.certified_key,
        _ntor_key(section, "enc-key"),
        (auth_cert, enc_cert),
    )
    point.relay()  # refuses specifiers that name no relay
    return point


def _ntor_key(section: Section, keyword: str) -> bytes:
    keys = [item.arg(1) for item in section.all(keyword) if item.arg(0) == "ntor"]
    if len(keys) != 1:
        raise DirectoryError(f"an introduction point needs exactly one ntor {keyword}")
    return decode_base64(keys[0], 32)


def _flow_control(item: Item | None) -> FlowControl | None:
    if item is None:
        return None
    versions = item.arg(0)
    if not _RANGE.fullmatch(versions):
        raise DirectoryError("a descriptor's flow-control versions are malformed")
    return FlowControl(versions, parse_int(item.arg(1), 1, 255))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
