"""``pelure onion``: publish an onion service, and manage its keys and its authorized clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import typer

from pelure.cli.output import Output
from pelure.cli.run import Settings, fail, run, settings_of
from pelure.cli.session import session
from pelure.cli.watching import changes
from pelure.errors import ConfigError, PelureError
from pelure.tor.net.statefile import StateFolder, private_folder
from pelure.tor.onion.auth_files import AuthPrivate, decode_auth, encode_auth
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.onion.intro_queue import PowLimits
from pelure.tor.onion.key_files import CLIENTS_FOLDER
from pelure.tor.service.events import DescriptorUploaded, EffortSuggested, Published, ServiceEvent
from pelure.tor.service.keys import NOBODY, ServiceKeys
from pelure.tor.service.service import OnionService
from pelure.tor.service.targets import Target, UnixTarget, parse_ports

SITE_PORT = 80
BURST_SECONDS = 10
log = logging.getLogger(__name__)

onion = typer.Typer(no_args_is_help=True, help="Publish onion services; manage their keys and clients.")
clients = typer.Typer(no_args_is_help=True, help="Who may connect to a restricted onion service.")
onion.add_typer(clients, name="clients")

Folder = Annotated[
    Path, typer.Option("--dir", help="The service's folder (C tor's HiddenServiceDir).", file_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one event a line.")]
Name = Annotated[str, typer.Argument(help="The client's name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(onion, name="onion")


@onion.command()
def serve(
    context: typer.Context,
    port: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PORT[:TARGET]",
            help="Port of the onion service and where it leads: 80:127.0.0.1:8080, 80:8080, 22:unix:/path.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Folder of the service's keys; without it the address is new.", file_okay=False
        ),
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(help="Serve this folder's files as a web site.", file_okay=False, exists=True),
    ] = None,
    pow_defence: Annotated[
        bool,
        typer.Option(
            "--pow",
            help="While more clients come than can be answered, those who prove work come first "
            "(C tor's HiddenServicePoWDefensesEnabled).",
        ),
    ] = False,
    pow_rate: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="With --pow: clients answered per second, and ten times as many at once "
            f"(HiddenServicePoWQueueRate, -Burst); {PowLimits().rate} if not given.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish an onion service until interrupted.

    Changes of its authorized clients (``pelure onion clients``) hold at once for all who come anew.

    Example: `pelure onion serve --site ./public --dir ~/site-key`
    """
    settings = settings_of(context)
    try:
        ports: dict[int, Target] = {**parse_ports(port or [])}
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    if not ports and site is None:
        raise typer.BadParameter("--port or --site must say what the onion service offers")
    if site is not None and SITE_PORT in ports:
        raise typer.BadParameter(f"--site uses port {SITE_PORT}, which --port gives to something else")
    if pow_rate is not None and not pow_defence:
        raise typer.BadParameter("--pow-rate needs --pow")
    rate = pow_rate or PowLimits().rate
    limits = PowLimits(rate, BURST_SECONDS * rate) if pow_defence else None
    run(_serve(settings, ports, folder, site, limits, as_json), settings)


async def _serve(
    settings: Settings,
    ports: dict[int, Target],
    folder: Path | None,
    site: Path | None,
    pow_limits: PowLimits | None,
    as_json: bool,
) -> None:
    with Output(as_json) as output, contextlib.ExitStack() as stack:
        keys = None
        if folder is not None:
            stack.enter_context(StateFolder(folder))  # one service must not be published twice
            keys = ServiceKeys.open(folder, os.urandom)

        def tell(event: ServiceEvent) -> None:
            _tell(output, settings, event)

        # Who keeps the keys serves for long, and long enough a service betrays its guard by making circuits.
        long_lived = folder is not None
        connecting = session(settings, output, role="service", full_vanguards=long_lived)
        async with _site(site, ports), connecting as tor:
            service = await tor.serve_onion(
                ports, keys=keys, pow_limits=pow_limits, on_event=tell, wait=False
            )
            await _follow_clients(service, folder, output)


@contextlib.asynccontextmanager
async def _site(folder: Path | None, ports: dict[int, Target]) -> AsyncIterator[None]:
    """Run the web site of ``folder``, if any, and lead its port to it."""
    if folder is None:
        yield
        return
    from pelure.tor.service.site import Site  # a web server, which few services need

    site = Site(folder)
    await site.start()
    ports[SITE_PORT] = UnixTarget(site.socket_path)
    try:
        yield
    finally:
        await site.close()


async def _follow_clients(service: OnionService, folder: Path | None, output: Output) -> None:
    """Take up changes of the authorized clients until cancelled; removed ones lose access at once."""
    if folder is None:
        await asyncio.Event().wait()
        return
    async for _ in changes(private_folder(folder / CLIENTS_FOLDER)):
        try:
            if await service.reload_clients():
                names = sorted(name for name in service.keys.clients if name != NOBODY)
                output.event("clients", f"Authorized clients now: {', '.join(names) or 'none'}.", names=names)
        except PelureError as error:
            log.warning("The changed authorized clients can't be used: %s", error)


def _tell(output: Output, settings: Settings, event: ServiceEvent) -> None:
    """Tell ``published`` and ``effort``; every other event is a ``step``, told with ``--verbose``."""
    if isinstance(event, Published):
        output.finish()
        text = f"Published: {event.address} (after {event.seconds:.1f} seconds)"
        output.event("published", text, address=event.address, seconds=round(event.seconds, 3))
    elif isinstance(event, EffortSuggested):
        text = f"Clients are asked for proofs of work of effort {event.effort} now; {event.waiting} wait."
        output.event("effort", text, effort=event.effort, waiting=event.waiting)
    elif isinstance(event, DescriptorUploaded):
        output.progress("publishing", event.done / event.total, 1, step="publishing the descriptor")
    if settings.verbose:
        output.event("step", what=event.name, **event.fields())


@onion.command()
def keygen(context: typer.Context, folder: Folder, as_json: AsJson = False) -> None:
    """Make the keys of a new onion service and print its address.

    Example: `pelure onion keygen --dir ~/site-key`
    """
    with _errors(), Output(as_json) as output:
        keys = ServiceKeys.create(folder, os.urandom)
        output.event("address", keys.address, address=keys.address)


@onion.command()
def address(context: typer.Context, folder: Folder, as_json: AsJson = False) -> None:
    """Print the address of the service in a folder.

    Example: `pelure onion address --dir ~/site-key`
    """
    with _errors(), Output(as_json) as output:
        keys = ServiceKeys.load(folder)
        output.event("address", keys.address, address=keys.address)


@clients.command("add")
def add_client(
    context: typer.Context,
    name: Name,
    folder: Folder,
    key: Annotated[
        str | None,
        typer.Option(help="The client's public key (descriptor:x25519:…); without it a key pair is made."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Authorize a client; the service answers nobody else from then on.

    Without ``--key`` prints the line for the client's ``.auth_private`` file. It is secret and not kept.

    Example: `pelure onion clients add alice --dir ~/site-key`
    """
    with _errors(), Output(as_json) as output:
        keys = ServiceKeys.load(folder)
        if name in keys.clients:
            raise ConfigError(f"a client named {name!r} is authorized already")
        if key is not None:
            keys.add_client(name, decode_auth(key if ":" in key else f"descriptor:x25519:{key}"))
            output.event("added", f"Authorized {name}.", name=name)
            return
        pair = ClientAuthKey.generate(os.urandom)
        keys.add_client(name, pair.public)
        line = AuthPrivate(keys.identity.public, pair).encode().strip()
        output.event("added", line, name=name, auth_private=line)


@clients.command("list")
def list_clients(context: typer.Context, folder: Folder, as_json: AsJson = False) -> None:
    """List the authorized clients with their public keys.

    Example: `pelure onion clients list --dir ~/site-key`
    """
    with _errors(), Output(as_json) as output:
        for name, public in sorted(ServiceKeys.load(folder).clients.items()):
            if name != NOBODY:
                line = encode_auth(public).strip()
                output.event("entry", f"{name}  {line}", name=name, key=line)


@clients.command("remove")
def remove_client(context: typer.Context, name: Name, folder: Folder, as_json: AsJson = False) -> None:
    """Withdraw a client's authorization; a service without clients answers nobody.

    A running service lets the client in no more. Connections that are open go on: who has them is not known.

    Example: `pelure onion clients remove alice --dir ~/site-key`
    """
    with _errors(), Output(as_json) as output:
        ServiceKeys.load(folder).remove_client(name, os.urandom)
        output.event("removed", f"{name} is not authorized any more.", name=name)


@clients.command("clear")
def clear_clients(context: typer.Context, folder: Folder, as_json: AsJson = False) -> None:
    """Open a restricted service to everyone who knows its address.

    Example: `pelure onion clients clear --dir ~/site-key`
    """
    with _errors(), Output(as_json) as output:
        ServiceKeys.load(folder).open_to_all()
        output.event("opened", "Everyone who knows the address can connect now.")


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """One line and exit status 1 for what goes wrong in a command that runs no network."""
    try:
        yield
    except (PelureError, OSError) as error:
        raise fail(str(error)) from None
