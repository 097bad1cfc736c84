"""Links over real sockets: both roles of the handshake, circuits, sharing, expiry."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import numpy as np
import pytest

from pelure.errors import LinkError
from pelure.tor.cell.commands import CIRC_ID_HIGH_BIT, CellCommand
from pelure.tor.cell.framing import Cell, Run
from pelure.tor.cell.messages import Create2, Destroy, PaddingNegotiate
from pelure.tor.directory.relay import Relay
from pelure.tor.net import links
from pelure.tor.net.handshake import WrongIdentity
from pelure.tor.net.link import Link
from pelure.tor.net.links import LinkManager
from unit.tor.circuit.relay_chain import cells_of
from unit.tor.relay.support import until

from .support import make_identity, relay_at


class Recorder:
    """A circuit handler that keeps what it is given."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Cell | Run] = asyncio.Queue()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.writables = 0

    def handle(self, item: Cell | Run) -> None:
        self.items.put_nowait(item)

    def link_closed(self, reason: str) -> None:
        self.lost.set_result(reason)

    def writable(self) -> None:
        self.writables += 1


class Pair:
    """A client's and a relay's manager, and the relay's side of what came."""

    def __init__(self) -> None:
        self.identity = make_identity()
        self.accepted: asyncio.Queue[tuple[Link, Cell]] = asyncio.Queue()
        self.server = LinkManager(
            self.identity, on_create=lambda link, cell: self.accepted.put_nowait((link, cell))
        )
        self.client = LinkManager()
        self.relay = Relay("none", bytes(20), None, None, ())

    async def __aenter__(self) -> Pair:
        self.relay = relay_at(self.identity, await self.server.listen("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.server.close()

    async def circuit(self) -> tuple[Link, int, Recorder, Link, Recorder]:
        """A circuit id in use on both sides: client's link, id, handler, relay's link, handler."""
        mine, theirs = Recorder(), Recorder()
        link = await self.client.get(self.relay)
        circ_id = link.attach(mine)
        link.send(Create2(2, b"x" * 84).cell(circ_id))
        far, cell = await self.accepted.get()
        assert cell.circ_id == circ_id
        far.adopt(circ_id, theirs)
        return link, circ_id, mine, far, theirs


def run_of(circ_id: int, count: int) -> Run:
    cells = np.zeros((count, 514), np.uint8)
    cells[:, 4] = CellCommand.RELAY
    cells[:, 5] = np.arange(count) % 256
    run = Run(circ_id, cells)
    run.set_circ_id(circ_id)
    return run


async def test_client_and_relay_agree_on_identity_and_version() -> None:
    async with Pair() as pair:
        link = await pair.client.get(pair.relay)
        assert link.version == 5
        assert link.peer.rsa_id == pair.identity.rsa_public.identity
        assert link.peer.ed_id == pair.identity.ed_id
        assert link.peer.canonical
        assert link.peer.clock_skew is not None and abs(link.peer.clock_skew) < 120
        circuit = await pair.circuit()
        assert circuit[3].peer.rsa_id is None  # a client stays anonymous
        assert circuit[1] & CIRC_ID_HIGH_BIT


async def test_one_link_is_shared_also_by_those_who_ask_at_once() -> None:
    async with Pair() as pair:
        links = await asyncio.gather(*(pair.client.get(pair.relay) for _ in range(5)))
        assert len(set(links)) == 1
        assert len(pair.server.links) == 1


async def test_runs_arrive_whole_and_in_order() -> None:
    async with Pair() as pair:
        link, circ_id, _, _, theirs = await pair.circuit()
        link.send(run_of(circ_id, 1000))
        got = 0
        while got < 1000:
            cells = cells_of(await theirs.items.get())
            assert (cells[:, 5] == np.arange(got, got + len(cells)) % 256).all()
            got += len(cells)


async def test_destroy_reaches_the_other_side_after_what_was_queued() -> None:
    async with Pair() as pair:
        link, circ_id, mine, far, theirs = await pair.circuit()
        far.send(run_of(circ_id, 1))
        far.destroy(circ_id, 5)
        assert len(cells_of(await mine.items.get())) == 1
        cell = await mine.items.get()
        assert isinstance(cell, Cell) and Destroy.decode(cell.body).reason == 5
        assert not theirs.lost.done()
        assert far.circuits == 0 and link.circuits == 1


async def test_losing_the_link_tells_its_circuits() -> None:
    async with Pair() as pair:
        link, _, mine, far, theirs = await pair.circuit()
        far.close("test")
        assert await theirs.lost == "test"
        await mine.lost
        assert link.closed
        with pytest.raises(LinkError):
            link.attach(Recorder())


async def test_relays_authenticate_to_each_other_and_share_the_canonical_link() -> None:
    async with Pair() as pair:
        identity = make_identity()
        opened: asyncio.Queue[Link] = asyncio.Queue()
        pair.server._on_link = opened.put_nowait
        other = LinkManager(identity)
        address = await other.listen("127.0.0.1", 0)
        link = await other.get(pair.relay)
        far = await opened.get()
        assert far.peer.rsa_id == identity.rsa_public.identity and far.peer.ed_id == identity.ed_id
        assert far.peer.canonical
        assert await pair.server.get(relay_at(identity, address)) is far
        assert link.circuits == 0
        await other.close()


async def test_another_relay_at_the_address_is_refused() -> None:
    async with Pair() as pair:
        liar = relay_at(make_identity(), pair.relay.addresses[0])
        with pytest.raises(WrongIdentity):
            await pair.client.get(liar)
        assert pair.client.links == [] and pair.client.half_open == 0


async def test_padding_negotiation_is_understood_and_garbage_in_it_ignored() -> None:
    async with Pair() as pair:
        link, _, _, far, _ = await pair.circuit()
        link.send(PaddingNegotiate(PaddingNegotiate.START, 1500, 9500).cell())
        link.send(Cell(0, CellCommand.PADDING_NEGOTIATE, b"\xff" * 509))
        link.send(Cell(0, CellCommand.PADDING, b""))
        link.send(Cell(0, CellCommand.VPADDING, b"x" * 1000))
        second = link.attach(Recorder())
        link.send(Create2(2, b"").cell(second))
        await pair.accepted.get()
        assert far.padding == PaddingNegotiate(PaddingNegotiate.START, 1500, 9500)
        assert not far.closed


async def test_a_relay_negotiates_no_padding_with_a_client() -> None:
    async with Pair() as pair:
        link, _, mine, far, _ = await pair.circuit()
        far.send(PaddingNegotiate(PaddingNegotiate.STOP).cell())
        assert "padding" in await mine.lost
        assert link.closed and link.padding is None


async def test_a_circuit_id_of_the_other_half_ends_the_link() -> None:
    async with Pair() as pair:
        link, _, mine, _, _ = await pair.circuit()
        link.send(Create2(2, b"").cell(5))
        await mine.lost


async def test_a_renewed_identity_serves_the_links_to_come() -> None:
    async with Pair() as pair:
        older = await pair.client.get(pair.relay)
        renewed = make_identity()
        pair.server.set_identity(renewed)
        newer = await pair.client.get(relay_at(renewed, pair.relay.addresses[0]))
        assert not older.closed and newer.peer.ed_id == renewed.ed_id


async def test_link_protocol_3_carries_circuits_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pelure.tor.net.handshake.VERSIONS", (3,))
    async with Pair() as pair:
        link, circ_id, mine, far, theirs = await pair.circuit()
        assert link.version == far.version == 3
        assert 0 < circ_id < 0x10000
        for sender, receiver in ((link, theirs), (far, mine)):
            sender.send(run_of(circ_id, 300))
            got = 0
            while got < 300:
                cells = cells_of(await receiver.items.get())
                assert (cells[:, 5] == np.arange(got, got + len(cells)) % 256).all()
                got += len(cells)
        far.destroy(circ_id, 3)
        cell = await mine.items.get()
        assert isinstance(cell, Cell) and Destroy.decode(cell.body).reason == 3


async def test_relays_share_a_link_of_protocol_3_without_sharing_circuit_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pelure.tor.net.handshake.VERSIONS", (3,))
    async with Pair() as pair:
        opened: asyncio.Queue[Link] = asyncio.Queue()
        pair.server._on_link = opened.put_nowait
        other = LinkManager(make_identity(), on_create=lambda link, cell: None)
        near, far = await other.get(pair.relay), await opened.get()
        assert far.peer.rsa_id is not None
        ids = {near.attach(Recorder()) & 0x8000, far.attach(Recorder()) & 0x8000}
        assert ids == {0, 0x8000}
        await other.close()


async def test_nobody_at_the_address() -> None:
    async with Pair() as pair:
        address = pair.relay.addresses[0]
        await pair.server.close()
        with pytest.raises(LinkError, match="can't be reached"):
            await pair.client.get(relay_at(pair.identity, address))


async def test_a_link_without_circuits_expires() -> None:
    async with Pair() as pair:
        link, circ_id, _, _, _ = await pair.circuit()
        pair.client._idle_seconds = 0.0
        pair.client._sweep()
        assert not link.closed
        link.detach(circ_id)
        pair.client._loop.call_later(0.01, pair.client._sweep)
        while not link.closed:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_the_addresses_of_a_relay_are_tried_in_order() -> None:
    async with Pair() as pair:
        [address] = pair.relay.addresses
        with socket.socket() as nobody:  # has the port, and does not listen
            nobody.bind(("127.0.0.1", 0))
            relay = replace(pair.relay, addresses=(nobody.getsockname(), address))
            link = await pair.client.get(relay)
        assert link.peer.rsa_id == pair.relay.rsa_id
        assert not pair.client.half_open
    with pytest.raises(LinkError, match="no address"):
        await LinkManager().get(replace(pair.relay, addresses=()))


async def test_a_silent_relay_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "CONNECT_SECONDS", 0.05)
    client = LinkManager()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        relay = relay_at(make_identity(), silent.getsockname())
        with pytest.raises(LinkError, match="does not answer"):
            await client.get(relay)
    assert not client.half_open and not client.links
    await client.close()


async def test_who_gives_up_waiting_for_a_link_takes_it_from_nobody() -> None:
    async with Pair() as pair:
        first, second = (asyncio.ensure_future(pair.client.get(pair.relay)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert not (await second).closed
        assert first.cancelled() and pair.client.links == [await second]


async def test_a_link_serves_only_who_asks_for_its_ed25519_identity_or_for_none() -> None:
    async with Pair() as pair:
        link = await pair.client.get(pair.relay)
        assert pair.client.find(pair.relay) is link
        assert pair.client.find(replace(pair.relay, ed_id=None)) is link
        assert pair.client.find(replace(pair.relay, ed_id=bytes(32))) is None
        link.close("a test")
        await until(lambda: not pair.client.links)
        assert pair.client.find(pair.relay) is None


async def test_each_link_is_told_when_it_opens_and_when_it_is_lost() -> None:
    async with Pair() as pair:
        told: list[tuple[str, Link]] = []
        pair.server._on_link = lambda link: told.append(("opened", link))
        pair.server._on_lost = lambda link: told.append(("lost", link))
        _, writer = await asyncio.open_connection(*pair.relay.addresses[0])
        await pair.client.get(pair.relay)
        await until(lambda: pair.server.links and pair.server.half_open)
        [link] = pair.server.links
        writer.close()  # in its handshake: nobody has heard of it
        await until(lambda: not pair.server.half_open)
        await pair.client.close()
        await until(lambda: not pair.server.links)
        assert told == [("opened", link), ("lost", link)]


async def test_a_connection_that_does_not_finish_its_handshake_expires() -> None:
    async with Pair() as pair:
        _, writer = await asyncio.open_connection(*pair.relay.addresses[0])
        await until(lambda: pair.server.half_open)
        pair.server._sweep()
        await asyncio.sleep(0)
        assert pair.server.half_open == 1, "it has time"
        pair.server._handshake_seconds = -1.0
        pair.server._sweep()
        await until(lambda: not pair.server.half_open)
        writer.close()


async def test_links_in_use_do_not_give_way_to_more_than_there_may_be() -> None:
    async with Pair() as pair:
        link = await pair.client.get(pair.relay)
        pair.server._max_links = 1
        other = LinkManager()
        with pytest.raises(LinkError):
            await other.get(pair.relay)
        assert not link.closed and len(pair.server.links) == 1 and not pair.server.half_open
        pair.server._max_links = 2
        await other.get(pair.relay)
        await other.close()


async def test_no_link_is_opened_after_the_end() -> None:
    async with Pair() as pair:
        link = await pair.client.get(pair.relay)
        await pair.client.close()
        await pair.client.close()
        assert link.closed and not pair.client.links
        with pytest.raises(LinkError):
            await pair.client.get(pair.relay)
        address = pair.relay.addresses[0]
        await pair.server.close()
        with pytest.raises(LinkError):
            await LinkManager().get(relay_at(pair.identity, address))


async def test_a_circuit_whose_handler_fails_is_destroyed_and_no_other() -> None:
    async with Pair() as pair:
        link, circ_id, mine, far, theirs = await pair.circuit()
        second = Recorder()
        other_id = link.attach(second)
        link.send(Create2(2, b"").cell(other_id))
        await pair.accepted.get()
        survivor = Recorder()
        far.adopt(other_id, survivor)

        def fail(item: Cell | Run) -> None:
            raise ZeroDivisionError

        theirs.handle = fail  # type: ignore[method-assign]
        link.send(run_of(circ_id, 1))
        link.send(run_of(other_id, 1))
        cell = await mine.items.get()
        assert isinstance(cell, Cell) and cell.command == CellCommand.DESTROY
        assert len(cells_of(await survivor.items.get())) == 1
        assert await theirs.lost


async def test_a_congested_circuit_hears_when_it_may_go_on() -> None:
    async with Pair() as pair:
        link, circ_id, mine, _, theirs = await pair.circuit()
        assert link.send(run_of(circ_id, 100))
        assert not link.send(run_of(circ_id, 2000))
        got = 0
        while got < 2100:
            got += len(await theirs.items.get())  # type: ignore[arg-type]
        assert mine.writables == 1
        assert link.queued(circ_id) == 0
