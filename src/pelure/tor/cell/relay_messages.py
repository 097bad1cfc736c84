"""Relay messages of circuits and streams (tor-spec 5.3, 6.2 to 6.4, 7.3; proposals 289 and 324).

Each class has its ``command``, ``encode`` to the message's data and ``decode`` from it (raising
``ProtocolError``; bytes behind what is known are ignored, as the specification asks). Those of the
rendezvous are in ``onion_messages``; DATA, BEGIN_DIR, TRUNCATE and DROP are plain bytes or empty.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from pelure.errors import ProtocolError
from pelure.tor.cell.addresses import TYPE_IPV6, encode_ip, ip_text
from pelure.tor.cell.codec import Reader, vector
from pelure.tor.cell.commands import RelayCommand
from pelure.tor.cell.linkspec import LinkSpecifier, encode_specifiers, read_specifiers

MAX_HOST_LEN = 253
"""Longest host name (RFC 1035); longer ones are refused when read."""


class RelayMessageBody:
    """What all messages share."""

    __slots__ = ()
    command: ClassVar[RelayCommand]

    def encode(self) -> bytes:
        """The message's data (at most 498 bytes to fit a cell)."""
        raise TypeError(f"{type(self).__name__} has no data")


@dataclass(frozen=True, slots=True)
class Begin(RelayMessageBody):
    """BEGIN: open a stream to ``host`` (empty towards an onion service) and ``port``."""

    command: ClassVar[RelayCommand] = RelayCommand.BEGIN
    IPV6_OKAY: ClassVar[int] = 1
    IPV4_NOT_OKAY: ClassVar[int] = 2
    IPV6_PREFERRED: ClassVar[int] = 4
    host: str
    port: int
    flags: int = 0

    def encode(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        flags = self.flags.to_bytes(4, "big") if self.flags else b""
        return f"{host}:{self.port}".encode("ascii") + b"\0" + flags

    @classmethod
    def decode(cls, data: bytes) -> Begin:
        target, separator, rest = data.partition(b"\0")
        if not separator:
            raise ProtocolError("BEGIN without the end of its address")
        host, port = _split_target(target)
        return cls(host, port, int.from_bytes(rest[:4], "big") if len(rest) >= 4 else 0)


def _split_target(target: bytes) -> tuple[str, int]:
    """``host:port`` of a BEGIN; host names come back in lower case, IPv6 without brackets."""
    host, colon, port = target.rpartition(b":")
    try:
        name = host.decode("ascii").lower()
    except UnicodeDecodeError as error:
        raise ProtocolError("the address of BEGIN is not ASCII") from error
    if not colon or not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise ProtocolError("BEGIN without a port from 1 to 65535")
    if name.startswith("["):
        if not name.endswith("]"):
            raise ProtocolError("BEGIN with a malformed IPv6 address")
        name = name[1:-1]
        _require_ipv6(name)
    elif ":" in name or len(name) > MAX_HOST_LEN or not _is_plain(name):
        raise ProtocolError("BEGIN with a malformed address")
    return name, int(port)


def _is_plain(text: str) -> bool:
    """Only printable ASCII: nothing that could disturb a log line."""
    return text.isascii() and text.isprintable()


def _require_ipv6(text: str) -> None:
    try:
        scoped = ipaddress.IPv6Address(text).scope_id is not None
    except ValueError as error:
        raise ProtocolError("BEGIN with a malformed IPv6 address") from error
    if scoped:
        raise ProtocolError("BEGIN with an address of one link only")


@dataclass(frozen=True, slots=True)
class Connected(RelayMessageBody):
    """CONNECTED: the stream is open; exits name the address and its time to live (seconds)."""

    command: ClassVar[RelayCommand] = RelayCommand.CONNECTED
    address: str | None = None
    ttl: int = 0

    def encode(self) -> bytes:
        if self.address is None:
            return b""
        ip = ipaddress.ip_address(self.address)
        kind = b"" if ip.version == 4 else bytes([0, 0, 0, 0, TYPE_IPV6])
        return kind + ip.packed + self.ttl.to_bytes(4, "big")

    @classmethod
    def decode(cls, data: bytes) -> Connected:
        if not data:
            return cls()
        reader = Reader(data, "CONNECTED")
        first = reader.take(4)
        if not any(first) and not reader.remaining:
            return cls()  # the address 0.0.0.0 says nothing
        if any(first):
            return cls(str(ipaddress.ip_address(first)), reader.u32() if reader.remaining else 0)
        if reader.u8() != TYPE_IPV6:
            raise ProtocolError("CONNECTED with an address of unknown type")
        return cls(str(ipaddress.ip_address(reader.take(16))), reader.u32())


@dataclass(frozen=True, slots=True)
class End(RelayMessageBody):
    """END: the stream is over; ``reason`` is an :class:`~.commands.EndReason` or unknown.

    With reason EXITPOLICY an exit may name the ``address`` it refused and its time to live.
    """

    command: ClassVar[RelayCommand] = RelayCommand.END
    reason: int
    address: str | None = None
    ttl: int = 0

    def encode(self) -> bytes:
        if self.address is None:
            return bytes([self.reason])
        packed = ipaddress.ip_address(self.address).packed
        return bytes([self.reason]) + packed + self.ttl.to_bytes(4, "big")

    @classmethod
    def decode(cls, data: bytes) -> End:
        """An empty END means MISC (tor-spec 6.3)."""
        reason = data[0] if data else 1
        size = {8: 4, 20: 16}.get(len(data) - 1)
        if size is None:
            return cls(reason)
        address = str(ipaddress.ip_address(data[1 : 1 + size]))
        return cls(reason, address, int.from_bytes(data[1 + size : 5 + size], "big"))


@dataclass(frozen=True, slots=True)
class Sendme(RelayMessageBody):
    """SENDME: version 1 of circuits carries the ``tag`` (20 bytes) of the cell it acknowledges, 0 nothing."""

    command: ClassVar[RelayCommand] = RelayCommand.SENDME
    tag: bytes | None = None

    def encode(self) -> bytes:
        return b"" if self.tag is None else b"\1" + vector(self.tag, 2)

    @classmethod
    def decode(cls, data: bytes) -> Sendme:
        if not data or data[0] == 0:
            return cls()
        reader = Reader(data, "SENDME")
        if reader.u8() != 1:
            raise ProtocolError("SENDME of an unknown version")
        return cls(reader.vector(2))


@dataclass(frozen=True, slots=True)
class Extend2(RelayMessageBody):
    """EXTEND2: the next relay by its link specifiers, and the handshake for it."""

    command: ClassVar[RelayCommand] = RelayCommand.EXTEND2
    specifiers: tuple[LinkSpecifier, ...]
    handshake_type: int
    handshake: bytes

    def encode(self) -> bytes:
        handshake = self.handshake_type.to_bytes(2, "big") + vector(self.handshake, 2)
        return encode_specifiers(self.specifiers) + handshake

    @classmethod
    def decode(cls, data: bytes) -> Extend2:
        reader = Reader(data, "EXTEND2")
        return cls(read_specifiers(reader), reader.u16(), reader.vector(2))


@dataclass(frozen=True, slots=True)
class Extended2(RelayMessageBody):
    """EXTENDED2: the next relay's answer to the handshake."""

    command: ClassVar[RelayCommand] = RelayCommand.EXTENDED2
    handshake: bytes

    def encode(self) -> bytes:
        return vector(self.handshake, 2)

    @classmethod
    def decode(cls, data: bytes) -> Extended2:
        return cls(Reader(data, "EXTENDED2").vector(2))


@dataclass(frozen=True, slots=True)
class Truncated(RelayMessageBody):
    """TRUNCATED: the circuit behind this hop is gone; ``reason`` as in DESTROY."""

    command: ClassVar[RelayCommand] = RelayCommand.TRUNCATED
    reason: int = 0

    def encode(self) -> bytes:
        return bytes([self.reason])

    @classmethod
    def decode(cls, data: bytes) -> Truncated:
        return cls(data[0] if data else 0)


@dataclass(frozen=True, slots=True)
class Resolve(RelayMessageBody):
    """RESOLVE: look up ``name``, a host name or an ``in-addr.arpa`` / ``ip6.arpa`` name."""

    command: ClassVar[RelayCommand] = RelayCommand.RESOLVE
    name: str

    def encode(self) -> bytes:
        return self.name.encode("ascii") + b"\0"

    @classmethod
    def decode(cls, data: bytes) -> Resolve:
        name, separator, _ = data.partition(b"\0")
        text = name.decode("ascii", "replace").lower()
        if not separator or not name or len(name) > MAX_HOST_LEN or not _is_plain(text):
            raise ProtocolError("RESOLVE with a malformed name")
        return cls(text)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of RESOLVED: ``type`` 0 host name, 4 and 6 addresses, 0xF0 and 0xF1 errors."""

    HOSTNAME: ClassVar[int] = 0
    ERROR_TRANSIENT: ClassVar[int] = 0xF0
    ERROR_PERMANENT: ClassVar[int] = 0xF1
    type: int
    value: bytes
    ttl: int = 0

    @classmethod
    def address(cls, host: str, ttl: int) -> Answer:
        """The answer that is an IP address."""
        encoded = encode_ip(host)
        return cls(encoded[0], encoded[2:], ttl)

    @property
    def text(self) -> str | None:
        """The address or host name, ``None`` for errors and unknown types; raises ``ProtocolError``."""
        if self.type == self.HOSTNAME:
            return self.value.decode("ascii", "replace")
        return ip_text(self.type, self.value)

    @property
    def is_error(self) -> bool:
        """Whether the look-up failed."""
        return self.type in (self.ERROR_TRANSIENT, self.ERROR_PERMANENT)


@dataclass(frozen=True, slots=True)
class Resolved(RelayMessageBody):
    """RESOLVED: the answers to RESOLVE."""

    command: ClassVar[RelayCommand] = RelayCommand.RESOLVED
    answers: tuple[Answer, ...]

    def encode(self) -> bytes:
        return b"".join(bytes([a.type]) + vector(a.value, 1) + a.ttl.to_bytes(4, "big") for a in self.answers)

    @classmethod
    def decode(cls, data: bytes) -> Resolved:
        reader, answers = Reader(data, "RESOLVED"), []
        while reader.remaining:
            answer = Answer(reader.u8(), reader.vector(1), reader.u32())
            ip_text(answer.type, answer.value)
            answers.append(answer)
        return cls(tuple(answers))


@dataclass(frozen=True, slots=True)
class Xon(RelayMessageBody):
    """XON: go on sending on this stream, at ``kbps_ewma`` kilobytes a second (0: no advice)."""

    command: ClassVar[RelayCommand] = RelayCommand.XON
    kbps_ewma: int = 0

    def encode(self) -> bytes:
        return b"\0" + self.kbps_ewma.to_bytes(4, "big")

    @classmethod
    def decode(cls, data: bytes) -> Xon:
        reader = Reader(data, "XON")
        if reader.u8() != 0:
            raise ProtocolError("XON of an unknown version")
        return cls(reader.u32())


@dataclass(frozen=True, slots=True)
class Xoff(RelayMessageBody):
    """XOFF: stop sending on this stream."""

    command: ClassVar[RelayCommand] = RelayCommand.XOFF

    def encode(self) -> bytes:
        return b"\0"

    @classmethod
    def decode(cls, data: bytes) -> Xoff:
        if Reader(data, "XOFF").u8() != 0:
            raise ProtocolError("XOFF of an unknown version")
        return cls()
