"""``pelure onion serve`` in a C tor network, used by a C tor client with curl."""

from __future__ import annotations

from pathlib import Path

import pytest

from interop.commands import Command, pelure
from interop.ctor import Client, CTorNetwork, curl
from interop.ctor.programs import Fetched
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


def wait_for_access(address: str, client: Client, attempts: int = 10) -> Fetched:
    """The new descriptor takes a moment to reach its directories."""
    for left in reversed(range(attempts)):
        try:
            return curl(f"http://{address}/", client.socks)
        except RuntimeError:
            if not left:
                raise
    raise AssertionError("there is at least one attempt")
