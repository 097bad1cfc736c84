"""Names to addresses for exit streams and RESOLVE (tor-spec 6.2 and 6.4), by the system's resolver.

Look-ups run in a few threads, so that a slow name server holds up nothing else; answers, also negative
ones, are kept for a while in a bounded cache. Several streams asking for one name share one look-up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pelure.errors import StreamError
from pelure.tor.cell.commands import EndReason

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

THREADS = 8
CACHE_SIZE = 4096
ANSWER_SECONDS = 300.0  # the system's resolver tells no TTL
FAILURE_SECONDS = 30.0
LOOKUP_SECONDS = 20.0
MAX_PENDING = 1024

LookUp = Callable[[str], list[Address]]


def system_look_up(name: str) -> list[Address]:
    """The addresses of ``name`` in the resolver's order. Raises ``OSError``; it blocks."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(item[4][0]).partition("%")[0]) for item in found]
    return list(dict.fromkeys(addresses))


class Resolver:
    """A cache before the system's resolver. ``look_up`` runs in threads."""

    def __init__(self, look_up: LookUp = system_look_up) -> None:
        self._look_up = look_up
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="resolver")
        self._cache: OrderedDict[str, tuple[float, list[Address]]] = OrderedDict()
        self._pending: dict[str, asyncio.Future[list[Address]]] = {}

    async def resolve(self, name: str) -> list[Address]:
        """The addresses of ``name`` (a host name or an address). Raises ``StreamError``."""
        try:
            return [ipaddress.ip_address(name.strip("[]"))]
        except ValueError:
            pass
        key = name.lower().rstrip(".")
        loop = asyncio.get_running_loop()
        cached = self._cache.get(key)
        if cached is not None and cached[0] > loop.time():
            self._cache.move_to_end(key)
            addresses = cached[1]
        else:
            addresses = await self._fresh(key)
        if not addresses:
            raise StreamError(f"no address for {len(key)} characters of name", EndReason.RESOLVEFAILED)
        return addresses

    async def reverse(self, address: Address) -> str:
        """The host name of ``address``. Raises ``StreamError``."""
        if len(self._pending) >= MAX_PENDING:
            raise StreamError("too many names are being looked up", EndReason.RESOURCELIMIT)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = await loop.run_in_executor(self._threads, socket.gethostbyaddr, str(address))
            return found[0]
        except (OSError, UnicodeError, TimeoutError):
            raise StreamError("the address has no name", EndReason.RESOLVEFAILED) from None

    async def _fresh(self, key: str) -> list[Address]:
        pending = self._pending.get(key)
        if pending is None:
            if len(self._pending) >= MAX_PENDING:
                raise StreamError("too many names are being looked up", EndReason.RESOURCELIMIT)
            pending = asyncio.ensure_future(self._ask(key))
            self._pending[key] = pending
            pending.add_done_callback(lambda _: self._pending.pop(key, None))
        return await asyncio.shield(pending)

    async def _ask(self, key: str) -> list[Address]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                addresses = await loop.run_in_executor(self._threads, self._look_up, key)
        except (OSError, UnicodeError, TimeoutError):
            addresses = []
        seconds = ANSWER_SECONDS if addresses else FAILURE_SECONDS
        self._cache[key] = (loop.time() + seconds, addresses)
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return addresses

    def close(self) -> None:
        """Stop the threads once their present look-up ends."""
        self._threads.shutdown(wait=False, cancel_futures=True)
