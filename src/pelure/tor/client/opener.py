"""Opens streams: which circuit, what is refused here already, and what is tried again (path-spec 2.3, 6.3).

Addresses under ``.onion`` go to the service; everything else to an exit, which looks the name up. Nothing is
ever looked up or connected to from this machine.

A port of a service that said yes a moment ago, on the same circuit, is taken to say so again: its answer to
BEGIN is not waited for, which saves a program that speaks first the round trip. Should it refuse after all,
the stream ends as if it had been accepted and closed.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Hashable
from time import monotonic
from weakref import WeakKeyDictionary

from pelure.errors import CircuitError, OnionServiceError, PelureError, ProtocolError, StreamError
from pelure.tor.cell.commands import EndReason
from pelure.tor.cell.relay_messages import Begin, Connected
from pelure.tor.client.onion_circuits import OnionCircuits
from pelure.tor.client.pool import CircuitPool
from pelure.tor.crypto.address import canonical, is_onion
from pelure.tor.directory.relay import Relay
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.net.origin import Circuit

log = logging.getLogger(__name__)

STREAM_SECONDS = 30.0
TRUST_SECONDS = 10.0
"""How long a service's yes holds for further streams to the same port."""
MAX_EXITS = 3
"""Exits tried for one stream."""
NO_ADDRESS = 0x04
"""SOCKS5 code: host unreachable."""
RESOLVE_PORT = 443
"""An exit for this port is taken for look-ups."""
_RETRY = frozenset(
    {
        EndReason.MISC,
        EndReason.RESOLVEFAILED,
        EndReason.EXITPOLICY,
        EndReason.DESTROY,
        EndReason.TIMEOUT,
        EndReason.HIBERNATING,
        EndReason.INTERNAL,
        EndReason.RESOURCELIMIT,
        EndReason.TORPROTOCOL,
    }
)
"""Reasons of END that speak of the exit, not of the destination."""
_LOCAL_NAMES = ("localhost", ".localhost", ".local", ".internal", ".exit")


class StreamOpener:
    """See the module."""

    def __init__(self, pool: CircuitPool, onions: OnionCircuits, *, reject_internal: bool) -> None:
        """``reject_internal``: refuse private addresses, here and as answers (off in testing networks)."""
        self._pool = pool
        self._onions = onions
        self._reject_internal = reject_internal
        self._accepted: WeakKeyDictionary[Circuit, dict[int, float]] = WeakKeyDictionary()

    def ready(self, host: str, port: int, isolation: Hashable) -> Circuit | None:
        """The circuit to an onion service that accepted a stream to ``port`` lately, if there is one."""
        if not is_onion(host):
            return None
        circuit = self._onions.joined(canonical(host), isolation)
        return circuit if circuit is not None and self._is_trusted(circuit, port) else None

    async def open(self, host: str, port: int, isolation: Hashable, early: bytes = b"") -> CircuitStream:
        """Open a stream; ``early`` is sent along without waiting for the other side's yes.

        One to a port of an onion service that accepted another lately may be refused only afterwards. Raises
        ``OnionServiceError``, ``StreamError``, ``CircuitError``, ``LinkError``, ``PathError``.
        """
        if is_onion(host):
            return await self._open_onion(host, port, isolation, early)
        self._check_host(host)
        return await self._open_exit(host, port, isolation, early)

    async def resolve(self, name: str, isolation: Hashable) -> list[str]:
        """The addresses of a host name as an exit sees them; those of an IP address are itself.

        Raises as :meth:`open` does, ``StreamError`` with RESOLVEFAILED when there is none.
        """
        if is_onion(name):
            raise OnionServiceError("an onion address has no other address", NO_ADDRESS)
        self._check_host(name)
        return [name] if _is_ip(name) else await self._ask_exit(name, name, isolation)

    async def reverse(self, address: str, isolation: Hashable) -> list[str]:
        """The host names of an IP address as an exit sees them. Raises as :meth:`resolve` does."""
        self._check_host(address)
        return await self._ask_exit(ipaddress.ip_address(address).reverse_pointer, address, isolation)

    async def _ask_exit(self, query: str, name: str, isolation: Hashable) -> list[str]:
        circuit = await self._pool.exit_circuit("", RESOLVE_PORT, isolation)
        answers = await circuit.resolve(query, timeout=STREAM_SECONDS)
        found = [answer.text for answer in answers if not answer.is_error]
        usable = [text for text in found if text is not None and not self._is_refused(text)]
        if not usable:
            raise StreamError(f"nothing is known of {name}", EndReason.RESOLVEFAILED)
        return usable

    # ---- onion services ----

    async def _open_onion(self, host: str, port: int, isolation: Hashable, early: bytes) -> CircuitStream:
        address = canonical(host)
        circuit, served = await self._onions.get(address, isolation)
        try:
            return await self._open_port(circuit, port, early)
        except CircuitError:
            if not served:
                raise
        # It had been good before and broke just now: the service may be there on a new one.
        circuit, _ = await self._onions.get(address, isolation)
        return await self._open_port(circuit, port, early)

    async def _open_port(self, circuit: Circuit, port: int, early: bytes) -> CircuitStream:
        stream = circuit.open("", port)
        if self._is_trusted(circuit, port):
            return await _begin(stream, early, wait=False)
        await _begin(stream, early)
        self._accepted.setdefault(circuit, {})[port] = monotonic()
        return stream

    def _is_trusted(self, circuit: Circuit, port: int) -> bool:
        accepted = self._accepted.get(circuit)
        return accepted is not None and monotonic() - accepted.get(port, -TRUST_SECONDS) < TRUST_SECONDS

    # ---- exits ----

    async def _open_exit(self, host: str, port: int, isolation: Hashable, early: bytes) -> CircuitStream:
        tried: list[Relay] = []
        failure: PelureError | None = None
        while len(tried) < MAX_EXITS:
            try:
                circuit = await self._pool.exit_circuit(host, port, isolation, exclude=tried)
            except PelureError:
                if failure is None:
                    raise
                break  # no exit is left that was not tried: what the others said counts
            exit_relay = circuit.path[-1]
            tried.append(exit_relay)
            try:
                stream = await _begin(circuit.open(host, port, flags=_begin_flags(exit_relay, port)), early)
                self._check_connected(stream, await stream.connected())
                return stream
            except (CircuitError, ProtocolError) as error:
                failure = error
            except StreamError as error:
                failure = error
                if error.reason not in _RETRY:
                    break
            log.info("a stream is tried on another exit: %s", failure)
        assert failure is not None
        raise failure

    # ---- what is refused ----

    def _check_host(self, host: str) -> None:
        """Refuse what only this machine or its network could answer, and what would say so to an exit."""
        local = any(host == name or host.endswith(name) for name in _LOCAL_NAMES)
        if self._is_refused(host) or (self._reject_internal and local):
            raise StreamError(
                f"{host} is an address of a private network; it is not asked for", EndReason.EXITPOLICY
            )

    def _check_connected(self, stream: CircuitStream, body: bytes) -> None:
        """An exit that took a name for a private address is wrong, or was told so by a bad resolver."""
        try:
            address = Connected.decode(body).address
            if address is not None and self._is_refused(address):
                raise StreamError("the exit connected to a private address", EndReason.EXITPOLICY)
        except PelureError:
            stream.close_soon()
            raise

    def _is_refused(self, host: str) -> bool:
        if not self._reject_internal:
            return False
        try:
            return not ipaddress.ip_address(host).is_global
        except ValueError:
            return False


def _begin_flags(exit_relay: Relay, port: int) -> int:
    """IPv6 will do where the exit offers it: a name may have no other address (tor-spec 6.2)."""
    return Begin.IPV6_OKAY if exit_relay.exit_policy6.allows(port) else 0


async def _begin(stream: CircuitStream, early: bytes, *, wait: bool = True) -> CircuitStream:
    """Send ``early`` along and ``wait`` for the other side's yes; what fails leaves no stream behind."""
    try:
        if early:
            await stream.write(early)
        if wait:
            await stream.connected(STREAM_SECONDS)
    except TimeoutError:
        stream.close_soon()
        raise StreamError("no answer came to the opening of a stream", EndReason.TIMEOUT) from None
    except BaseException:
        stream.close_soon()
        raise
    return stream


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
