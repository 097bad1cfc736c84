"""What a reader does with a private link: ``get``, ``ls``, ``cat``, ``mount``, ``sync``, ``open``."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pelure.cli.book import open_book
from pelure.cli.output import Output, counted, write_bytes
from pelure.cli.run import Settings, run, settings_of
from pelure.cli.session import session
from pelure.cli.terminal import shown
from pelure.errors import ConfigError, DriveError, StorageError
from pelure.hyper.drive.entry import DriveEntry, Unfit
from pelure.hyper.drive.live import pull
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.metadata import mtime_of
from pelure.hyper.drive.mirror import MirrorOptions
from pelure.share.fetch import Fetch
from pelure.share.link import PrivateLink, split_path
from pelure.share.reader import CIRCUITS, RemoteDrive, check_date, open_remote
from pelure.share.received import cache_folder, find_link, folder_name, remember
from pelure.share.record import SHARES_NAME, find_own, publisher_folder
from pelure.share.trust import newest
from pelure.streams import listening
from pelure.web.listing import readable_size

if TYPE_CHECKING:
    from pelure.share.fuse import Mounted

LOOK_SECONDS = 1.0
LISTING = "Reading the list of files …"

LinkArgument = Annotated[
    str,
    typer.Argument(metavar="LINK", help="A private link, the name of a received one, or - to read it."),
]
Circuits = Annotated[int, typer.Option(help="Onion circuits used at once.", min=1, max=16)]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files of yours that are in the way; else they stay.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one event a line.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (get, ls, cat, mount, sync, open_page):
        app.command("open" if command is open_page else command.__name__)(command)


def _read_link(settings: Settings, text: str) -> tuple[PrivateLink, str]:
    """The link, and the path after it."""
    if text == "-":
        if sys.stdin.isatty():
            print("The link: ", end="", file=sys.stderr, flush=True)
        text = sys.stdin.readline().strip()
        if not text:
            raise ConfigError("there is no link on standard input")
    if text.startswith(("http://", "https://")):
        raise ConfigError("this is not a private link: one begins with «pelure:» (for web pages: get-url)")
    link_text, path = split_path(text)
    with open_book(settings) as book:
        link = find_link(book, link_text)
    check_date(link)
    return link, path


@asynccontextmanager
async def _connected(
    settings: Settings,
    output: Output,
    link: PrivateLink,
    circuits: int = CIRCUITS,
    *,
    patient: bool = False,
) -> AsyncIterator[RemoteDrive]:
    """The drive of a link, connected to its publisher; the link is kept in the book.

    Ends with ``StorageError`` when what comes can't be stored here, unless ``patient``.
    """
    async with (
        session(settings, output) as tor,
        open_remote(link, tor, cache_folder(settings.state, link), circuits=circuits) as remote,
    ):
        remote.on_conflict = lambda error: output.event("conflict", str(error), reason=str(error))
        output.wait("Looking for the publisher …")
        try:
            async with asyncio.timeout(None) as limit:
                give_up = None if patient else lambda: limit.reschedule(0)
                telling = asyncio.ensure_future(_tell_absence(output, remote, give_up))
                try:
                    await remote.connected()
                    with open_book(settings) as book:
                        remember(book, link)
                    output.aside("connected", "Connected.", name=link.title)
                    yield remote
                finally:
                    telling.cancel()
        except TimeoutError:
            if limit.expired() and remote.last_error is not None:
                raise remote.last_error from None
            raise


async def _tell_absence(output: Output, remote: RemoteDrive, give_up: Callable[[], None] | None) -> None:
    """Tell why the publisher is not reached, once for each reason, and that it is back."""
    told: str | None = None
    was_there = False
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        reason = str(remote.last_error or "")
        if remote.open_circuits:
            if was_there and told is not None:
                output.aside("connected", "Connected again.", name=remote.link.title)
            told, was_there = None, True
        elif reason and reason != told:
            told = reason
            if give_up is not None and isinstance(remote.last_error, StorageError):
                give_up()
                return
            text = f"The publisher is not reached: {reason}; trying again …"
            output.aside("unreachable", text, reason=reason)
            output.wait("Looking for the publisher …")


def get(
    context: typer.Context,
    link: LinkArgument,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to; a new folder here.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only paths that fit, such as 'photos/*'.")] = None,
    overwrite: Overwrite = False,
    circuits: Circuits = CIRCUITS,
    as_json: Json = False,
) -> None:
    """Fetch what a link gives. Run it again to resume, or to fetch what has changed.

    Example: `pelure get pelure:ybn… photos --only '2026/*'`
    """
    settings = settings_of(context)

    async def work() -> None:
        private, path = _read_link(settings, link)
        target = (folder or Path(folder_name(private))).expanduser().absolute()
        wanted = [*(only or []), *([path] if path != "/" else [])]
        with Output(as_json) as output:
            async with _connected(settings, output, private, circuits) as remote:

                def progress(done: int, total: int) -> None:
                    output.progress("get", done, total, circuits=remote.open_circuits)

                fetch = Fetch(remote.drive, target, wanted, overwrite=overwrite)
                if folder is None and fetch.is_new_here and target.is_dir() and any(target.iterdir()):
                    raise ConfigError(
                        f"there is a folder {target.name} here, which this link was not fetched into; "
                        "say where to: pelure get LINK DIR"
                    )
                output.wait(LISTING)
                fetched = await fetch.run(progress)
                output.finish()
                for place, reason in fetched.problems:
                    _tell_problem(output, place, reason)
                size, seconds = readable_size(fetched.bytes), fetched.seconds
                output.event(
                    "complete",
                    f"{counted(fetched.files, 'file')}, {size} in {seconds:.1f} s, in {target}",
                    files=fetched.files,
                    bytes=fetched.bytes,
                    seconds=round(seconds, 3),
                    folder=str(target),
                )
                if fetched.problems:
                    left_out = counted(len(fetched.problems), "file")
                    raise DriveError(f"{left_out} could not be written; see above")

    run(work(), settings)


def ls(
    context: typer.Context,
    link: LinkArgument,
    as_json: Json = False,
) -> None:
    """List what a link gives: `pelure ls LINK` or `pelure ls LINK/folder`."""
    settings = settings_of(context)

    async def work() -> None:
        private, path = _read_link(settings, link)
        with Output(as_json) as output:
            async with _connected(settings, output, private, 1) as remote:
                drive = remote.drive
                output.wait(LISTING)
                await newest(drive)
                named = await drive.entry(path) if path != "/" else None
                if named is not None:
                    _tell_entry(output, named, await drive.size(named))
                    return
                found = False
                problems: list[Unfit] = []
                async for entry in drive.list(path, unfit=problems.append):
                    found = True
                    _tell_entry(output, entry, await drive.size(entry))
                for problem in problems:
                    _tell_problem(output, problem.path, problem.reason)
                if not found and path != "/":
                    raise DriveError(f"there is no {shown(path)} in the share")

    run(work(), settings)


def _tell_problem(output: Output, path: str, reason: str) -> None:
    output.event("problem", f"{shown(path)}: {shown(reason)}", path=path, reason=reason)


def _tell_entry(output: Output, entry: DriveEntry, size: int) -> None:
    text = f"{readable_size(size):>10}  {shown(entry.path)}"
    if entry.linkname is not None:
        text += f" → {shown(entry.linkname)}"
    output.event(
        "entry",
        text,
        path=entry.path,
        size=size,
        mtime=mtime_of(entry),
        executable=entry.executable,
        target=entry.linkname,
    )


def cat(
    context: typer.Context,
    link: Annotated[str, typer.Argument(metavar="LINK/PATH", help="A private link and a path in it.")],
    start: Annotated[int, typer.Option(help="First byte.", min=0)] = 0,
    circuits: Circuits = CIRCUITS,
) -> None:
    """Write a file to standard output while it comes: `pelure cat LINK/film.mkv | mpv -`"""
    settings = settings_of(context)

    async def work() -> None:
        private, path = _read_link(settings, link)
        if path == "/":
            raise ConfigError("which file? as in: pelure cat LINK/notes.txt (pelure ls LINK lists them)")
        with Output(as_json=False) as output:
            output.console.stderr = True
            async with _connected(settings, output, private, circuits) as remote:
                await newest(remote.drive)
                entry = await remote.drive.entry(path)
                if entry is None or entry.blob is None:
                    raise DriveError(f"there is no file {shown(path)} in the share; pelure ls lists them")
                async for part in remote.drive.read(entry, start):
                    await asyncio.to_thread(write_bytes, part)

    run(work(), settings)


def mount(
    context: typer.Context,
    link: LinkArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An empty folder; made if missing.")],
    read_only: Annotated[
        bool, typer.Option("--read-only", help="See a share of your own as its readers do.")
    ] = False,
    circuits: Circuits = CIRCUITS,
    as_json: Json = False,
) -> None:
    """Show what a link gives as a folder, until interrupted. Content is fetched when it is read.

    A share of your own (its name, or one of its links) can be written to: that changes the shared folder.

    Example: `pelure mount photos ~/mnt/photos`
    """
    from pelure.share.mount import mount as mount_drive
    from pelure.share.owner_mount import mount_own

    settings = settings_of(context)

    async def work() -> None:
        node_folder = publisher_folder(settings.state, settings.network)
        own = None if read_only or _is_received(settings, link) else find_own(node_folder / SHARES_NAME, link)
        target = folder.expanduser().absolute()
        with Output(as_json) as output:
            if own is not None:
                await _until_unmounted(output, await mount_own(own, node_folder, target), writable=True)
                return
            private, _ = _read_link(settings, link)
            async with _connected(settings, output, private, circuits, patient=True) as remote:
                await newest(remote.drive)
                await _until_unmounted(output, await mount_drive(remote.drive, target), writable=False)

    run(work(), settings)


def _is_received(settings: Settings, name: str) -> bool:
    with open_book(settings) as book:
        return any(entry.name == name for entry in book.entries(""))


async def _until_unmounted(output: Output, mounted: Mounted, *, writable: bool) -> None:
    how = "to read and write" if writable else "to read"
    output.event(
        "mounted", f"Mounted {how} at {mounted.folder}.", folder=str(mounted.folder), writable=writable
    )
    try:
        await mounted.ended.wait()
    finally:
        await mounted.unmount()


def sync(
    context: typer.Context,
    link: LinkArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    overwrite: Overwrite = False,
    circuits: Circuits = CIRCUITS,
    as_json: Json = False,
) -> None:
    """Keep a folder like what a link gives, and follow changes until interrupted.

    Files of yours stay, also where the share has others of the same name; these are told.

    Example: `pelure sync photos ~/Photos-of-alice`
    """
    settings = settings_of(context)

    async def work() -> None:
        private, _ = _read_link(settings, link)
        with Output(as_json) as output:
            async with _connected(settings, output, private, circuits) as remote:

                def progress(done: int, total: int) -> None:
                    output.progress("sync", done, total, circuits=remote.open_circuits)

                fetch = Fetch(remote.drive, folder.expanduser().absolute(), overwrite=overwrite)
                output.wait(LISTING)
                fetched = await fetch.run(progress)
                output.finish()
                told = set(fetched.problems)
                for place, reason in fetched.problems:
                    _tell_problem(output, place, reason)
                target = LocalDrive(folder.expanduser().absolute())
                output.event("synced", "Up to date; following changes.", folder=str(target.root))
                try:
                    async for step in pull(remote.drive, target, MirrorOptions(keep=not overwrite)):
                        if step.operation == "problem":
                            problem = (step.path, step.reason or "unknown")
                            if problem not in told:  # each pass finds it again
                                told.add(problem)
                                _tell_problem(output, *problem)
                        elif step.operation != "equal":
                            text = f"{step.operation}: {shown(step.path)}"
                            output.event("changed", text, op=step.operation, path=step.path)
                finally:
                    target.close()

    run(work(), settings)


def open_page(
    context: typer.Context,
    link: LinkArgument,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; any free one by default.")] = 0,
    circuits: Circuits = CIRCUITS,
    as_json: Json = False,
) -> None:
    """Show what a link gives as a web page on this machine, behind a secret address.

    Example: `pelure open photos`
    """
    from pelure.tor.service.app_server import AppServer
    from pelure.web.page import DrivePage

    settings = settings_of(context)

    async def work() -> None:
        private, _ = _read_link(settings, link)
        with Output(as_json) as output:
            async with _connected(settings, output, private, circuits, patient=True) as remote:
                await newest(remote.drive)
                base = f"/{secrets.token_urlsafe(24)}/"
                listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with listening("127.0.0.1", port):
                    listener.bind(("127.0.0.1", port))
                server = AppServer(DrivePage(remote.drive, private.title or "share", base).app(), listener)
                await server.start()
                url = f"http://127.0.0.1:{listener.getsockname()[1]}{base}"
                output.event("page", f"Open {url}", url=url)
                try:
                    await asyncio.Event().wait()
                finally:
                    await server.close()

    run(work(), settings)
