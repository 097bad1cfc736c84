"""Exit streams: TCP connections on behalf of circuits, and RESOLVE (tor-spec 6.2, 6.4).

One asyncio protocol a connection: bytes that come from the destination go straight into the circuit's
stream, and reading pauses while much of it waits to leave; bytes for the destination are taken from the
stream only as fast as it accepts them, which is what makes the other side stop.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast

from pelure.errors import ProtocolError, StreamError
from pelure.tor.cell.commands import DestroyReason, EndReason, RelayCommand
from pelure.tor.cell.relay_messages import Answer, Begin, Connected, End, Resolve, Resolved
from pelure.tor.circuit import events as ev
from pelure.tor.circuit.stream import State, StreamEndpoint
from pelure.tor.directory.exit_policy import ExitPolicy
from pelure.tor.relay.circuit import RelayCircuit
from pelure.tor.relay.dos import Defence, StreamLimits
from pelure.tor.relay.resolver import Address, Resolver

log = logging.getLogger(__name__)

READ_SIZE = 128 * 1024
PENDING_HIGH = 256 * 1024  # bytes waiting to leave on the circuit at which reading pauses
PENDING_LOW = 128 * 1024
WRITE_HIGH = 256 * 1024  # bytes the socket has not taken at which the stream is not read any more
CONNECT_SECONDS = 20.0
TTL_MIN, TTL_MAX = 300, 3600  # the TTLs an exit tells are clipped, so as to say little of its cache
MAX_ANSWERS = 8
MAX_ANSWERING = 1024  # RESOLVEs that wait for their answer, of all circuits
_FAILED = (Answer(Answer.ERROR_TRANSIENT, b"", TTL_MIN),)
LINGER_SECONDS = 30.0  # a destination may take so long to read what was sent before its stream ended

_REASONS = {
    errno.ECONNREFUSED: EndReason.CONNECTREFUSED,
    errno.ENETUNREACH: EndReason.NOROUTE,
    errno.EHOSTUNREACH: EndReason.NOROUTE,
    errno.ETIMEDOUT: EndReason.TIMEOUT,
    errno.ECONNRESET: EndReason.CONNRESET,
    errno.EMFILE: EndReason.RESOURCELIMIT,
    errno.ENFILE: EndReason.RESOURCELIMIT,
    errno.ENOBUFS: EndReason.RESOURCELIMIT,
}


class Exits:
    """Opens connections as the exit policy allows."""

    def __init__(
        self,
        policy: ExitPolicy,
        resolver: Resolver,
        *,
        ipv6: bool,
        is_reentry: Callable[[str, int], bool],
        is_stranger: Callable[[bytes], bool],
        max_connections: int,
    ) -> None:
        """``ipv6``: IPv6 destinations are allowed at all (torrc ``IPv6Exit``). ``is_reentry``: whether an
        address and port lead back into the network. ``is_stranger``: whether circuits that come from the
        relay of an RSA identity get no streams. ``max_connections``: of which each takes a file descriptor;
        what is being connected counts."""
        self.policy = policy
        self.resolver = resolver
        self.ipv6 = ipv6
        self.enabled = policy.summary(4).allows_some or (ipv6 and policy.summary(6).allows_some)
        self.buffer = memoryview(bytearray(READ_SIZE))
        self.limits = StreamLimits()
        self.opened = 0
        self.connections: set[ExitStream] = set()
        self._is_reentry = is_reentry
        self._is_stranger = is_stranger
        self._max_connections = max_connections
        self._answering = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, circuit: RelayCircuit, event: ev.Incoming) -> ExitStream | None:
        """BEGIN: connect in the background. None if it is refused at once."""
        endpoint = event.stream
        previous = circuit.link.peer.rsa_id
        if not self.enabled:
            endpoint.end(EndReason.EXITPOLICY)
            return None
        if previous is None or self._is_stranger(previous):
            # A client that is its own first and last hop would use the exit as an open proxy (tor-spec 6.2).
            endpoint.end(EndReason.TORPROTOCOL if previous is None else EndReason.MISC)
            return None
        try:
            target = Begin.decode(event.data)
        except ProtocolError:
            endpoint.end(EndReason.TORPROTOCOL)
            return None
        if not self._within_limits(circuit):
            if not circuit.closed:
                endpoint.end(EndReason.MISC)  # clients would avoid an exit whose RESOURCELIMIT is reached
            return None
        if len(self.connections) >= self._max_connections:
            endpoint.end(EndReason.RESOURCELIMIT)
            return None
        stream = ExitStream(self, circuit, endpoint)
        self.connections.add(stream)
        stream.attempt = self._start(self._connect(stream, target))
        return stream

    def resolve(self, circuit: RelayCircuit, event: ev.Incoming) -> None:
        """RESOLVE: answer in the background."""
        try:
            name = Resolve.decode(event.data).name
        except ProtocolError:
            event.stream.end(EndReason.TORPROTOCOL)
            return
        if not self.enabled or circuit.link.peer.rsa_id is None:
            event.stream.end(EndReason.EXITPOLICY)
            return
        if not self._within_limits(circuit):
            self._tell(circuit, event.stream, _FAILED)
            return
        if self._answering >= MAX_ANSWERING:
            event.stream.end(EndReason.RESOURCELIMIT)
            return
        self._answering += 1
        task = self._start(self._answer(circuit, event.stream, name))
        task.add_done_callback(self._answered)

    def _within_limits(self, circuit: RelayCircuit) -> bool:
        """Whether the circuit may open another stream; it may also be closed for it."""
        defence = self.limits.ask(circuit, asyncio.get_running_loop().time())
        if defence is Defence.CLOSE_CIRCUIT:
            circuit.close(DestroyReason.RESOURCELIMIT)
        return defence is Defence.NONE

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering -= 1

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Give up what is being connected or looked up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.resolver.close()

    async def _connect(self, stream: ExitStream, target: Begin) -> None:
        try:
            address = self._choose(await self.resolver.resolve(target.host), target)
            stream.address = str(address)
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().create_connection(lambda: stream, str(address), target.port)
            self.opened += 1
        except _Refused as refused:
            body = End(EndReason.EXITPOLICY, str(refused.address), TTL_MAX).encode()
            stream.refuse(EndReason.EXITPOLICY, body[1:])
        except StreamError as error:
            stream.refuse(EndReason(error.reason or EndReason.MISC))
        except TimeoutError:
            stream.refuse(EndReason.TIMEOUT)
        except OSError as error:
            stream.refuse(_REASONS.get(error.errno or 0, EndReason.MISC))
        except Exception:
            log.exception("bug: an exit stream")
            stream.refuse(EndReason.INTERNAL)
        finally:
            if not stream.connected:
                self.connections.discard(stream)

    def _choose(self, addresses: list[Address], target: Begin) -> Address:
        """The first address of a wanted family that the policy allows (tor-spec 6.2, flags of BEGIN)."""
        usable = [address for address in addresses if self._wanted(address, target)]
        if not usable:
            raise StreamError("no address of a family that may be used", EndReason.RESOLVEFAILED)
        preferred = 6 if target.flags & Begin.IPV6_PREFERRED else 4
        usable.sort(key=lambda address: address.version != preferred)
        for address in usable:
            if self.policy.allows(str(address), target.port):
                if self._is_reentry(str(address), target.port):
                    # Not EXITPOLICY: the client would try one exit after another.
                    raise StreamError("the destination is a relay", EndReason.CONNECTREFUSED)
                return address
        raise _Refused(usable[0])

    def _wanted(self, address: Address, target: Begin) -> bool:
        if address.version == 4:
            return not target.flags & Begin.IPV4_NOT_OKAY
        literal = ":" in target.host
        return self.ipv6 and (literal or bool(target.flags & Begin.IPV6_OKAY))

    async def _answer(self, circuit: RelayCircuit, endpoint: StreamEndpoint, name: str) -> None:
        try:
            answers = await self._look_up(name)
        except StreamError:
            answers = _FAILED
        self._tell(circuit, endpoint, answers)

    @staticmethod
    def _tell(circuit: RelayCircuit, endpoint: StreamEndpoint, answers: tuple[Answer, ...]) -> None:
        if circuit.closed or endpoint.state is State.ENDED:
            return
        circuit.end.send(RelayCommand.RESOLVED, endpoint.id, Resolved(answers).encode())
        circuit.end.forget(endpoint)
        endpoint.closed()

    async def _look_up(self, name: str) -> tuple[Answer, ...]:
        address = _reverse_address(name)
        if address is not None:
            host = await self.resolver.reverse(address)
            return (Answer(Answer.HOSTNAME, host.encode("ascii", "replace")[:255], TTL_MAX),)
        addresses = await self.resolver.resolve(name)
        usable = [address for address in addresses if address.version == 4 or self.ipv6]
        if not usable:
            raise StreamError("no address of a family that may be used", EndReason.RESOLVEFAILED)
        return tuple(Answer.address(str(address), TTL_MIN) for address in usable[:MAX_ANSWERS])


class _Refused(Exception):
    """The policy refuses every address of the destination."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.address = address


def _reverse_address(name: str) -> Address | None:
    """The address that an ``in-addr.arpa`` or ``ip6.arpa`` name stands for, None for other names."""
    try:
        if name.endswith(".in-addr.arpa"):
            labels = name.removesuffix(".in-addr.arpa").split(".")
            return ipaddress.IPv4Address(".".join(reversed(labels)))
        if name.endswith(".ip6.arpa"):
            nibbles = name.removesuffix(".ip6.arpa").replace(".", "")[::-1]
            return ipaddress.IPv6Address(bytes.fromhex(nibbles))
    except ValueError:
        pass
    return None


class ExitStream(asyncio.BufferedProtocol):
    """One stream of a circuit and the TCP connection behind it."""

    def __init__(self, exits: Exits, circuit: RelayCircuit, endpoint: StreamEndpoint) -> None:
        self.address = ""
        self.connected = False
        self.attempt: asyncio.Task[None] | None = None
        self._exits = exits
        self._circuit = circuit
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._over = False
        self._reading = True
        self._writing = True

    # ---- what the circuit calls ----

    @property
    def waiting(self) -> int:
        """Bytes that wait here, towards either side."""
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._endpoint.pending + self._endpoint.buffered + unsent

    def readable(self) -> None:
        """Bytes came for the destination."""
        if self._transport is not None and self._writing and self._endpoint.buffered:
            self._transport.write(self._endpoint.read(self._endpoint.buffered))

    def room(self) -> None:
        """Some bytes left towards the client."""
        if not self._reading and self._transport is not None and self._endpoint.pending <= PENDING_LOW:
            self._reading = True
            self._transport.resume_reading()

    def ended(self) -> None:
        """The client, or the whole circuit, is gone; what it had sent still reaches the destination."""
        self._over = True
        if self._transport is not None:
            if self._endpoint.buffered:
                self._transport.write(self._endpoint.read(self._endpoint.buffered))
            self._transport.close()
            if self._transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)
        elif self.attempt is not None:
            self.attempt.cancel()

    def refuse(self, reason: EndReason, extra: bytes = b"") -> None:
        """The destination can't be had."""
        self._finish()
        if not self._circuit.closed:
            self._endpoint.end(reason, extra)

    def _finish(self) -> None:
        self._over = True
        self._circuit.streams.pop(self._endpoint, None)

    # ---- asyncio protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.connected = True
        if self._over:
            transport.abort()
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._endpoint.accept(Connected(self.address, TTL_MIN).encode())
        self.readable()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._exits.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._over or self._transport is None:
            return
        endpoint = self._endpoint
        endpoint.write(bytes(self._exits.buffer[:nbytes]))
        self._circuit.pump()
        if endpoint.pending > PENDING_HIGH and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        return False  # END closes both directions: so does the connection

    def connection_lost(self, error: Exception | None) -> None:
        self._exits.connections.discard(self)
        self._transport = None
        if self._over or self._circuit.closed:
            return
        self._over = True
        # The endpoint says END once all that the destination sent has left.
        self._endpoint.finish(EndReason.CONNRESET if error is not None else EndReason.DONE)
        if self._endpoint.state is State.ENDED:
            self._circuit.streams.pop(self._endpoint, None)
        else:
            self._circuit.pump()

    def pause_writing(self) -> None:
        self._writing = False

    def resume_writing(self) -> None:
        self._writing = True
        self.readable()
