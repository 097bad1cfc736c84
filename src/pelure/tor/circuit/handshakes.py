"""The origin's side of a handshake with one hop: ntor-v3, ntor or CREATE_FAST (tor-spec §5.1).

One object for all three: what it ``request``\\ s goes into CREATE2, EXTEND2 or CREATE_FAST, and
``finish(reply)`` gives the hop's keys and what was negotiated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pelure.errors import CircuitError, ProtocolError
from pelure.tor.cell.extensions import cc_request, decode_extensions, encode_extensions, parse_cc_response
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.relaycrypto import HopKeys
from pelure.tor.crypto import create_fast, ntor, ntor_v3
from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.relay import Relay

KEY_MATERIAL_LEN = 92
_KH = slice(72, 92)


@dataclass(frozen=True)
class HopSecrets:
    """The outcome of a handshake. ``kh``: 20 bytes that ESTABLISH_INTRO is bound to.

    ``sendme_inc``: cells per SENDME if the hop agreed to congestion control, else None.
    """

    keys: HopKeys
    kh: bytes = field(repr=False)
    sendme_inc: int | None = None


@dataclass(frozen=True)
class Handshake:
    """A handshake under way. ``kind``: the type number in CREATE2 and EXTEND2, None for CREATE_FAST."""

    kind: int | None
    request: bytes
    finish: Callable[[bytes], HopSecrets] = field(repr=False)
    """Takes the relay's reply; raises ``ProtocolError`` if it proves nothing or asks for the impossible."""


def start(relay: Relay, params: CircuitParams, rng: Rng, *, congestion_control: bool) -> Handshake:
    """Begin the best handshake that ``relay`` supports.

    ``congestion_control``: ask for it where ``relay`` and the consensus allow it. Raises ``CircuitError``
    for a relay without an ntor key.
    """
    if relay.ntor_key is None:
        raise CircuitError(f"the relay {relay.nickname} can't be extended to: its onion key is unknown")
    if relay.ed_id is not None and relay.protocols.supports("Relay", 4):
        return _start_ntor_v3(
            relay.ed_id, relay.ntor_key, params, rng, _wants_cc(relay, params, congestion_control)
        )
    state, request = ntor.client_start(relay.rsa_id, relay.ntor_key, rng)

    def finish(reply: bytes) -> HopSecrets:
        return _secrets(ntor.client_finish(state, reply, KEY_MATERIAL_LEN))

    return Handshake(ntor.HANDSHAKE_TYPE, request, finish)


def start_fast(rng: Rng) -> Handshake:
    """CREATE_FAST, for a first hop that only TLS authenticates; its reply is Y and KH, 20 bytes each."""
    x = rng(create_fast.KEY_LEN)

    def finish(reply: bytes) -> HopSecrets:
        y, proof = reply[: create_fast.KEY_LEN], reply[create_fast.KEY_LEN :]
        return HopSecrets(HopKeys.tor1(create_fast.client_finish(x, y, proof, 72)), proof)

    return Handshake(None, x, finish)


def _wants_cc(relay: Relay, params: CircuitParams, wanted: bool) -> bool:
    return wanted and params.congestion_control and relay.protocols.supports("FlowCtrl", 2)


def _start_ntor_v3(ed_id: bytes, onion_key: bytes, params: CircuitParams, rng: Rng, ask: bool) -> Handshake:
    message = encode_extensions([cc_request()] if ask else [])
    state, request = ntor_v3.client_start(ed_id, onion_key, message, rng)

    def finish(reply: bytes) -> HopSecrets:
        answer, material = ntor_v3.client_finish(state, reply, KEY_MATERIAL_LEN)
        increment = parse_cc_response(decode_extensions(answer))
        if increment is not None and not ask:
            raise ProtocolError("the relay agreed to congestion control, which it was not asked for")
        if increment is not None and abs(increment - params.sendme_inc) > 1:
            # Proposal 324 §10.3: a value far from the consensus' would tell this circuit from others.
            raise ProtocolError("the relay asks for another SENDME increment than the consensus")
        return _secrets(material, increment)

    return Handshake(ntor_v3.HANDSHAKE_TYPE, request, finish)


def _secrets(material: bytes, sendme_inc: int | None = None) -> HopSecrets:
    return HopSecrets(HopKeys.tor1(material), material[_KH], sendme_inc)
