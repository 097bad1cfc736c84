"""An authority's torrc (tor manual, "DIRECTORY AUTHORITY SERVER OPTIONS")."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pelure.errors import ConfigError
from pelure.tor.authority.config import authority_config, reachability_is_tested
from pelure.tor.authority.relay_list import RelayList, read_relay_list
from pelure.tor.directory.network import parse_network

AUTHORITY = f"DirAuthority test orport=9001 v3ident={'ab' * 20} 127.0.0.1:9030 {'cd' * 20}\n"
TESTING = f"TestingTorNetwork 1\n{AUTHORITY}DirPort 127.0.0.1:9030\nORPort 9001\nNickname test\n"


def test_a_testing_network(tmp_path: Path) -> None:
    text = TESTING + (
        "V3AuthVotingInterval 20\nV3AuthVoteDelay 4 seconds\nV3AuthDistDelay 4\nV3AuthNIntervalsValid 5\n"
        "TestingV3AuthInitialVotingInterval 1 minute\nTestingDirAuthVoteExit *\nAuthDirFastGuarantee 20 KB\n"
        "MinUptimeHidServDirectoryV2 2 hours\nConsensusParams circwindow=500 a=-1\nV3BandwidthsFile bw\n"
    )
    network = parse_network(text)
    config = authority_config(network, network.options, tmp_path)
    assert (config.ip, config.dir_port, config.or_port, config.nickname) == ("127.0.0.1", 9030, 9001, "test")
    times = config.times
    assert (times.interval, times.vote_delay, times.intervals_valid, times.initial_interval) == (20, 4, 5, 60)
    assert config.flags.vote_exit_all and not config.flags.vote_guard_all
    assert (config.flags.fast_guarantee, config.flags.min_uptime_hsdir) == (20 << 10, 7200)
    assert config.params == {"circwindow": 500, "a": -1}
    assert config.allow_private_addresses and not reachability_is_tested(network, network.options)


def test_defaults_are_those_of_the_public_network(tmp_path: Path) -> None:
    network = parse_network(f"{AUTHORITY}DirPort 9030\nAddress 1.2.3.4\n")
    config = authority_config(network, network.options, tmp_path)
    assert config.times.interval == 3600 and config.flags.max_servers_per_address == 2
    assert not config.allow_private_addresses and reachability_is_tested(network, network.options)


@pytest.mark.parametrize(
    "lines",
    [
        "DirPort 0",
        "DirPort x",
        "V3AuthVotingInterval 7",
        "V3AuthVotingInterval 11",
        "V3AuthVotingInterval soon",
        "V3AuthVotingInterval 10\nV3AuthVoteDelay 5\nV3AuthDistDelay 5",
        "V3AuthVotingInterval 10\nV3AuthVoteDelay 1\nV3AuthDistDelay 2",
        "ConsensusParams circwindow",
        "ConsensusParams circwindow=9999999999",
        "AuthDirMaxServersPerAddr many",
        "AuthDirFastGuarantee 3 parsecs",
        "DirAllowPrivateAddresses maybe",
    ],
)
def test_wrong_settings(tmp_path: Path, lines: str) -> None:
    network = parse_network(TESTING + lines)
    with pytest.raises(ConfigError):
        authority_config(network, network.options, tmp_path)


def test_ipv6_beside_ipv4(tmp_path: Path) -> None:
    text = "Address 192.0.2.1\nAddress 2001:db8::1\nORPort [2001:db8::1]:443\nAuthDirHasIPv6Connectivity 1\n"
    network = parse_network(TESTING + text)
    config = authority_config(network, network.options, tmp_path)
    assert (config.ip, config.or_port, config.has_ipv6) == ("192.0.2.1", 9001, True)


def test_approved_routers(tmp_path: Path) -> None:
    path = tmp_path / "approved-routers"
    assert read_relay_list(path) == RelayList()
    ed25519 = base64.b64encode(bytes(32)).decode().rstrip("=")
    path.write_text(
        f"!reject {'AB' * 20} # spam\n!badexit {'CD' * 20}\n!reject $ABCD EF\n\nname {'EF' * 20}\n"
        f"!MiddleOnly {ed25519}\n!middleonly {'01' * 20}\n!invalid {'02' * 20}\n!badexit rubbish=\n"
    )
    assert read_relay_list(path) == RelayList(
        rejected=frozenset({bytes([0xAB]) * 20}),
        bad_exits=frozenset({bytes([0xCD]) * 20}),
        middle_only=frozenset({bytes(32), bytes([1]) * 20}),
    )
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError):
        read_relay_list(path)


PUBLIC = f"{AUTHORITY}DirPort 9030\nAddress 1.2.3.4\n"
DELAYS = "V3AuthVoteDelay 20\nV3AuthDistDelay 20\n"


@pytest.mark.parametrize(
    ("start", "good", "wrong", "why"),
    [
        (PUBLIC, f"V3AuthVotingInterval 300\n{DELAYS}", f"V3AuthVotingInterval 288\n{DELAYS}", "300 s"),
        (PUBLIC, "V3AuthVotingInterval 7200", "V3AuthVotingInterval 7000", "divide a day"),
        (TESTING, DELAYS.replace("20", "2"), DELAYS.replace("20", "2", 1).replace("20", "1"), "2 at least"),
        (PUBLIC, "V3AuthNIntervalsValid 2", "V3AuthNIntervalsValid 1", "2 at least"),
        (PUBLIC, f"V3AuthVotingInterval 1800\n{DELAYS.replace('20', '450')}",
         f"V3AuthVotingInterval 1800\n{DELAYS.replace('20', '451')}", "half"),
        (PUBLIC, "ConsensusParams a=2147483647", "ConsensusParams a=2147483648", "ConsensusParams"),
        (PUBLIC, "DirPort 65535", "DirPort 65536", "port"),
    ],
)  # fmt: skip
def test_settings_just_right_and_just_wrong(
    tmp_path: Path, start: str, good: str, wrong: str, why: str
) -> None:
    network = parse_network(f"{start}{good}\n")
    authority_config(network, network.options, tmp_path)
    network = parse_network(f"{start}{wrong}\n")
    with pytest.raises(ConfigError, match=why):
        authority_config(network, network.options, tmp_path)


def test_an_authority_knows_its_address(tmp_path: Path) -> None:
    network = parse_network(f"{AUTHORITY}DirPort 9030\nAddress [2001:db8::1]\n")
    with pytest.raises(ConfigError, match="Address"):
        authority_config(network, network.options, tmp_path)
    network = parse_network(f"{AUTHORITY}DirPort 9030\nAddress 1.2.3.4\nAddress [2001:db8::1]\n")
    config = authority_config(network, network.options, tmp_path)
    assert (config.ip, config.or_port) == ("1.2.3.4", 9001)
