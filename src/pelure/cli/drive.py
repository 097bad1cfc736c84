"""``pelure drive``: drives in a store on this machine: making, looking, reading, writing, versions.

Whole folders are in :mod:`pelure.cli.drive_folder`, other machines in :mod:`pelure.cli.drive_tcp`.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from pelure.cli import drive_folder, drive_tcp
from pelure.cli.drive_store import (
    OWN,
    Json,
    Key,
    Secret,
    Store,
    Version,
    entry_fields,
    open_drive,
    opened_store,
    store_folder,
)
from pelure.cli.output import Output
from pelure.cli.run import run, settings_of
from pelure.cli.terminal import shown
from pelure.cli.whole_file import whole_file
from pelure.errors import DriveError
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.entry import DriveEntry
from pelure.web.listing import readable_size

drive = typer.Typer(help="Folders with history, replicated between machines.", no_args_is_help=True)

FileInDrive = Annotated[str, typer.Argument(metavar="PATH", help="A path in the drive.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    drive_folder.register(drive)
    drive_tcp.register(drive)
    app.add_typer(drive, name="drive")


@drive.command("create")
def create(
    context: typer.Context,
    store: Store = None,
    encrypted: Annotated[
        bool, typer.Option("--encrypted", help="Encrypt all blocks with a new key.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the store's own drive, or tell its key if there is one.

    Example: `pelure drive create --encrypted`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            own = Drive(cores)
            if encrypted and own.core.length and own.encryption_key is None:
                raise DriveError("the drive exists already and is not encrypted")
            if encrypted and own.encryption_key is None:
                own = Drive(cores, encryption_key=secrets.token_bytes(32))
            fields = {"key": own.key.hex()}
            if own.encryption_key is not None:
                fields["secret"] = own.encryption_key.hex()
            output.event("created", "\n".join(f"{name}: {value}" for name, value in fields.items()), **fields)

    run(work(), settings)


@drive.command("ls")
def ls(
    context: typer.Context,
    key: Key,
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="A folder in the drive.")] = "/",
    store: Store = None,
    version: Version = None,
    secret: Secret = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders within, too.")] = False,
    as_json: Json = False,
) -> None:
    """List the files of a drive.

    Example: `pelure drive ls own /photos -r`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            listed = open_drive(cores, key, version, secret)
            found = False
            async for entry in listed.list(folder, recursive=recursive, wait=False):
                found = True
                size = await listed.size(entry, wait=False)
                output.event("entry", _line(entry, size, folder, recursive), **entry_fields(entry, size))
            if not found and folder.strip("/"):
                raise DriveError(f"there is no folder {folder!r} in the drive")

    run(work(), settings)


def _line(entry: DriveEntry, size: int, folder: str, recursive: bool) -> str:
    name = entry.path
    below = entry.path.strip("/")[len(folder.strip("/")) :].lstrip("/")
    if not recursive and "/" in below:
        return f"{'folder':>12}  {shown(below.partition('/')[0])}/"
    link = f" -> {shown(entry.linkname)}" if entry.linkname is not None else ""
    mark = "*" if entry.executable else ""
    return f"{readable_size(size):>12}  {shown(name if recursive else below)}{mark}{link}"


@drive.command("cat")
def cat(
    context: typer.Context,
    key: Key,
    file: FileInDrive,
    store: Store = None,
    version: Version = None,
    secret: Secret = None,
    start: Annotated[int, typer.Option(min=0, help="First byte.")] = 0,
    end: Annotated[int | None, typer.Option(min=0, help="Byte after the last.")] = None,
) -> None:
    """Write a file's content to standard output.

    Example: `pelure drive cat own /notes.txt`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores:
            async for part in open_drive(cores, key, version, secret).read(file, start, end, wait=False):
                sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()

    run(work(), settings)


@drive.command("get")
def get(
    context: typer.Context,
    key: Key,
    file: FileInDrive,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.", dir_okay=False)],
    store: Store = None,
    version: Version = None,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Copy a file out of a drive.

    Example: `pelure drive get own /notes.txt notes.txt`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            size = 0
            source = open_drive(cores, key, version, secret)
            if not await source.exists(file):
                raise DriveError(f"there is no file {file!r} in the drive")
            with whole_file(out) as target:
                async for part in source.read(file, wait=False):
                    size += target.write(part)
            output.event("complete", f"{readable_size(size)} written to {out}", files=1, bytes=size)

    run(work(), settings)


@drive.command("put")
def put(
    context: typer.Context,
    key: Key,
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to copy.", exists=True, dir_okay=False)
    ],
    file: FileInDrive,
    store: Store = None,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Copy a file into a drive.

    Example: `pelure drive put own notes.txt /notes.txt`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output, source.open("rb") as content:
            target = open_drive(cores, key, secret=secret)
            executable = bool(source.stat().st_mode & 0o100)
            await target.import_file(file, content.fileno(), str(source.absolute()), executable=executable)
            output.event("changed", f"add {file}", op="add", path=file, version=target.version)

    run(work(), settings)


@drive.command("rm")
def rm(
    context: typer.Context, key: Key, file: FileInDrive, store: Store = None, as_json: Json = False
) -> None:
    """Delete a file from a drive. Older versions keep it.

    Example: `pelure drive rm own /notes.txt`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            target = open_drive(cores, key)
            if not await target.delete(file):
                raise DriveError(f"there is no file {file!r} in the drive")
            output.event("changed", f"remove {file}", op="remove", path=file, version=target.version)

    run(work(), settings)


@drive.command("log")
def log(
    context: typer.Context,
    key: Key,
    store: Store = None,
    secret: Secret = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 1000,
    as_json: Json = False,
) -> None:
    """Show what was put and deleted, the newest first; the numbers are versions.

    What was put at once, as by an import, is all in one version.

    Example: `pelure drive log own --limit 20`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            count = 0
            async for version, event in open_drive(cores, key, secret=secret).db.log(wait=False):
                name = event.entry.key.decode(errors="replace")
                what = "delete" if event.deleted else "put"
                text = f"{version:>8}  {what:6}  {shown(name)}"
                output.event("log", text, version=version, op=what, path=name)
                count += 1
                if count == limit:
                    return

    run(work(), settings)


@drive.command("diff")
def diff(
    context: typer.Context,
    key: Key,
    old: Annotated[int, typer.Argument(metavar="OLD", help="The older version.", min=1)],
    new: Annotated[
        int | None, typer.Argument(metavar="[NEW]", help="The newer version (default: newest).", min=1)
    ] = None,
    store: Store = None,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Show how two versions of a drive differ.

    Example: `pelure drive diff own 3 7`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            newer = open_drive(cores, key, new, secret)
            newer.check_whole(old)
            async for found in newer.diff(old, wait=False):
                what = "remove" if found.left is None else "add" if found.right is None else "change"
                text = f"{what:8} {shown(found.path)}"
                output.event("changed", text, op=what, path=found.path)

    run(work(), settings)


@drive.command("info")
def info(
    context: typer.Context, key: Key = OWN, store: Store = None, secret: Secret = None, as_json: Json = False
) -> None:
    """Show keys, versions, and how much of a drive is held here.

    Example: `pelure drive info`
    """
    settings, path = settings_of(context), store_folder(context, store)

    async def work() -> None:
        with opened_store(path) as cores, Output(as_json) as output:
            fields = _describe(cores, open_drive(cores, key, secret=secret))
            lines = [f"{name.replace('_', ' '):>20}: {_readable(value)}" for name, value in fields.items()]
            output.event("info", "\n".join(lines), **fields)

    run(work(), settings)


def _readable(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not known"}[value]
    return ", ".join(map(shown, value)) or "none" if isinstance(value, list) else str(value)


def _describe(cores: Corestore, drive: Drive) -> dict[str, object]:
    blobs = drive.local_blobs()
    content = blobs.core if blobs is not None else None
    fields: dict[str, object] = {
        "key": drive.key.hex(),
        "content_key": content.key.hex() if content is not None else None,
        "version": drive.version,
        "fork": drive.core.fork,
        "writable": drive.writable,
        "encrypted": drive.encryption_key is not None,
        "conflict": drive.core.conflict is not None or (content is not None and content.conflict is not None),
    }
    if content is not None:
        links = content.storage.links()
        fields |= {
            "bytes": content.byte_length,
            "blocks": content.length,
            "blocks_held": content.bitfield.count(0, content.length),
            "linked_files": len(links),
            "linked_files_changed": [link.path for link in links if not link.unchanged()],
        }
    return fields
