"""What a directory cache answers (dir-spec 4 and 6), with the documents of a made-up network."""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.tor.directory.cache import KEPT_FOR_DIFFS, MICRODESCRIPTOR_LIFETIME, DirectoryCache
from pelure.tor.directory.compression import decompress
from pelure.tor.directory.consensus import parse_consensus
from pelure.tor.directory.diff import apply_diff, base_digest, is_diff
from pelure.tor.directory.http import DirReply, DirRequest
from unit.tor.directory.support import NOW, FakeNetwork

MICRODESC = "/tor/status-vote/current/consensus-microdesc"
NS = "/tor/status-vote/current/consensus"


@pytest.fixture(scope="module")
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def cache(network: FakeNetwork) -> DirectoryCache:
    cache = DirectoryCache()
    cache.set_consensus(parse_consensus(network.consensus("ns")))
    cache.set_consensus(parse_consensus(network.consensus("microdesc")))
    cache.add_microdescriptors(b"".join(network.microdescriptors), NOW)
    cache.add_certificates(b"".join(one.text for one in network.certificates))
    cache.set_routers(network.descriptors)
    return cache


def get(cache: DirectoryCache, path: str, now: float = NOW, **headers: str) -> DirReply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return cache.answer(DirRequest("GET", path, named), now)


def test_both_flavours(cache: DirectoryCache, network: FakeNetwork) -> None:
    assert get(cache, MICRODESC).body == network.consensus("microdesc")
    assert get(cache, NS).body == get(cache, f"{NS}-ns").body == network.consensus("ns")
    assert get(cache, f"{NS}-other").status == 404
    assert get(cache, MICRODESC).expires == 60


@pytest.mark.parametrize("encoding", ["x-zstd", "deflate", "gzip"])
def test_compressed(cache: DirectoryCache, network: FakeNetwork, encoding: str) -> None:
    reply = get(cache, MICRODESC, accept_encoding=encoding)
    assert reply.encoding == encoding
    assert decompress(reply.body, encoding, 1 << 20) == network.consensus("microdesc")


def test_signed_by_most_of_those_asked_for(cache: DirectoryCache, network: FakeNetwork) -> None:
    signers = [one.identity.hex().upper() for one in network.certificates]
    stranger = "AB" * 20
    assert get(cache, f"{MICRODESC}/{'+'.join(signers)}").status == 200
    assert get(cache, f"{MICRODESC}/{signers[0][:6]}+{signers[1][:6]}+{stranger}").status == 200
    assert get(cache, f"{MICRODESC}/{signers[0]}+{stranger}").status == 404
    assert get(cache, f"{MICRODESC}/zz").status == 400


def test_not_modified_and_too_old(cache: DirectoryCache) -> None:
    since = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(NOW + 1))
    assert get(cache, MICRODESC, if_modified_since=since).status == 304
    assert get(cache, MICRODESC, if_modified_since="yesterday").status == 200
    assert get(cache, MICRODESC, NOW + 3 * 86400).status == 404


def test_diffs_lead_to_the_current_consensus(cache: DirectoryCache, network: FakeNetwork) -> None:
    base = network.consensus("microdesc")
    current = network.consensus("microdesc", NOW + 60)
    cache.set_consensus(parse_consensus(current))
    wanted = f"{'00' * 32}, {base_digest(base).hex().upper()}"
    reply = get(cache, MICRODESC, NOW + 60, x_or_diff_from_consensus=wanted)
    assert is_diff(reply.body) and len(reply.body) < len(current)
    assert apply_diff(base, reply.body) == current
    unknown = get(cache, MICRODESC, NOW + 60, x_or_diff_from_consensus="00" * 32)
    assert unknown.body == current
    assert get(cache, MICRODESC, NOW + 60, x_or_diff_from_consensus="junk").status == 400


def test_only_recent_consensuses_are_kept_for_diffs(cache: DirectoryCache, network: FakeNetwork) -> None:
    base = network.consensus("microdesc")
    for number in range(1, KEPT_FOR_DIFFS + 3):
        cache.set_consensus(parse_consensus(network.consensus("microdesc", NOW + 60 * number)))
    reply = get(cache, MICRODESC, NOW + 60, x_or_diff_from_consensus=base_digest(base).hex())
    assert not is_diff(reply.body)


def test_microdescriptors(cache: DirectoryCache, network: FakeNetwork) -> None:
    digests = [hashlib.sha256(text).digest() for text in network.microdescriptors]
    names = "-".join(base64.b64encode(digest).decode().rstrip("=") for digest in digests[:2])
    assert get(cache, f"/tor/micro/d/{names}").body == b"".join(network.microdescriptors[:2])
    absent = base64.b64encode(bytes(32)).decode().rstrip("=")
    assert get(cache, f"/tor/micro/d/{absent}").status == 404
    assert get(cache, "/tor/micro/d/short").status == 400
    assert cache.microdescriptor(digests[0]) == network.microdescriptors[0]


def test_wanted_and_forgotten_microdescriptors(network: FakeNetwork) -> None:
    cache = DirectoryCache()
    cache.set_consensus(parse_consensus(network.consensus("microdesc")))
    assert set(cache.wanted_microdescriptors()) == {
        hashlib.sha256(text).digest() for text in network.microdescriptors
    }
    cache.add_microdescriptors(b"".join(network.microdescriptors), NOW)
    assert cache.wanted_microdescriptors() == []
    stray = network.microdescriptors[0] + b"p accept 1-65535\n"
    cache.add_microdescriptors(stray, NOW)
    cache.set_consensus(parse_consensus(network.consensus("microdesc", NOW + MICRODESCRIPTOR_LIFETIME + 60)))
    assert cache.microdescriptor(hashlib.sha256(stray).digest()) is None
    assert cache.wanted_microdescriptors() == []


def test_router_descriptors(cache: DirectoryCache, network: FakeNetwork) -> None:
    one, other = network.descriptors[:2]
    assert get(cache, "/tor/server/all").body == b"".join(router.text for router in network.descriptors)
    both = f"{one.rsa_id.hex()}+{other.rsa_id.hex()}"
    assert get(cache, f"/tor/server/fp/{both}").body == one.text + other.text
    assert get(cache, f"/tor/server/d/{one.digest.hex().upper()}").body == one.text
    assert get(cache, f"/tor/server/fp/{'00' * 20}").status == 404
    assert get(cache, "/tor/server/zz/00").status == 400
    cache.own_descriptor = b"router own\n"
    assert get(cache, "/tor/server/authority").body == b"router own\n"


def test_a_cache_keeps_the_router_descriptors_of_valid_consensuses(network: FakeNetwork) -> None:
    cache = DirectoryCache()
    cache.add_routers(network.descriptors)
    assert get(cache, "/tor/server/all").status == 404, "no consensus lists them"
    cache.set_consensus(parse_consensus(network.consensus("ns")))
    assert set(cache.wanted_routers()) == {router.digest for router in network.descriptors}
    cache.add_routers(network.descriptors[1:])
    assert cache.wanted_routers() == [network.descriptors[0].digest]
    cache.add_routers(network.descriptors[:1])
    one = network.descriptors[0]
    assert get(cache, f"/tor/server/d/{one.digest.hex()}").body == one.text
    assert get(cache, f"/tor/server/fp/{one.rsa_id.hex()}").body == one.text
    valid = parse_consensus(network.consensus("ns")).valid_until
    for late, status in ((0, 200), (60, 404)):
        later = parse_consensus(network.consensus("ns", valid + late))
        cache.set_consensus(replace(later, routers=later.routers[1:]))
        assert get(cache, f"/tor/server/d/{one.digest.hex()}").status == status
    assert get(cache, f"/tor/server/fp/{one.rsa_id.hex()}").status == 404
    assert cache.wanted_routers() == []


def test_an_authority_keeps_a_listed_descriptor_when_a_newer_one_comes(network: FakeNetwork) -> None:
    """Clients ask for what the consensus lists; who has not got it is marked as down by C tor."""
    cache = DirectoryCache()
    cache.set_consensus(parse_consensus(network.consensus("ns")))
    cache.set_routers(network.descriptors)
    old = network.descriptors[0]
    new = replace(old, digest=bytes(20), text=b"router new\n")
    cache.set_routers([new, *network.descriptors[1:]])
    assert get(cache, f"/tor/server/d/{old.digest.hex()}").body == old.text
    assert get(cache, f"/tor/server/fp/{old.rsa_id.hex()}").body == new.text


def test_certificates(cache: DirectoryCache, network: FakeNetwork) -> None:
    one = network.certificates[0]
    identity, signing = one.identity.hex(), one.signing_key_digest.hex()
    everything = get(cache, "/tor/keys/all").body
    assert everything.count(b"dir-key-certificate-version 3") == 3
    for path in (f"fp/{identity}", f"sk/{signing}", f"fp-sk/{identity}-{signing}"):
        assert get(cache, f"/tor/keys/{path}").body == one.text
    assert get(cache, f"/tor/keys/fp-sk/{identity}-{'00' * 20}").status == 404
    assert get(cache, "/tor/keys/fp/junk").status == 400


def test_what_is_not_there(cache: DirectoryCache) -> None:
    assert get(cache, "/").status == get(cache, "/tor/elsewhere").status == 404
    assert cache.answer(DirRequest("POST", "/tor/", {}, b"x"), NOW).status == 405
    assert get(DirectoryCache(), MICRODESC).status == 404


PREFIXES = ["/tor/micro/d/", "/tor/server/", "/tor/extra/", "/tor/keys/", f"{NS}/", f"{NS}-", ""]


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(PREFIXES), st.text(max_size=60), st.text(max_size=40))
def test_random_requests(prefix: str, rest: str, header: str) -> None:
    headers = {"x-or-diff-from-consensus": header, "accept-encoding": header, "if-modified-since": header}
    reply = _CACHE.answer(DirRequest("GET", prefix + rest, headers), NOW)
    assert reply.status in (200, 304, 400, 404)


def _small_cache() -> DirectoryCache:
    network = FakeNetwork(relays=2, authorities=1)
    cache = DirectoryCache()
    cache.set_consensus(parse_consensus(network.consensus("ns")))
    cache.set_routers(network.descriptors)
    return cache


_CACHE = _small_cache()
