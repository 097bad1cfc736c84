"""What an exit asks the system's resolver, and what it does not tell strangers."""

from __future__ import annotations

import ipaddress
import socket
from unittest import mock

import pytest

from pelure.errors import StreamError
from pelure.tor.cell.commands import EndReason
from pelure.tor.cell.relay_messages import Answer
from pelure.tor.directory.exit_policy import ExitPolicy
from pelure.tor.relay.exit import Exits
from pelure.tor.relay.resolver import Resolver, system_look_up

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]


@pytest.fixture
def exits() -> Exits:
    policy = ExitPolicy.parse(["accept *:*"])
    return Exits(
        policy,
        Resolver(),
        ipv6=True,
        is_reentry=lambda ip, port: False,
        is_stranger=lambda rsa_id: False,
        max_connections=10,
    )


@pytest.mark.parametrize(
    ("name", "asked"),
    [("example.com", "example.com."), ("intranet", "intranet."), ("localhost", "localhost")],
)
def test_names_are_absolute(name: str, asked: str) -> None:
    with mock.patch.object(socket, "getaddrinfo", return_value=FOUND) as system:
        assert system_look_up(name) == [ipaddress.ip_address("192.0.2.1")]
    assert system.call_args.args[0] == asked


@pytest.mark.parametrize("name", ["", ".", "a b", "name%lo", "a/b", "na\\me", "semi;colon", "é"])
async def test_only_host_names_reach_the_resolver(name: str) -> None:
    def look_up(name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        raise AssertionError

    with pytest.raises(StreamError) as refused:
        await Resolver(look_up).resolve(name)
    assert refused.value.reason == EndReason.RESOLVEFAILED


@pytest.mark.parametrize("address", ["1.2.3.4", "2606:4700::1"])
async def test_reverse_names_are_answered_with_host_names(exits: Exits, address: str) -> None:
    name = ipaddress.ip_address(address).reverse_pointer
    with mock.patch.object(socket, "gethostbyaddr", return_value=("host.example", [], [])) as system:
        [answer] = await exits._look_up(name)
    assert (answer.type, answer.value) == (Answer.HOSTNAME, b"host.example")
    assert system.call_args.args == (address,)


@pytest.mark.parametrize("name", ["1.1.168.192.in-addr.arpa", "1.0.0.127.in-addr.arpa"])
async def test_names_of_private_networks_are_not_told(exits: Exits, name: str) -> None:
    with mock.patch.object(socket, "gethostbyaddr") as system, pytest.raises(StreamError):
        await exits._look_up(name)
    assert not system.called


@pytest.mark.parametrize("name", ["3.2.1.in-addr.arpa", "4.3.2.256.in-addr.arpa", "8.8.8.8.8.8.8.8.ip6.arpa"])
async def test_what_only_looks_like_a_reverse_name_is_a_name(exits: Exits, name: str) -> None:
    with mock.patch.object(exits.resolver, "_look_up", return_value=[ipaddress.ip_address("192.0.2.1")]):
        [answer] = await exits._look_up(name)
    assert answer.text == "192.0.2.1"


async def test_a_reverse_name_that_nobody_knows(exits: Exits) -> None:
    with (
        mock.patch.object(socket, "gethostbyaddr", side_effect=socket.herror),
        pytest.raises(StreamError) as unknown,
    ):
        await exits._look_up("8.8.8.8.in-addr.arpa")
    assert unknown.value.reason == EndReason.RESOLVEFAILED
