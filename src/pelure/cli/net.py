"""``pelure net``: a whole private network on this machine (DESIGN 6), up, its state, and down."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from pelure.cli.output import Output
from pelure.cli.run import Settings, fail, run, settings_of, usage_errors
from pelure.errors import ConfigError, PelureError
from pelure.streams import SocketStream
from pelure.tor.directory.consensus import MAX_CONSENSUS_LENGTH, Consensus, parse_consensus
from pelure.tor.embedded.network import EmbeddedNetwork
from pelure.tor.embedded.plan import ADDRESS, NetworkPlan, check_numbers
from pelure.tor.embedded.shared import running_pid, start_detached
from pelure.tor.net import dir_http

STOP_SECONDS = 20.0
FOLDER = "embedded"
net = typer.Typer(
    help="Run a private network of authorities and relays on this machine.", no_args_is_help=True
)
Folder = Annotated[Path | None, typer.Option("--dir", help="The network's folder.", file_okay=False)]
Json = Annotated[bool, typer.Option("--json", help="One event a line.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.add_typer(net, name="net")


def _folder(context: typer.Context, folder: Path | None) -> tuple[Settings, Path]:
    settings = settings_of(context)
    return settings, (folder or settings.state / FOLDER).expanduser().absolute()


@net.command("up")
def up(
    context: typer.Context,
    folder: Folder = None,
    relays: Annotated[int, typer.Option(help="Relays beside the authorities.")] = 8,
    authorities: Annotated[int, typer.Option(help="1 or 3.")] = 1,
    interval: Annotated[int, typer.Option(help="Seconds from one consensus to the next, 10 or more.")] = 60,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is up; it stays.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a network up and keep it until SIGINT, SIGTERM or `pelure net down`.

    Prints the path of its network file: use it as `--network FILE`, or put its lines into a torrc.

    Example: `pelure net up --relays 9 --detach`
    """
    settings, where = _folder(context, folder)
    with usage_errors():
        check_numbers(relays, authorities, interval)

    async def work() -> None:
        numbers = {"relays": relays, "authorities": authorities, "interval": interval}
        if detach:
            await _start_detached(where, numbers, Output(as_json))
        else:
            _check_down(where)
            await _up(EmbeddedNetwork(where, **numbers), Output(as_json))

    run(work(), settings)


def _check_down(folder: Path) -> None:
    if running_pid(folder) is not None:
        raise ConfigError(f"a network is up in {folder} already: use it, or end it by «pelure net down»")


def _tell_up(output: Output, plan: NetworkPlan, started: float) -> None:
    seconds = round(time.monotonic() - started, 2)
    nodes, path = len(plan.nodes), str(plan.network_file)
    text = f"{nodes} nodes are up after {seconds} s. Network file: {path}"
    output.event("up", text, network=path, nodes=nodes, seconds=seconds)


async def _start_detached(folder: Path, numbers: dict[str, int], output: Output) -> None:
    started = time.monotonic()
    _check_down(folder)
    await start_detached(folder, **numbers)
    _tell_up(output, NetworkPlan.load(folder), started)


async def _up(network: EmbeddedNetwork, output: Output) -> None:
    started = time.monotonic()
    await network.up(lambda step: output.event("step", f"{step} …", step=step))
    assert network.plan is not None
    try:
        _tell_up(output, network.plan, started)
        await network.lost.wait()
        raise PelureError(f"a worker process ended by itself; see the logs in {network.folder}")
    finally:
        await network.down()
        output.event("down", "the network is down")


@net.command("status")
def status(context: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """Show the nodes of a running network and the flags they have in its consensus.

    Example: `pelure net status`
    """
    settings, where = _folder(context, folder)
    if running_pid(where) is None:
        raise fail(f"no network is up in {where}")
    run(_status(NetworkPlan.load(where), Output(as_json)), settings)


async def _status(plan: NetworkPlan, output: Output) -> None:
    consensus = await _fetch_consensus(plan)
    flags = {router.rsa_id.hex().upper(): sorted(router.flags) for router in consensus.routers}
    if output.as_json:
        for node in plan.nodes:
            place = f"{ADDRESS}:{node.or_port}"
            known = flags.get(node.fingerprint, [])
            output.event(
                "node", None, name=node.name, fingerprint=node.fingerprint, address=place, flags=known
            )
        output.event("status", network=str(plan.network_file), valid_after=consensus.valid_after)
        return
    table = Table("node", "address", Column("fingerprint", overflow="fold"), "flags")
    for node in plan.nodes:
        listed = " ".join(flags.get(node.fingerprint, ["(not in the consensus)"]))
        table.add_row(node.name, f"{ADDRESS}:{node.or_port}", node.fingerprint, listed)
    output.console.print(table)
    output.console.print(f"Network file: {plan.network_file}")


async def _fetch_consensus(plan: NetworkPlan) -> Consensus:
    node = next(node for node in plan.nodes if node.is_authority)
    async with asyncio.timeout(10):
        stream = await SocketStream.connect(ADDRESS, node.dir_port)
        try:
            path = "/tor/status-vote/current/consensus-microdesc"
            response = await dir_http.get(stream, path, limit=MAX_CONSENSUS_LENGTH)
        finally:
            await stream.close()
    if response.status != 200:
        raise PelureError("the network has no consensus yet")
    return parse_consensus(response.body)


@net.command("down")
def down(context: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """Stop the network in a folder; its keys are kept, so that it can be brought up again.

    Example: `pelure net down`
    """
    _, where = _folder(context, folder)
    pid = running_pid(where)
    if pid is None:
        raise fail(f"no network is up in {where}")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while running_pid(where) == pid:
        if time.monotonic() > deadline:
            raise fail(f"process {pid}, which runs the network, does not stop")
        time.sleep(0.05)
    Output(as_json).event("down", "the network is down")
