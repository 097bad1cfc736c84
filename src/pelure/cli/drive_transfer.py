"""``pelure drive import|export|checkout|sync|serve|replicate|watch``: whole folders, and other machines.

``serve`` and ``replicate`` speak plain TCP, for local networks and for npm peers; the stream is encrypted and
authenticated by the drive's key (Noise), but shows who talks to whom. For anything else there is
``pelure share``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from pelure.cli.drive_store import (
    OWN,
    Json,
    Key,
    Secret,
    Store,
    Version,
    open_drive,
    opened_store,
    store_folder,
    tell_step,
)
from pelure.cli.output import Output
from pelure.cli.run import run, settings_of
from pelure.errors import ConfigError, DriveError
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive import live
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import Mirror, MirrorOptions, Step
from pelure.streams import SocketStream
from pelure.web.listing import readable_size

_PROGRESS_SECONDS = 0.2
_RETRY_SECONDS = 1.0
_FRUITLESS_TRIES = 5

Tcp = Annotated[str, typer.Option("--tcp", metavar="HOST:PORT", help="The address.")]
Folder = Annotated[Path, typer.Argument(help="A folder on this machine.", file_okay=False)]
ExistingFolder = Annotated[Path, typer.Argument(help="A folder.", exists=True, file_okay=False)]
Copy = Annotated[bool, typer.Option("--copy", help="Store the content, too; else it stays in your files.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only tell what would be done.")]
ByHash = Annotated[bool, typer.Option("--hash", help="Read files even if size and time are unchanged.")]


def register(drive: typer.Typer) -> None:
    """Add the commands of this module to ``pelure drive``."""
    drive.command("import")(import_folder)
    drive.command("export")(export)
    drive.command("checkout")(checkout)
    drive.command("sync")(sync)
    drive.command("serve")(serve)
    drive.command("replicate")(replicate)
    drive.command("watch")(watch)


class _Pass:
    """Counts the steps of mirrors and tells them, or, if not ``each``, only the problems."""

    def __init__(self, output: Output, what: str, each: bool) -> None:
        self.output = output
        self.what = what
        self.each = each
        self.count: Counter[str] = Counter()
        self.bytes = self.done = 0
        self._mirror: Mirror | None = None
        self._told = 0.0

    def progress(self, size: int) -> None:
        self.done += size
        now = time.monotonic()
        if now - self._told >= _PROGRESS_SECONDS:
            self._told = now
            self._show()

    def _show(self) -> None:
        self.output.progress(self.what, self.done, self._mirror.total if self._mirror else None)

    def tell(self, step: Step) -> None:
        self.count[step.operation] += 1
        if step.operation in ("add", "change", "rename", "equal"):
            self.bytes += step.size
        if self.each or step.operation == "problem":
            tell_step(self.output, step)

    async def run(self, mirror: Mirror) -> None:
        self._mirror = mirror
        async for step in mirror.steps():
            self.tell(step)
        self._show()
        self.output.finish()

    @property
    def files(self) -> int:
        return sum(self.count[operation] for operation in ("add", "change", "rename", "equal"))

    def check(self) -> None:
        """Raises ``DriveError`` if something was left out."""
        if self.count["problem"]:
            raise DriveError(f"{self.count['problem']} files were left out; see above")


def import_folder(
    context: typer.Context,
    folder: ExistingFolder,
    store: Store = None,
    key: Annotated[str, typer.Option(help="The drive; by default the store's own.")] = OWN,
    copy: Copy = False,
    secret: Secret = None,
    dry_run: DryRun = False,
    by_hash: ByHash = False,
    as_json: Json = False,
) -> None:
    """Make a drive of a folder, or bring the drive up to date with it."""
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            local, drive = LocalDrive(folder), open_drive(cores, key, secret=secret)
            done = _Pass(output, str(folder), dry_run)
            options = MirrorOptions(dry_run=dry_run, by_hash=by_hash, link=not copy, progress=done.progress)
            await done.run(Mirror(local, drive, options))
            key_text = drive.key.hex()
            text = (
                f"{done.files} files, {readable_size(done.bytes)}, version {drive.version}. Key: {key_text}"
            )
            fields = {"files": done.files, "bytes": done.bytes, "version": drive.version}
            output.event("imported", text, key=key_text, **fields)
            done.check()

    run(work(), settings)


def export(
    context: typer.Context,
    key: Key,
    folder: Folder,
    store: Store = None,
    version: Version = None,
    secret: Secret = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write a drive's files into a folder. Other files there stay; nothing outside it is ever written."""
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            source = open_drive(cores, key, version, secret)
            await _write_out(source, folder, output, MirrorOptions(delete=False, dry_run=dry_run))

    run(work(), settings)


def checkout(
    context: typer.Context,
    key: Key,
    version: Annotated[int, typer.Argument(min=1, help="The version.")],
    folder: Folder,
    store: Store = None,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Make a folder like an older version of a drive; files that came from newer ones are deleted."""
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            await _write_out(open_drive(cores, key, version, secret), folder, output, MirrorOptions())

    run(work(), settings)


async def _write_out(source: Drive, folder: Path, output: Output, options: MirrorOptions) -> None:
    started = time.monotonic()
    done = _Pass(output, str(folder), options.dry_run)
    options.progress = done.progress
    local = LocalDrive(folder, create=True)
    try:
        await done.run(Mirror(source, local, options))
    finally:
        local.close()
    seconds = round(time.monotonic() - started, 3)
    text = f"{done.files} files, {readable_size(done.bytes)} in {folder}"
    output.event("complete", text, files=done.files, bytes=done.bytes, seconds=seconds)
    done.check()


def sync(
    context: typer.Context,
    folder: Folder,
    store: Store = None,
    key: Annotated[str, typer.Option(help="The drive; by default the store's own.")] = OWN,
    pull: Annotated[bool, typer.Option("--pull", help="From the drive to the folder.")] = False,
    watching: Annotated[bool, typer.Option("--watch", help="Go on for ever.")] = False,
    tcp: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="With --watch, a peer.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Delete nothing.")] = False,
    copy: Copy = False,
    dry_run: DryRun = False,
    by_hash: ByHash = False,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Keep a folder and a drive alike: deletions and renames, too. Without --pull the folder leads."""
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            drive, done = open_drive(cores, key, secret=secret), _Pass(output, str(folder), True)
            local = LocalDrive(folder, create=pull)
            options = MirrorOptions(
                delete=not keep, dry_run=dry_run, by_hash=by_hash, link=not copy, progress=done.progress
            )
            if not watching:
                source, target = (drive, local) if pull else (local, drive)
                await done.run(Mirror(source, target, options))
                output.event("synced", f"version {drive.version}", version=drive.version, **done.count)
                done.check()
                return
            async with _peer_if(cores, tcp):
                steps = live.pull(drive, local, options) if pull else live.push(local, drive, options)
                async for step in steps:
                    done.tell(step)

    run(work(), settings)


def serve(
    context: typer.Context,
    key: Key,
    tcp: Tcp,
    store: Store = None,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Serve a drive to all who know its key, over plain TCP, until interrupted."""
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        host, port = _address(tcp)
        with opened_store(path) as cores, Output(as_json) as output:
            drive = open_drive(cores, key, secret=secret)
            drive.local_blobs()  # opened, so that peers are told of it
            server = await asyncio.start_server(_acceptor(cores, output), host, port)
            async with server:
                host, port = server.sockets[0].getsockname()[:2]
                text = f"serving {drive.key.hex()} on {host}:{port}"
                output.event("listening", text, host=host, port=port, key=drive.key.hex())
                await server.serve_forever()

    run(work(), settings)


def _acceptor(
    cores: Corestore, output: Output
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = SocketStream(reader, writer)
        peer = "{}:{}".format(*writer.get_extra_info("peername")[:2])
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
    as_json: Json = False,
) -> None:
    """Fetch a drive from a peer over plain TCP and write its files. Interrupted, it goes on where it was."""
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            drive = open_drive(cores, key, secret=secret)
            await _fetch(cores, drive, tcp, output)
            await _write_out(drive.checkout(drive.version), out, output, MirrorOptions())

    run(work(), settings)


async def _fetch(cores: Corestore, drive: Drive, tcp: str, output: Output) -> None:
    """Download the newest version; a lost connection is made again while that brings something."""
    fruitless, held = 0, -1
    while True:
        try:
            async with _connection(cores, tcp) as lost:
                await _first_of(_download(drive, output), lost)
                return
        except (OSError, DriveError) as error:
            blobs = drive.local_blobs()
            now = drive.version + (blobs.core.bitfield.count(0, blobs.core.length) if blobs else 0)
            fruitless, held = (fruitless + 1 if now == held else 0), now
            if fruitless >= _FRUITLESS_TRIES:
                raise DriveError(f"{tcp}: {error}") from error
            await asyncio.sleep(_RETRY_SECONDS)


async def _download(drive: Drive, output: Output) -> None:
    await drive.update(wait=True)
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
        await asyncio.sleep(_PROGRESS_SECONDS)


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
async def _peer_if(cores: Corestore, tcp: str | None) -> AsyncIterator[None]:
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
    """Follow a peer's drive over plain TCP, telling every change, until interrupted."""
    settings, path = settings_of(context), store_folder(context, store)

    async def follow(drive: Drive, output: Output) -> None:
        await drive.update(wait=True)
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
