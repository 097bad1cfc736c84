"""``pelure drive import|export|checkout|sync``: a drive and a folder on this machine made alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pelure.cli.drive_mirror import Pass, write_out
from pelure.cli.drive_store import (
    OWN,
    Json,
    Key,
    Overwrite,
    Secret,
    Store,
    Version,
    open_drive,
    opened_store,
    store_folder,
)
from pelure.cli.drive_tcp import connection_if
from pelure.cli.output import Output
from pelure.cli.run import run, settings_of
from pelure.hyper.drive import live
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import Mirror, MirrorOptions
from pelure.web.listing import readable_size

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder on this machine.", file_okay=False)]
ExistingFolder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A folder.", exists=True, file_okay=False)
]
Copy = Annotated[bool, typer.Option("--copy", help="Store the content, too; else it stays in your files.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only tell what would be done.")]
ByHash = Annotated[bool, typer.Option("--hash", help="Read files even if size and time are unchanged.")]


def register(drive: typer.Typer) -> None:
    """Add the commands of this module to ``pelure drive``."""
    drive.command("import")(import_folder)
    drive.command("export")(export)
    drive.command("checkout")(checkout)
    drive.command("sync")(sync)


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
    """Make a drive of a folder, or bring the drive up to date with it.

    Example: `pelure drive import ~/Photos`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            local, drive = LocalDrive(folder), open_drive(cores, key, secret=secret)
            drive.core.check_usable()
            done = Pass(output, str(folder), dry_run)
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
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write a drive's files into a folder. Other files there stay; nothing outside it is ever written.

    Example: `pelure drive export own ~/copy`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            source = open_drive(cores, key, version, secret)
            options = MirrorOptions(delete=False, keep=not overwrite, dry_run=dry_run)
            await write_out(source, folder, output, options)

    run(work(), settings)


def checkout(
    context: typer.Context,
    key: Key,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="The version.")],
    folder: Folder,
    store: Store = None,
    secret: Secret = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a folder like an older version of a drive; files that came from newer ones are deleted.

    Files of yours stay, and so do those that you have changed.

    Example: `pelure drive checkout own 3 ~/as-it-was`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            source = open_drive(cores, key, version, secret)
            await write_out(source, folder, output, MirrorOptions(keep=not overwrite))

    run(work(), settings)


def sync(
    context: typer.Context,
    folder: Folder,
    store: Store = None,
    key: Annotated[str, typer.Option(help="The drive; by default the store's own.")] = OWN,
    pull: Annotated[bool, typer.Option("--pull", help="From the drive to the folder.")] = False,
    watching: Annotated[bool, typer.Option("--watch", help="Go on for ever.")] = False,
    tcp: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="With --watch, a peer.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Delete nothing.")] = False,
    overwrite: Overwrite = False,
    copy: Copy = False,
    dry_run: DryRun = False,
    by_hash: ByHash = False,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Keep a folder and a drive alike: deletions and renames, too. Without --pull the folder leads.

    With --pull files of yours stay, and so do those that you have changed.

    Example: `pelure drive sync ~/Photos --watch`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            drive, done = open_drive(cores, key, secret=secret), Pass(output, str(folder), True)
            drive.core.check_usable()
            local = LocalDrive(folder, create=pull)
            options = MirrorOptions(
                delete=not keep,
                keep=not overwrite,
                dry_run=dry_run,
                by_hash=by_hash,
                link=not copy,
                progress=done.progress,
            )
            if not watching:
                source, target = (drive, local) if pull else (local, drive)
                await done.run(Mirror(source, target, options))
                output.event("synced", f"version {drive.version}", version=drive.version, **done.count)
                done.check()
                return
            async with connection_if(cores, tcp):
                steps = live.pull(drive, local, options) if pull else live.push(local, drive, options)
                async for step in steps:
                    done.tell(step)

    run(work(), settings)
