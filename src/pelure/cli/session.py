"""Connecting to a network, as most commands begin: progress while it lasts, then ``bootstrapped``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pelure.cli.output import Output
from pelure.cli.run import Settings

if TYPE_CHECKING:  # loaded by who connects, not by who asks what a command's options are
    from pelure.tor.api import Tor
    from pelure.tor.client.hs_events import ClientEvent


@asynccontextmanager
async def session(
    settings: Settings,
    output: Output,
    *,
    role: str = "client",
    full_vanguards: bool = False,
    announce: bool = True,
) -> AsyncIterator[Tor]:
    """A connection to the chosen network. Raises ``ConfigError``, ``DirectoryError``.

    Tells ``bootstrapped`` once it is there (or leaves :func:`announce_network` to the command), ``puzzle``
    where a service wants a proof of work, and with ``--verbose`` each step of a rendezvous as ``step``.
    """
    from pelure.tor.api import connect
    from pelure.tor.client.hs_events import PuzzleBegun

    def progress(fraction: float, what: str) -> None:
        output.progress("bootstrap", fraction, 1.0, step=what)

    def step(event: ClientEvent) -> None:
        if isinstance(event, PuzzleBegun):
            text = f"The onion service is busy: solving a puzzle of effort {event.effort} to be let in."
            output.event("puzzle", text, effort=event.effort)
        if settings.verbose:
            output.event("step", what=event.name, **event.fields())

    async with connect(
        settings.network,
        state=settings.state,
        role=role,
        progress=progress,
        full_vanguards=full_vanguards,
        on_event=step,
    ) as tor:
        output.finish()
        if announce:
            announce_network(output, tor)
        yield tor


def announce_network(output: Output, tor: Tor) -> None:
    """Tell ``bootstrapped``, with the number of ``relays``."""
    text = f"Connected to a network of {tor.relays} relays."
    output.aside("bootstrapped", text, relays=tor.relays)
