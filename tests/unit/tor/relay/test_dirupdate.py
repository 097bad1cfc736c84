"""A relay's directory cache is filled from authorities that may be busy, behind, or not the network's."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from unittest import mock

import pytest
import pytest_asyncio

from pelure.tor.directory.cache import CONSENSUS_PATH, DirectoryCache
from pelure.tor.directory.consensus import Consensus, parse_consensus
from pelure.tor.directory.http import parse_request
from pelure.tor.directory.key_certificate import build_key_certificate
from pelure.tor.directory.network import Network
from pelure.tor.relay import dirupdate
from pelure.tor.relay.dirupdate import RETRY_SECONDS, TESTING_RETRY_SECONDS, CacheUpdater
from unit.tor.directory.support import FakeNetwork, authority_keys

NS, MICRODESC, KEYS = CONSENSUS_PATH, f"{CONSENSUS_PATH}-microdesc", "/tor/keys/all"
MICRODESCRIPTORS = "/tor/micro/d/"
ROUTERS = "/tor/server/d/"
HOUR = 3600.0


@pytest.fixture(scope="module")
def documents() -> FakeNetwork:
    return FakeNetwork(relays=3, now=float(int(time.time())))


class Authorities:
    """The network's authorities behind one DirPort; ``busy`` says how often a kind of request is refused."""

    def __init__(self, documents: FakeNetwork) -> None:
        self.documents = documents
        self.cache = DirectoryCache()
        self.cache.add_microdescriptors(b"".join(documents.microdescriptors), documents.now)
        self.cache.add_certificates(b"".join(self.certificates_of(documents.now - HOUR)))
        self.cache.set_routers(documents.descriptors)
        self.publish(documents.now + HOUR)  # fresh however long a test takes
        self.network = documents.network
        self.busy = Counter[str]()
        self.asked = Counter[str]()

    def certificates_of(self, published: float) -> list[bytes]:
        """Certificates for the authorities' present keys, good for a day."""
        return [
            build_key_certificate(*authority_keys(index), published, published + 24 * HOUR)
            for index in range(self.documents.authorities)
        ]

    def publish(self, valid_after: float) -> None:
        for flavour in ("ns", "microdesc"):
            self.cache.set_consensus(parse_consensus(self.documents.consensus(flavour, valid_after)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parsed = parse_request(await reader.readuntil(b"\r\n\r\n"))
        assert parsed is not None
        [request, _] = parsed
        several = (one for one in (MICRODESCRIPTORS, ROUTERS) if request.path.startswith(one))
        kind = next(several, request.path)
        self.asked[kind] += 1
        if self.busy[kind]:
            self.busy[kind] -= 1
            writer.write(b"HTTP/1.0 503 Busy\r\n\r\n")
        else:
            writer.write(self.cache.answer(request, self.documents.now).encode(self.documents.now, ""))
        writer.close()


class Updating:
    """A relay's cache and what fills it; ``heard`` are the consensuses that the relay was told of."""

    def __init__(self, network: Network) -> None:
        self.cache = DirectoryCache()
        self.heard: list[Consensus] = []
        self.updater = CacheUpdater(network, self.cache, self.heard.append)

    def has_all(self) -> bool:
        return bool(
            self.cache.consensus("ns")
            and self.cache.consensus("microdesc")
            and not self.cache.wanted_microdescriptors()
            and not self.cache.wanted_routers()
        )


@pytest_asyncio.fixture
async def authorities(documents: FakeNetwork) -> AsyncIterator[Authorities]:
    authorities = Authorities(documents)
    async with await asyncio.start_server(authorities.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        voters = (replace(one, ip="127.0.0.1", dirport=port) for one in authorities.network.authorities)
        authorities.network = replace(authorities.network, authorities=tuple(voters))
        yield authorities


@pytest.fixture
def updating(authorities: Authorities) -> Updating:
    return Updating(authorities.network)


async def test_everything_is_fetched_once(authorities: Authorities, updating: Updating) -> None:
    assert await updating.updater.update() and updating.has_all()
    assert updating.heard == [updating.cache.consensus("microdesc")]
    assert await updating.updater.update()
    assert authorities.asked == {NS: 1, MICRODESC: 1, KEYS: 1, MICRODESCRIPTORS: 1, ROUTERS: 1}


@pytest.mark.parametrize("kind", [NS, MICRODESC, KEYS, MICRODESCRIPTORS, ROUTERS])
async def test_what_an_authority_does_not_have_is_asked_of_another(
    authorities: Authorities, updating: Updating, kind: str
) -> None:
    authorities.busy[kind] = 2  # of three
    assert await updating.updater.update() and updating.has_all()
    assert authorities.asked[kind] == 3 and len(updating.heard) == 1


async def test_what_nobody_has_is_told_as_missing(authorities: Authorities, updating: Updating) -> None:
    authorities.busy[MICRODESCRIPTORS] = 3
    assert not await updating.updater.update()
    assert len(updating.heard) == 1, "the consensus serves while microdescriptors are to come"
    assert await updating.updater.update() and updating.has_all()
    assert authorities.asked[MICRODESC] == 1


async def test_microdescriptors_that_an_authority_lacks_are_missing(
    authorities: Authorities, updating: Updating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dirupdate, "DESCRIPTORS_PER_REQUEST", 2)
    authorities.cache = DirectoryCache()
    authorities.cache.add_certificates(b"".join(authorities.certificates_of(authorities.documents.now)))
    authorities.publish(authorities.documents.now + HOUR)
    authorities.cache.set_routers(authorities.documents.descriptors)
    [*most, last] = authorities.documents.microdescriptors
    authorities.cache.add_microdescriptors(b"".join(most), authorities.documents.now)
    assert not await updating.updater.update()
    assert len(updating.cache.wanted_microdescriptors()) == 1
    authorities.cache.add_microdescriptors(last, authorities.documents.now)
    assert await updating.updater.update() and updating.has_all()


async def test_a_consensus_of_another_network_is_refused(authorities: Authorities) -> None:
    strangers = [
        replace(one, v3ident=bytes([n] * 20)) for n, one in enumerate(authorities.network.authorities)
    ]
    updating = Updating(replace(authorities.network, authorities=tuple(strangers)))
    assert not await updating.updater.update()
    assert updating.heard == [] and updating.cache.consensus("microdesc") is None
    assert not updating.cache.certificates


async def test_expired_certificates_are_fetched_anew_and_do_not_serve(
    authorities: Authorities, updating: Updating, documents: FakeNetwork
) -> None:
    expired = b"".join(authorities.certificates_of(documents.now - 25 * HOUR))
    authorities.cache.certificates.clear()
    for cache in (authorities.cache, updating.cache):
        cache.add_certificates(expired)
    assert not await updating.updater.update() and not updating.heard
    authorities.cache.add_certificates(b"".join(authorities.certificates_of(documents.now - HOUR)))
    assert await updating.updater.update() and updating.has_all()
    updating.cache.add_certificates(expired)
    assert all(one.expires > documents.now for one in updating.cache.certificates.values())


async def test_an_older_consensus_is_not_taken(
    authorities: Authorities, updating: Updating, documents: FakeNetwork
) -> None:
    authorities.publish(documents.now - HOUR)
    assert not await updating.updater.update(), "it is no longer fresh"
    assert [one.valid_after for one in updating.heard] == [documents.now - HOUR]
    authorities.publish(documents.now - 2 * HOUR)
    assert not await updating.updater.update() and len(updating.heard) == 1
    authorities.publish(documents.now + HOUR)
    assert await updating.updater.update()
    assert [one.valid_after for one in updating.heard] == [documents.now - HOUR, documents.now + HOUR]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("testing", "retry"), [(True, TESTING_RETRY_SECONDS), (False, RETRY_SECONDS)])
async def test_the_next_consensus_is_fetched_once_it_is_there(
    authorities: Authorities,
    documents: FakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    testing: bool,
    retry: float,
    late: bool,
) -> None:
    updating = Updating(replace(authorities.network, testing=testing))
    fresh = parse_consensus(documents.consensus(valid_after=documents.now + HOUR))
    updating.cache.set_consensus(fresh)
    now = fresh.valid_after - HOUR
    monkeypatch.setattr(dirupdate, "time", mock.Mock(time=lambda: now))
    monkeypatch.setattr("random.uniform", lambda least, most: (least, most)[late])
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise asyncio.CancelledError

    done = mock.AsyncMock(side_effect=[False, True, False])
    with (
        mock.patch.object(updating.updater, "update", done),
        mock.patch("asyncio.sleep", sleep),
        pytest.raises(asyncio.CancelledError),
    ):
        await updating.updater.run()
    assert waits[0] == waits[2] == retry
    lifetime = fresh.fresh_until - fresh.valid_after
    assert waits[1] == fresh.fresh_until - now + late * lifetime / 20
