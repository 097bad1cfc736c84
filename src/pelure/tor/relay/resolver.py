"""Names to addresses for exit streams and RESOLVE (tor-spec 6.2 and 6.4), by the system's resolver.

Each look-up has a thread of its own, of which there are only so many: name servers that don't answer hold
up other new names at the worst, for a while. Answers, also negative ones, are kept in a bounded cache.
Several streams asking for one name share one look-up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from pelure.errors import StreamError
from pelure.tor.cell.commands import EndReason

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

THREADS = 64
CACHE_SIZE = 4096
ANSWER_SECONDS = 300.0  # the system's resolver tells no TTL
FAILURE_SECONDS = 30.0
LOOKUP_SECONDS = 20.0
THREAD_SECONDS = 5.0  # how long a name waits for a thread; clients soon try another exit
MAX_PENDING = 1024
_NAME = re.compile(r"[a-z0-9._-]+")

LookUp = Callable[[str], list[Address]]
T = TypeVar("T")


def system_look_up(name: str) -> list[Address]:
    """The addresses of ``name`` in the resolver's order. Raises ``OSError``; it blocks.

    Names are absolute: those of this machine's own domain are none of a stranger's business.
    """
    absolute = name if name == "localhost" else f"{name}."  # which the hosts file has without the dot
    found = socket.getaddrinfo(absolute, None, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(item[4][0]).partition("%")[0]) for item in found]
    return list(dict.fromkeys(addresses))


class _Threads:
    """Blocking calls, each in a thread of its own, ``THREADS`` at a time.

    The system gives up a dead name server when it likes. Its threads keep their places until then, but nobody
    waits for them: neither who asked, nor the end of the process, which waits for an executor's threads.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(THREADS)

    async def run(self, function: Callable[[str], T], argument: str) -> T:
        """What the call returns or raises. Else ``StreamError`` if it never began, ``TimeoutError``."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                settle = partial(answer.set_result, function(argument))
            except Exception as error:
                settle = partial(answer.set_exception, error)
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(ended, settle)

        def ended(settle: Callable[[], None]) -> None:
            self._places.release()
            if not answer.done():  # else nobody waits any more
                settle()

        try:
            async with asyncio.timeout(THREAD_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise StreamError("name servers hold all threads", EndReason.RESOURCELIMIT) from None
        threading.Thread(target=work, name="resolver", daemon=True).start()
        async with asyncio.timeout(LOOKUP_SECONDS):
            return await answer


class Resolver:
    """A cache before the system's resolver. ``look_up`` runs in threads."""

    def __init__(self, look_up: LookUp = system_look_up) -> None:
        self._look_up = look_up
        self._threads = _Threads()
        self._cache: OrderedDict[str, tuple[float, list[Address]]] = OrderedDict()
        self._pending: dict[str, asyncio.Future[list[Address]]] = {}

    async def resolve(self, name: str) -> list[Address]:
        """The addresses of ``name`` (a host name or an address). Raises ``StreamError``."""
        try:
            return [ipaddress.ip_address(name.strip("[]"))]
        except ValueError:
            pass
        key = name.lower().rstrip(".")
        if not _NAME.fullmatch(key):
            raise StreamError("a name with characters that host names don't have", EndReason.RESOLVEFAILED)
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
        """The host name of ``address``. Raises ``StreamError``, also for addresses of private networks."""
        if not address.is_global:  # the names in this machine's own network tell strangers what is there
            raise StreamError("the address is a private one", EndReason.RESOLVEFAILED)
        if len(self._pending) >= MAX_PENDING:
            raise StreamError("too many names are being looked up", EndReason.RESOURCELIMIT)
        try:
            return (await self._threads.run(socket.gethostbyaddr, str(address)))[0]
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
        try:
            addresses = await self._threads.run(self._look_up, key)
        except (OSError, UnicodeError, TimeoutError):
            addresses = []
        seconds = ANSWER_SECONDS if addresses else FAILURE_SECONDS
        self._cache[key] = (asyncio.get_running_loop().time() + seconds, addresses)
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return addresses

    def close(self) -> None:
        """Give up what is being looked up."""
        for pending in list(self._pending.values()):
            pending.cancel()
