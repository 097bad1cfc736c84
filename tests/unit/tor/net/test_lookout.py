"""Dead circuits are noticed: soundings, in real but short time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pelure.tor.cell.commands import DestroyReason, RelayCommand
from pelure.tor.cell.messages import Destroy
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.net import lookout
from pelure.tor.net.lookout import fleet_of
from pelure.tor.net.origin import Circuit
from unit.tor.circuit.chain_link import ChainLink, ChainLinks
from unit.tor.circuit.relay_chain import RelayChain

WAIT = 30.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "FIRST_SILENCE", 0.01)
    monkeypatch.setattr(lookout, "LONGEST_SILENCE", 0.04)
    monkeypatch.setattr(lookout, "SOON", 0.1)
    monkeypatch.setattr(lookout, "LATE", 0.4)
    monkeypatch.setattr(lookout, "SLOWNESS", 0)
    monkeypatch.setattr(lookout, "RESPITE", 0.0)
    monkeypatch.setattr(lookout, "GRACE", 0.2)
    monkeypatch.setattr(lookout, "GATHER", 0.0)


async def build(count: int = 3, links: Any = None) -> tuple[Circuit, ChainLink]:
    link = ChainLink(RelayChain(count, CircuitParams()))
    if links is None:
        links = ChainLinks(link)
    links.link = link
    return await Circuit.build(links, link.chain.path(), params=CircuitParams()), link


async def answers_to(circuit: Circuit) -> None:
    """Let some soundings be answered."""
    before = circuit.lookout._answers
    await until(lambda: circuit.lookout._answers > before)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.01)


async def wait_closed(circuit: Circuit) -> None:
    await asyncio.wait_for(circuit.closed.wait(), WAIT)


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
async def test_a_circuit_that_answers_stays(hops: int) -> None:
    circuit, _ = await build(hops)
    stream = await circuit.begin("192.0.2.1", 80)
    for _ in range(3):
        await answers_to(circuit)
    assert not circuit.closed.is_set()
    await stream.write(b"still here")
    assert await stream.read() == b"still here"
    circuit.close()


async def test_a_silent_circuit_is_given_up() -> None:
    circuit, link = await build(3)
    await circuit.begin("192.0.2.1", 80)
    link.deaf = {1}
    await wait_closed(circuit)
    assert circuit.error is not None and circuit.error.reason == DestroyReason.TIMEOUT
    assert not link.closed


async def test_a_silent_link_is_closed() -> None:
    circuit, link = await build(3)
    await circuit.begin("192.0.2.1", 80)
    link.silent = True
    await wait_closed(circuit)
    assert link.closed


async def test_a_circuit_that_nothing_is_expected_on_is_left_alone() -> None:
    circuit, link = await build(3)
    link.silent = True
    await asyncio.sleep(0.8)  # several of the silences after which a circuit that expects something is asked
    assert not circuit.closed.is_set() and circuit.lookout._asked == {}
    circuit.on_message = lambda message: None
    circuit.lookout.expect()
    await wait_closed(circuit)


async def test_after_a_jump_of_the_clock_all_are_asked_for_a_sign_of_life() -> None:
    links: Any = ChainLinks(None)  # type: ignore[arg-type]
    dead, dead_link = await build(3, links)
    well, _ = await build(3, links)
    dead_link.silent = True
    fleet_of(links).sound_all()
    await wait_closed(dead)
    assert not well.closed.is_set() and well.lookout._far_answered


@pytest.mark.parametrize("reason", [DestroyReason.CHANNEL_CLOSED, DestroyReason.DESTROYED])
async def test_a_lost_circuit_lets_others_be_sounded(reason: DestroyReason) -> None:
    """Those that share a relay behind the first one with it are, others are not."""
    links: Any = ChainLinks(None)  # type: ignore[arg-type]
    lost, _ = await build(3, links)
    same, same_link = await build(3, links)  # the chains are made alike
    well, _ = await build(3, links)
    other, _ = await build(1, links)
    same_link.deaf = {1}
    lost.handle(Destroy(reason).cell(lost.core.circ_id))
    assert lost.closed.is_set()
    await wait_closed(same)
    assert not well.closed.is_set() and well.lookout._far_answered
    assert not other.closed.is_set() and not other.lookout._near_answered


async def test_with_reason_the_verdict_comes_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "LATE", 1000.0)
    circuit, link = await build(3)
    link.deaf = {1}
    circuit.lookout.sound(reason=False)
    await until(lambda: circuit.lookout._near_answered)
    circuit.lookout.sound(reason=True)
    await wait_closed(circuit)


async def test_waiting_for_an_answer_counts() -> None:
    circuit, link = await build(3)
    link.deaf = {1}
    with pytest.raises(Exception, match="does not answer"):
        await circuit.expect(RelayCommand.RENDEZVOUS2, timeout=WAIT)
