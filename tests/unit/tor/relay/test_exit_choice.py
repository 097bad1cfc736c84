"""Which of a name's addresses an exit connects to (tor-spec 6.2, flags of BEGIN), and what it refuses."""

from __future__ import annotations

import errno
import ipaddress
from unittest import mock

import pytest

from pelure.errors import StreamError
from pelure.tor.cell.commands import EndReason
from pelure.tor.cell.relay_messages import Begin
from pelure.tor.directory.exit_policy import ExitPolicy
from pelure.tor.relay.exit import Exits, ExitStream, _Refused
from pelure.tor.relay.resolver import Resolver

V4, OTHER_V4, PRIVATE, V6 = "93.184.215.14", "93.184.215.15", "192.168.0.1", "2606:4700::1"
OKAY, NOT_4, PREFER_6 = Begin.IPV6_OKAY, Begin.IPV4_NOT_OKAY, Begin.IPV6_PREFERRED


def exits(*, ipv6: bool = True, policy: str = "accept *:*") -> Exits:
    rules = ["reject private:*", *policy.split(", ")]
    return Exits(
        ExitPolicy.parse(rules),
        Resolver(),
        ipv6=ipv6,
        is_reentry=lambda ip, port: port == 9001,
        is_stranger=lambda rsa_id: False,
        max_connections=1,
    )


def choose(
    made: Exits, found: list[str], flags: int = 0, *, host: str = "name.example", port: int = 80
) -> str:
    return str(made._choose([ipaddress.ip_address(one) for one in found], Begin(host, port, flags)))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0, V4),
        (OKAY, V4),
        (OKAY | PREFER_6, V6),
        (OKAY | NOT_4, V6),
        (PREFER_6, V4),  # preferred, but not allowed
    ],
)
def test_the_family_that_is_wanted(flags: int, expected: str) -> None:
    for found in ([V4, V6], [V6, V4]):
        assert choose(exits(), found, flags) == expected


@pytest.mark.parametrize(
    ("found", "flags", "ipv6"),
    [
        ([V6], 0, True),
        ([V4], NOT_4, True),
        ([V4], NOT_4 | OKAY, True),
        ([V6], OKAY, False),
        ([V4, V6], NOT_4, True),
    ],
)
def test_no_address_of_a_family_that_may_be_used(found: list[str], flags: int, ipv6: bool) -> None:
    with pytest.raises(StreamError) as refused:
        choose(exits(ipv6=ipv6), found, flags)
    assert refused.value.reason == EndReason.RESOLVEFAILED


def test_an_address_that_is_asked_for_needs_no_flag() -> None:
    assert choose(exits(), [V6], host=V6) == V6
    with pytest.raises(StreamError):
        choose(exits(ipv6=False), [V6], host=V6)


def test_the_policy_holds_for_the_address_and_not_for_the_name() -> None:
    """Or a name that is made to point at the exit's own network would get in."""
    assert choose(exits(), [PRIVATE, V4]) == V4
    with pytest.raises(_Refused) as refused:
        choose(exits(), [PRIVATE, "127.0.0.1"])
    assert str(refused.value.address) == PRIVATE
    picky = exits(policy=f"reject {V4}:*, accept *:80, reject *:*")
    assert choose(picky, [V4, OTHER_V4]) == OTHER_V4
    with pytest.raises(_Refused):
        choose(picky, [OTHER_V4], port=443)


def test_a_relay_is_no_destination_whatever_else_the_name_has() -> None:
    with pytest.raises(StreamError) as refused:
        choose(exits(), [V4, OTHER_V4], port=9001)
    assert refused.value.reason == EndReason.CONNECTREFUSED


def test_what_makes_an_exit() -> None:
    assert exits().enabled and not exits(policy="reject *:*").enabled
    only_6 = "accept *6:443, reject *:*"
    assert exits(policy=only_6).enabled and not exits(policy=only_6, ipv6=False).enabled


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), EndReason.CONNECTREFUSED),
        (OSError(errno.ENETUNREACH, ""), EndReason.NOROUTE),
        (OSError(errno.EHOSTUNREACH, ""), EndReason.NOROUTE),
        (OSError(errno.ETIMEDOUT, ""), EndReason.TIMEOUT),
        (OSError(errno.ECONNRESET, ""), EndReason.CONNRESET),
        (OSError(errno.EMFILE, ""), EndReason.RESOURCELIMIT),
        (OSError(errno.EPERM, ""), EndReason.MISC),
        (TimeoutError(), EndReason.TIMEOUT),
        (StreamError("", EndReason.RESOLVEFAILED), EndReason.RESOLVEFAILED),
        (ZeroDivisionError(), EndReason.INTERNAL),
    ],
)
async def test_why_a_destination_can_not_be_had(error: Exception, reason: EndReason) -> None:
    made = exits()
    endpoint, circuit = mock.Mock(), mock.Mock(closed=False, streams={})
    stream = ExitStream(made, circuit, endpoint)
    made.connections.add(stream)
    with mock.patch.object(made.resolver, "resolve", side_effect=error):
        await made._connect(stream, Begin("name.example", 80))
    endpoint.end.assert_called_once_with(reason, b"")
    assert not made.connections


async def test_what_the_policy_refuses_is_named() -> None:
    made = exits()
    endpoint, circuit = mock.Mock(), mock.Mock(closed=False, streams={})
    stream = ExitStream(made, circuit, endpoint)
    await made._connect(stream, Begin("10.1.2.3", 80))
    reason, extra = endpoint.end.call_args.args
    assert reason == EndReason.EXITPOLICY
    assert (extra[:4], int.from_bytes(extra[4:])) == (bytes([10, 1, 2, 3]), 3600)
