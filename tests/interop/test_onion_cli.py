"""``pelure onion serve`` in a C tor network, used by a C tor client with curl."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from interop.commands import Command, pelure
from interop.ctor import Client, CTorNetwork, FileServer, curl, payload
from interop.ctor.programs import Fetched
from interop.onion_support import fetch, http_get, pelure_node
from pelure.errors import OnionServiceError
from pelure.tor.client import hs
from pelure.tor.client.hs import OnionClient
from pelure.tor.client.network_client import VANGUARDS_FILE
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.service.keys import ServiceKeys

pytestmark = [pytest.mark.ctor, pytest.mark.timeout(300)]


def test_a_folder_is_served_and_access_changes_live(
    ctor_network: CTorNetwork, ctor_client: Client, tmp_path: Path
) -> None:
    site, folder, auth = tmp_path / "site", tmp_path / "service", tmp_path / "auth"
    site.mkdir()
    (site / "index.html").write_text("<h1>hello</h1>")
    (site / "data").write_bytes(b"0123456789" * 1000)
    auth.mkdir(mode=0o700)
    common = ["--network", str(ctor_network.network_file), "--state", str(tmp_path / "state")]
    arguments = [*common, "onion", "serve", "--site", str(site), "--dir", str(folder)]
    with Command(*arguments, log=tmp_path / "log") as serving:
        address = serving.wait("published")["address"]
        assert address == ServiceKeys.load(folder).address
        home = curl(f"http://{address}/", ctor_client.socks)
        assert (home.status, home.body) == (200, b"<h1>hello</h1>")
        part = curl(f"http://{address}/data", ctor_client.socks, "--range", "100-199")
        assert (part.status, part.body) == (206, b"0123456789" * 10)
        assert curl(f"http://{address}/missing", ctor_client.socks).status == 404

        added = pelure("onion", "clients", "add", "alice", "--dir", str(folder))
        (auth / "alice.auth_private").write_text(added.stdout)
        alice = ctor_network.client(authorizations=auth)
        try:
            assert wait_for_access(address, alice).status == 200
        finally:
            alice.stop()

        busy = pelure(*arguments)  # a second publication of the same keys
        assert busy.returncode == 1
        assert "in use" in busy.stderr
        assert serving.stop() == 0
    assert [*(tmp_path / "state").rglob(VANGUARDS_FILE)], "full vanguards have a file"


async def test_a_removed_client_is_refused_and_the_others_go_on(
    ctor_network: CTorNetwork, file_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``onion clients`` beside a running ``onion serve``; the descriptor that a client has is of no use."""
    # C tor relays may pass an introduction on for a while to a circuit that is closed: don't wait for long.
    monkeypatch.setattr(hs, "ANSWER_SECONDS", (2.0, *hs.ANSWER_SECONDS))
    folder = tmp_path / "service"
    keys = ServiceKeys.create(folder, os.urandom)
    secrets = {name: ClientAuthKey.generate(os.urandom) for name in ("alice", "bob")}
    for name, key in secrets.items():
        keys.add_client(name, key.public)
    common = ["--network", str(ctor_network.network_file), "--state", str(tmp_path / "state")]
    arguments = [*common, "onion", "serve", "--port", f"80:{file_server.port}", "--dir", str(folder)]
    async with pelure_node(ctor_network, tmp_path / "client") as node:
        with Command(*arguments, log=tmp_path / "log") as serving:
            address = (await asyncio.to_thread(serving.wait, "published"))["address"]
            clients = {}
            for name, key in secrets.items():
                clients[name] = OnionClient(node.circuits, node.directory)
                clients[name].client_keys[keys.identity.public] = [key]
                assert await fetch(clients[name], address, 1000) == payload(1000)[1]
            circuit = await clients["bob"].connect(address)

            listed = await asyncio.to_thread(pelure, "onion", "clients", "list", "--dir", str(folder))
            assert [line.split()[0] for line in listed.stdout.splitlines()] == ["alice", "bob"]
            await asyncio.to_thread(pelure, "onion", "clients", "remove", "alice", "--dir", str(folder))
            assert (await asyncio.to_thread(serving.wait, "clients"))["names"] == ["bob"]
            with pytest.raises(OnionServiceError) as refused:
                await clients["alice"].connect(address)
            assert refused.value.code == 0xF5
            assert await http_get(await circuit.begin("", 80), 1000) == payload(1000)[1]
            assert await fetch(clients["bob"], address, 1000) == payload(1000)[1]
            await asyncio.to_thread(serving.stop)


def wait_for_access(address: str, client: Client, attempts: int = 10) -> Fetched:
    """The new descriptor takes a moment to reach its directories."""
    for left in reversed(range(attempts)):
        try:
            return curl(f"http://{address}/", client.socks)
        except RuntimeError:
            if not left:
                raise
    raise AssertionError("there is at least one attempt")
