"""How streams are opened: refusals, retries on other exits, onion circuits that broke."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable
from typing import Any, cast

import pytest

from pelure.errors import CircuitError, OnionServiceError, PathError, StreamError
from pelure.tor.cell.commands import EndReason
from pelure.tor.cell.relay_messages import Answer, Begin, Connected
from pelure.tor.client import onion_circuits
from pelure.tor.client import opener as opener_module
from pelure.tor.client.onion_circuits import OnionCircuits
from pelure.tor.client.opener import MAX_EXITS, StreamOpener
from pelure.tor.crypto.address import encode_address
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.directory.exit_policy import PortPolicy
from pelure.tor.directory.relay import Relay

ONION = encode_address(Ed25519KeyPair.from_seed(bytes(32)).public)


class FakeStream:
    """A stream whose opening ends as its circuit wants it to."""

    def __init__(self, outcome: bytes | Exception, blocked: bool = False) -> None:
        self.outcome = outcome
        self.blocked = blocked
        self.sent = b""
        self.closed = False

    async def write(self, data: bytes) -> None:
        if self.blocked:
            await asyncio.Event().wait()
        self.sent += data

    async def connected(self, timeout: float | None = None) -> bytes:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def close_soon(self) -> None:
        self.closed = True


def exit_relay(number: int) -> Relay:
    """An exit; those of even number let out IPv6 to port 80."""
    policy6 = PortPolicy.parse("accept 80" if number % 2 == 0 else "reject 1-65535")
    return Relay(f"exit{number}", bytes([number]) * 20, None, None, (("127.0.0.1", 9),), exit_policy6=policy6)


class FakeCircuit:
    """A circuit to exit number ``number``."""

    def __init__(self, number: int, outcome: bytes | Exception, answers: tuple[Answer, ...] = ()) -> None:
        self.path = [exit_relay(number)]
        self.outcome = outcome
        self.answers = answers
        self.opened: list[FakeStream] = []
        self.flags: list[int] = []
        self.asked: list[str] = []
        self.closed = asyncio.Event()
        self.streams: list[object] = []
        self.blocked = False
        """Whether its streams take nothing."""

    def open(self, host: str, port: int, *, flags: int = 0) -> FakeStream:
        self.flags.append(flags)
        self.opened.append(FakeStream(self.outcome, self.blocked))
        return self.opened[-1]

    async def resolve(self, name: str, *, timeout: float) -> tuple[Answer, ...]:
        self.asked.append(name)
        return self.answers

    def close(self) -> None:
        self.closed.set()


class FakePool:
    """Gives out its circuits in turn."""

    def __init__(self, *circuits: FakeCircuit) -> None:
        self.circuits = list(circuits)
        self.excluded: list[Collection[Any]] = []

    async def exit_circuit(
        self, host: str, port: int, isolation: Hashable, *, exclude: Collection[Any] = ()
    ) -> FakeCircuit:
        self.excluded.append(list(exclude))
        if not self.circuits:
            raise PathError("no exit is left")
        return self.circuits.pop(0)


def opener(pool: FakePool, onions: object = None, *, reject_internal: bool = True) -> StreamOpener:
    return StreamOpener(cast(Any, pool), cast(Any, onions), reject_internal=reject_internal)


def refused(reason: EndReason) -> StreamError:
    return StreamError("no", reason)


PUBLIC_ADDRESS = Connected("93.184.215.14", 60).encode()


async def test_another_exit_is_tried() -> None:
    first, second = FakeCircuit(1, refused(EndReason.EXITPOLICY)), FakeCircuit(2, PUBLIC_ADDRESS)
    pool = FakePool(first, second)
    stream = await opener(pool).open("example.org", 80, "me", b"early")
    assert cast(Any, stream) is second.opened[0] and second.opened[0].sent == b"early"
    assert first.opened[0].closed
    assert pool.excluded == [[], [exit_relay(1)]]
    assert (first.flags, second.flags) == ([0], [Begin.IPV6_OKAY])


async def test_what_the_destination_says_is_final() -> None:
    pool = FakePool(FakeCircuit(1, refused(EndReason.CONNECTREFUSED)), FakeCircuit(2, PUBLIC_ADDRESS))
    with pytest.raises(StreamError) as caught:
        await opener(pool).open("example.org", 80, "me")
    assert caught.value.reason == EndReason.CONNECTREFUSED and len(pool.circuits) == 1


async def test_only_so_many_exits_are_tried() -> None:
    pool = FakePool(*(FakeCircuit(number, refused(EndReason.MISC)) for number in range(9)))
    with pytest.raises(StreamError):
        await opener(pool).open("example.org", 80, "me")
    assert len(pool.excluded) == MAX_EXITS


async def test_the_streams_failure_counts_when_no_exit_is_left() -> None:
    with pytest.raises(StreamError):
        await opener(FakePool(FakeCircuit(1, refused(EndReason.EXITPOLICY)))).open("example.org", 80, "me")
    with pytest.raises(PathError):
        await opener(FakePool()).open("example.org", 80, "me")


@pytest.mark.parametrize("host", ["127.0.0.1", "192.168.1.1", "::1", "localhost", "printer.local"])
async def test_private_addresses_are_not_asked_for(host: str) -> None:
    pool = FakePool(FakeCircuit(1, b""))
    for attempt in (opener(pool).open(host, 80, "me"), opener(pool).resolve(host, "me")):
        with pytest.raises(StreamError, match="private"):
            await attempt
    assert len(pool.circuits) == 1
    await opener(pool, reject_internal=False).open(host, 80, "me")


async def test_an_exit_that_connects_to_a_private_address_is_not_believed() -> None:
    bad, good = FakeCircuit(1, Connected("10.0.0.1", 60).encode()), FakeCircuit(2, PUBLIC_ADDRESS)
    stream = await opener(FakePool(bad, good)).open("example.org", 80, "me")
    assert cast(Any, stream) is good.opened[0] and bad.opened[0].closed


async def test_an_exit_that_answers_nonsense_is_left() -> None:
    bad, good = FakeCircuit(1, b"\1"), FakeCircuit(2, PUBLIC_ADDRESS)
    stream = await opener(FakePool(bad, good)).open("example.org", 80, "me")
    assert cast(Any, stream) is good.opened[0] and bad.opened[0].closed


async def test_look_ups() -> None:
    answers = (Answer.address("10.0.0.1", 60), Answer.address("93.184.215.14", 60))
    circuit = FakeCircuit(1, b"", answers)
    assert await opener(FakePool(circuit)).resolve("example.org", "me") == ["93.184.215.14"]
    assert await opener(FakePool()).resolve("93.184.215.14", "me") == ["93.184.215.14"]
    circuit = FakeCircuit(1, b"", (Answer(Answer.HOSTNAME, b"host.example", 60),))
    assert await opener(FakePool(circuit)).reverse("93.184.215.14", "me") == ["host.example"]
    assert circuit.asked == ["14.215.184.93.in-addr.arpa"]
    with pytest.raises(StreamError) as caught:
        error = Answer(Answer.ERROR_PERMANENT, b"", 60)
        await opener(FakePool(FakeCircuit(1, b"", (error,)))).resolve("example.org", "me")
    assert caught.value.reason == EndReason.RESOLVEFAILED
    with pytest.raises(OnionServiceError):
        await opener(FakePool()).resolve(ONION, "me")


async def test_onion_addresses_never_reach_an_exit() -> None:
    asked: list[str] = []

    async def connect(address: str, isolation: Hashable) -> Any:
        asked.append(address)
        raise OnionServiceError("no", 0xF6)

    onions = OnionCircuits(connect)
    with pytest.raises(OnionServiceError) as caught:
        await opener(FakePool(FakeCircuit(1, b"")), onions).open("www.Nonsense.onion.", 80, "me")
    assert caught.value.code == 0xF6
    assert asked == ["nonsense.onion"]
    await onions.close()


async def test_streams_share_an_onion_circuit_and_a_broken_one_is_replaced() -> None:
    made: list[FakeCircuit] = []

    async def connect(address: str, isolation: Hashable) -> FakeCircuit:
        assert address == ONION
        made.append(FakeCircuit(len(made), b""))
        return made[-1]

    onions = OnionCircuits(cast(Any, connect))
    streams = opener(FakePool(), onions)
    await asyncio.gather(*(streams.open(f"www.{ONION}", 80, "me") for _ in range(4)))
    assert len(made) == 1 and len(made[0].opened) == 4
    await streams.open(ONION, 80, "other")
    assert len(made) == 2
    assert {address: len(circuits) for address, circuits in onions.circuits().items()} == {ONION: 2}

    made[0].outcome = CircuitError("gone")
    made[0].close()
    await streams.open(ONION, 80, "me")
    assert len(made) == 3
    await onions.close()
    assert made[2].closed.is_set() and not onions.circuits()


async def test_a_port_that_accepted_just_now_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeCircuit] = []

    async def connect(address: str, isolation: Hashable) -> FakeCircuit:
        made.append(FakeCircuit(len(made), b""))
        return made[-1]

    onions = OnionCircuits(cast(Any, connect))
    streams = opener(FakePool(), onions)
    await streams.open(ONION, 80, "me")
    made[0].outcome = refused(EndReason.CONNECTREFUSED)
    await streams.open(ONION, 80, "me", b"early")
    assert made[0].opened[1].sent == b"early"
    for port in (81, 80):  # another port; and the same one after a while
        with pytest.raises(StreamError):
            await streams.open(ONION, port, "me")
        monkeypatch.setattr(opener_module, "TRUST_SECONDS", 0.0)
    await onions.close()


async def test_whoever_gives_up_a_stream_that_is_not_waited_for_leaves_none_behind() -> None:
    circuit = FakeCircuit(0, b"")

    async def connect(address: str, isolation: Hashable) -> FakeCircuit:
        return circuit

    onions = OnionCircuits(cast(Any, connect))
    streams = opener(FakePool(), onions)
    await streams.open(ONION, 80, "me")
    circuit.blocked = True
    opening = asyncio.ensure_future(streams.open(ONION, 80, "me", b"early"))
    while len(circuit.opened) < 2:  # noqa: ASYNC110 - until it has begun
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert [stream.closed for stream in circuit.opened] == [False, True]
    await onions.close()


async def test_idle_onion_circuits_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onion_circuits, "MAX_IDLE", 3)
    made: list[FakeCircuit] = []

    async def connect(address: str, isolation: Hashable) -> FakeCircuit:
        made.append(FakeCircuit(len(made), b""))
        made[-1].streams = [] if isolation else [object()]
        return made[-1]

    onions = OnionCircuits(cast(Any, connect))
    for number in range(20):
        await onions.get(ONION, number)
    open_now = [circuit for circuit in made if not circuit.closed.is_set()]
    assert made[0] in open_now  # it has a stream
    assert made[-1] in open_now and len(open_now) <= 2 * 3 + 1
    await onions.close()


async def test_a_circuit_that_breaks_under_a_stream_is_tried_again_once() -> None:
    made: list[FakeCircuit] = []

    async def connect(address: str, isolation: Hashable) -> FakeCircuit:
        made.append(FakeCircuit(len(made), CircuitError("gone")))
        return made[-1]

    onions = OnionCircuits(cast(Any, connect))
    streams = opener(FakePool(), onions)
    with pytest.raises(CircuitError):
        await streams.open(ONION, 80, "me")
    assert len(made) == 1  # nobody had used it: the service itself refuses
    made[0].close()
    made.clear()
    with pytest.raises(CircuitError):
        await streams.open(ONION, 80, "me")
    await onions.close()


async def test_waiting_for_a_service_can_be_given_up() -> None:
    cancelled = asyncio.Event()

    async def connect(address: str, isolation: Hashable) -> FakeCircuit:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    onions = OnionCircuits(cast(Any, connect))
    first, second = (asyncio.ensure_future(onions.get(ONION, "me")) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert not cancelled.is_set()  # the second still waits
    second.cancel()
    async with asyncio.timeout(30):
        await cancelled.wait()
    await asyncio.gather(second, return_exceptions=True)
    await onions.close()


async def test_a_circuit_that_comes_when_the_wait_was_given_up_does_not_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = FakeCircuit(0, b"")
    waiting: list[asyncio.Future[Any]] = []

    async def connect(address: str, isolation: Hashable) -> FakeCircuit:
        waiting[0].cancel()
        return made

    onions = OnionCircuits(cast(Any, connect))
    waiting.append(asyncio.ensure_future(onions.get(ONION, "me")))
    await asyncio.gather(*waiting, return_exceptions=True)
    assert waiting[0].cancelled() and not made.closed.is_set()
    monkeypatch.setattr(onion_circuits, "IDLE_SECONDS", -1.0)
    onions._tidy()
    assert made.closed.is_set()
    await onions.close()


async def test_a_failed_connection_is_tried_anew_by_the_next() -> None:
    attempts = 0

    async def connect(address: str, isolation: Hashable) -> FakeCircuit:
        nonlocal attempts
        attempts += 1
        raise OnionServiceError("no descriptor", 0xF0)

    onions = OnionCircuits(cast(Any, connect))
    for _ in range(2):
        with pytest.raises(OnionServiceError):
            await onions.get(ONION, "me")
    assert attempts == 2
    await onions.close()
