"""Networks from torrc text, relays and their link specifiers, the joined directory."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ConfigError, DirectoryError, ProtocolError
from pelure.tor.cell.linkspec import LinkSpecifier
from pelure.tor.directory.consensus import parse_consensus
from pelure.tor.directory.microdescriptor import parse_microdescriptor
from pelure.tor.directory.netdir import NetDir, check_required_protocols
from pelure.tor.directory.network import PUBLIC, parse_network
from pelure.tor.directory.protocols import Protocols
from pelure.tor.directory.relay import Relay
from unit.tor.directory.support import NOW, FakeNetwork

AUTHORITY = (
    "DirAuthority auth0 orport=5100 no-v2 v3ident=D190BF3B00E311A9AEB6D62B51980E9B2109BAD1 "
    "ipv6=[2001:db8::1]:443 127.0.0.1:7100 27B2 66A2 2CF6 81C0 BBAB 6405 EE5D 758C 55E7 1A0E"
)


def test_authorities_as_c_tor_writes_them() -> None:
    lines = [
        "# a network",
        "TestingTorNetwork 1",
        "",
        f"{AUTHORITY} # the first",
        f"AlternateDirAuthority auth1 orport=5101 \\\n  v3ident={'0B' * 20} 127.0.0.1:7101 {'E4' * 20}",
        f"DirAuthority bridges orport=5109 bridge 127.0.0.1:7109 {'C7' * 20}",
        f"FallbackDir 10.0.0.1:80 orport=443 id={'AB' * 20} ipv6=[2001:db8::9]:443",
        'ContactInfo "me"',
        "EnforceDistinctSubnets 1",
    ]
    network = parse_network("\n".join(lines))
    first = network.authorities[0]
    assert (first.nickname, first.ip, first.dirport, first.orport) == ("auth0", "127.0.0.1", 7100, 5100)
    assert first.rsa_id.hex().upper() == "27B266A22CF681C0BBAB6405EE5D758C55E71A0E"
    assert first.ipv6 == ("2001:db8::1", 443)
    assert len(network.authorities) == 3 and len(network.voters) == 2
    assert network.fallbacks[0].relay().addresses == (("10.0.0.1", 443), ("2001:db8::9", 443))
    assert network.testing and network.distinct_subnets
    assert network.options["contactinfo"] == ["me"]
    assert first.relay().ntor_key is None


def test_testing_networks_do_without_distinct_subnets() -> None:
    assert not parse_network("TestingTorNetwork 1\n" + AUTHORITY).distinct_subnets
    assert parse_network(AUTHORITY).distinct_subnets


@pytest.mark.parametrize(
    "text",
    [
        "",
        "TestingTorNetwork 1",
        "DirAuthority",
        "DirAuthority a v3ident=00 127.0.0.1:80 " + "AA" * 20,
        AUTHORITY.replace("127.0.0.1:7100", "localhost:7100"),
        AUTHORITY.replace("127.0.0.1:7100", "127.0.0.1:70000"),
        AUTHORITY.replace(" 1A0E", ""),
        AUTHORITY.replace("1A0E", "ZZZZ"),
        AUTHORITY + "\nFallbackDir 10.0.0.1 orport=1",
        AUTHORITY + "\nFallbackDir",
    ],
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_network(text)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=200))
def test_random_text(text: str) -> None:
    for document in (text, "DirAuthority " + text, AUTHORITY + "\nFallbackDir " + text):
        try:
            parse_network(document)
        except ConfigError:
            pass


def test_the_public_network() -> None:
    assert len(PUBLIC.voters) == 9
    assert len(PUBLIC.fallbacks) == 40
    assert not PUBLIC.testing


class TestRelay:
    relay = Relay("r", b"\1" * 20, b"\2" * 32, None, (("10.0.0.1", 9001), ("2001:db8::1", 443)))

    def test_link_specifiers_there_and_back(self) -> None:
        specifiers = self.relay.link_specifiers()
        assert [one.type for one in specifiers] == [0, 2, 3, 1]
        again = Relay.from_link_specifiers(specifiers, b"\3" * 32)
        assert again == self.relay and again.addresses == self.relay.addresses
        assert again.ntor_key == b"\3" * 32

    def test_incomplete_specifiers(self) -> None:
        for specifiers in ([], [LinkSpecifier.rsa(b"\1" * 20)], [LinkSpecifier.address("10.0.0.1", 1)]):
            with pytest.raises(ProtocolError):
                Relay.from_link_specifiers(specifiers, None)

    def test_equality_is_by_identity(self) -> None:
        other = Relay("other", b"\1" * 20, None, None, ())
        assert self.relay == other and hash(self.relay) == hash(other)
        assert self.relay != Relay("r", b"\1" * 20, b"\7" * 32, None, ())
        assert self.relay != Relay("r", b"\2" * 20, b"\2" * 32, None, ())

    def test_subnets(self) -> None:
        assert self.relay.subnets == {b"\x0a\x00", b"\x20\x01\x0d\xb8"}


class TestNetDir:
    network = FakeNetwork(relays=5)
    consensus = parse_consensus(network.consensus())
    microdescriptors: ClassVar = {
        one.digest: one for one in map(parse_microdescriptor, network.microdescriptors)
    }

    def test_all_known(self) -> None:
        netdir = NetDir(self.consensus, self.microdescriptors, self.network.network)
        assert len(netdir.relays) == 5 and not netdir.missing and netdir.have_enough
        assert netdir.usable(NOW + 1) and not netdir.usable(NOW + 9999)
        assert netdir.usable(NOW + 9999, tolerance=10000)
        assert len(netdir.hsdirs) == 5
        relay = netdir.relays[0]
        assert netdir.by_rsa[relay.rsa_id] is relay
        assert netdir.shared_rand_current is None and netdir.param("cc_alg", 0) == 2

    def test_some_missing(self) -> None:
        few = dict(list(self.microdescriptors.items())[:2])
        netdir = NetDir(self.consensus, few, self.network.network)
        assert len(netdir.missing) == 3 and not netdir.have_enough
        assert NetDir(self.consensus, {}, self.network.network).fraction_known == 0

    def test_required_protocols(self) -> None:
        assert not check_required_protocols(self.consensus)
        with pytest.raises(DirectoryError, match="too old"):
            check_required_protocols(self.consensus, Protocols.parse("Link=3"))
