"""``pelure relay``: run a relay of the chosen network (docs/relay.md)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from pelure.cli.output import Output
from pelure.cli.run import Settings, run, settings_of
from pelure.errors import ConfigError
from pelure.streams import place
from pelure.tor.client.state import load_network
from pelure.tor.directory.network import torrc_options
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.server import RelayServer

STATISTICS_SECONDS = 60.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("relay")(relay)


def relay(
    context: typer.Context,
    torrc: Annotated[
        Path | None, typer.Option(help="Read the relay's settings from this torrc.", dir_okay=False)
    ] = None,
    nickname: Annotated[str | None, typer.Option(help="1 to 19 letters and digits.")] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(help="Address that others reach the relay at: one of IPv4, and one of IPv6 if any."),
    ] = None,
    orport: Annotated[
        list[str] | None,
        typer.Option(help="[ADDRESS:]PORT to listen on. IPv6 is the same port unless it is given its own."),
    ] = None,
    contact: Annotated[str | None, typer.Option(help="How to reach you; it is published.")] = None,
    bandwidth_rate: Annotated[
        str | None,
        typer.Option(help="Carry no more a second in the long run, each way: such as `5 MBytes`."),
    ] = None,
    bandwidth_burst: Annotated[
        str | None, typer.Option(help="Carry no more at once, each way. Not given: as the rate.")
    ] = None,
    exit_policy: Annotated[
        list[str] | None,
        typer.Option(help="Let traffic out: a rule such as `accept *:80`, repeated. Not given: no exit."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="The relay's DataDirectory (keys of C tor's work).", file_okay=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """Carry other people's traffic: run a relay.

    Example: `pelure relay --nickname mine --address 192.0.2.7 --orport 9001 --contact me@example.com`
    """
    settings = settings_of(context)
    given = {
        "nickname": nickname,
        "contactinfo": contact,
        "relaybandwidthrate": bandwidth_rate,
        "relaybandwidthburst": bandwidth_burst,
        "datadirectory": str(directory.expanduser().absolute()) if directory else None,
    }
    overrides = {name: [value] for name, value in given.items() if value is not None}
    if address:
        overrides["address"] = address
    if orport:
        overrides["orport"] = orport
    if exit_policy:
        overrides |= {"exitrelay": ["1"], "exitpolicy": exit_policy}
    run(_serve(settings, torrc, overrides, as_json), settings)


def _config(settings: Settings, torrc: Path | None, overrides: dict[str, list[str]]) -> RelayConfig:
    network = load_network(settings.network, settings.state)
    options = dict(network.options)
    if torrc is not None:
        try:
            options |= torrc_options(torrc.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"can't read {torrc}: {reason}") from None
    return RelayConfig.from_torrc(network, options | overrides, settings.state / "relay")


async def _serve(
    settings: Settings, torrc: Path | None, overrides: dict[str, list[str]], as_json: bool
) -> None:
    config = _config(settings, torrc, overrides)
    with Output(as_json) as output:

        def on_event(name: str, **fields: Any) -> None:
            output.event(name, _sentence(name, fields), **fields)

        server = RelayServer(config, on_event=on_event)
        try:
            await server.start()
            while True:
                await asyncio.sleep(STATISTICS_SECONDS)
                on_event("statistics", **server.statistics())
        finally:
            await server.close()


def _sentence(name: str, fields: dict[str, Any]) -> str | None:
    """What a person reads of an event."""
    if name == "listening":
        return f"Relay {fields['fingerprint']} listens on {place(fields['address'], fields['port'])}."
    if name == "reachable":
        return f"Others reach this relay at {place(fields['address'], fields['port'])}."
    if name == "unreachable":
        return f"Nobody reaches this relay at {place(fields['address'], fields['port'])}: {fields['hint']}"
    if name == "published":
        return f"Authority {fields['authority']} has the descriptor."
    if name == "consensus":
        flags = " ".join(fields["flags"]) if fields["flags"] is not None else None
        listed = f"as {flags}" if flags else "but not this one yet"
        return f"The consensus lists {fields['relays']} relays, {listed}."
    if name == "statistics":
        return (
            f"{fields['links']} links, {fields['circuits']} circuits, "
            f"{fields['relayed_cells']} cells relayed, {fields['bytes_written'] >> 20} MiB written."
        )
    return None
