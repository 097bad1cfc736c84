"""``pelure netstat``: what the running pelure is connected to."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.table import Table

from pelure.cli.output import Output
from pelure.cli.run import run, settings_of
from pelure.errors import ConfigError
from pelure.share import daemon
from pelure.share.control import request
from pelure.share.link import printable
from pelure.share.record import publisher_folder
from pelure.web.listing import readable_size


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("netstat")(netstat)


def netstat(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """Show links to relays, circuits, streams, services and readers of the share that runs.

    Example: `pelure netstat`
    """
    settings = settings_of(context)

    async def work() -> None:
        folder = publisher_folder(settings.state, settings.network)
        if not await daemon.answers(folder):
            raise ConfigError("nothing is shared just now, so there is nothing to show")
        status = [event async for event in request(folder, "status")][-1]
        with Output(as_json) as output:
            output.event("status", **{key: value for key, value in status.items() if key != "event"})
            if not as_json:
                for table in _tables(status):
                    output.console.print(table)

    run(work(), settings)


def _tables(status: dict[str, Any]) -> list[Table]:
    links = _table("Links: TLS connections to relays", "relay", "address", "circuits", "read", "written")
    for link in status["links"]:
        links.add_row(
            link["nickname"] or link["fingerprint"][:8],
            f"{link['address']}:{link['port']}",
            str(link["circuits"]),
            readable_size(link["bytes_read"]),
            readable_size(link["bytes_written"]),
        )
    circuits = _table("Circuits", "id", "purpose", "path", "streams", "cells in", "cells out")
    for circuit in status["circuits"]:
        circuits.add_row(
            str(circuit["id"]),
            circuit["purpose"] if circuit["built"] else f"{circuit['purpose']} (building)",
            " → ".join(circuit["path"]),
            str(circuit["streams"]),
            str(circuit["cells_read"]),
            str(circuit["cells_written"]),
        )
    services = _table("Onion services", "share", "address", "links", "connected")
    for service in status["services"]:
        services.add_row(
            service["share"], service["address"], str(service["links"]), str(len(service["circuits"]))
        )
    visitors = _table("Readers", "link", "share", "circuit", "since", "sent")
    for visitor in status["visitors"]:
        since = time.strftime("%H:%M:%S", time.localtime(visitor["since"]))
        sent = readable_size(visitor["sent"])
        visitors.add_row(printable(visitor["name"]), visitor["share"], str(visitor["circuit"]), since, sent)
    return [links, circuits, services, visitors]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
