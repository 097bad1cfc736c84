"""The body of one relay cell before encryption (tor-spec 6.1).

``command (1) | recognized (2) = 0 | stream id (2) | digest (4) | length (2) | data | padding``. The digest is
left zero here and filled in by the layer that keeps the running hash. Runs of DATA are built by vectors in
``pelure.tor.circuit``; this is for single messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import PAYLOAD_LEN, RELAY_BODY_LEN, RELAY_HEADER_LEN
from pelure.tor.crypto.keys import Rng

_ZERO_GAP = 4
"""Padding starts with this many zero bytes, the rest is random (tor-spec 6.1)."""


@dataclass(frozen=True, slots=True)
class RelayMessage:
    """One decrypted relay message: ``command`` may be one that :class:`RelayCommand` doesn't know."""

    command: int
    stream_id: int
    data: bytes


def encode_relay_body(command: int, stream_id: int, data: bytes, rng: Rng) -> bytes:
    """The 509 bytes of a message, digest zero, padding random; raises ``ProtocolError`` over 498 bytes."""
    if len(data) > RELAY_BODY_LEN:
        raise ProtocolError(f"a relay message holds at most {RELAY_BODY_LEN} bytes")
    header = bytes([command, 0, 0]) + stream_id.to_bytes(2, "big") + bytes(4) + len(data).to_bytes(2, "big")
    padding = PAYLOAD_LEN - RELAY_HEADER_LEN - len(data)
    zeros = min(padding, _ZERO_GAP)
    return header + data + bytes(zeros) + rng(padding - zeros)


def decode_relay_body(body: bytes | bytearray) -> RelayMessage:
    """Read the 509 bytes of a recognized relay cell; raises ``ProtocolError`` if its length is too big."""
    length = int.from_bytes(body[9:11], "big")
    if len(body) != PAYLOAD_LEN or length > RELAY_BODY_LEN:
        raise ProtocolError("the length of a relay message exceeds its cell")
    return RelayMessage(
        body[0], int.from_bytes(body[3:5], "big"), bytes(body[RELAY_HEADER_LEN : RELAY_HEADER_LEN + length])
    )
