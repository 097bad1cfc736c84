"""``pelure drive serve|replicate|watch``: drives of and for other machines, over plain TCP.

For local networks and for npm peers. The stream is encrypted and authenticated by the drive's key (Noise),
but shows who talks to whom; for anything else there is ``pelure share``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from pelure.cli.drive_mirror import PROGRESS_SECONDS, write_out
from pelure.cli.drive_store import (
    Json,
    Key,
    Overwrite,
    Secret,
    Store,
    open_drive,
    opened_store,
    store_folder,
    tell_step,
)
from pelure.cli.output import Output
from pelure.cli.run import run, settings_of
from pelure.errors import ConfigError, ConflictError, DriveError
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.mirror import MirrorOptions, Step
from pelure.streams import SocketStream, listening

_RETRY_SECONDS = 1.0
_FRUITLESS_TRIES = 5

Tcp = Annotated[str, typer.Option("--tcp", metavar="HOST:PORT", help="The address.")]


def register(drive: typer.Typer) -> None:
    """Add the commands of this module to ``pelure drive``."""
    drive.command("serve")(serve)
    drive.command("replicate")(replicate)
    drive.command("watch")(watch)


def serve(
    context: typer.Context,
    key: Key,
    tcp: Tcp,
    store: Store = None,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Serve a drive to all who know its key, over plain TCP, until interrupted.

    Example: `pelure drive serve own --tcp 127.0.0.1:4282`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        host, port = _address(tcp)
        with opened_store(path) as cores, Output(as_json) as output:
            drive = open_drive(cores, key, secret=secret)
            blobs = drive.local_blobs()  # opened, so that peers are told of it
            served = [drive.core] if blobs is None else [drive.core, blobs.core]
            for core in served:
                core.check_usable()
            with listening(host, port):
                server = await SocketStream.listen(_acceptor(cores, output), host, port)
            async with server:
                host, port = server.sockets[0].getsockname()[:2]
                text = f"serving {drive.key.hex()} on {host}:{port}"
                output.event("listening", text, host=host, port=port, key=drive.key.hex())
                await asyncio.gather(server.serve_forever(), *map(_until_unusable, served))

    run(work(), settings)


async def _until_unusable(core: Core) -> None:
    """Wait for the end of ``core``; raises ``DriveError`` with the reason."""
    while True:
        await core.changed()


def _acceptor(cores: Corestore, output: Output) -> Callable[[SocketStream], Coroutine[Any, Any, None]]:
    async def accept(stream: SocketStream) -> None:
        peer = "{}:{}".format(*stream.peername[:2])
        output.event("connected", f"{peer} connected", peer=peer)
        async with cores.replicate(stream, False) as replication:
            error = await replication.wait_closed()
        reason = f" ({error})" if error is not None else ""
        output.event("disconnected", f"{peer} left{reason}", peer=peer)

    return accept


def replicate(
    context: typer.Context,
    key: Key,
    tcp: Tcp,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", file_okay=False)],
    store: Store = None,
    secret: Secret = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fetch a drive from a peer over plain TCP and write its files. Interrupted, it goes on where it was.

    Example: `pelure drive replicate KEY --tcp 192.0.2.7:4282 --out photos`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            drive = open_drive(cores, key, secret=secret)
            await _fetch(cores, drive, tcp, output)
            await write_out(drive.checkout(drive.version), out, output, MirrorOptions(keep=not overwrite))

    run(work(), settings)


async def _fetch(cores: Corestore, drive: Drive, tcp: str, output: Output) -> None:
    """Download the newest version; a lost connection is made again while that brings something."""
    fruitless, held = 0, -1
    while True:
        try:
            async with _connection(cores, tcp) as lost:
                await _first_of(_download(drive, output), lost)
                return
        except ConflictError:
            raise
        except (OSError, DriveError) as error:
            blobs = drive.local_blobs()
            now = drive.version + (blobs.core.bitfield.count(0, blobs.core.length) if blobs else 0)
            fruitless, held = (fruitless + 1 if now == held else 0), now
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            if fruitless >= _FRUITLESS_TRIES:
                raise DriveError(f"{tcp}: {reason}") from error
            if output.is_news(reason):
                output.aside("unreachable", f"{tcp}: {reason}; trying again …", reason=reason)
            await asyncio.sleep(_RETRY_SECONDS)


async def _update(drive: Drive) -> None:
    """Learn of the newest version. Raises ``ConfigError`` if the other side has no such drive."""
    await drive.update(wait=True)
    replicator = drive.core.replicator
    if replicator is not None and replicator.links and not any(peer.opened for peer in replicator.peers):
        raise ConfigError(f"the other side has no drive with the key {drive.key.hex()}")
    if drive.core.length:
        await drive.blobs()  # tells if the encryption key is missing or wrong


async def _download(drive: Drive, output: Output) -> None:
    output.wait("Asking for the newest version …")
    await _update(drive)
    telling = asyncio.ensure_future(_tell_download(drive, output))
    try:
        await drive.download()
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling
    output.finish()


async def _tell_download(drive: Drive, output: Output) -> None:
    while True:
        blobs = drive.local_blobs()
        if blobs is not None and blobs.core.length:
            share = blobs.core.bitfield.count(0, blobs.core.length) / blobs.core.length
            total = blobs.core.byte_length
            output.progress("download", int(share * total), total)
        await asyncio.sleep(PROGRESS_SECONDS)


@asynccontextmanager
async def _connection(cores: Corestore, tcp: str) -> AsyncIterator[asyncio.Future[None]]:
    """A replication with the peer at ``tcp``; the future fails when the connection is lost."""
    stream = await SocketStream.connect(*_address(tcp))
    async with cores.replicate(stream, True) as replication:

        async def until_lost() -> None:
            error = await replication.wait_closed()
            raise DriveError(str(error) if error is not None else "the other side ended the connection")

        lost = asyncio.ensure_future(until_lost())
        try:
            yield lost
        finally:
            lost.cancel()
            with suppress(asyncio.CancelledError, DriveError):
                await lost


async def _first_of(work: Coroutine[Any, Any, None], lost: asyncio.Future[None]) -> None:
    """Do ``work`` unless the connection is lost before."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, lost), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            lost.result()
        await task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


@asynccontextmanager
async def connection_if(cores: Corestore, tcp: str | None) -> AsyncIterator[None]:
    """A replication with the peer at ``tcp``, if there is one."""
    if tcp is None:
        yield
    else:
        async with _connection(cores, tcp):
            yield


def watch(
    context: typer.Context,
    key: Key,
    tcp: Tcp,
    store: Store = None,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Follow a peer's drive over plain TCP, telling every change, until interrupted.

    Example: `pelure drive watch KEY --tcp 192.0.2.7:4282`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def follow(drive: Drive, output: Output) -> None:
        await _update(drive)
        output.event("watching", f"version {drive.version}", version=drive.version)
        async for now, before in drive.watch():
            async for found in now.diff(before.version):
                what = "remove" if found.left is None else "add" if found.right is None else "change"
                tell_step(output, Step(what, found.path))

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            drive = open_drive(cores, key, secret=secret)
            async with _connection(cores, tcp) as lost:
                await _first_of(follow(drive, output), lost)

    run(work(), settings)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)
