"""``pelure proxy``: SOCKS5 and HTTP CONNECT for other programs of this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pelure.cli.output import Output
from pelure.cli.run import Settings, run, settings_of
from pelure.cli.session import announce_network, session
from pelure.cli.watching import Seen, changes, seen
from pelure.errors import ConfigError
from pelure.streams import place

if TYPE_CHECKING:
    from pelure.tor.api import Tor

log = logging.getLogger(__name__)

DEFAULT_ADDRESS = "127.0.0.1:9150"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("proxy")(proxy)


def proxy(
    context: typer.Context,
    socks: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help=f"Where to listen ({DEFAULT_ADDRESS}).")
    ] = None,
    auth_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of .auth_private files, for services that need a key; changes of it are followed.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    isolate_destinations: Annotated[
        bool, typer.Option("--isolate-destinations", help="Never let two destinations share a circuit.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """Let other programs use the network: SOCKS5 and HTTP CONNECT on one port.

    Different SOCKS credentials never share a circuit. Host names are looked up by exits, never here.

    Example: `pelure proxy --socks 127.0.0.1:9150`
    """
    settings = settings_of(context)
    addresses = [_parse_address(text) for text in socks or [DEFAULT_ADDRESS]]
    run(_serve(settings, addresses, auth_dir, isolate_destinations, as_json), settings)


def _parse_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


async def _serve(
    settings: Settings,
    addresses: list[tuple[str, int]],
    auth_dir: Path | None,
    isolate_destinations: bool,
    as_json: bool,
) -> None:
    with Output(as_json) as output:
        async with session(settings, output, announce=False) as tor:
            known: Seen = []
            if auth_dir is not None:
                known = seen(auth_dir)
                tor.load_client_keys(auth_dir)
            for host, port in addresses:
                at = await tor.serve_proxy(host, port, isolate_destinations=isolate_destinations)
                text = f"SOCKS5 and HTTP CONNECT at {place(*at)}."
                output.event("listening", text, host=at[0], port=at[1])
                if not ipaddress.ip_address(at[0]).is_loopback:
                    log.warning("whoever can reach %s can use this proxy", at[0])
            announce_network(output, tor)  # scripts take it to mean that the proxy can be used
            await _follow_keys(tor, auth_dir, known, output)


async def _follow_keys(tor: Tor, folder: Path | None, known: Seen, output: Output) -> None:
    """Take up changes of the folder of client keys until cancelled; ``known``: what was loaded."""
    if folder is None:
        await asyncio.Event().wait()
        return
    async for _ in changes(folder, known):
        try:
            count = tor.load_client_keys(folder)
        except ConfigError as error:
            log.warning("The changed client keys can't be used: %s", error)
        else:
            output.event("client_keys", f"Client keys now: {count}.", keys=count)
