"""``pelure links`` and ``pelure link …``: the link book."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import segno
import typer

from pelure.cli.book import open_book
from pelure.cli.output import Output, counted, write_bytes
from pelure.cli.run import Settings, run, settings_of, usage_errors
from pelure.cli.share import check_names, check_times, node_events, tell
from pelure.errors import ConfigError
from pelure.share import daemon
from pelure.share.describing import link_fields
from pelure.share.link import DEFAULT_PORT, PrivateLink
from pelure.share.linkbook import Entry, check_name, export_book, import_received
from pelure.share.received import forget
from pelure.share.record import SHARES_NAME, publisher_folder
from pelure.share.rendezvous_groups import SERVICES_NAME, wipe_service
from pelure.share.times import parse_time
from pelure.tor.net.statefile import write_private

link_app = typer.Typer(no_args_is_help=True, help="Add, revoke, renew, show and sort private links.")
Json = Annotated[bool, typer.Option("--json", help="Print one event a line.")]
Share = Annotated[str | None, typer.Option("--share", help="Which share; needed if there are several.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("links")(links)
    app.add_typer(link_app, name="link")


def links(
    context: typer.Context,
    share: Share = None,
    received: Annotated[bool, typer.Option("--received", help="Only links that others gave you.")] = False,
    as_json: Json = False,
) -> None:
    """List all private links, minted and received.

    Example: `pelure links --received`
    """
    with open_book(settings_of(context)) as book, Output(as_json) as output:
        if share and not book.entries(share):
            raise ConfigError(f"no link is of a share «{share}»; see `pelure shares`")
        _list(output, book.entries("" if received else share))


def _list(output: Output, entries: list[Entry]) -> None:
    for entry in entries:
        fields = entry.as_json()
        kind = f"share {entry.share}" if entry.minted else "received"
        tags = "".join(f" #{tag}" for tag in entry.tags)
        used = "never used" if entry.last_use is None else f"used {_local_time(entry.last_use)}"
        text = f"{entry.name}\t{entry.state()}\t{kind}\t{used}{tags}\t{entry.note}"
        output.event("entry", text.rstrip(), **fields)
    if not output.as_json:
        live = sum(entry.state() == "live" for entry in entries)
        count = counted(len(entries), "private link")
        output.console.print(f"{count}, {live} live.")


def _local_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@link_app.command("add")
def link_add(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME…")],
    share: Share = None,
    expires: Annotated[str | None, typer.Option(help="How long: 12h, 7d, 4w.")] = None,
    browser: Annotated[bool, typer.Option("--browser", help="For Tor Browser too.")] = False,
    qr: Annotated[bool, typer.Option("--qr", help="Show QR codes.")] = False,
    as_json: Json = False,
) -> None:
    """Make more links for a share that runs.

    Example: `pelure link add carol dave --share photos --expires 7d`
    """
    settings = settings_of(context)
    with usage_errors():
        until = None if expires is None else parse_time(expires)
        check_names(names)
        check_times(until, None, None)

    async def work() -> None:
        await _need_node(settings)
        with Output(as_json) as output:
            asked = {"share": share, "names": names, "expires": until, "browser": browser}
            async for event in node_events(settings, output, "link-add", detach=False, **asked):
                tell(output, event, qr)

    run(work(), settings)


@link_app.command("revoke")
def link_revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    share: Share = None,
    as_json: Json = False,
) -> None:
    """Take a link's access away, at once and for good; other links don't notice.

    Example: `pelure link revoke bob`
    """
    settings = settings_of(context)

    async def work() -> None:
        with Output(as_json) as output:
            if await daemon.answers(publisher_folder(settings.state, settings.network)):
                asked = {"name": name, "share": share}
                events = [
                    e async for e in node_events(settings, output, "link-revoke", detach=False, **asked)
                ]
                cut = events[-1]["cut"]
            else:
                with open_book(settings) as book:
                    gone = book.revoke(book.find_minted(name, share))
                shares = publisher_folder(settings.state, settings.network) / SHARES_NAME
                wipe_service(shares / gone.share / SERVICES_NAME, gone.service)
                cut = 0
            cutting = f"; {counted(cut, 'circuit')} cut" if cut else ""
            text = f"The link of {name} is revoked{cutting}."
            output.event("revoked", text, name=name, cut=cut)

    run(work(), settings)


@link_app.command("forget")
def link_forget(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    as_json: Json = False,
) -> None:
    """Delete a link that was given to you from the link book, and what is kept of its share to go on faster.

    Folders that you fetched into stay. To take back a link that you gave to others: `pelure link revoke`.

    Example: `pelure link forget photos`
    """
    settings = settings_of(context)
    with open_book(settings) as book, Output(as_json) as output:
        forget(book, settings.state, name)
        output.event("forgotten", f"The link {name} is forgotten.", name=name)


@link_app.command("renew")
def link_renew(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    expires: Annotated[
        str | None, typer.Option(help="How long from now: 12h, 7d; for ever if left out.")
    ] = None,
    share: Share = None,
    as_json: Json = False,
) -> None:
    """Let a link live longer, or for a shorter time; its keys stay.

    Send the new text to its reader: the old one holds the old date, and is not tried any more after it.

    Example: `pelure link renew alice --expires 30d`
    """
    settings = settings_of(context)
    with usage_errors():
        until = None if expires is None else parse_time(expires)
        check_times(until, None, None)

    async def work() -> None:
        await _need_node(settings)
        with Output(as_json) as output:
            asked = {"name": name, "share": share, "expires": until}
            events = [e async for e in node_events(settings, output, "link-renew", detach=False, **asked)]
            fields = {key: value for key, value in events[-1].items() if key != "event"}
            output.event("renewed", f"{name}\t{fields['link']}", **fields)

    run(work(), settings)


async def _need_node(settings: Settings) -> None:
    if not await daemon.answers(publisher_folder(settings.state, settings.network)):
        raise ConfigError(
            "no share is running; start it with `pelure share` (add --detach for the background)"
        )


@link_app.command("show")
def link_show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    share: Share = None,
    qr: Annotated[bool, typer.Option("--qr", help="As QR code too.")] = False,
    npm: Annotated[bool, typer.Option("--npm", help="What an npm hyperdrive peer needs.")] = False,
    as_json: Json = False,
) -> None:
    """Print a link again.

    Example: `pelure link show alice --qr`
    """
    settings = settings_of(context)

    async def work() -> None:
        with open_book(settings) as book, Output(as_json) as output:
            entry = book.find(name, share)
            link = entry.private_link()
            output.event("link", f"{name}\t{entry.link}", **link_fields(entry))
            if npm:
                output.event("npm", _npm_text(link), **npm_fields(link))
            if qr and not as_json:
                segno.make((entry.link or "").upper(), error="l").terminal(compact=True)

    run(work(), settings)


def npm_fields(link: PrivateLink) -> dict[str, str | int]:
    """What an npm peer needs to open the drive (docs/private-link.md); keys in hex.

    ``auth_private`` is for the proxy: the content of its ``.auth_private`` file.
    """
    from pelure.tor.onion.auth_files import AuthPrivate
    from pelure.tor.onion.client_auth import ClientAuthKey

    return {
        "address": link.address,
        "port": DEFAULT_PORT,
        "drive_key": link.drive_key.hex(),
        "encryption_key": link.content_key.hex(),
        "identity_seed": link.identity.seed.hex(),
        "discovery_secret": link.discovery_secret.hex(),
        "auth_private": AuthPrivate(link.onion_key, ClientAuthKey(link.discovery_secret)).encode().strip(),
    }


def _npm_text(link: PrivateLink) -> str:
    return "\n".join(f"{key}\t{value}" for key, value in npm_fields(link).items())


@link_app.command("tag")
def link_tag(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    tags: Annotated[list[str] | None, typer.Argument(metavar="TAG…")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Take a tag away.")] = None,
    note: Annotated[str | None, typer.Option(help="Set the note.")] = None,
    rename: Annotated[str | None, typer.Option(help="Give it another name.")] = None,
    share: Share = None,
    as_json: Json = False,
) -> None:
    """Sort links: tags, a note, another name.

    Example: `pelure link tag alice family --note 'my sister'`
    """
    with open_book(settings_of(context)) as book, Output(as_json) as output:
        entry = book.find(name, share)
        kept = [tag for tag in (*entry.tags, *(tags or [])) if tag not in (remove or [])]
        changed = book.change(
            entry,
            name=check_name(rename or entry.name),
            tags=tuple(dict.fromkeys(check_name(tag) for tag in kept)),
            note=entry.note if note is None else note,
        )
        tagged = " ".join(f"#{tag}" for tag in changed.tags)
        output.event("tagged", f"{changed.name} {tagged}", name=changed.name, tags=list(changed.tags))


@link_app.command("search")
def link_search(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="WORD…")],
    as_json: Json = False,
) -> None:
    """Find links by name, tag, note or share.

    Example: `pelure link search family`
    """
    with open_book(settings_of(context)) as book, Output(as_json) as output:
        _list(output, book.search(" ".join(words)))


@link_app.command("export")
def link_export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to write; `-` for standard output.", allow_dash=True)],
    secrets: Annotated[bool, typer.Option("--secrets", help="With the links themselves.")] = False,
    as_json: Json = False,
) -> None:
    """Write the link book as JSON.

    Example: `pelure link export links.json`
    """
    with open_book(settings_of(context)) as book, Output(as_json) as output:
        exported, count = export_book(book, secrets=secrets), len(book.entries())
        if str(file) == "-":
            write_bytes(f"{exported}\n".encode())
            return
        try:
            write_private(file.absolute(), exported.encode())
        except OSError as error:
            raise ConfigError(f"can't write {file}: {error.strerror}") from error
        secret = ", which holds the links: keep it secret" if secrets else ""
        output.aside("exported", f"Wrote {file}{secret}.", file=str(file.absolute()), links=count)


@link_app.command("import")
def link_import(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="An exported link book.", exists=True, dir_okay=False)],
    as_json: Json = False,
) -> None:
    """Take links from an exported book as received ones.

    Example: `pelure link import links.json`
    """
    with open_book(settings_of(context)) as book, Output(as_json) as output:
        count = import_received(book, file.read_bytes())
        output.event("imported", f"{counted(count, 'new link')}.", links=count)
