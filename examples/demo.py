"""The main job, start to end, on a private network of this machine: what ``make demo`` shows.

Every step is a real command in a process of its own, as a person would type it: the publisher shares a folder
with two private links; one reader fetches it, another follows it live; one link is revoked. The addresses are
all on 127.0.0.1.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WAIT_SECONDS = 120.0
STARTED = time.monotonic()
console = Console(highlight=False)


def say(text: str, style: str = "") -> None:
    """A line with the time since the demo began."""
    console.print(f"[dim]{time.monotonic() - STARTED:5.1f} s[/dim]  {text}", style=style)


class Running:
    """A ``pelure`` command in its own process; :meth:`wait` reads its events."""

    def __init__(self, *arguments: str) -> None:
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pelure.cli.main", *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._errors: list[str] = []
        threading.Thread(target=self._read_errors, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._errors.append(line)
            del self._errors[:-20]

    def wait(self, name: str, on_event: Any = None) -> dict[str, Any]:
        """The next event ``name``; the others go to ``on_event``."""
        while True:
            event = self._events.get(timeout=WAIT_SECONDS)
            if event is None:
                raise SystemExit(f"a command ended too early:\n{''.join(self._errors)}")
            if event["event"] == name:
                return event
            if on_event is not None:
                on_event(event)

    def stop(self) -> None:
        """End it and wait."""
        self.process.terminate()
        self.process.wait(30)


def rendezvous_step(event: dict[str, Any]) -> None:
    """Show the steps of the rendezvous as they happen at either side."""
    fields = {**event, "event": event.get("what", event["event"])}
    match fields["event"]:
        case "intro_established":
            say(f"  [cyan]Bob[/cyan] has an introduction point at {fields['relay']}")
        case "descriptor_uploaded" if fields["done"] == fields["total"]:
            say(f"  [cyan]Bob[/cyan]'s descriptor is on its {fields['total']} lookup relays")
        case "descriptor":
            say(
                f"  [magenta]Alice[/magenta] has the descriptor: {fields['intro_points']} introduction points"
            )
        case "rendezvous_established":
            say(f"  [magenta]Alice[/magenta] left a cookie with rendezvous point {fields['relay']}")
        case "introduced":
            say(f"  [magenta]Alice[/magenta] introduced herself through {fields['relay']}")
        case "rendezvous" if "rendezvous_point" in fields:
            say(f"  circuits joined at {fields['rendezvous_point']}, {fields['seconds'] * 1000:.0f} ms")


def digest(folder: Path) -> str:
    """One hash of all names and contents below ``folder``."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            whole.update(str(path.relative_to(folder)).encode() + b"\0")
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:16]


def make_folder(folder: Path) -> None:
    """Something to share: this project's documents, and a larger file."""
    shutil.copytree(Path(__file__).resolve().parent.parent / "docs", folder)
    (folder / "film.bin").write_bytes(os.urandom(20_000_000))


def connection_table(status: dict[str, Any]) -> Table:
    """What the publisher is connected to."""
    table = Table(title="The publisher's connections (pelure netstat)", title_justify="left")
    for column in ("link to relay", "address", "circuits", "read", "written"):
        table.add_column(column)
    for link in status["links"]:
        table.add_row(
            link["nickname"],
            f"{link['address']}:{link['port']}",
            str(link["circuits"]),
            f"{link['bytes_read']:,}",
            f"{link['bytes_written']:,}",
        )
    for visitor in status["visitors"]:
        table.add_row(f"reader «{visitor['name']}»", "nobody tells", "1", "", f"{visitor['sent']:,}")
    return table


def main() -> None:
    """Run the demo."""
    with tempfile.TemporaryDirectory(prefix="pelure-demo-") as name:
        home = Path(name)
        running: list[Running] = []
        try:
            story(home, running)
        finally:
            for command in reversed(running):
                command.stop()
    say("Done.", "bold")


def story(home: Path, running: list[Running]) -> None:
    """The steps; every command started is put into ``running``."""

    def start(person: str, *arguments: str) -> Running:
        command = Running("--network", network, "--state", str(home / person), "-v", *arguments)
        running.append(command)
        return command

    say("[bold]1. A network of our own[/bold]: one authority, eight relays, on 127.0.0.1")
    net = Running("net", "up", "--dir", str(home / "net"))
    running.append(net)
    network = net.wait("up")["network"]

    say("[bold]2. Bob shares a folder[/bold] by private links: pelure share folder --to alice --to carol")
    folder = home / "folder"
    make_folder(folder)
    share = start("bob", "share", str(folder), "--to", "alice", "--to", "carol", "--live")
    links: dict[str, str] = {}

    def on_share(event: dict[str, Any]) -> None:
        if event["event"] == "link":
            links[event["name"]] = event["link"]
            say(f"  link for {event['name']}: {event['link'][:48]}…")
        rendezvous_step(event)

    share.wait("published", on_share)

    say("[bold]3. Alice fetches it[/bold] anonymously: pelure get LINK")
    get = start("alice", "get", links["alice"], str(home / "got"))
    done = get.wait("complete", rendezvous_step)
    same = digest(folder) == digest(home / "got")
    rate = done["bytes"] / done["seconds"] / 1e6
    say(f"  {done['files']} files, {done['bytes']:,} bytes in {done['seconds']:.1f} s ({rate:.1f} MB/s)")
    say(f"  SHA-256 equal: {same}", "green" if same else "red")
    if not same:
        raise SystemExit(1)

    say("[bold]4. Carol follows it live[/bold]: pelure sync LINK folder")
    sync = start("carol", "sync", links["carol"], str(home / "carol"))
    sync.wait("synced")
    (folder / "news.txt").write_text("written while Carol watches\n")
    change = sync.wait("changed")
    say(f"  Carol sees {change['path']}: «{(home / 'carol' / 'news.txt').read_text().strip()}»")

    status = start("bob", "netstat")
    console.print(connection_table(status.wait("status")))

    say("[bold]5. Alice's link is revoked[/bold]: pelure link revoke alice")
    revoke = start("bob", "link", "revoke", "alice")
    revoke.wait("revoked")
    base = [sys.executable, "-m", "pelure.cli.main", "--network", network, "--state", str(home / "alice")]
    again = subprocess.run(
        [*base, "get", links["alice"], str(home / "again")],
        capture_output=True,
        text=True,
        check=False,
    )
    say(f"  Alice tries again: «{again.stderr.strip().splitlines()[-1]}»")
    (folder / "more.txt").write_text("and Carol goes on\n")
    change = sync.wait("changed")
    say(f"  Carol sees {change['path']}: she did not notice")
    if again.returncode == 0:
        raise SystemExit("a revoked link still worked")


if __name__ == "__main__":
    main()
