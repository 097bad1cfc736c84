"""``pelure get-url``: fetch one page or file through the network."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, BinaryIO

import httpx
import typer

from pelure.cli.output import Output
from pelure.cli.run import Settings, run, settings_of
from pelure.cli.session import session
from pelure.cli.whole_file import whole_file
from pelure.errors import StreamError
from pelure.tor.client.httpx_transport import TorTransport

TIMEOUT = httpx.Timeout(60.0, connect=180.0)
PROGRESS_SECONDS = 0.25


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("get-url")(get_url)


def get_url(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="http:// or https:// address, of an onion service or any site.")],
    output_file: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file, not to standard output.")
    ] = None,
    auth_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of .auth_private files, for services that need a key.", file_okay=False, exists=True
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line; needs --output.")] = False,
) -> None:
    """Fetch a page or file.

    Example: `pelure get-url https://example.com/a.iso -o a.iso`
    """
    settings = settings_of(context)
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter("the address must begin with http:// or https://")
    if as_json and output_file is None:
        raise typer.BadParameter("--json needs --output FILE, for standard output holds the events")
    run(_fetch(settings, url, output_file, auth_dir, as_json), settings)


async def _fetch(
    settings: Settings, url: str, output_file: Path | None, auth_dir: Path | None, as_json: bool
) -> None:
    # Without --output, standard output holds the page and nothing else.
    quiet = output_file is None
    with Output(as_json, quiet=quiet) as output:
        async with session(settings, output) as tor:
            if auth_dir is not None:
                tor.load_client_keys(auth_dir)
            started = time.monotonic()
            async with httpx.AsyncClient(transport=TorTransport(tor), timeout=TIMEOUT) as client:
                try:
                    size = await _download(client, url, output_file, output)
                except httpx.HTTPError as error:
                    raise StreamError(f"can't fetch {url}: {error}") from error
            seconds = time.monotonic() - started
            output.event(
                "complete",
                f"{size} bytes in {seconds:.1f} seconds.",
                files=1,
                bytes=size,
                seconds=round(seconds, 3),
            )


async def _download(client: httpx.AsyncClient, url: str, output_file: Path | None, output: Output) -> int:
    """Fetch ``url`` into the file (complete or not at all) or to standard output; returns its size."""
    async with client.stream("GET", url, follow_redirects=True) as response:
        if response.is_error:
            raise StreamError(f"{url}: the site answers {response.status_code} {response.reason_phrase}")
        if output_file is None:
            return await _copy(response, sys.stdout.buffer, output)
        with whole_file(output_file) as file:
            return await _copy(response, file, output)


async def _copy(response: httpx.Response, file: BinaryIO, output: Output) -> int:
    length = response.headers.get("content-length", "")
    total = int(length) if length.isdigit() else None
    size = 0
    next_told = 0.0
    async for data in response.aiter_bytes():
        file.write(data)
        size += len(data)
        if time.monotonic() >= next_told:
            output.progress("download", size, total)
            next_told = time.monotonic() + PROGRESS_SECONDS
    file.flush()
    return size
