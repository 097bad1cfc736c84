"""``pelure doctor``: can this machine reach the chosen network, and is its clock right?"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from pelure.cli.output import Output, counted
from pelure.cli.run import Settings, run, settings_of
from pelure.errors import DirectoryError, PelureError
from pelure.streams import SocketStream
from pelure.tor.api import Tor, connect
from pelure.tor.client.dirclient import TRYING_AGAIN
from pelure.tor.client.state import load_network

PATIENCE = 120.0
PATIENCE_IN_VAIN = 5.0
"""Where no directory can be reached, an entry guard that was used before still might."""
MAX_FAILURES = 2
"""Attempts to fetch the directory, each of which has asked several relays."""
KNOCKS = 8
KNOCK_SECONDS = 4.0
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
        last, failures = "nothing happened", 0

        def progress(fraction: float, what: str) -> None:
            nonlocal last, failures
            last = what
            output.progress("bootstrap", fraction, 1.0, step=what)
            failures += what.startswith(TRYING_AGAIN)
            if failures >= MAX_FAILURES:
                reason = what.removeprefix(TRYING_AGAIN)
                if "clock" not in reason:
                    reason += "; perhaps a firewall or a login page answers in its place"
                raise DirectoryError(f"the network can't be used: {reason}")

        reached = await _reach(settings, output)
        started = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE if reached else PATIENCE_IN_VAIN) as limit:
                async with connect(settings.network, state=settings.state, progress=progress) as tor:
                    limit.reschedule(None)
                    output.finish()
                    seconds = time.monotonic() - started
                    relays = tor.relays
                    _tell(output, "network", True, f"connected to {relays} relays in {seconds:.1f} s")
                    await _check(output, tor)
                    output.event("bootstrapped", relays=relays)
        except TimeoutError:
            if not reached:
                raise DirectoryError("the network can't be reached") from None
            raise DirectoryError(
                f"the network was not reached within {PATIENCE:.0f} seconds; the last step: {last}"
            ) from None


async def _reach(settings: Settings, output: Output) -> bool:
    """Whether some of the network's fixed points take a connection."""
    if settings.network == "embedded":  # it is started if it does not run
        return True
    network = load_network(settings.network, settings.state)
    known = [*(one.relay() for one in network.authorities), *(one.relay() for one in network.fallbacks)]
    asked = random.Random(os.urandom(8)).sample(known, min(KNOCKS, len(known)))
    output.wait(f"Knocking at {counted(len(asked), 'directory server')} …")
    answers = await asyncio.gather(*(_knock(*relay.addresses[0]) for relay in asked))
    reasons = Counter(answer for answer in answers if answer is not None)
    open_doors = len(asked) - reasons.total()
    text = f"{open_doors} of {counted(len(asked), 'directory server')} can be reached"
    if reasons:
        text += " (" + ", ".join(f"{count} × {reason}" for reason, count in reasons.items()) + ")"
    if not open_doors:
        text += "; is this machine online, does a firewall forbid it, is a private network running?"
    _tell(output, "reach", bool(open_doors), text)
    return bool(open_doors)


async def _knock(host: str, port: int) -> str | None:
    """Why no connection to ``host`` can be made; None if it can."""
    try:
        async with asyncio.timeout(KNOCK_SECONDS):
            stream = await SocketStream.connect(host, port)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else "refused"
    await stream.close()
    return None


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
