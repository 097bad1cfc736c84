"""The introduction as the two ends see it (rend-spec-v3 3.2, 3.3; proposal 324 section 10.3).

The client seals a rendezvous cookie, the rendezvous point and its half of hs-ntor into INTRODUCE1; the
service opens the same bytes from INTRODUCE2 and answers through the rendezvous point.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pelure.errors import ProtocolError
from pelure.tor.cell.extensions import cc_request, find_extension, wants_congestion_control
from pelure.tor.cell.onion_messages import Introduce1, Introduce2, IntroducePayload
from pelure.tor.crypto import hs_ntor
from pelure.tor.crypto.keys import Ed25519KeyPair, Rng, x25519_generate
from pelure.tor.directory.relay import Relay
from pelure.tor.onion.pow import ProofOfWork
from pelure.tor.onion.second_layer import IntroPoint

INTRODUCE1_MIN_LEN = 246
_SEALED_OVERHEAD = 64


def introduce(
    point: IntroPoint,
    subcredential: bytes,
    rendezvous_point: Relay,
    cookie: bytes,
    rng: Rng,
    *,
    congestion_control: bool,
    proof: ProofOfWork | None = None,
) -> tuple[hs_ntor.ClientState, bytes]:
    """Return what the client remembers and the body of INTRODUCE1, as long as C tor's shortest at least.

    ``congestion_control`` asks for it on the joined circuit; a ``proof`` of work goes along. Raises
    :class:`ProtocolError` if the rendezvous point's ntor key isn't known, :class:`CryptoError` if the
    introduction point's key is unusable.
    """
    if rendezvous_point.ntor_key is None:
        raise ProtocolError("the rendezvous point's ntor key is not known")
    extensions = [cc_request()] if congestion_control else []
    if proof is not None:
        extensions.append(proof.extension())
    payload = IntroducePayload(
        cookie, tuple(extensions), rendezvous_point.ntor_key, tuple(rendezvous_point.link_specifiers())
    )
    header = Introduce1(point.auth_key, (), b"").header
    plaintext = payload.encode(padded_to=INTRODUCE1_MIN_LEN - len(header) - _SEALED_OVERHEAD)
    state, encrypted = hs_ntor.client_introduce(
        point.auth_key, point.enc_key, subcredential, header, plaintext, rng
    )
    return state, header + encrypted


@dataclass(frozen=True)
class IntroKeys:
    """A service's keys at one introduction point: Ed25519 authentication pair, X25519 encryption pair."""

    auth: Ed25519KeyPair
    enc_secret: bytes = field(repr=False)
    enc_public: bytes

    @classmethod
    def generate(cls, rng: Rng) -> IntroKeys:
        """Make fresh keys."""
        return cls(Ed25519KeyPair.generate(rng), *x25519_generate(rng))


@dataclass(frozen=True)
class Introduction:
    """An opened INTRODUCE2: where the client waits and for which cookie (20 bytes)."""

    cookie: bytes = field(repr=False)
    rendezvous_point: Relay
    congestion_control: bool
    state: hs_ntor.ServiceState = field(repr=False)
    subcredential: bytes = field(repr=False)
    """That of the descriptor which the client had."""
    proof_of_work: bytes | None
    """The extension PROOF_OF_WORK as it came, for whom it concerns."""

    @classmethod
    def open(cls, message: Introduce2, keys: IntroKeys, subcredentials: Iterable[bytes]) -> Introduction:
        """Open an INTRODUCE2 with the subcredential of whichever published descriptor the client had.

        Raises :class:`ProtocolError` (:class:`CryptoError` if no subcredential fits).
        """
        if message.auth_key != keys.auth.public:
            raise ProtocolError("INTRODUCE2 is for another introduction point")
        plaintext, subcredential, state = hs_ntor.service_open(
            keys.enc_secret,
            keys.enc_public,
            keys.auth.public,
            subcredentials,
            message.header,
            message.encrypted,
        )
        payload = IntroducePayload.decode(plaintext)
        relay = Relay.from_link_specifiers(payload.specifiers, payload.onion_key)
        return cls(
            payload.cookie,
            relay,
            wants_congestion_control(payload.extensions),
            state,
            subcredential,
            find_extension(payload.extensions, ProofOfWork.TYPE),
        )

    def answer(self, rng: Rng) -> tuple[bytes, bytes]:
        """Return HANDSHAKE_INFO for RENDEZVOUS1 (64 bytes) and the virtual hop's key material (128 bytes)."""
        return hs_ntor.service_rendezvous(self.state, rng)
