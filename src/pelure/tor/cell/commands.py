"""Numbers and sizes of cells (tor-spec 3, 5.4, 6.1, 6.3; rend-spec-v3 3; proposal 324)."""

from __future__ import annotations

from enum import IntEnum

CELL_LEN = 514
"""Bytes of a fixed-length cell with a 4-byte circuit id (link protocol 4 and up)."""
HEADER_LEN = 5
"""Bytes of circuit id and command."""
PAYLOAD_LEN = 509
"""Bytes of the body of a fixed-length cell."""
RELAY_HEADER_LEN = 11
"""Bytes of command, recognized, stream id, digest and length at the start of a relay cell's body."""
RELAY_BODY_LEN = 498
"""Most bytes of data in one relay message."""
CIRC_ID_HIGH_BIT = 0x80000000
"""Set in ids picked by the side that opened the TLS connection (link protocol 4 and up)."""


class CellCommand(IntEnum):
    """The command of a cell."""

    PADDING = 0
    CREATE = 1
    CREATED = 2
    RELAY = 3
    DESTROY = 4
    CREATE_FAST = 5
    CREATED_FAST = 6
    VERSIONS = 7
    NETINFO = 8
    RELAY_EARLY = 9
    CREATE2 = 10
    CREATED2 = 11
    PADDING_NEGOTIATE = 12
    VPADDING = 128
    CERTS = 129
    AUTH_CHALLENGE = 130
    AUTHENTICATE = 131
    AUTHORIZE = 132


class RelayCommand(IntEnum):
    """The command of a relay message."""

    BEGIN = 1
    DATA = 2
    END = 3
    CONNECTED = 4
    SENDME = 5
    EXTEND = 6
    EXTENDED = 7
    TRUNCATE = 8
    TRUNCATED = 9
    DROP = 10
    RESOLVE = 11
    RESOLVED = 12
    BEGIN_DIR = 13
    EXTEND2 = 14
    EXTENDED2 = 15
    CONFLUX_LINK = 19
    CONFLUX_LINKED = 20
    CONFLUX_LINKED_ACK = 21
    CONFLUX_SWITCH = 22
    ESTABLISH_INTRO = 32
    ESTABLISH_RENDEZVOUS = 33
    INTRODUCE1 = 34
    INTRODUCE2 = 35
    RENDEZVOUS1 = 36
    RENDEZVOUS2 = 37
    INTRO_ESTABLISHED = 38
    RENDEZVOUS_ESTABLISHED = 39
    INTRODUCE_ACK = 40
    PADDING_NEGOTIATE = 41
    PADDING_NEGOTIATED = 42
    XOFF = 43
    XON = 44


class DestroyReason(IntEnum):
    """Why a circuit ends: the reason of DESTROY and TRUNCATED."""

    NONE = 0
    PROTOCOL = 1
    INTERNAL = 2
    REQUESTED = 3
    HIBERNATING = 4
    RESOURCELIMIT = 5
    CONNECTFAILED = 6
    OR_IDENTITY = 7
    CHANNEL_CLOSED = 8
    FINISHED = 9
    TIMEOUT = 10
    DESTROYED = 11
    NOSUCHSERVICE = 12


class EndReason(IntEnum):
    """Why a stream ends: the reason of END."""

    MISC = 1
    RESOLVEFAILED = 2
    CONNECTREFUSED = 3
    EXITPOLICY = 4
    DESTROY = 5
    DONE = 6
    TIMEOUT = 7
    NOROUTE = 8
    HIBERNATING = 9
    INTERNAL = 10
    RESOURCELIMIT = 11
    CONNRESET = 12
    TORPROTOCOL = 13
    NOTDIRECTORY = 14


_END_WORDS: dict[int, str] = {
    EndReason.RESOLVEFAILED: "the host name was not found",
    EndReason.CONNECTREFUSED: "connection refused",
    EndReason.EXITPOLICY: "its exit policy forbids it",
    EndReason.TIMEOUT: "no answer in time",
    EndReason.NOROUTE: "no route to the host",
    EndReason.CONNRESET: "connection reset",
}


def end_words(reason: int) -> str:
    """Why a stream ended, as people say it; as its name where nobody but experts meets it."""
    return _END_WORDS.get(reason) or reason_name(EndReason, reason)


def reason_name(kind: type[IntEnum], value: int) -> str:
    """The lower-case name of a reason for messages, or its number if it is unknown."""
    try:
        return kind(value).name.lower()
    except ValueError:
        return f"reason {value}"


_VERSIONS = int(CellCommand.VERSIONS)  # a member is looked up in 0.1 µs, and this is asked for every run


def is_variable(command: int) -> bool:
    """Whether cells of this command have a length field (VERSIONS and everything from 128 up)."""
    return command >= 128 or command == _VERSIONS
