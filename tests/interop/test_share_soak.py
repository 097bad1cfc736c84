"""Private links under load: hundreds of them, hostile readers, processes and relays that die, big shares."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest

from interop.commands import Command
from interop.ctor import CTorNetwork
from interop.sharing import Person, digests, make_folder
from interop.waiting import until
from pelure.errors import AccessDenied
from pelure.share.control import request as request_node
from pelure.share.fetch import Fetch
from pelure.share.link import PrivateLink
from pelure.share.reader import CIRCUITS, RemoteDrive, open_remote
from pelure.share.record import publisher_folder
from pelure.tor.api import connect

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

LINKS = 230
BIG = 40_000_000
MINT_SECONDS = 10.0
AT_ONCE = 4
HOSTILE_LINKS = 42
HOSTILE_CONNECTIONS = 1000
FIGURES = 5
SETTLE_SECONDS = 0.5
LEAST_PART = 0.5
MEMORY = 1_000_000_000
RESUMED = 250_000_000
KILLS = 20
KILL_SECONDS = 1.0
PATIENCE = 300.0
PIECE = 1 << 24
GIB = 1 << 30
MANY = 10_000


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("share-soak-network")
    with Command("net", "up", "--dir", str(folder / "net"), log=folder / "log") as up:
        yield Path(up.wait("up")["network"])


@pytest.fixture(scope="module")
def c_tor() -> Iterator[CTorNetwork]:
    with CTorNetwork(relays=10) as network:
        yield network


@pytest.fixture
def publisher(network: Path, tmp_path: Path) -> Person:
    return Person(network, tmp_path / "publisher")


@pytest.fixture
def reader(network: Path, tmp_path: Path) -> Person:
    return Person(network, tmp_path / "reader")


@asynccontextmanager
async def reading(network: Path, state: Path, link: str, circuits: int = 1) -> AsyncIterator[RemoteDrive]:
    """Somebody who has ``link``, with a Tor client of their own, connected to the share."""
    private = PrivateLink.decode(link)
    async with (
        connect(network, state=state) as tor,
        open_remote(private, tor, state / "cache", circuits=circuits) as remote,
    ):
        await remote.connected()
        yield remote


async def download_in_progress(remote: RemoteDrive) -> asyncio.Task[None]:
    """Begin to fetch the whole drive; returns once a good part has come."""
    await remote.drive.update(wait=True)
    before = remote.bytes_read
    task = asyncio.ensure_future(remote.drive.download())
    await until(lambda: remote.bytes_read > before + 500_000, "the first blocks", PATIENCE)
    return task


async def ask(publisher: Person, network: Path, operation: str, **arguments: Any) -> dict[str, Any]:
    """What a command asks of the running share, without the time that Python takes to start."""
    folder = publisher_folder(publisher.home / "state", str(network))
    return [event async for event in request_node(folder, operation, **arguments)][-1]


def say(request: pytest.FixtureRequest, text: str) -> None:
    """A figure for whoever runs the soak tests."""
    with request.getfixturevalue("capsys").disabled():
        print(f"\n{request.node.name}: {text}")


async def test_230_links_one_revoked(
    publisher: Person, network: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One of 230 links is revoked in mid-transfer: it is cut and stays out; every other one goes on."""
    folder = make_folder(tmp_path / "folder", big=BIG, small=5)
    command = publisher.start("share", str(folder), "--links", str(LINKS))
    with command:
        await asyncio.to_thread(command.wait, "bootstrapped")
        began = time.monotonic()
        links: dict[str, str] = {}
        while len(links) < LINKS:
            event = await asyncio.to_thread(command.wait, "link")
            links[event["name"]] = event["link"]
        minted = time.monotonic() - began
        await asyncio.to_thread(command.wait, "published")
        assert len(set(links.values())) == LINKS
        assert minted < MINT_SECONDS
        say(request, f"imported and minted in {minted:.2f} s, published {time.monotonic() - began:.1f} s")
        template = tmp_path / "template"
        async with connect(network, state=template):
            pass

        def state(name: str) -> Path:
            return Path(shutil.copytree(template, tmp_path / "readers" / name))

        async with (
            reading(network, state("link-117"), links.pop("link-117")) as revoked,
            reading(network, state("a-neighbour"), links["link-118"]) as neighbour,
            reading(network, state("far-away"), links["link-1"]) as far,
        ):
            transfer = await download_in_progress(revoked)
            others = [await download_in_progress(neighbour), await download_in_progress(far)]
            began = time.monotonic()
            revoking = asyncio.create_task(
                ask(publisher, network, "link-revoke", name="link-117", share=None)
            )
            await until(lambda: not revoked.open_circuits, "the transfer to be cut", PATIENCE)
            cut = time.monotonic() - began
            at = revoked.bytes_read
            assert (await revoking)["cut"]
            done = time.monotonic() - began
            # This reader has the descriptor that the revoked link could read, and goes on trying.
            await until(lambda: isinstance(revoked.last_error, AccessDenied), "the refusal", PATIENCE)
            assert not transfer.done()
            transfer.cancel()
            await asyncio.gather(*others)
            assert not revoked.open_circuits and revoked.bytes_read == at
        say(request, f"cut {cut:.3f} s after the request, new introduction points after {done:.1f} s")
        began = time.monotonic()
        gate = asyncio.Semaphore(AT_ONCE)

        async def listing(name: str, link: str) -> None:
            async with gate:
                folder = await asyncio.to_thread(state, name)
                async with reading(network, folder, link) as remote:
                    await remote.drive.update(wait=True)
                    assert await remote.drive.get("/run.sh") == b"#!/bin/sh\n"
                await asyncio.to_thread(shutil.rmtree, folder)

        await asyncio.gather(*(listing(name, link) for name, link in links.items()))
        say(request, f"the other {len(links)} links read the drive in {time.monotonic() - began:.0f} s")


async def rate(network: Path, state: Path, link: str, whole: str) -> float:
    """Bytes a second at which a new reader with the usual number of circuits gets the drive.

    ``whole`` is the SHA-256 of its large file.
    """
    async with reading(network, state, link, CIRCUITS) as remote:
        began = time.monotonic()
        await Fetch(remote.drive, state / "got").run()
        seconds = time.monotonic() - began
    assert digests(state / "got")["big.bin"] == whole
    return BIG / seconds


class HostileReaders:
    """``hostile.py`` as it runs; ``complete`` is set once a thousand connections were let in."""

    def __init__(self, process: Process) -> None:
        self.complete = asyncio.Event()
        self._process = process

    async def listen(self) -> None:
        """Hear when all are inside."""
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"complete\n"
        self.complete.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """They do nothing meanwhile; all that they have open stays so."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def hostile_readers(network: Path, state: Path, links: list[str]) -> AsyncIterator[HostileReaders]:
    """Run ``hostile.py``."""
    state.mkdir()
    (state / "links").write_text("\n".join(links))
    program, count = str(Path(__file__).with_name("hostile.py")), str(HOSTILE_CONNECTIONS)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, program, str(network), str(state), str(state / "links"), count),
        stdout=PIPE,
        start_new_session=True,  # which it gives a low priority
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begun\n"
    readers = HostileReaders(process)
    listening = asyncio.ensure_future(readers.listen())
    try:
        yield readers
        assert process.returncode is None
    finally:
        listening.cancel()
        process.kill()
        await process.wait()


class Rates:
    """Bytes a second of somebody with another link, alone and beside the hostile ones.

    What the machine has to do for other programs changes from minute to minute. So each figure beside them
    makes a pair with one while they are paused.
    """

    def __init__(self, measure: Callable[[], Awaitable[float]]) -> None:
        self.alone: list[float] = []
        self._measure = measure

    async def take_alone(self) -> None:
        self.alone += [await self._measure() for _ in range(FIGURES)]

    async def take_pairs(self, readers: HostileReaders) -> list[tuple[float, float]]:
        """Rates while they are paused, and while they are not."""
        pairs = []
        for _ in range(FIGURES):
            with readers.paused():
                await asyncio.sleep(SETTLE_SECONDS)  # what they had asked for goes out
                paused = await self._measure()
            pairs.append((paused, await self._measure()))
        return pairs

    def part(self, pairs: list[tuple[float, float]]) -> float:
        """What is left of the rate alone."""
        kept = median(beside / paused for paused, beside in pairs)
        return kept * median(paused for paused, _ in pairs) / median(self.alone)

    def told(self, pairs: list[tuple[float, float]]) -> str:
        alone, paused, beside = (median(one) / 1e6 for one in (self.alone, *zip(*pairs, strict=True)))
        return f"{self.part(pairs):.2f} (MB/s: {alone:.1f} alone, {paused:.1f} paused, {beside:.1f} beside)"


async def test_hostile_readers_slow_nobody_below_half(
    publisher: Person, network: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Holders of links keep a thousand connections, slow or idle, and try everything with more of them.

    How fast is somebody with another link, who comes anew each time, while they come, and beside all of them?
    """
    folder = make_folder(tmp_path / "folder", big=BIG, small=5)
    whole = digests(folder)["big.bin"]
    command, links = await asyncio.to_thread(
        publisher.share, folder, "--to", "honest", "--links", str(HOSTILE_LINKS)
    )
    honest = links.pop("honest")["link"]
    process = psutil.Process(command.process.pid)
    memory: list[int] = []

    async def measure() -> float:
        state = tmp_path / f"reader{len(memory)}"
        found = await rate(network, state, honest, whole)
        memory.append(process.memory_info().rss)
        await asyncio.to_thread(shutil.rmtree, state)
        return found

    rates = Rates(measure)
    with command:
        await rates.take_alone()
        hostile = [link["link"] for link in links.values()]
        async with hostile_readers(network, tmp_path / "hostile", hostile) as readers:
            coming = await rates.take_pairs(readers)
            await readers.complete.wait()
            beside = await rates.take_pairs(readers)
            inside = len((await ask(publisher, network, "status"))["visitors"])
        await rates.take_alone()
        assert command.process.poll() is None
    say(request, f"while they come: {rates.told(coming)}")
    say(request, f"beside {inside} streams: {rates.told(beside)}")
    say(request, f"the publisher's memory at most {max(memory) / 1e6:.0f} MB")
    assert inside >= HOSTILE_CONNECTIONS / 4  # some of those who take nothing were hung up on
    assert max(memory) < MEMORY
    assert rates.part(coming) >= LEAST_PART
    assert rates.part(beside) >= LEAST_PART


async def test_killed_twenty_times_in_one_transfer(
    publisher: Person, reader: Person, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Publisher or reader are killed at random moments; the transfer ends whole."""
    seed = int(time.time())
    chance = random.Random(seed)
    say(request, f"seed {seed}")
    folder = make_folder(tmp_path / "folder", big=RESUMED, small=20)
    command, links = await asyncio.to_thread(publisher.share, folder, "--to", "alice")
    link, got = links["alice"]["link"], tmp_path / "got"

    def fetching() -> Command:
        return reader.start("get", link, str(got))

    get = fetching()
    for kills in range(KILLS):
        before = get.wait("progress")
        while before.get("what") != "get":
            before = get.wait("progress")
        await asyncio.sleep(chance.uniform(0.0, KILL_SECONDS))
        assert get.process.poll() is None, f"complete after {kills} kills only"
        if chance.random() < 0.5:
            get.process.kill()
            get.process.wait()
            get = fetching()
        else:
            command.process.kill()
            command.process.wait()
            command, _ = await asyncio.to_thread(publisher.share, folder, "--to", "alice")
    with command, get:
        await asyncio.to_thread(get.wait, "complete", PATIENCE)
        assert digests(got) == digests(folder)
    say(request, f"{KILLS} kills, {RESUMED / 1e6:.0f} MB whole")


def huge(folder: Path) -> Path:
    """One file of 1 GiB."""
    source = random.Random(5)
    folder.mkdir()
    with (folder / "huge.bin").open("wb") as file:
        for _ in range(GIB // PIECE):
            file.write(source.randbytes(PIECE))
    return folder


def many(folder: Path) -> Path:
    """Files of a few kB, in a hundred folders."""
    source = random.Random(6)
    for number in range(MANY):
        path = folder / f"{number % 100:02}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(source.randrange(8000)))
    return folder


@pytest.mark.parametrize("make", [huge, many])
@pytest.mark.parametrize("relays", ["pelure", pytest.param("C tor", marks=pytest.mark.ctor)])
def test_large_shares(
    relays: str, make: Callable[[Path], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A file of 1 GiB and a folder of 10,000 files, over relays of either kind."""
    path = request.getfixturevalue("network" if relays == "pelure" else "c_tor")
    network = path.network_file if isinstance(path, CTorNetwork) else path
    publisher, reader = (Person(network, tmp_path / name) for name in ("publisher", "reader"))
    folder = make(tmp_path / "folder")
    command, links = publisher.share(folder, "--to", "alice")
    with command, reader.start("get", links["alice"]["link"], str(tmp_path / "got")) as get:
        done = get.wait("complete", 1800)
        assert digests(tmp_path / "got") == digests(folder)
    say(request, f"{done['files']} files, {done['bytes'] / 1e6:.0f} MB in {done['seconds']:.1f} s")


@pytest.mark.ctor
async def test_guards_and_introduction_points_die(
    c_tor: CTorNetwork, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """In one transfer the reader's guard, the publisher's guard, an introduction point: it ends whole."""
    folder = huge(tmp_path / "folder")
    publisher = Person(c_tor.network_file, tmp_path / "publisher")
    command, links = await asyncio.to_thread(publisher.share, folder, "--to", "alice")
    with command:
        private = PrivateLink.decode(links["alice"]["link"])
        state = tmp_path / "reader"
        async with (
            connect(c_tor.network_file, state=state) as tor,
            open_remote(private, tor, state / "cache", circuits=CIRCUITS) as remote,
        ):
            await remote.connected()
            fetch = asyncio.create_task(Fetch(remote.drive, tmp_path / "got").run())

            async def some_more() -> None:
                at = remote.bytes_read
                await until(
                    lambda: fetch.done() or remote.bytes_read > at + PIECE, "more of the file", PATIENCE
                )
                assert not fetch.done()

            async def kill(what: str, nicknames: list[str]) -> None:
                await some_more()
                alive = [one for one in [*c_tor.relays, *c_tor.authorities] if one.node.running]
                victim = next(one for one in alive if one.nickname in nicknames)
                c_tor.kill(victim)
                began = time.monotonic()
                await some_more()
                say(request, f"{what} {victim.nickname} killed, on after {time.monotonic() - began:.1f} s")

            own = [circuit for circuit in tor.status().circuits if circuit.streams]
            await kill("the reader's guard", [circuit.path[0] for circuit in own])
            circuits = (await asyncio.to_thread(publisher.events, "netstat"))[-1]["circuits"]
            carrying = [circuit["path"][0] for circuit in circuits if circuit["purpose"] == "rendezvous"]
            await kill("the publisher's guard", carrying)
            introductions = [circuit["path"][-1] for circuit in circuits if circuit["purpose"] == "intro"]
            await kill("an introduction point", introductions)
            async with asyncio.timeout(PATIENCE):
                await fetch
    assert digests(tmp_path / "got") == digests(folder)
