"""``pelure share`` and what keeps shares: ``shares``, ``unshare``, ``daemon``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Any

import segno
import typer

from pelure.cli.output import Output, counted
from pelure.cli.run import Settings, run, settings_of, usage_errors
from pelure.cli.terminal import shown
from pelure.errors import ConfigError
from pelure.share import daemon
from pelure.share.control import request
from pelure.share.describing import describe_shares
from pelure.share.linkbook import BOOK_NAME, LinkBook, check_name
from pelure.share.record import publisher_folder
from pelure.share.times import parse_time
from pelure.web.listing import readable_size

daemon_app = typer.Typer(no_args_is_help=True, help="Keep shares in the background.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("share")(share)
    app.command("shares")(shares)
    app.command("unshare")(unshare)
    app.add_typer(daemon_app, name="daemon")


def share(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="A folder, or files.", metavar="PATH…")],
    to: Annotated[list[str] | None, typer.Option("--to", help="One private link for each name.")] = None,
    links: Annotated[int, typer.Option(help="So many links more, named link-1, link-2, …", min=0)] = 0,
    title: Annotated[str | None, typer.Option(help="What readers see; the folder's name by default.")] = None,
    expires: Annotated[str | None, typer.Option(help="How long the links work: 12h, 7d, 4w.")] = None,
    browser: Annotated[bool, typer.Option("--browser", help="The links work in Tor Browser too.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Readers see changes while they happen.")] = False,
    once: Annotated[
        bool,
        typer.Option("--once", help="Stop after the first complete download; those of browsers don't count."),
    ] = False,
    start_at: Annotated[str | None, typer.Option(help="Begin then: 2026-12-24T18:00, or 2h.")] = None,
    stop_at: Annotated[str | None, typer.Option(help="End then.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background.")] = False,
    qr: Annotated[bool, typer.Option("--qr", help="Show each link as QR code.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """Share a folder or files: each name gets a private link of its own.

    Nothing is copied or uploaded; readers fetch from this machine while this runs.

    Example: `pelure share ~/Photos --to alice --to bob --expires 7d`
    """
    settings = settings_of(context)
    names = [*(to or []), *(f"link-{number}" for number in range(1, links + 1))]
    with usage_errors():
        times = [None if text is None else parse_time(text) for text in (expires, start_at, stop_at)]
        check_names(names)
        check_times(*times)
    asked = {
        "paths": [str(path.expanduser().absolute()) for path in paths],
        "names": names or ["link"],
        "title": title,
        "expires": times[0],
        "browser": browser,
        "live": live,
        "once": once,
        "detached": detach,
        "start_at": times[1],
        "stop_at": times[2],
    }
    run(_share(settings, asked, qr, as_json), settings)


def check_names(names: list[str]) -> None:
    """Raises ``ConfigError`` for names that links can't have, before anything is begun."""
    seen: set[str] = set()
    for name in map(check_name, names):
        if name in seen:
            raise ConfigError(f"the name {name} is given twice")
        seen.add(name)


def check_times(expires: float | None, start_at: float | None, stop_at: float | None) -> None:
    """Raises ``ConfigError`` for times at which a share could never be reached."""
    now = time.time()
    if expires is not None and expires <= max(now, start_at or 0.0):
        raise ConfigError("the time of --expires has to be later than now, and than --start-at")
    if stop_at is not None and stop_at <= max(now, start_at or 0.0):
        raise ConfigError("the time of --stop-at has to be later than now, and than --start-at")


async def _share(settings: Settings, asked: dict[str, Any], qr: bool, as_json: bool) -> None:
    with Output(as_json) as output:
        async for event in node_events(settings, output, "share", detach=asked["detached"], **asked):
            tell(output, event, qr)
        if asked["detached"]:
            output.event("detached", "Sharing goes on in the background; end it with `pelure unshare`.")


async def node_events(
    settings: Settings, output: Output, op: str, *, detach: bool, **asked: Any
) -> AsyncIterator[dict[str, Any]]:
    """The events of an operation of the running node; if none runs, of one started for it."""
    folder = publisher_folder(settings.state, settings.network)
    if await daemon.answers(folder):
        async for event in request(folder, op, **asked):
            yield event
        return
    if detach:
        output.wait("Starting in the background …")
        await daemon.start(settings.network, settings.state)
        async for event in request(folder, op, **asked):
            yield event
        return

    def progress(fraction: float, what: str) -> None:
        output.progress("bootstrap", fraction, 1.0, step=what)

    async with _node(settings, progress):
        output.event("bootstrapped")
        async for event in request(folder, op, **asked):
            yield event


def _node(
    settings: Settings, progress: Callable[[float, str], None] | None = None
) -> AbstractAsyncContextManager[object]:
    """The node in this process. Where one runs already, nothing of it and its web server is loaded."""
    from pelure.share.node import run_node
    from pelure.web.page import drive_page

    return run_node(settings.network, settings.state, drive_page, progress)


def tell(output: Output, event: dict[str, Any], qr: bool) -> None:
    """Show one event of a node."""
    fields = dict(event)
    name = fields.pop("event")
    if name == "progress":
        output.progress(fields.pop("what"), fields.pop("done"), fields.pop("total"), **fields)
        return
    if name == "done":
        return
    if name == "transfer" and not output.as_json and not fields["complete"]:
        output.progress(fields["name"], fields["sent"], fields["total"])
        return
    output.finish()
    text = _sentence(name, fields)
    if name == "transfer" and text is not None and not output.is_news(text):
        text = None
    output.event(name, text, **fields)
    if name == "link" and qr and not output.as_json:
        segno.make(fields["link"].upper(), error="l").terminal(compact=True)
    if name == "link":
        output.wait("Publishing …")


def _sentence(name: str, fields: dict[str, Any]) -> str | None:
    who = fields.get("name", "")
    match name:
        case "link":
            text = f"{who}\t{fields['link']}"
            if "auth_key" in fields:
                text += f"\n{who}\tTor Browser: {fields['address']}  key: {fields['auth_key']}"
            return text
        case "published":
            return "Reachable now." if "share" in fields else None
        case "waiting":
            return f"Reachable from {_day(fields['until'])} on."
        case "connected":
            return f"{who} is connected." if fields["streams"] == 1 else None
        case "disconnected":
            sent = readable_size(fields["sent"])
            return f"{who} is gone, after {sent}." if fields["streams"] == 0 else None
        case "transfer":
            return f"{who} has all of it."
        case "revoked":
            return f"The link of {who} is revoked."
        case "expired":
            return f"The link of {who} has expired."
        case "changed":
            return f"{fields['op']}: {shown(fields['path'])}"
        case "problem":
            return f"not shared: {shown(fields['path'])}: {shown(fields['reason'])}"
        case "kept":
            until = "does not expire" if fields["expires"] is None else f"expires {_day(fields['expires'])}"
            return f"{who} had this link before: it stays as it was and {until} (see `pelure link renew`)."
    return None


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def shares(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """List what is shared from here.

    Example: `pelure shares`
    """
    settings = settings_of(context)
    run(_shares(settings, as_json), settings)


async def _shares(settings: Settings, as_json: bool) -> None:
    folder = publisher_folder(settings.state, settings.network)
    if await daemon.answers(folder):
        listed = [event async for event in request(folder, "shares")][-1]["shares"]
    else:
        with LinkBook(folder / BOOK_NAME) as book:
            listed = describe_shares(folder, book, set())
    with Output(as_json) as output:
        for row in listed:
            state = "running" if row["running"] else "not running"
            if row["running"] and row["start_at"] is not None:
                state = f"from {_day(row['start_at'])} on"
            links = counted(row["links"], "link")
            text = f"{row['share']}\t{state}\t{links}\t{', '.join(row['paths'])}"
            output.event("entry", text, **row)


def unshare(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="SHARE", help="See `pelure shares`.")],
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete its keys and links too, for good. Files stay.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """End a share that runs in the background.

    Example: `pelure unshare photos`
    """
    settings = settings_of(context)

    async def work() -> None:
        with Output(as_json) as output:
            async for event in node_events(settings, output, "stop", detach=False, share=name, forget=forget):
                tell(output, event, False)
            output.event("stopped", f"{name} is not shared any more.", share=name)

    run(work(), settings)


@daemon_app.command("run")
def daemon_run(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """Run the background process here, in the foreground (what the systemd unit does).

    Example: `pelure daemon run`
    """
    settings = settings_of(context)

    async def work() -> None:
        with Output(as_json) as output:
            async with _node(settings):
                output.event("ready", "pelure is running.")
                await asyncio.Event().wait()

    run(work(), settings)


@daemon_app.command("install")
def daemon_install(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """Write a systemd user unit, so that shares survive a reboot.

    Example: `pelure daemon install`
    """
    settings = settings_of(context)
    unit = daemon.install(settings.network, settings.state)
    text = (
        f"Wrote {unit}. Now: systemctl --user enable --now pelure.service\n"
        "To have it run without you logged in: loginctl enable-linger"
    )
    with Output(as_json) as output:
        output.event("installed", text, unit=str(unit))


@daemon_app.command("stop")
def daemon_stop(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """End the background process; its shares resume when it is started again.

    Example: `pelure daemon stop`
    """
    settings = settings_of(context)

    async def work() -> None:
        folder = publisher_folder(settings.state, settings.network)
        if not await daemon.answers(folder):
            raise ConfigError("no pelure runs in the background")
        with Output(as_json) as output:
            await daemon.stop(folder)
            output.event("ended", "Nothing runs in the background any more.")

    run(work(), settings)
