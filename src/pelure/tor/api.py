"""The Python API: ``async with pelure.connect() as tor`` (see examples/ and docs/guide.md)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from weakref import WeakSet

import platformdirs

from pelure.errors import ConfigError
from pelure.tor.cell.extensions import DosParameters
from pelure.tor.client.hs_events import OnClientEvent
from pelure.tor.client.network_client import NetworkClient, Progress
from pelure.tor.client.proxy import ProxyServer
from pelure.tor.client.state import EMBEDDED_FOLDER, load_network
from pelure.tor.crypto.address import decode_address
from pelure.tor.directory.network import Network
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.onion.auth_files import AUTH_PRIVATE_SUFFIX, AuthPrivate
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.onion.intro_queue import PowLimits
from pelure.tor.service.events import OnEvent
from pelure.tor.service.keys import ServiceKeys
from pelure.tor.service.service import OnionService
from pelure.tor.service.targets import Target, TcpTarget
from pelure.tor.status import Status, status_of

log = logging.getLogger(__name__)

DEFAULT_ISOLATION = "default"


class Tor:
    """A connection to a network; get one from :func:`connect`."""

    def __init__(self, client: NetworkClient) -> None:
        self.client = client
        # The directory keeps running services alive, as listeners to its news; closed ones are let go.
        self._services: WeakSet[OnionService] = WeakSet()
        self._proxies: list[ProxyServer] = []
        self._loaded_keys: dict[Path, list[AuthPrivate]] = {}

    async def open_stream(self, host: str, port: int, isolation: Hashable = None) -> CircuitStream:
        """Open a stream to an onion service or, through an exit, to any host; it is a ``ByteStream``.

        Streams with different ``isolation`` tokens never share a circuit. Raises ``OnionServiceError`` (its
        ``code`` as proposal 304 has it), ``StreamError``, ``CircuitError``, ``LinkError``, ``PathError``.
        Where a port of a service accepted another stream just before, a refusal may show on reading only.
        """
        return await self.client.streams.open(host.lower(), port, _token(isolation))

    async def resolve(self, name: str, isolation: Hashable = None) -> list[str]:
        """The addresses of a host name as an exit sees them; raises as :meth:`open_stream` does."""
        return await self.client.streams.resolve(name.lower(), _token(isolation))

    async def reverse(self, address: str, isolation: Hashable = None) -> list[str]:
        """The host names of an IP address as an exit sees them; raises as :meth:`open_stream` does."""
        return await self.client.streams.reverse(address, _token(isolation))

    @property
    def relays(self) -> int:
        """How many relays the network's directory lists."""
        netdir = self.client.directory.netdir
        return len(netdir.relays) if netdir is not None else 0

    async def clock_skew(self) -> float | None:
        """Seconds by which a directory's clock is ahead of this machine's; None if it doesn't tell.

        Raises ``DirectoryError``, ``LinkError``, ``CircuitError``.
        """
        return await self.client.directory.measure_clock()

    def add_client_key(self, address: str, secret: bytes) -> None:
        """Use an X25519 key (32 bytes) for a service with client authorization. Raises ``ConfigError``."""
        identity = decode_address(address)
        self.client.onion_client.client_keys.setdefault(identity, []).append(ClientAuthKey(secret))

    def load_client_keys(self, folder: Path) -> int:
        """Use the ``.auth_private`` files of a C tor ``ClientOnionAuthDir``; returns how many.

        What can't be used is left out and told, as in C tor. Called again, what the folder holds by then
        takes the place of what it held. Raises ``ConfigError`` if the folder can't be read.
        """
        entries = _read_client_keys(folder)
        keys = self.client.onion_client.client_keys
        for entry in self._loaded_keys.get(folder, ()):
            keys[entry.identity].remove(entry.key)
        for entry in entries:
            keys.setdefault(entry.identity, []).append(entry.key)
        self._loaded_keys[folder] = entries
        return len(entries)

    async def serve_onion(
        self,
        ports: Mapping[int, Target | tuple[str, int]],
        *,
        keys: ServiceKeys | Path | None = None,
        pow_limits: PowLimits | None = None,
        intro_dos: DosParameters | None = None,
        on_event: OnEvent | None = None,
        wait: bool = True,
    ) -> OnionService:
        """Publish an onion service: virtual ports to targets, ``(host, port)`` pairs or async callables.

        ``keys``: a C tor ``HiddenServiceDir`` (made if it is missing); None for a new address.
        ``pow_limits``: how many introductions are answered before clients are asked for proofs of work; None:
        they never are. ``intro_dos``: how many introductions each introduction point passes on, None for the
        network's own limit. Returns once the descriptor is published, or at once with ``wait`` false. Raises
        ``ConfigError``.
        """
        if isinstance(keys, Path):
            keys = ServiceKeys.open(keys, os.urandom)
        targets = {
            port: TcpTarget(*target) if isinstance(target, tuple) else target
            for port, target in ports.items()
        }
        service = OnionService(
            self.client.pool,
            self.client.directory,
            keys or ServiceKeys.generate(os.urandom),
            targets,
            pow_limits=pow_limits,
            intro_dos=intro_dos,
            on_event=on_event,
        )
        self._services.add(service)
        try:
            await service.start()
            if wait:
                await service.published.wait()
        except BaseException:
            await service.close()
            raise
        return service

    async def serve_proxy(
        self, host: str = "127.0.0.1", port: int = 9150, *, isolate_destinations: bool = False
    ) -> tuple[str, int]:
        """Serve SOCKS5 and HTTP CONNECT at ``host``:``port`` (0: any free port); returns where.

        Raises ``ConfigError``.
        """
        proxy = ProxyServer(self.client.streams, isolate_destinations=isolate_destinations)
        self._proxies.append(proxy)
        return await proxy.listen(host, port)

    def status(self) -> Status:
        """The links, circuits and streams there are."""
        return status_of(self.client, asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Close everything, proxies first; :func:`connect` does it."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.client.close)
            for service in list(self._services):
                stack.push_async_callback(service.close)
            for proxy in self._proxies:
                stack.push_async_callback(proxy.close)


@asynccontextmanager
async def connect(
    network: str | Path | Network = "public",
    *,
    state: Path | None = None,
    role: str = "client",
    progress: Progress | None = None,
    full_vanguards: bool = False,
    on_event: OnClientEvent | None = None,
) -> AsyncIterator[Tor]:
    """Connect to ``network``: ``"public"``, ``"embedded"`` (started if it doesn't run) or a torrc file.

    ``state``: the folder of what is kept between runs (the user's data folder if None), one below it for
    each network and ``role``. ``progress`` hears (fraction, what) while bootstrapping, ``on_event`` the steps
    of each rendezvous. ``full_vanguards``: for services that run for weeks.
    Raises ``ConfigError``, ``DirectoryError``.
    """
    folder = state or default_state()
    async with AsyncExitStack() as stack:
        if network == "embedded":
            # Authorities and relays come with it: time and memory that nobody else has to spend.
            from pelure.tor.embedded.shared import shared_network

            network = await stack.enter_async_context(shared_network(folder / EMBEDDED_FOLDER))
        client = NetworkClient(
            load_network(network, folder), folder, role, full_vanguards=full_vanguards, on_event=on_event
        )
        tor = Tor(client)
        stack.push_async_callback(tor.close)
        await client.start(progress)
        yield tor


def default_state() -> Path:
    """The folder of all state where the user names none."""
    return Path(platformdirs.user_data_dir("pelure"))


def _read_client_keys(folder: Path) -> list[AuthPrivate]:
    """The usable ``.auth_private`` files of ``folder``. Raises ``ConfigError`` if it can't be read."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == AUTH_PRIVATE_SUFFIX)
    except OSError as error:
        raise ConfigError(f"can't read the client keys in {folder}: {error.strerror}") from error
    entries = []
    for path in paths:
        try:
            entries.append(AuthPrivate.decode(path.read_text("ascii")))
        except (ConfigError, UnicodeDecodeError, OSError) as error:
            log.warning("Ignoring the client key file %s: %s", path, error)
    return entries


def _token(isolation: Hashable) -> Hashable:
    return DEFAULT_ISOLATION if isolation is None else ("api", isolation)
