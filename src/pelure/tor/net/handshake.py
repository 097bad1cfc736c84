"""The handshake of a link inside TLS, without I/O (tor-spec 4): VERSIONS, CERTS, AUTH_CHALLENGE,
AUTHENTICATE, NETINFO.

=========== ============================================ ===========================================
turn        initiator                                    responder
=========== ============================================ ===========================================
1           VERSIONS
2                                                        VERSIONS CERTS AUTH_CHALLENGE NETINFO
3           a client: NETINFO
            a relay: CERTS AUTHENTICATE NETINFO
=========== ============================================ ===========================================

Anything else out of turn, except padding and further VERSIONS, ends the link.
"""

from __future__ import annotations

import hashlib
import hmac
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pelure.errors import CryptoError, LinkError, ProtocolError
from pelure.tor.cell.commands import CellCommand
from pelure.tor.cell.framing import Cell, CellReader, Run, encode
from pelure.tor.cell.linkspec import RelayIds
from pelure.tor.cell.messages import (
    AUTH_METHOD_ED25519_SHA256_RFC5705,
    AuthChallenge,
    Authenticate,
    CellMessage,
    Certs,
    Netinfo,
    Versions,
)
from pelure.tor.crypto.keys import Rng, ed25519_verify
from pelure.tor.crypto.rsa import RsaPublicKey
from pelure.tor.net.identity import CheckedKeys, LinkIdentity, check_initiator, check_responder
from pelure.tor.net.narrow import NarrowReader

VERSIONS = (3, 4, 5)
WIDE_VERSION = 4  # from here on circuit ids have four bytes
EXPORTER_LABEL = b"EXPORTER FOR TOR TLS CLIENT BINDING AUTH0003"
AUTH_TYPE = b"AUTH0003"
RAND_LEN = 24
SIGNATURE_LEN = 64
IGNORED = frozenset({CellCommand.PADDING, CellCommand.VPADDING, CellCommand.VERSIONS})  # after the first one
MAX_CELLS = 256  # of a peer until the link is open: it takes five, the rest is padding

Export = Callable[[bytes, bytes, int], bytes]
"""RFC 5705: ``export(label, context, length)`` of the TLS session."""


class WrongIdentity(LinkError):
    """The relay at this address is another one than was expected."""


@dataclass(frozen=True)
class PeerIdentity:
    """Who is on the other side. ``rsa_id`` (20 bytes) and ``ed_id`` (32) are None for a client.

    ``canonical``: the peer itself says that it is at the address its bytes come from (tor-spec 5.3.1).
    ``clock_skew``: seconds that its clock is ahead of ours, None if it did not tell.
    ``seen_as``: our IP address as the peer sees it.
    """

    rsa_id: bytes | None = None
    ed_id: bytes | None = None
    canonical: bool = False
    clock_skew: float | None = None
    seen_as: str | None = None


@dataclass(frozen=True)
class Surroundings:
    """What a handshake needs to know: clock (epoch seconds), randomness, the peer's IP, the TLS session.

    ``tls_certificate``: DER of the responder's TLS certificate, whichever side this is.
    """

    now: float
    rng: Rng
    peer_address: str
    tls_certificate: bytes
    export: Export


class Handshake(ABC):
    """Both roles: feed it plain bytes with :meth:`receive` until ``done``."""

    def __init__(self, around: Surroundings, identity: LinkIdentity | None) -> None:
        self._around = around
        self._identity = identity
        self._sent = hashlib.sha256()
        self._received = hashlib.sha256()
        self._keys: CheckedKeys | None = None
        self._items: deque[Cell | Run] = deque()
        self._cells_left = MAX_CELLS
        self.reader: CellReader | NarrowReader = CellReader(wide=False)
        self.version = 0
        self.done = False
        self.peer = PeerIdentity()

    def start(self) -> bytes:
        """What to send first, before anything came."""
        return b""

    def receive(self, data: bytes | memoryview) -> bytes:
        """Take bytes that came; returns those to send. Raises ``ProtocolError`` or ``LinkError``: close."""
        answer = b""
        self._items += self.reader.feed(data)
        while self._items and not self.done:
            cell = self._items.popleft()
            self._cells_left -= 1
            if not self._cells_left:
                raise ProtocolError("the peer says too much in its handshake")
            if isinstance(cell, Run) or cell.circ_id != 0:
                raise ProtocolError("a circuit's cell came before the link was open")
            if not self.version:
                answer += self._agree(cell)
                self._items += self.reader.feed(b"")
                continue
            if cell.command not in IGNORED:
                answer += self._handle(cell)
            self._received.update(encode(cell, wide=self.version >= WIDE_VERSION))
        return answer

    def take_items(self) -> list[Cell | Run]:
        """Cells that came right behind the handshake."""
        items = list(self._items)
        self._items.clear()
        return items

    def _agree(self, cell: Cell) -> bytes:
        """Choose the highest version both speak (tor-spec 4.1)."""
        common = set(Versions.decode(cell.body).versions) & set(VERSIONS)
        if not common:
            raise ProtocolError("the peer speaks no link protocol version that we do")
        self._received.update(encode(cell, wide=False))
        self.version = max(common)
        assert isinstance(self.reader, CellReader)
        if self.version >= WIDE_VERSION:
            self.reader.wide = True
        else:
            self.reader = NarrowReader(self.reader.rest)
        return self._versions_agreed()

    def key_is_higher(self) -> bool:
        """Whether this side's RSA identity is the greater, which decides about circuit ids in version 3."""
        if self._identity is None or self._keys is None:
            return self._identity is None  # a client may take any; a relay never extends to one
        return self._identity.rsa_public.modulus > self._keys.rsa_public.modulus

    def _say(self, message: CellMessage) -> bytes:
        data = encode(message.cell(), wide=self.version >= WIDE_VERSION)
        self._sent.update(data)
        return data

    def _say_versions(self) -> bytes:
        data = encode(Versions(VERSIONS).cell(), wide=False)
        self._sent.update(data)
        return data

    def _netinfo(self) -> bytes:
        """A client tells neither its clock nor its addresses (tor-spec 4.5)."""
        identity = self._identity
        timestamp = int(self._around.now) if identity is not None else 0
        addresses = identity.addresses if identity is not None else ()
        return self._say(Netinfo(timestamp, self._around.peer_address, addresses))

    def _finish(self, cell: Cell) -> None:
        netinfo = Netinfo.decode(cell.body)
        keys = self._keys
        self.peer = PeerIdentity(
            keys.rsa_public.identity if keys else None,
            keys.ed_id if keys else None,
            keys is not None and self._around.peer_address in netinfo.my_addresses,
            netinfo.timestamp - self._around.now if netinfo.timestamp else None,
            netinfo.other_address,
        )
        self.done = True

    def _authentication(
        self, client: tuple[RsaPublicKey, bytes], server: tuple[RsaPublicKey, bytes], slog: bytes, clog: bytes
    ) -> bytes:
        """TYPE to TLSSECRETS of AUTHENTICATE (tor-spec 4.4.2): what both sides compute for themselves.

        The exporter's context is CID, as C tor has it; the specification names the Ed25519 key.
        """
        client_id = client[0].identity_sha256
        return b"".join(
            (
                AUTH_TYPE,
                client_id,
                server[0].identity_sha256,
                client[1],
                server[1],
                slog,
                clog,
                hashlib.sha256(self._around.tls_certificate).digest(),
                self._around.export(EXPORTER_LABEL, client_id, 32),
            )
        )

    @abstractmethod
    def _versions_agreed(self) -> bytes: ...

    @abstractmethod
    def _handle(self, cell: Cell) -> bytes: ...


class InitiatorHandshake(Handshake):
    """The side that connected: a client, or with ``identity`` a relay that proves itself."""

    def __init__(
        self, around: Surroundings, identity: LinkIdentity | None, expected: RelayIds | None
    ) -> None:
        """``expected``: who should be there; None takes anyone that proves an identity."""
        super().__init__(around, identity)
        self._expected = expected
        self._said_netinfo = False

    def start(self) -> bytes:
        return self._say_versions()

    def _versions_agreed(self) -> bytes:
        return b""

    def _handle(self, cell: Cell) -> bytes:
        if cell.command == CellCommand.CERTS and self._keys is None:
            self._check_identity(Certs.decode(cell.body))
            return b"" if self._identity is not None else self._say_netinfo()
        if cell.command == CellCommand.AUTH_CHALLENGE and self._keys is not None:
            return self._authenticate(cell) if self._identity is not None else b""
        if cell.command == CellCommand.NETINFO and self._keys is not None:
            answer = b"" if self._said_netinfo else self._say_netinfo()
            self._finish(cell)
            return answer
        raise ProtocolError(f"a cell of command {cell.command} came out of turn in the link handshake")

    def _check_identity(self, certs: Certs) -> None:
        keys = check_responder(certs, self._around.tls_certificate, self._around.now)
        expected = self._expected
        if expected is not None and (
            keys.rsa_public.identity != expected.rsa or expected.ed not in (None, keys.ed_id)
        ):
            raise WrongIdentity(f"the relay at {self._around.peer_address} is not the one expected there")
        self._keys = keys

    def _say_netinfo(self) -> bytes:
        self._said_netinfo = True
        return self._netinfo()

    def _authenticate(self, cell: Cell) -> bytes:
        if self._said_netinfo:
            raise ProtocolError("a second AUTH_CHALLENGE")
        identity, keys = self._identity, self._keys
        assert identity is not None and keys is not None
        if AUTH_METHOD_ED25519_SHA256_RFC5705 not in AuthChallenge.decode(cell.body).methods:
            return self._say_netinfo()
        received = self._received.copy()
        received.update(encode(cell, wide=self.version >= WIDE_VERSION))
        answer = self._say(identity.initiator_certs)
        signed = self._authentication(
            (identity.rsa_public, identity.ed_id),
            (keys.rsa_public, keys.ed_id),
            received.digest(),
            self._sent.digest(),
        ) + self._around.rng(RAND_LEN)
        authentication = signed + identity.auth_key.sign(signed)
        answer += self._say(Authenticate(AUTH_METHOD_ED25519_SHA256_RFC5705, authentication))
        return answer + self._say_netinfo()


class ResponderHandshake(Handshake):
    """The side that was connected to: always a relay."""

    def __init__(self, around: Surroundings, identity: LinkIdentity) -> None:
        super().__init__(around, identity)
        self._responder = identity
        self._claimed: CheckedKeys | None = None
        self._slog = b""

    def _versions_agreed(self) -> bytes:
        answer = self._say_versions()
        answer += self._say(self._responder.responder_certs)
        answer += self._say(AuthChallenge(self._around.rng(32)))
        self._slog = self._sent.digest()
        return answer + self._netinfo()

    def _handle(self, cell: Cell) -> bytes:
        if cell.command == CellCommand.CERTS and self._claimed is None:
            self._claimed = check_initiator(Certs.decode(cell.body), self._around.now)
        elif cell.command == CellCommand.AUTHENTICATE and self._claimed is not None and self._keys is None:
            self._check_authentication(Authenticate.decode(cell.body), self._claimed)
        elif cell.command == CellCommand.NETINFO:
            self._finish(cell)
        else:
            raise ProtocolError(f"a cell of command {cell.command} came out of turn in the link handshake")
        return b""

    def _check_authentication(self, message: Authenticate, claimed: CheckedKeys) -> None:
        if message.method != AUTH_METHOD_ED25519_SHA256_RFC5705:
            raise ProtocolError("AUTHENTICATE uses a method that was not offered")
        expected = self._authentication(
            (claimed.rsa_public, claimed.ed_id),
            (self._responder.rsa_public, self._responder.ed_id),
            self._slog,
            self._received.digest(),
        )
        signed, signature = message.authentication[:-SIGNATURE_LEN], message.authentication[-SIGNATURE_LEN:]
        if len(signed) < len(expected) + RAND_LEN:
            raise ProtocolError("AUTHENTICATE is too short")
        if not hmac.compare_digest(signed[: len(expected)], expected):
            raise CryptoError("AUTHENTICATE is for another link")
        assert claimed.auth_key is not None
        ed25519_verify(claimed.auth_key, signature, signed)
        self._keys = claimed
