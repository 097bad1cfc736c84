"""``pelure doctor``: can this machine reach the chosen network, and is its clock right?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from pelure.cli.output import Output
from pelure.cli.run import Settings, run, settings_of
from pelure.errors import DirectoryError, PelureError
from pelure.tor.api import Tor, connect

PATIENCE = 120.0
MAX_SKEW = 60.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """Check that this machine can use the network; says what is wrong.

    Example: `pelure doctor`
    """
    settings = settings_of(context)
    run(_examine(settings, as_json), settings)


async def _examine(settings: Settings, as_json: bool) -> None:
    with Output(as_json) as output:
        last = "nothing happened"

        def progress(fraction: float, what: str) -> None:
            nonlocal last
            last = what
            output.progress("bootstrap", fraction, 1.0, step=what)

        started = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE) as limit:
                async with connect(settings.network, state=settings.state, progress=progress) as tor:
                    limit.reschedule(None)
                    output.finish()
                    seconds = time.monotonic() - started
                    relays = tor.relays
                    _tell(output, "network", True, f"connected to {relays} relays in {seconds:.1f} s")
                    await _check(output, tor)
                    output.event("bootstrapped", relays=relays)
        except TimeoutError:
            raise DirectoryError(
                f"the network was not reached within {PATIENCE:.0f} seconds; the last step: {last}"
            ) from None


async def _check(output: Output, tor: Tor) -> None:
    """The checks on a network that is reached. Raises ``DirectoryError`` if one fails."""
    failed: list[str] = []
    checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("clock", lambda: _clock(tor)),
        ("guard", lambda: _guards(tor)),
        ("circuit", lambda: _circuit(tor)),
        ("exit", lambda: _exit(tor)),
    ]
    for name, check in checks:
        try:
            text = await check()
        except PelureError as error:
            _tell(output, name, False, str(error))
            failed.append(name)
        else:
            _tell(output, name, True, text)
    if failed:
        raise DirectoryError(f"something is wrong with: {', '.join(failed)}")


async def _clock(tor: Tor) -> str:
    skew = await tor.clock_skew()
    if skew is None:
        return "the directory that was asked does not tell the time"
    if abs(skew) > MAX_SKEW:
        raise DirectoryError(
            f"this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead'}; set it right"
        )
    return "right"


async def _guards(tor: Tor) -> str:
    return "entry guards: " + ", ".join(relay.nickname for relay in tor.client.guards.primary)


async def _circuit(tor: Tor) -> str:
    started = time.monotonic()
    circuit = await tor.client.pool.internal_circuit(None, length=3, purpose="doctor")
    circuit.close()
    return f"a circuit of three relays was there in {time.monotonic() - started:.2f} s"


async def _exit(tor: Tor) -> str:
    circuit = await tor.client.pool.exit_circuit("", 443, "doctor")
    return f"exit {circuit.path[-1].nickname} can be reached"


def _tell(output: Output, name: str, ok: bool, detail: str) -> None:
    output.event("check", f"{'ok' if ok else 'FAILED'}  {name}: {detail}", name=name, ok=ok, detail=detail)
