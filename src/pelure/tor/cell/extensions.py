"""Extension lists (tor-spec 5.1.4.1; rend-spec-v3 3.1.1, 3.3; proposals 305 and 324).

One format serves ntor-v3 messages, ESTABLISH_INTRO, INTRO_ESTABLISHED, INTRODUCE1 (both parts) and
INTRODUCE_ACK: a count (1 byte), then type (1), length (1) and body of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pelure.errors import ProtocolError
from pelure.tor.cell.codec import Reader, vector


class CircuitExtension:
    """Types in ntor-v3 messages and in the encrypted part of INTRODUCE1."""

    CC_REQUEST = 1
    CC_RESPONSE = 2
    SUBPROTOCOL_REQUEST = 3


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension; types nobody knows are kept and ignored."""

    type: int
    body: bytes = b""


def encode_extensions(extensions: Sequence[Extension]) -> bytes:
    """The list as bytes; raises ``ProtocolError`` for more than 255 or a body of more than 255 bytes."""
    if len(extensions) > 255:
        raise ProtocolError("more than 255 extensions")
    return bytes([len(extensions)]) + b"".join(
        bytes([extension.type]) + vector(extension.body, 1) for extension in extensions
    )


def read_extensions(reader: Reader) -> tuple[Extension, ...]:
    """Read a list where ``reader`` stands; raises ``ProtocolError`` if it is truncated."""
    return tuple(Extension(reader.u8(), reader.vector(1)) for _ in range(reader.u8()))


def decode_extensions(data: bytes) -> tuple[Extension, ...]:
    """Read a whole ntor-v3 message: empty for none, anything behind the list is refused."""
    if not data:
        return ()
    reader = Reader(data, "an extension list")
    extensions = read_extensions(reader)
    if reader.remaining:
        raise ProtocolError("bytes behind an extension list")
    return extensions


def find_extension(extensions: Iterable[Extension], kind: int) -> bytes | None:
    """The body of the first extension of type ``kind``; later ones of the same type don't count."""
    return next((extension.body for extension in extensions if extension.type == kind), None)


def cc_request() -> Extension:
    """A client's wish for congestion control (proposal 324 section 10.3)."""
    return Extension(CircuitExtension.CC_REQUEST)


def wants_congestion_control(extensions: Iterable[Extension]) -> bool:
    """Whether the client asked for congestion control."""
    return find_extension(extensions, CircuitExtension.CC_REQUEST) is not None


def cc_response(sendme_inc: int) -> Extension:
    """A relay's yes: it will expect a SENDME every ``sendme_inc`` cells (1 to 254)."""
    return Extension(CircuitExtension.CC_RESPONSE, bytes([sendme_inc]))


def parse_cc_response(extensions: Iterable[Extension]) -> int | None:
    """``sendme_inc`` of a relay's answer, or ``None`` if it did not agree; raises ``ProtocolError``."""
    body = find_extension(extensions, CircuitExtension.CC_RESPONSE)
    if body is None:
        return None
    if len(body) != 1 or not 1 <= body[0] <= 254:
        raise ProtocolError("a malformed congestion control response")
    return body[0]


@dataclass(frozen=True, slots=True)
class DosParameters:
    """How an introduction point shall limit INTRODUCE2: ESTABLISH_INTRO extension 1 (proposal 305).

    ``rate`` is per second, ``burst`` a count; ``None`` leaves the relay's default.
    """

    TYPE: ClassVar[int] = 1

    rate: int | None = None
    burst: int | None = None

    def extension(self) -> Extension:
        """As an extension of ESTABLISH_INTRO."""
        pairs = [(kind, value) for kind, value in ((1, self.rate), (2, self.burst)) if value is not None]
        body = b"".join(bytes([kind]) + value.to_bytes(8, "big") for kind, value in pairs)
        return Extension(self.TYPE, bytes([len(pairs)]) + body)

    @classmethod
    def decode(cls, body: bytes) -> DosParameters:
        """Read an extension's body; parameters nobody knows are ignored. Raises ``ProtocolError``."""
        reader = Reader(body, "a denial-of-service extension")
        values = {reader.u8(): reader.uint(8) for _ in range(reader.u8())}
        return cls(values.get(1), values.get(2))
