"""Relays on loopback without a directory authority, and circuits through them."""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from pelure.tor.cell.certs import CertType, Ed25519Cert
from pelure.tor.cell.commands import DestroyReason
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.exit_policy import ExitPolicy
from pelure.tor.directory.network import parse_network
from pelure.tor.directory.relay import Relay
from pelure.tor.net.link import Link
from pelure.tor.net.links import LinkManager
from pelure.tor.net.origin import Circuit
from pelure.tor.net.tls import TlsIdentity, make_tls_identity
from pelure.tor.onion.outer import encode_outer
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.keys import RelayKeys
from pelure.tor.relay.publish import PROTOCOLS
from pelure.tor.relay.server import RelayServer

TORRC = f"TestingTorNetwork 1\nDirAuthority none orport=9 v3ident={'A' * 40} 127.0.0.1:9 {'B' * 40}\n"
PARAMS = CircuitParams()
NOW = 1_800_000_000.0


@cache
def key_files(index: int) -> dict[str, bytes]:
    """The keys of relay ``index``, made once: RSA keys take long."""
    with tempfile.TemporaryDirectory() as folder:
        RelayKeys.load(Path(folder), os.urandom, time.time())
        return {path.name: path.read_bytes() for path in Path(folder, "keys").iterdir()}


@cache
def tls_identity() -> TlsIdentity:
    """One TLS key for all relays."""
    return make_tls_identity(os.urandom, time.time(), 86400.0)


class Relays:
    """``count`` relays and a client; use as an async context manager."""

    def __init__(self, count: int = 3, **settings: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pelure-relays-")
        self._config = RelayConfig(
            network=parse_network(TORRC),
            data_directory=Path(self._folder.name),
            bind="127.0.0.1",
            orport=0,
            exit_policy=ExitPolicy.parse(["accept *:*"]),
            allow_private_addresses=True,
            publish=False,
        )
        self._config = replace(self._config, **settings)
        self._count = count
        self.servers: list[RelayServer] = []
        self.path: list[Relay] = []
        self._reasons: list[int] = []
        """Those of the relays' own making, for which they ended circuits."""
        self._watching = mock.patch.object(Link, "destroy", self._watched(Link.destroy))

    async def __aenter__(self) -> Relays:
        for index in range(self._count):
            folder = Path(self._folder.name, f"relay{index}")
            config = replace(self._config, data_directory=folder, nickname=f"relay{index}")
            (folder / "keys").mkdir(parents=True)
            for name, content in key_files(index).items():
                (folder / "keys" / name).write_bytes(content)
            server = RelayServer(config, cache=DirectoryCache())
            with mock.patch("pelure.tor.net.identity.make_tls_identity", return_value=tls_identity()):
                await server.start()
            self.servers.append(server)
            self.path.append(as_relay(server))
        self.links = LinkManager()
        self._watching.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.stop()
        await self.links.close()
        for server in self.servers:
            await server.close()
        self._folder.cleanup()

    async def circuit(self, *indexes: int, **options: Any) -> Circuit:
        """A circuit through the relays of these numbers (default: all, in order)."""
        chosen = [self.path[index] for index in indexes] or self.path
        return await Circuit.build(self.links, chosen, params=PARAMS, **options)

    async def closed_for(self, circuit: Circuit) -> int | None:
        """Wait until ``circuit`` is closed; what a relay closed it for, of which only the next ones hear."""
        await circuit.closed.wait()
        return self._reasons.pop() if self._reasons else None

    def _watched(self, destroy: Callable[..., None]) -> Callable[..., None]:
        def watched(link: Link, circ_id: int, reason: int = DestroyReason.NONE, **options: Any) -> None:
            if reason not in (DestroyReason.NONE, DestroyReason.DESTROYED):
                self._reasons.append(reason)
            destroy(link, circ_id, reason, **options)

        return watched


def as_relay(server: RelayServer) -> Relay:
    """``server`` as a client knows it from the directory."""
    keys = server.keys
    address = ("127.0.0.1", server.orport)
    return Relay(
        server.config.nickname,
        keys.rsa.public.identity,
        keys.identity.public,
        keys.onion.public,
        (address,),
        protocols=PROTOCOLS,
    )


async def until(condition: Any) -> None:
    """Wait until ``condition()`` is true; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # what is waited for has no event of its own


def make_descriptor(revision: int, payload: bytes = b"x" * 100, key: Ed25519KeyPair | None = None) -> bytes:
    """An onion service's descriptor as it is uploaded, around ``NOW``."""
    blinded = key or Ed25519KeyPair.generate(os.urandom)
    signing = Ed25519KeyPair.generate(os.urandom)
    cert = Ed25519Cert.create(CertType.HS_BLINDED_V_SIGNING, signing.public, blinded, NOW + 54 * 3600)
    return encode_outer(cert.encode(), signing, revision, payload)


def name_of(blinded_key: bytes) -> str:
    """As a path names it."""
    return base64.b64encode(blinded_key).decode().rstrip("=")


class EchoServer:
    """A TCP server on loopback that sends back what it gets and ends when the other side does."""

    async def __aenter__(self) -> EchoServer:
        self._server = await asyncio.start_server(self._echo, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()
