"""The links of one process: one to each relay, shared by all circuits (tor-spec 2, 5.3.1).

A client only connects; a relay (with a :class:`~pelure.tor.net.identity.LinkIdentity`) also listens, proves
itself to other relays, and uses a link that another relay opened where that one is *canonical*.
Links without circuits are closed after a while; connections that do not finish their handshake too, and
when there are too many of those, the oldest goes first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import Callable

from pelure.errors import LinkError
from pelure.streams import listening
from pelure.tor.cell.framing import Cell
from pelure.tor.cell.linkspec import RelayIds
from pelure.tor.directory.relay import Relay
from pelure.tor.net.handshake import (
    Handshake,
    InitiatorHandshake,
    ResponderHandshake,
    Surroundings,
    WrongIdentity,
)
from pelure.tor.net.identity import LinkIdentity
from pelure.tor.net.link import READ_SIZE, Link
from pelure.tor.net.throttle import Throttle
from pelure.tor.net.tls import Scratch, TlsConnection, client_context, random_hostname, server_context

log = logging.getLogger(__name__)

CONNECT_SECONDS = 20.0
HANDSHAKE_SECONDS = 30.0
IDLE_SECONDS = 180.0
SWEEP_SECONDS = 5.0
MAX_HALF_OPEN = 4096
SPARE_FILES = 128  # file descriptors left to everything that is not a link
BACKLOG = 1024

OnCreate = Callable[[Link, Cell], None]
OnLink = Callable[[Link], None]


class LinkManager:
    """All links. Use within one event loop; :meth:`close` at the end."""

    def __init__(
        self,
        identity: LinkIdentity | None = None,
        *,
        on_create: OnCreate | None = None,
        on_link: OnLink | None = None,
        on_lost: OnLink | None = None,
        admits: Callable[[str], bool] = lambda address: True,
        idle_seconds: float = IDLE_SECONDS,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        max_half_open: int = MAX_HALF_OPEN,
        throttle: Throttle | None = None,
    ) -> None:
        """``identity``: a relay's, None for a client. ``on_create`` gets CREATE2 and CREATE_FAST cells;
        ``on_link`` hears of each link once it is open, ``on_lost`` of each that was open and is not any more;
        ``admits``: whether somebody may connect from an address.
        ``throttle``: how many bytes a second all links together may read and write; None: no limit.
        """
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._scratch = Scratch()
        self._client_context = client_context()
        self._identity = identity
        self._server_context = server_context(identity.tls) if identity else None
        self._on_create, self._on_link, self._on_lost = on_create, on_link, on_lost
        self._admits = admits
        self._idle_seconds = idle_seconds
        self._handshake_seconds = handshake_seconds
        self._max_half_open = max_half_open
        self._throttle = throttle
        self._open: dict[Link, None] = {}
        self._half_open: dict[Link, None] = {}
        self._by_rsa: dict[bytes, list[Link]] = {}
        self._connecting: dict[tuple[bytes, bytes | None], asyncio.Task[Link]] = {}
        self._opening: dict[Link, asyncio.Future[None]] = {}
        self._servers: list[asyncio.Server] = []
        self._max_links = raise_file_limit() - SPARE_FILES
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        self._closed = False

    @property
    def links(self) -> list[Link]:
        """The links that are open."""
        return list(self._open)

    @property
    def half_open(self) -> int:
        """Connections whose handshake is not over."""
        return len(self._half_open)

    def set_identity(self, identity: LinkIdentity) -> None:
        """Use renewed keys and certificates for the links to come."""
        self._identity = identity
        self._server_context = server_context(identity.tls)

    # ---- connecting ----

    async def get(self, relay: Relay) -> Link:
        """The link to ``relay``, opened if there is none. Raises ``LinkError`` (``WrongIdentity``)."""
        link = self.find(relay)
        if link is not None:
            return link
        key = (relay.rsa_id, relay.ed_id)
        task = self._connecting.get(key)
        if task is None:
            task = asyncio.ensure_future(self.connect(relay))
            self._connecting[key] = task
            task.add_done_callback(lambda done: self._connected(key, done))
        # Others may wait for the same connection: cancelling one of them must not cancel it.
        return await asyncio.shield(task)

    def find(self, relay: Relay) -> Link | None:
        """An open link to ``relay`` that circuits may share, None if there is none."""
        for link in self._by_rsa.get(relay.rsa_id, ()):
            trusted = link.initiator or link.peer.canonical
            if trusted and relay.ed_id in (None, link.peer.ed_id):
                return link
        return None

    def _connected(self, key: tuple[bytes, bytes | None], task: asyncio.Task[Link]) -> None:
        self._connecting.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have

    async def connect(self, relay: Relay) -> Link:
        """Open a link to ``relay`` whether there is one or not. Raises ``LinkError`` (``WrongIdentity``)."""
        expected = RelayIds(relay.rsa_id, relay.ed_id)
        failure = LinkError(f"relay {relay.nickname} has no address")
        for host, port in relay.addresses:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await self._connect_to(host, port, expected)
            except WrongIdentity:
                raise
            except TimeoutError:
                failure = LinkError(f"relay {relay.nickname} does not answer")
            except LinkError as error:
                failure = error
            except OSError as error:
                failure = LinkError(f"relay {relay.nickname} can't be reached: {error.strerror or error}")
        raise failure

    async def _connect_to(self, host: str, port: int, expected: RelayIds) -> Link:
        if self._closed:
            raise LinkError("the links are being closed")
        link = Link(self, self._buffer, initiator=True, expected=expected, throttle=self._throttle)
        opening = self._loop.create_future()
        self._opening[link] = opening
        self._half_open[link] = None
        try:
            await self._loop.create_connection(lambda: link, host, port)
            await opening
        except BaseException:
            self._opening.pop(link, None)  # nobody waits for it any more
            link.close("the connection attempt was given up")
            raise
        finally:
            self._opening.pop(link, None)
            self._half_open.pop(link, None)
        return link

    # ---- listening ----

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Take links at ``host``:``port`` (0: any free port); returns where. Raises ``ConfigError``."""
        with listening(host, port):
            server = await self._loop.create_server(self._incoming, host, port, backlog=BACKLOG)
        self._servers.append(server)
        name = server.sockets[0].getsockname()
        return name[0], name[1]

    def _incoming(self) -> Link:
        link = Link(self, self._buffer, initiator=False, throttle=self._throttle)
        half_open = len(self._half_open)
        full = half_open + len(self._open) >= self._max_links
        if full or half_open >= self._max_half_open:
            oldest = next((one for one in self._half_open if not one.initiator), None)
            if oldest is not None:
                oldest.close("too many connections are in their handshake")
            elif full:
                self._loop.call_soon(link.close, "too many links are open")
        self._half_open[link] = None
        return link

    # ---- what links ask and tell (LinkOwner) ----

    def session(self, link: Link) -> TlsConnection:
        """See :class:`~pelure.tor.net.link.LinkOwner`."""
        if link.initiator:
            return TlsConnection(self._client_context, self._scratch, random_hostname(os.urandom))
        if not self._admits(link.address[0]):
            raise LinkError("its address has too many connections")
        assert self._server_context is not None
        return TlsConnection(self._server_context, self._scratch)

    def handshake(self, link: Link, tls: TlsConnection) -> Handshake:
        """See :class:`~pelure.tor.net.link.LinkOwner`."""
        certificate = tls.peer_certificate if link.initiator else tls.own_certificate
        around = Surroundings(
            time.time(), os.urandom, link.address[0], certificate, tls.export_keying_material
        )
        if link.initiator:
            return InitiatorHandshake(around, self._identity, link.expected)
        assert self._identity is not None
        return ResponderHandshake(around, self._identity)

    def link_opened(self, link: Link) -> None:
        """See :class:`~pelure.tor.net.link.LinkOwner`."""
        self._half_open.pop(link, None)
        self._open[link] = None
        if link.peer.rsa_id is not None:
            self._by_rsa.setdefault(link.peer.rsa_id, []).append(link)
        opening = self._opening.get(link)
        if opening is not None and not opening.done():
            opening.set_result(None)
        if self._on_link is not None:
            self._on_link(link)

    def link_lost(self, link: Link, reason: str, error: Exception | None) -> None:
        """See :class:`~pelure.tor.net.link.LinkOwner`."""
        self._half_open.pop(link, None)
        opening = self._opening.get(link)
        if opening is not None and not opening.done():
            opening.set_exception(error if isinstance(error, LinkError) else LinkError(reason))
        if link not in self._open:
            return
        del self._open[link]
        if link.peer.rsa_id is not None:
            siblings = self._by_rsa[link.peer.rsa_id]
            siblings.remove(link)
            if not siblings:
                del self._by_rsa[link.peer.rsa_id]
        if self._on_lost is not None:
            self._on_lost(link)

    @property
    def is_relay(self) -> bool:
        """See :class:`~pelure.tor.net.link.LinkOwner`."""
        return self._identity is not None

    def create_requested(self, link: Link, cell: Cell) -> None:
        """See :class:`~pelure.tor.net.link.LinkOwner`."""
        if self._on_create is not None:
            self._on_create(link, cell)
        else:
            log.info("the relay at %s asked a client for a circuit", link.address[0])

    # ---- housekeeping ----

    def _sweep(self) -> None:
        """Close what has been idle, or in its handshake, for too long."""
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        now = self._loop.time()
        for link in list(self._half_open):
            if now - link.created_at > self._handshake_seconds:
                link.close("the handshake took too long")
        for link in list(self._open):
            if link.idle_since is not None and now - link.idle_since > self._idle_seconds:
                link.close("no circuits were left on it")

    async def close(self) -> None:
        """Stop listening and close every link; idempotent."""
        self._closed = True
        self._sweeper.cancel()
        for server in self._servers:
            server.close()
        for task in list(self._connecting.values()):
            task.cancel()
        for link in [*self._open, *self._half_open]:
            link.close("shutting down")
        await asyncio.sleep(0)


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass  # some systems refuse; the present limit holds
    return soft
