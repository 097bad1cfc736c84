"""The plan of an embedded network, its files, and the lock by which commands share one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from pelure.errors import ConfigError, PelureError
from pelure.tor.authority.config import authority_config as from_torrc
from pelure.tor.authority.sr_state import decode_state
from pelure.tor.directory.network import parse_network
from pelure.tor.embedded import shared
from pelure.tor.embedded.network import STATUS_FILE, EmbeddedNetwork
from pelure.tor.embedded.plan import NetworkPlan, check_numbers, make_plan
from pelure.tor.embedded.worker import authority_config, relay_config, voting_times
from pelure.tor.net.statefile import StateFolder


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> NetworkPlan:
    return make_plan(tmp_path_factory.mktemp("net"), 3, 3, 20)


def test_the_network_file_names_every_authority(plan: NetworkPlan) -> None:
    network = parse_network(plan.network_file.read_text())
    assert network.testing
    nodes = [node for node in plan.nodes if node.is_authority]
    assert [one.nickname for one in network.voters] == ["authority0", "authority1", "authority2"]
    for node, found in zip(nodes, network.voters, strict=True):
        assert found.v3ident is not None and found.v3ident.hex().upper() == node.v3ident
        assert found.rsa_id.hex().upper() == node.fingerprint
        assert (found.ip, found.orport, found.dirport) == ("127.0.0.1", node.or_port, node.dir_port)


def test_nothing_in_the_folder_is_for_others_to_read(plan: NetworkPlan) -> None:
    for path in plan.folder.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_a_plan_made_again_keeps_identities_and_free_ports(plan: NetworkPlan) -> None:
    taken = plan.nodes[0]
    with socket.create_server(("127.0.0.1", taken.or_port)):
        again = make_plan(plan.folder, 4, 3, 20)
    assert again.nodes[0].or_port != taken.or_port
    assert again.nodes[0].dir_port == taken.dir_port
    assert again.nodes[1:6] == plan.nodes[1:]
    assert [node.fingerprint for node in again.nodes[:6]] == [node.fingerprint for node in plan.nodes]


def test_authorities_begin_with_the_same_shared_random_values(plan: NetworkPlan) -> None:
    files = [plan.data(node) / "sr-state" for node in plan.nodes if node.is_authority]
    states = [decode_state(path.read_bytes(), path.stat().st_mtime, plan.interval) for path in files]
    assert states[0].current is not None and states[0].previous is not None
    assert len({(state.current, state.previous) for state in states}) == 1


def test_a_consensus_of_other_nodes_is_forgotten(tmp_path: Path) -> None:
    """Authorities would serve it until the next round: for as long a network of other nodes is not up."""
    consensus, random = tmp_path / "authority0/cached-consensus", tmp_path / "authority0/sr-state"

    def kept(relays: int, authorities: int, interval: int) -> tuple[bool, bool]:
        before = random.read_bytes()
        consensus.write_bytes(b"of the last round")
        plan = make_plan(tmp_path, relays, authorities, interval)
        states = {(plan.data(node) / "sr-state").read_bytes() for node in plan.nodes if node.is_authority}
        assert len(states) == 1
        return consensus.exists(), random.read_bytes() == before

    make_plan(tmp_path, 3, 1, 20)
    assert kept(3, 1, 20) == (True, True)
    assert kept(4, 1, 20) == (False, True)
    assert kept(4, 1, 30) == (False, False)
    assert kept(4, 3, 30) == (False, False)


def test_plans_survive_json(plan: NetworkPlan, tmp_path: Path) -> None:
    assert NetworkPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    with pytest.raises(ConfigError):
        NetworkPlan.from_json({"folder": "x", "nodes": [{"surprise": 1}], "interval": 10})
    with pytest.raises(ConfigError, match="no embedded network"):
        NetworkPlan.load(tmp_path)


@pytest.mark.parametrize("numbers", [(2, 1, 10), (101, 1, 10), (8, 2, 10), (8, 1, 9)])
def test_numbers_that_make_no_network(numbers: tuple[int, int, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        check_numbers(*numbers)
    relays, authorities, interval = numbers
    with pytest.raises(ConfigError):
        EmbeddedNetwork(tmp_path, relays=relays, authorities=authorities, interval=interval)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("interval", [10, 20, 40, 60, 300])
def test_timing_that_c_tor_would_take(interval: int, tmp_path: Path) -> None:
    times = voting_times(interval)
    text = (
        f"TestingTorNetwork 1\nDirAuthority a orport=1 v3ident={'a' * 40} 127.0.0.1:2 {'b' * 40}\nDirPort 2\n"
        f"V3AuthVotingInterval {times.interval}\nV3AuthVoteDelay {times.vote_delay}\n"
        f"V3AuthDistDelay {times.dist_delay}\n"
    )
    network = parse_network(text)
    assert from_torrc(network, network.options, tmp_path).times.interval == interval


def test_nodes_listen_on_this_machine_only(plan: NetworkPlan) -> None:
    network = parse_network(plan.torrc)
    for node in plan.nodes:
        relay = relay_config(plan, node, network)
        assert (relay.bind, relay.address, relay.orport) == ("127.0.0.1", "127.0.0.1", node.or_port)
        if node.is_authority:
            assert authority_config(plan, node, network).ip == "127.0.0.1"


def test_which_process_runs_a_network(tmp_path: Path) -> None:
    assert shared.running_pid(tmp_path) is None
    with StateFolder(tmp_path):
        (tmp_path / STATUS_FILE).write_text("damaged")
        assert shared.running_pid(tmp_path) is None
        (tmp_path / STATUS_FILE).write_text(json.dumps({"pid": os.getpid()}))
        assert shared.running_pid(tmp_path) == os.getpid()
    assert shared.running_pid(tmp_path) is None  # a network that was killed left it


async def test_only_the_first_command_starts_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    held = contextlib.ExitStack()

    async def start(folder: Path, *, linger: float) -> None:
        assert linger > 0
        starts.append(folder)
        await asyncio.sleep(0)
        held.enter_context(StateFolder(folder))
        (folder / STATUS_FILE).write_text(json.dumps({"pid": os.getpid()}))

    monkeypatch.setattr(shared, "start_detached", start)

    async def use() -> None:
        async with shared.shared_network(tmp_path) as network_file:
            assert network_file == tmp_path / "network.torrc"
            assert shared._in_use(tmp_path)

    with held:
        await asyncio.gather(use(), use(), use())
    assert starts == [tmp_path]
    assert not shared._in_use(tmp_path)


async def test_a_network_that_does_not_start_says_why(tmp_path: Path) -> None:
    """Of two that are started at once in a folder, one."""
    with StateFolder(tmp_path), pytest.raises(PelureError, match="in use by another pelure process"):
        await shared.start_detached(tmp_path)
    assert "Traceback" not in (tmp_path / shared.LOG_FILE).read_text()
