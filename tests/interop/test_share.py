"""Private links on the embedded network: sharing, fetching, revoking, following, browsing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pelure
import pelure.share
from interop.commands import Command
from interop.sharing import Person, digests, make_folder
from pelure.errors import AccessDenied
from pelure.share.fetch import Fetched
from pelure.share.link import PrivateLink

pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("share-network")
    with Command("net", "up", "--dir", str(folder / "net"), log=folder / "log") as up:
        yield Path(up.wait("up")["network"])


@pytest.fixture
def publisher(network: Path, tmp_path: Path) -> Person:
    return Person(network, tmp_path / "publisher")


@pytest.fixture
def reader(network: Path, tmp_path: Path) -> Person:
    return Person(network, tmp_path / "reader")


def test_get_revoke_and_get_again(publisher: Person, reader: Person, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder")
    command, links = publisher.share(folder, "--to", "alice", "--to", "bob")
    with command:
        alice, bob = links["alice"]["link"], links["bob"]["link"]
        done = reader.events("get", alice, str(tmp_path / "got"))[-1]
        assert done["event"] == "complete"
        assert digests(tmp_path / "got") == digests(folder)
        assert os.access(tmp_path / "got" / "run.sh", os.X_OK)
        assert (tmp_path / "got" / "run.sh").stat().st_mtime == 1_700_000_000
        listed = {event["path"] for event in reader.events("ls", alice) if event["event"] == "entry"}
        assert "/deep/er/é ü 文.txt" in listed
        assert reader.run("cat", f"{alice}/deep/er/é ü 文.txt").stdout == "unicode\n"

        assert publisher.events("link", "revoke", "bob")[-1]["event"] == "revoked"
        refused = reader.run("get", bob, str(tmp_path / "refused"))
        assert refused.returncode == 1
        assert "revoked" in refused.stderr
        assert not (tmp_path / "refused").exists()

        # What changed since is fetched by running the same again, by the name the link got in the book.
        (folder / "later.txt").write_text("later")
        command.stop()
    command, links = publisher.share(folder, "--to", "alice")
    with command:
        assert links["alice"]["link"] == alice
        reader.events("get", "folder", str(tmp_path / "got"))
        assert (tmp_path / "got" / "later.txt").read_text() == "later"
        states = {event["name"]: event["state"] for event in publisher.events("links")}
        assert states == {"alice": "live", "bob": "revoked"}


def test_a_live_transfer_is_cut_by_revoking(publisher: Person, reader: Person, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", small=3)
    command, links = publisher.share(folder, "--to", "alice", "--to", "bob", "--live")
    with command, reader.start("sync", links["bob"]["link"], str(tmp_path / "bob")) as bob:
        bob.wait("synced")
        with reader.start("sync", links["alice"]["link"], str(tmp_path / "alice")) as alice:
            alice.wait("synced")
            publisher.events("link", "revoke", "bob")
            (folder / "news.txt").write_text("news")
            while alice.wait("changed")["path"] != "/news.txt":
                pass
            assert (tmp_path / "alice" / "news.txt").read_text() == "news"
        assert not (tmp_path / "bob" / "news.txt").exists()


def test_both_sides_killed_in_the_middle(publisher: Person, reader: Person, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", big=24_000_000, small=5)
    command, links = publisher.share(folder, "--to", "alice")
    link = links["alice"]["link"]
    with reader.start("get", link, str(tmp_path / "got")) as get:
        while get.wait("progress").get("what") != "get" or get.events[-1]["done"] == 0:
            pass
        get.process.kill()
        get.process.wait()
    with reader.start("get", link, str(tmp_path / "got")) as get:
        while get.wait("progress").get("what") != "get":
            pass
        command.process.send_signal(signal.SIGKILL)
        command.process.wait()
        command, _ = publisher.share(folder, "--to", "alice")
        with command:
            get.wait("complete", 300)
    assert digests(tmp_path / "got") == digests(folder)


def test_outsiders_learn_nothing(publisher: Person, reader: Person, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", big=1000, small=1)
    command, links = publisher.share(folder, "--to", "alice")
    with command:
        link = PrivateLink.decode(links["alice"]["link"])
        answer = reader.run("get-url", f"http://{link.address}:4282/")
        assert answer.returncode == 1
        forged = dataclasses.replace(link, secret=bytes(16)).encode()
        refused = reader.run("get", forged, str(tmp_path / "got"))
        assert refused.returncode == 1
        assert not (tmp_path / "got").exists()
        assert not [event for event in command.events if event["event"] == "connected"]


def test_many_links_each_revocable(publisher: Person, network: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", big=1000, small=1)
    command, links = publisher.share(folder, "--links", "230")
    with command:
        assert len(links) == 230
        assert len({link["link"] for link in links.values()}) == 230
        publisher.events("link", "revoke", "link-117")
        for name, works in (("link-1", True), ("link-116", True), ("link-117", False), ("link-230", True)):
            reader = Person(network, tmp_path / name)
            got = reader.run("get", links[name]["link"], str(tmp_path / name / "got"))
            assert (got.returncode == 0) == works, (name, got.stderr)


def test_once_ends_after_the_first_download(publisher: Person, reader: Person, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", big=200_000, small=3)
    command, links = publisher.share(folder, "--to", "alice", "--once")
    with command:
        reader.events("get", links["alice"]["link"], str(tmp_path / "got"))
        assert command.process.wait(180) == 0
    assert digests(tmp_path / "got") == digests(folder)


def test_browser_links(publisher: Person, reader: Person, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", big=500_000, small=3)
    command, links = publisher.share(folder, "--to", "carol", "--browser")
    with command:
        auth = tmp_path / "auth"
        auth.mkdir()
        address = links["carol"]["address"].removeprefix("http://").rstrip("/")
        text = f"{address.removesuffix('.onion')}:descriptor:x25519:{links['carol']['auth_key']}\n"
        (auth / "carol.auth_private").write_text(text)
        with reader.start("proxy", "--socks", "127.0.0.1:0", "--auth-dir", str(auth)) as proxy:
            at = proxy.wait("listening")
            proxy.wait("bootstrapped")

            def curl(path: str, *options: str) -> bytes:
                socks = f"{at['host']}:{at['port']}"
                done = subprocess.run(
                    [
                        "curl",
                        "-sSf",
                        "-m",
                        "120",
                        "--socks5-hostname",
                        socks,
                        *options,
                        f"http://{address}{path}",
                    ],
                    capture_output=True,
                    check=False,
                )
                assert done.returncode == 0, done.stderr
                return done.stdout

            assert b"big.bin" in curl("/")
            whole = (folder / "big.bin").read_bytes()
            assert curl("/big.bin") == whole
            assert curl("/big.bin", "-r", "1000-1999") == whole[1000:2000]
            (tmp_path / "all.zip").write_bytes(curl("/?zip"))
            with zipfile.ZipFile(tmp_path / "all.zip") as archive:
                assert archive.read("big.bin") == whole
                assert archive.testzip() is None


async def test_the_python_api(network: Path, tmp_path: Path) -> None:
    """What is said of it in :mod:`pelure.share.api`, and :class:`Blocking`."""
    folder = make_folder(tmp_path / "folder", big=100_000, small=2)
    events: list[str] = []

    def note(event: str, **_: object) -> None:
        events.append(event)

    async with pelure.share.publish(
        [folder], ["alice"], network=str(network), state=tmp_path / "publisher", on_event=note
    ) as published:
        reader: dict[str, Any] = {"network": str(network), "state": tmp_path / "reader"}
        async with pelure.open(published.links["alice"], **reader) as remote:
            assert await remote.drive.get("/run.sh") == b"#!/bin/sh\n"
        (bob,) = (await published.add(["bob"])).values()

        def get() -> Fetched:
            with pelure.share.Blocking(**reader) as blocking:
                return blocking.get(bob, tmp_path / "got")

        assert (await asyncio.to_thread(get)).problems == []
        assert digests(tmp_path / "got") == digests(folder)
        await published.revoke("bob")
        assert list(published.links) == ["alice"]
        with pytest.raises(AccessDenied):
            async with pelure.open(bob, **reader):
                pass
    assert "connected" in events


def test_bad_links_and_names(publisher: Person, reader: Person, tmp_path: Path) -> None:
    for text, says in (
        ("pelure:abc", "cut short"),
        ("nobody", "no link is named"),
        ("https://x", "private link"),
    ):
        done = reader.run("get", text, str(tmp_path / "got"))
        assert done.returncode == 1
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    done = publisher.run("share", str(tmp_path / "nothing"), "--to", "alice")
    assert done.returncode == 1
    assert "nothing" in done.stderr


def test_in_the_background(publisher: Person, reader: Person, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", big=100_000, small=2)
    events = publisher.events("share", str(folder), "--to", "alice", "--detach")
    link = next(event["link"] for event in events if event["event"] == "link")
    try:
        reader.events("get", link, str(tmp_path / "got"))
        assert digests(tmp_path / "got") == digests(folder)
        again = publisher.run("share", str(folder), "--to", "alice", "--detach")
        assert again.returncode == 1
        assert "shared already" in again.stderr
        os.kill(publisher.events("netstat")[-1]["pid"], signal.SIGKILL)
        with publisher.start("daemon", "run") as daemon:
            daemon.wait("ready")
            reader.events("get", link, str(tmp_path / "after"))
            assert digests(tmp_path / "after") == digests(folder)
            publisher.events("unshare", "folder")
            assert [event["running"] for event in publisher.events("shares")] == [False]
    finally:
        publisher.run("daemon", "stop")


@pytest.mark.npm
def test_an_npm_peer_reads_a_share(publisher: Person, reader: Person, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", big=300_000, small=3)
    command, _ = publisher.share(folder, "--to", "peer")
    with command:
        told = publisher.events("link", "show", "peer", "--npm")
        fields = next(event for event in told if event["event"] == "npm")
        (tmp_path / "peer.json").write_text(json.dumps(fields))
        auth = tmp_path / "auth"
        auth.mkdir()
        (auth / "peer.auth_private").write_text(fields["auth_private"] + "\n")
        with reader.start("proxy", "--socks", "127.0.0.1:0", "--auth-dir", str(auth)) as proxy:
            port = proxy.wait("listening")["port"]
            proxy.wait("bootstrapped")
            root = Path(__file__).resolve().parents[2]
            done = subprocess.run(
                ["node", str(root / "examples" / "npm-reader.js"), str(port), str(tmp_path / "peer.json")],
                env={**os.environ, "NODE_PATH": str(root / "tests" / "interop" / "node" / "node_modules")},
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
    assert done.returncode == 0, done.stderr
    rows = {row["path"].lstrip("/"): row["sha256"] for row in map(json.loads, done.stdout.splitlines())}
    expected = {name: None if value.startswith("link") else value for name, value in digests(folder).items()}
    assert rows == expected
