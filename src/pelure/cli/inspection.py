"""``pelure netstat``: what the running pelure is connected to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.table import Table

from pelure.cli.output import Output
from pelure.cli.run import run, settings_of
from pelure.cli.terminal import shown
from pelure.errors import ConfigError
from pelure.share import daemon
from pelure.share.control import request
from pelure.share.record import publisher_folder
from pelure.web.listing import readable_size

TABLE_COLUMNS = 76
"""The least width of a terminal in which tables can be read."""


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
                narrow = output.console.width < TABLE_COLUMNS
                for listing in _listings(status):
                    output.console.print(listing.lines() if narrow else listing.table(), markup=False)

    run(work(), settings)


@dataclass(frozen=True, slots=True)
class _Listing:
    """What is listed under ``title``: rows of as many cells as there are columns."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def table(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for column in self.columns:
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def lines(self) -> str:
        """The same, where a table has no room."""
        rows = (
            "  " + ", ".join(f"{name} {cell}" for name, cell in zip(self.columns, row, strict=True))
            for row in self.rows
        )
        return "\n".join([self.title, *(rows if self.rows else ["  none"])])


def _listings(status: dict[str, Any]) -> list[_Listing]:
    links = [
        (
            link["nickname"] or link["fingerprint"][:8],
            f"{link['address']}:{link['port']}",
            str(link["circuits"]),
            readable_size(link["bytes_read"]),
            readable_size(link["bytes_written"]),
        )
        for link in status["links"]
    ]
    circuits = [
        (
            str(circuit["id"]),
            circuit["purpose"] if circuit["built"] else f"{circuit['purpose']} (building)",
            " → ".join(circuit["path"]),
            str(circuit["streams"]),
            str(circuit["cells_read"]),
            str(circuit["cells_written"]),
        )
        for circuit in status["circuits"]
    ]
    services = [
        (service["share"], service["address"], str(service["links"]), str(len(service["circuits"])))
        for service in status["services"]
    ]
    visitors = [
        (
            shown(visitor["name"]),
            visitor["share"],
            str(visitor["circuit"]),
            time.strftime("%H:%M:%S", time.localtime(visitor["since"])),
            readable_size(visitor["sent"]),
        )
        for visitor in status["visitors"]
    ]
    return [
        _Listing(
            "Links: TLS connections to relays", ("relay", "address", "circuits", "read", "written"), links
        ),
        _Listing("Circuits", ("id", "purpose", "path", "streams", "cells in", "cells out"), circuits),
        _Listing("Onion services", ("share", "address", "links", "connected"), services),
        _Listing("Readers", ("link", "share", "circuit", "since", "sent"), visitors),
    ]
