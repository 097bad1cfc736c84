"""A relay's settings, read from torrc."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelure.errors import ConfigError
from pelure.tor.directory.network import parse_network, torrc_options
from pelure.tor.net.memory import default_limit
from pelure.tor.relay.config import LEAST_MEMORY, RelayConfig

from .support import TORRC


def test_torrc_settings() -> None:
    one, other = "$" + "A" * 40, "$" + "B" * 40
    text = f"""
        Nickname Kestrel
        Address 192.0.2.7
        ORPort 192.0.2.7:443 NoAdvertise
        ContactInfo somebody
        ExitPolicy accept *:443, reject *:*
        ExitRelay 1
        MyFamily {one},{other}
        BandwidthRate 5 MBytes
        MaxMemInQueues 512 MB
    """
    config = RelayConfig.from_torrc(parse_network(TORRC), torrc_options(text), Path("data"))
    assert (config.nickname, config.address, config.bind, config.orport) == (
        "Kestrel",
        "192.0.2.7",
        "192.0.2.7",
        443,
    )
    assert config.family == (one, other)
    assert (config.bandwidth_rate, config.memory_limit) == (5 << 20, 512 << 20)
    assert config.exit_policy.allows("8.8.8.8", 443) and not config.exit_policy.allows("8.8.8.8", 80)
    assert not config.exit_policy.allows("127.0.0.1", 443)
    assert not config.exit_policy.allows("192.0.2.7", 443), "its own address is as private"


@pytest.mark.parametrize(
    ("text", "address6", "bind6", "orport6"),
    [
        ("ORPort 443", "", "::", 443),
        ("ORPort 443\nAddress 2001:db8::7", "2001:db8::7", "::", 443),
        ("ORPort 443\nORPort [2001:db8::7]:9001", "2001:db8::7", "2001:db8::7", 9001),
        ("ORPort 443\nORPort [::]:9001\nAddress [2001:db8::7]", "2001:db8::7", "::", 9001),
    ],
)
def test_ipv6_settings_of_torrc(text: str, address6: str, bind6: str, orport6: int) -> None:
    options = torrc_options(f"Address 192.0.2.7\n{text}\nExitRelay 1")
    config = RelayConfig.from_torrc(parse_network(TORRC), options, Path("data"))
    assert (config.address, config.bind, config.orport) == ("192.0.2.7", "0.0.0.0", 443)
    assert (config.address6, config.bind6, config.orport6) == (address6, bind6, orport6)
    assert not config.exit_policy.allows("2001:db8::7" if address6 else "192.0.2.7", 80)


@pytest.mark.parametrize(
    ("text", "rate", "burst"),
    [
        ("", 1 << 30, 1 << 30),
        ("BandwidthRate 5 MBytes", 5 << 20, 1 << 30),
        ("RelayBandwidthRate 200 KBytes", 200 << 10, 200 << 10),
        ("RelayBandwidthBurst 200 KBytes", 200 << 10, 200 << 10),
        ("RelayBandwidthRate 4 MB\nRelayBandwidthBurst 9 MB\nBandwidthBurst 8 MB", 4 << 20, 8 << 20),
        ("RelayBandwidthRate 16 MBits\nRelayBandwidthBurst 32 megabits", 2 << 20, 4 << 20),
        ("RelayBandwidthRate 1.5MB\nRelayBandwidthBurst 1 gbit", 3 << 19, 1 << 27),
        ("RelayBandwidthRate 100 kilobytes\nRelayBandwidthBurst 2 m", 100 << 10, 2 << 20),
        ("RelayBandwidthRate 204800\nRelayBandwidthBurst 204800 bytes", 200 << 10, 200 << 10),
    ],
)
def test_bandwidth_limits_of_torrc(text: str, rate: int, burst: int) -> None:
    config = RelayConfig.from_torrc(parse_network(TORRC), torrc_options(text), Path("data"))
    assert (config.bandwidth_rate, config.bandwidth_burst) == (rate, burst)


def test_a_relay_is_no_exit_unless_it_says_so() -> None:
    for text in ("", "ExitRelay 0\nExitPolicy accept *:*"):
        config = RelayConfig.from_torrc(parse_network(TORRC), torrc_options(text), Path("data"))
        assert not config.exit_policy.summary().allows_some
    config = RelayConfig.from_torrc(parse_network(TORRC), torrc_options("ExitRelay 1"), Path("data"))
    assert config.exit_policy.allows("8.8.8.8", 443) and not config.exit_policy.allows("8.8.8.8", 25)


@pytest.mark.parametrize(
    "text",
    [
        "Nickname not/good",
        "Address example.com",
        "ORPort http",
        "ORPort 70000",
        "ExitPolicy permit *:80",
        "ORPort [::]:9001",
        "ORPort [2001:db8::xyz]:9001",
        "BandwidthRate fast",
        "BandwidthRate 5 parsecs",
        "BandwidthRate -5 MBytes",
        "BandwidthRate 10² MBytes",
        "ORPort 900²",
        "RelayBandwidthRate 10 KBytes",
        "RelayBandwidthRate 2 MBytes\nRelayBandwidthBurst 1 MByte",
        "DirCache maybe",
    ],
)
def test_settings_that_make_no_sense_are_told(text: str) -> None:
    with pytest.raises(ConfigError):
        RelayConfig.from_torrc(parse_network(TORRC), torrc_options(text), Path("data"))


def read(text: str, *, public: bool = False) -> RelayConfig:
    network = parse_network(TORRC.removeprefix("TestingTorNetwork 1\n") if public else TORRC)
    return RelayConfig.from_torrc(network, torrc_options(text), Path("data"))


def test_what_a_relay_does_unless_it_is_told() -> None:
    config = read("Address 192.0.2.7", public=True)
    assert (config.nickname, config.bind, config.orport) == ("Unnamed", "0.0.0.0", 9001)
    assert (config.contact, config.family, config.data_directory) == ("", (), Path("data"))
    assert config.directory_cache and config.publish and not config.ipv6_exit
    assert not config.allow_private_addresses and not config.assume_reachable
    config = read("")
    assert config.address == "127.0.0.1", "of a testing network, as in C tor"
    assert config.allow_private_addresses and config.assume_reachable


def test_switches_of_torrc() -> None:
    config = read(
        """
        Nickname First
        Nickname Second
        ORPort auto
        DataDirectory elsewhere
        DirCache 0
        IPv6Exit 1
        PublishServerDescriptor 0
        ExtendAllowPrivateAddresses 0
        AssumeReachable 0
        """
    )
    assert (config.nickname, config.orport, config.data_directory) == ("Second", 0, Path("elsewhere"))
    assert not config.directory_cache and config.ipv6_exit and not config.publish
    assert not config.allow_private_addresses and not config.assume_reachable
    assert read("AssumeReachable auto").assume_reachable
    assert read("DirCache auto").directory_cache and not read("IPv6Exit auto").ipv6_exit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("", default_limit()),
        ("MaxMemInQueues 0", default_limit()),
        ("MaxMemInQueues 1 MB", LEAST_MEMORY),
        ("MaxMemInQueues 64 MB", LEAST_MEMORY),
        ("MaxMemInQueues 1 GB", 1 << 30),
    ],
)
def test_memory_limits_of_torrc(text: str, limit: int) -> None:
    assert read(text).memory_limit == limit


def test_a_relay_needs_an_address() -> None:
    assert read("ORPort 192.0.2.7:443", public=True).address == "192.0.2.7"
    for text in ("ORPort 443", "ORPort 0.0.0.0:443", "ORPort 443\nAddress [2001:db8::7]"):
        with pytest.raises(ConfigError, match="needs the IPv4 address"):
            read(text, public=True)


def test_an_exit_policy_goes_on_with_the_usual_one_unless_it_ends() -> None:
    policy = read("ExitRelay 1\nExitPolicy accept *:25\nExitPolicy reject *:80 , reject *:81").exit_policy
    allowed = [port for port in (25, 80, 81, 119, 443, 12345) if policy.allows("8.8.8.8", port)]
    assert allowed == [25, 443, 12345]
    policy = read("ExitPolicy accept *:443, reject *:*").exit_policy
    assert [port for port in (25, 80, 443) if policy.allows("8.8.8.8", port)] == [443]


def test_an_exit_lets_nobody_into_its_own_network_unless_it_says_so() -> None:
    text = "Address 192.0.2.7\nAddress 2001:db8::7\nExitRelay 1\nExitPolicy accept *:*"
    own = ("127.0.0.1", "10.0.0.1", "192.0.2.7", "2001:db8::7")
    assert not any(read(text).exit_policy.allows(one, 80) for one in own)
    policy = read(f"{text}\nExitPolicyRejectPrivate 0").exit_policy
    assert all(policy.allows(one, 80) for one in own)
