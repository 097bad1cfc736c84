"""``pelure authority``: a directory authority (dir-spec 3), its keys and its service."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pelure.cli.output import Output
from pelure.cli.run import run, settings_of, usage_errors
from pelure.errors import ConfigError
from pelure.tor.authority.config import authority_config, reachability_is_tested
from pelure.tor.authority.keys import AuthorityKeys
from pelure.tor.directory.consensus import Consensus
from pelure.tor.directory.family import is_nickname
from pelure.tor.directory.network import Network, parse_network
from pelure.tor.embedded.authority_node import AuthorityNode
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.keys import RelayKeys

authority = typer.Typer(help="Run a directory authority of a private network.", no_args_is_help=True)
Data = Annotated[Path, typer.Option("--dir", help="The authority's data folder.", file_okay=False)]
Json = Annotated[bool, typer.Option("--json", help="One event a line.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.add_typer(authority, name="authority")


@authority.command("keygen")
def keygen(
    context: typer.Context,
    folder: Data,
    nickname: Annotated[str, typer.Option(help="1 to 19 letters and digits.")],
    address: Annotated[str, typer.Option(help="The IPv4 address that others reach it at.")],
    orport: Annotated[int, typer.Option(min=1, max=65535)],
    dirport: Annotated[int, typer.Option(min=1, max=65535)],
    as_json: Json = False,
) -> None:
    """Make an authority's keys and print the `DirAuthority` line of its network.

    Example: `pelure authority keygen --dir auth1 --nickname auth1 --address 192.0.2.1 --orport 9001
    --dirport 9030`
    """
    settings = settings_of(context)

    def line_of(v3ident: str, fingerprint: str) -> str:
        flags = f"orport={orport} no-v2 v3ident={v3ident}"
        return f"DirAuthority {nickname} {flags} {address}:{dirport} {fingerprint}"

    with usage_errors():
        if not is_nickname(nickname):
            raise ConfigError(f"the nickname {nickname!r} is not 1 to 19 letters and digits")
        parse_network(line_of("0" * 40, "0" * 40))  # before there are keys that a second try would find

    async def work() -> None:
        now = time.time()
        where = folder.expanduser().absolute()
        keys = AuthorityKeys.create(where, f"{address}:{dirport}", now)
        fingerprint = RelayKeys.load(where, os.urandom, now).rsa.public.identity.hex().upper()
        v3ident = keys.identity.hex().upper()
        line = line_of(v3ident, fingerprint)
        Output(as_json).event("keys", line, line=line, fingerprint=fingerprint, v3ident=v3ident)

    run(work(), settings)


@authority.command("run")
def run_authority(
    context: typer.Context,
    folder: Data,
    torrc: Annotated[
        Path,
        typer.Option(
            help="Settings as C tor's, with the DirAuthority lines of all authorities.", dir_okay=False
        ),
    ],
    as_json: Json = False,
) -> None:
    """Run the authority whose keys are in a data folder, C tor's or one made by `keygen`.

    Example: `pelure authority run --dir auth1 --torrc net.torrc`
    """
    settings = settings_of(context)
    run(_run(folder.expanduser().absolute(), torrc, Output(as_json)), settings)


async def _run(data: Path, torrc: Path, output: Output) -> None:
    network = _read_network(torrc)
    config = authority_config(network, network.options, data)

    def event(name: str, **fields: Any) -> None:
        output.event(name, None, **fields)

    node = AuthorityNode(
        config,
        RelayConfig.from_torrc(network, network.options, data),
        test_reachability=reachability_is_tested(network, network.options),
        on_event=event,
    )

    def published(consensus: Consensus) -> None:
        if consensus.flavour == "microdesc":
            listed = len(consensus.routers)
            output.event("consensus_published", f"consensus of {listed} relays published", relays=listed)

    node.authority.on_consensus.append(published)
    await node.start()
    output.event(
        "started",
        f"authority {config.nickname} answers on {config.ip}:{config.dir_port}",
        v3ident=node.authority.keys.identity.hex().upper(),
        fingerprint=node.relay.fingerprint,
    )
    try:
        await asyncio.Event().wait()
    finally:
        await node.close()


def _read_network(torrc: Path) -> Network:
    try:
        return parse_network(torrc.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"can't read {torrc}: {reason}") from error
