"""The directory client against directories in memory: bootstrap, cache, renewal, and what may be wrong."""

from __future__ import annotations

import asyncio
import hashlib
import stat
import time
from pathlib import Path

import pytest

from pelure.errors import DirectoryError, LinkError
from pelure.tor.client import dirclient, dirsources
from pelure.tor.client.dirclient import DirectoryClient
from pelure.tor.client.dirfetch import http_date, server_time
from pelure.tor.client.schedule import microdescriptor_batches, next_refresh, retry_pause
from pelure.tor.directory.consensus import parse_consensus
from pelure.tor.directory.diff import base_digest, make_diff
from pelure.tor.directory.router_descriptor import parse_router_descriptor
from pelure.tor.directory.router_descriptor_build import build_router_descriptor
from pelure.tor.directory.tokenizer import decode_base64
from pelure.tor.net.dir_http import DirResponse
from pelure.tor.net.statefile import StateFolder
from unit.tor.directory.support import FakeNetwork, descriptor_keys, facts
from unit.tor.net.support import FullDisk


class Directory:
    """What every directory of the network answers; ``broken`` names those that can't be reached."""

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network
        self.consensus = network.consensus()
        self.base: bytes | None = None
        self.broken: set[str] = set()
        self.liars: set[str] = set()
        self.stale: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.diffs = 0
        self.date = time.time()
        self.microdescriptors = {hashlib.sha256(text).digest(): text for text in network.microdescriptors}

    def answer(self, name: str, path: str, headers: dict[str, str]) -> DirResponse:
        self.requests.append(path)
        status, body = self._body(name, path, headers)
        return DirResponse(status, {"date": http_date(self.date)}, body)

    def _body(self, name: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        if path.startswith("/tor/status-vote/current/consensus-microdesc"):
            return self._consensus(name, headers)
        if path.startswith("/tor/keys/fp-sk/"):
            return 200, b"".join(one.text for one in self.network.certificates)
        wanted = [decode_base64(word, 32) for word in path.removeprefix("/tor/micro/d/").split("-")]
        found = [self.microdescriptors[digest] for digest in wanted if digest in self.microdescriptors]
        return (200, b"".join(found)) if found else (404, b"")

    def _consensus(self, name: str, headers: dict[str, str]) -> tuple[int, bytes]:
        if name in self.stale:
            return 200, self.stale[name]
        if name in self.liars:
            return 200, self.consensus.replace(b"Bandwidth=", b"Bandwidth=9")
        valid_after = parse_consensus(self.consensus).valid_after
        if headers.get("If-Modified-Since") == http_date(valid_after):
            return 304, b""
        asked = headers.get("X-Or-Diff-From-Consensus", "").lower()
        if self.base is not None and asked == base_digest(self.base).hex():
            self.diffs += 1
            return 200, make_diff(self.base, self.consensus)
        return 200, self.consensus


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Directory:
    directory = Directory(FakeNetwork(now=float(int(time.time()) - 30)))

    class Source:
        def __init__(self, links: object, relay: object, params: object) -> None:
            self.relay = relay

        async def open(self) -> None:
            await asyncio.sleep(0)
            if self.relay.nickname in directory.broken:
                raise LinkError("not today")

        def close(self) -> None:
            pass

        async def get(self, path: str, *, limit: int, headers: dict[str, str] | None = None) -> DirResponse:
            return directory.answer(self.relay.nickname, path, headers or {})

    monkeypatch.setattr(dirsources, "DirectorySource", Source)
    monkeypatch.setattr(dirclient, "retry_pause", lambda failures, **_: 0.0)
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


def client(directory: Directory, folder: StateFolder) -> DirectoryClient:
    return DirectoryClient(directory.network.network, None, folder)  # type: ignore[arg-type]


async def test_bootstrap_from_nothing(directory: Directory, folder: StateFolder) -> None:
    one = client(directory, folder)
    seen: list[object] = []
    steps: list[float] = []
    one.on_change.append(seen.append)
    netdir = await one.bootstrap(lambda fraction, what: steps.append(fraction))
    assert len(netdir.relays) == 6 and netdir.have_enough
    assert one.netdir is netdir and seen == [netdir]
    assert steps == sorted(steps) and steps[-1] == 1.0
    assert one.guards is not None and len(one.guards.primary) == 3
    for path in folder.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


async def test_the_next_start_needs_no_directory(directory: Directory, folder: StateFolder) -> None:
    first = client(directory, folder)
    await first.bootstrap()
    directory.requests.clear()
    second = client(directory, folder)
    netdir = await second.bootstrap()
    assert len(netdir.relays) == 6 and directory.requests == []
    assert first.guards is not None and second.guards is not None
    assert first.guards.primary == second.guards.primary


async def test_damaged_cache_files_are_fetched_again(directory: Directory, folder: StateFolder) -> None:
    await client(directory, folder).bootstrap()
    for name in ("cached-microdesc-consensus", "cached-microdescs", "cached-certs", "guards.json"):
        (folder.path / name).write_bytes(b"r garbage \xff\n")
        assert len((await client(directory, folder).bootstrap()).relays) == 6


async def test_renewal_by_a_diff(directory: Directory, folder: StateFolder) -> None:
    one = client(directory, folder)
    await one.bootstrap()
    directory.base = directory.consensus
    directory.consensus = directory.network.consensus(valid_after=directory.network.now + 60)
    assert one.netdir is not None
    one.netdir.consensus.fresh_until = time.time() - 1
    directory.requests.clear()
    netdir = await one.update_now()
    assert netdir is not None and netdir.valid_after == directory.network.now + 60
    assert directory.diffs == 1
    assert directory.requests == ["/tor/status-vote/current/consensus-microdesc"]
    again = client(directory, folder)
    assert (await again.bootstrap()).valid_after == netdir.valid_after


async def test_an_incomplete_new_directory_does_not_replace_the_old_one(
    directory: Directory, folder: StateFolder
) -> None:
    one = client(directory, folder)
    before = await one.bootstrap()
    assert one.guards is not None
    guards = set(one.guards.primary)
    for index in range(5):
        others = build_router_descriptor(facts(index, directory.network.now), descriptor_keys(100 + index))
        directory.network.descriptors[index] = parse_router_descriptor(others)
    directory.network.descriptors.sort(key=lambda descriptor: descriptor.rsa_id)
    directory.consensus = directory.network.consensus(valid_after=directory.network.now + 60)
    before.consensus.fresh_until = time.time() - 1
    with pytest.raises(DirectoryError, match="none of the microdescriptors"):
        await one.update_now()
    assert one.netdir is before and set(one.guards.primary) == guards
    directory.microdescriptors = {
        hashlib.sha256(text).digest(): text for text in directory.network.microdescriptors
    }
    after = await one.update_now()
    assert after is not None and after is not before and len(after.relays) == 6


async def test_nothing_newer_is_no_failure(directory: Directory, folder: StateFolder) -> None:
    one = client(directory, folder)
    before = await one.bootstrap()
    before.consensus.fresh_until = time.time() - 1
    assert await one.update_now() is before


async def test_dead_directories_are_passed_over(directory: Directory, folder: StateFolder) -> None:
    directory.broken = {"auth0", "auth2"}
    assert (await client(directory, folder).bootstrap()).have_enough


async def test_liars_are_passed_over(directory: Directory, folder: StateFolder) -> None:
    directory.liars = {"auth1", "auth2"}
    one = client(directory, folder)
    netdir = await one.bootstrap()
    assert netdir.consensus.text == directory.consensus


async def test_the_network_comes_up_later(
    directory: Directory, folder: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    directory.broken = {"auth0", "auth1", "auth2"}
    messages: list[str] = []

    def progress(fraction: float, what: str) -> None:
        messages.append(what)
        if sum("not today" in message for message in messages) == 3:
            directory.broken = set()

    assert (await client(directory, folder).bootstrap(progress)).have_enough
    assert len([one for one in caplog.messages if "not today" in one]) == 1, "the same is not said again"


async def test_some_microdescriptors_missing(directory: Directory, folder: StateFolder) -> None:
    slowest = [one.nickname for one in directory.network.descriptors].index("relay0")
    directory.microdescriptors.pop(hashlib.sha256(directory.network.microdescriptors[slowest]).digest())
    netdir = await client(directory, folder).bootstrap()
    assert len(netdir.relays) == 5 and len(netdir.missing) == 1


async def test_a_wrong_clock_is_told(directory: Directory, folder: StateFolder) -> None:
    directory.network.now -= 5 * 86400
    directory.consensus = directory.network.consensus()
    directory.date = time.time() - 5 * 86400
    with pytest.raises(DirectoryError, match=r"clock is probably fast.*-120\.0 hours"):
        await client(directory, folder).bootstrap()


async def test_one_directory_with_old_documents_is_passed_over(
    directory: Directory, folder: StateFolder
) -> None:
    old = FakeNetwork(now=directory.network.now - 5 * 86400).consensus()
    directory.stale["auth0"] = directory.stale["auth1"] = old
    assert (await client(directory, folder).bootstrap()).valid_after == directory.network.now


async def test_a_network_that_needs_newer_software(directory: Directory, folder: StateFolder) -> None:
    original = directory.network.vote

    def vote(index: int, valid_after: float | None = None) -> object:
        return original(index, valid_after, protocol_lists={"required-client-protocols": "Relay=63"})

    directory.network.vote = vote  # type: ignore[method-assign, assignment]
    directory.consensus = directory.network.consensus()
    with pytest.raises(DirectoryError, match="too old"):
        await client(directory, folder).bootstrap()


async def test_an_expired_cache_serves_while_the_network_is_down(
    directory: Directory, folder: StateFolder
) -> None:
    directory.network.now -= 3600
    directory.consensus = directory.network.consensus()
    await client(directory, folder).bootstrap()
    directory.broken = {"auth0", "auth1", "auth2", *(f"relay{index}" for index in range(6))}
    assert (await client(directory, folder).bootstrap()).have_enough


async def test_the_refresh_loop_gets_each_new_consensus(directory: Directory, folder: StateFolder) -> None:
    one = client(directory, folder)
    netdir = await one.bootstrap()
    fetched = asyncio.Event()
    one.on_change.append(lambda _: fetched.set())
    netdir.consensus.fresh_until = netdir.consensus.valid_until = time.time() - 1
    directory.consensus = directory.network.consensus(valid_after=directory.network.now + 60)
    task = asyncio.create_task(one.refresh_loop())
    await asyncio.wait_for(fetched.wait(), 60)
    task.cancel()
    assert one.netdir is not None and one.netdir.valid_after == directory.network.now + 60


async def test_who_needs_a_directory_does_not_wait_for_the_next_attempt(
    directory: Directory, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = client(directory, folder)
    netdir = await one.bootstrap()
    failed, fetched = asyncio.Event(), asyncio.Event()
    failures: list[int] = []

    def pause(count: int, **_: object) -> float:
        failures.append(count)
        failed.set()
        return 3600.0

    monkeypatch.setattr(dirclient, "retry_pause", pause)
    netdir.consensus.fresh_until = netdir.consensus.valid_until = time.time() - 1
    directory.broken = {"auth0", "auth1", "auth2", *(f"relay{index}" for index in range(6))}
    task = asyncio.create_task(one.refresh_loop())
    await asyncio.wait_for(failed.wait(), 60)
    directory.broken = set()
    directory.consensus = directory.network.consensus(valid_after=directory.network.now + 60)
    one.on_change.append(lambda _: fetched.set())
    one.hurry()  # just after an attempt
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert failures == [1] and not fetched.is_set()
    monkeypatch.setattr(dirclient, "HURRY_SECONDS", 0.0)
    one.hurry()
    await asyncio.wait_for(fetched.wait(), 60)
    task.cancel()


async def test_a_full_disk_stops_neither_bootstrap_nor_renewal(
    directory: Directory,
    folder: StateFolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    full_disk = FullDisk(monkeypatch)
    full_disk.is_full = True
    one = client(directory, folder)
    assert (await one.bootstrap()).have_enough
    directory.consensus = directory.network.consensus(valid_after=directory.network.now + 60)
    assert one.netdir is not None
    one.netdir.consensus.fresh_until = time.time() - 1
    await one.update_now()
    assert one.netdir.valid_after == directory.network.now + 60
    told = [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()]
    assert sorted(line.split()[2] for line in told) == [
        "cached-certs",
        "cached-microdesc-consensus",
        "cached-microdescs",
        "guards.json",
    ]


def test_the_schedule() -> None:
    consensus = parse_consensus(FakeNetwork(relays=0).consensus())
    for share in (b"\0" * 16, b"\xff" * 16):
        due = next_refresh(consensus, testing=False, rng=lambda n, share=share: share)
        assert consensus.fresh_until + 45 <= due <= consensus.valid_until
        due = next_refresh(consensus, testing=True, rng=lambda n, share=share: share)
        assert consensus.fresh_until <= due <= consensus.fresh_until + 20
        assert retry_pause(1, testing=False, rng=lambda n, share=share: share) < 2
        assert 400 < retry_pause(50, testing=False, rng=lambda n, share=share: share) < 800
        assert retry_pause(50, testing=True, rng=lambda n, share=share: share) < 4


def test_batches() -> None:
    assert microdescriptor_batches([]) == []
    missing = [bytes([index // 256, index % 256]) for index in range(1000)]
    batches = microdescriptor_batches(missing)
    assert sorted(digest for batch in batches for digest in batch) == missing
    assert max(map(len, batches)) == 92
    assert [len(batch) for batch in microdescriptor_batches(missing[:60])] == [20, 20, 20]
    assert [len(batch) for batch in microdescriptor_batches(missing[:5])] == [5]


def test_dates() -> None:
    assert server_time(DirResponse(200, {"date": http_date(1e9)}, b"")) == 1e9
    assert server_time(DirResponse(200, {"date": "yesterday"}, b"")) is None
    assert server_time(DirResponse(200, {}, b"")) is None
