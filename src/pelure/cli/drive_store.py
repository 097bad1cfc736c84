"""What the ``pelure drive`` commands share: the store, keys, and how entries and steps are told."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from pelure.cli.output import Output
from pelure.cli.run import settings_of
from pelure.cli.terminal import shown
from pelure.errors import ConfigError, DriveError
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.entry import DriveEntry
from pelure.hyper.drive.mirror import Step
from pelure.hyper.encoding import z32

FOLDER = "drives"

Store = Annotated[Path | None, typer.Option("--store", help="Folder of the drives.", file_okay=False)]
Json = Annotated[bool, typer.Option("--json", help="One event a line.")]
Key = Annotated[
    str, typer.Argument(metavar="KEY", help="The drive's key (hexadecimal or z-base-32), or `own`.")
]
Version = Annotated[int | None, typer.Option("--version", min=1, help="An older version of the drive.")]
Secret = Annotated[
    str | None,
    typer.Option(
        "--secret",
        metavar="-|@FILE|HEX",
        help="Encryption key of the drive, 64 hexadecimal characters; the store keeps it. `-` reads it from "
        "standard input, `@FILE` from a file: other users of this machine don't see it there.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files of yours that are in the way; else they stay.")
]
OWN = "own"


def store_folder(context: typer.Context, store: Path | None) -> Path:
    """The folder given by ``--store``, or the one in the state folder."""
    return (store or settings_of(context).state / FOLDER).expanduser().absolute()


@contextmanager
def opened_store(path: Path) -> Iterator[Corestore]:
    """The store in ``path``, closed at the end. Raises ``DriveError`` if another process uses it."""
    store = Corestore(path)
    try:
        yield store
    finally:
        store.close()


def read_secret(given: str) -> bytes:
    """The 32-byte encryption key that ``--secret`` gives or points to. Raises ``ConfigError``."""
    if given == "-":
        text = getpass.getpass("Encryption key: ") if sys.stdin.isatty() else sys.stdin.readline()
    elif given.startswith("@"):
        try:
            text = Path(given[1:]).expanduser().read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it holds no key"
            raise ConfigError(f"can't read {given[1:]}: {reason}") from error
    else:
        text = given
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError("an encryption key is 64 hexadecimal characters")
    return key


def open_drive(store: Corestore, key: str, version: int | None = None, secret: str | None = None) -> Drive:
    """The drive ``key`` of the store; ``own`` is the store's own one. Raises ``ConfigError``."""
    encryption_key = None if secret is None else read_secret(secret)
    drive = Drive(store, None if key == OWN else z32.decode_key(key), encryption_key=encryption_key)
    drive.local_blobs()  # tells if the encryption key is missing or wrong
    if version is None:
        return drive
    if version > drive.version:
        raise DriveError(f"the drive has {drive.version} versions here, and no version {version}")
    drive.check_whole(version)
    return drive.checkout(version)


def entry_fields(entry: DriveEntry, size: int) -> dict[str, Any]:
    """An entry as the fields of an event."""
    return {
        "path": entry.path,
        "seq": entry.seq,
        "size": size,
        "executable": entry.executable,
        "linkname": entry.linkname,
        "metadata": entry.metadata,
    }


def tell_step(output: Output, step: Step) -> None:
    """Tell one step of a mirror; files that are equal are not worth a word."""
    if step.operation == "equal":
        return
    if step.operation == "problem":
        text = f"left out {shown(step.path)}: {shown(step.reason or '')}"
        output.event("problem", text, path=step.path, reason=step.reason)
        return
    text = f"{step.operation:8} {shown(step.path)}"
    fields = {"op": step.operation, "path": step.path, "bytes": step.size}
    if step.source is not None:
        text += f" (from {shown(step.source)})"
        fields["source"] = step.source
    output.event("changed", text, **fields)
