"""What a client keeps of the network from one run to the next."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pelure.tor.client.network_client import VANGUARDS_FILE, NetworkClient
from pelure.tor.path.guards import GuardManager
from pelure.tor.path.vanguards import VanguardManager
from unit.tor.path.support import network_of, rng


@pytest.mark.parametrize("full", [True, False])
async def test_full_vanguards_are_on_the_disk_once_they_are_chosen(tmp_path: Path, full: bool) -> None:
    """Who can make a service crash shall not make it choose others."""
    directory = network_of(30)
    client = NetworkClient(directory.network, tmp_path, "service", full_vanguards=full)
    client.directory.guards = GuardManager(None, directory, rng(), time.time())
    client._use(directory)
    await client.close()  # which has nothing of its own to save: the client was never started
    saved = client._folder.read_json(VANGUARDS_FILE)
    if not full:
        assert saved is None
        return
    again = VanguardManager(rng(7), full=True, state=saved)
    again.update(directory, time.time())
    assert len(saved["layers"]) == 2 and again.state()["layers"] == client.vanguards.state()["layers"]
