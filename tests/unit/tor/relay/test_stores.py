"""The parts of a relay that need no circuit: keys, descriptors, settings, policies, measurements, queues."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from pelure.errors import ConfigError, CryptoError, DirectoryError, StreamError
from pelure.tor.cell.certs import CertType, Ed25519Cert
from pelure.tor.cell.commands import DestroyReason, EndReason
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.directory.network import parse_network, torrc_options
from pelure.tor.directory.router_descriptor import parse_router_descriptor
from pelure.tor.net.queues import CellQueues
from pelure.tor.net.throttle import Bucket
from pelure.tor.onion.outer import encode_outer
from pelure.tor.relay import memory, onionskins
from pelure.tor.relay import resolver as resolver_module
from pelure.tor.relay.bandwidth import LEAST_OBSERVED, BandwidthMeter
from pelure.tor.relay.circuit import RelayCircuit
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.hsdir import DescriptorStore
from pelure.tor.relay.keys import DAY, RelayKeys
from pelure.tor.relay.onionskins import OnionskinQueue
from pelure.tor.relay.publish import PROTOCOLS, build_documents
from pelure.tor.relay.resolver import Resolver

from .support import TORRC, key_files, until

NOW = 1_800_000_000.0


# ---- keys ----


def write_keys(folder: Path, index: int = 0) -> Path:
    (folder / "keys").mkdir()
    for name, content in key_files(index).items():
        (folder / "keys" / name).write_bytes(content)
        os.utime(folder / "keys" / name, (NOW, NOW))
    return folder


def test_keys_are_kept_in_the_layout_of_c_tor(tmp_path: Path) -> None:
    first = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    again = RelayKeys.load(tmp_path, os.urandom, NOW)
    assert again.rsa.public == first.rsa.public
    assert (again.identity, again.signing, again.onion) == (first.identity, first.signing, first.onion)
    secret = (tmp_path / "keys/ed25519_master_id_secret_key").read_bytes()
    assert secret[:32] == b"== ed25519v1-secret: type0 ==\0\0\0" and secret[32:] == first.identity.expanded
    ntor = (tmp_path / "keys/secret_onion_key_ntor").read_bytes()
    assert ntor[:32].rstrip(b"\0") == b"== c25519v1: onion ==" and ntor[64:] == first.onion.public
    assert (tmp_path / "keys/secret_id_key").read_bytes().startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert "expanded" not in repr(first) and first.onion.secret.hex() not in repr(first)


def test_signing_and_onion_keys_are_renewed_in_time(tmp_path: Path) -> None:
    keys = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    assert keys.renewed(os.urandom, NOW + DAY) is keys
    later = keys.renewed(os.urandom, NOW + 29 * DAY)
    assert later.identity == keys.identity and later.rsa == keys.rsa
    assert later.signing != keys.signing
    later.signing_cert.verify(keys.identity.public, cert_type=CertType.IDENTITY_V_SIGNING, now=NOW + 29 * DAY)
    # Clients with a consensus of yesterday still use the old onion key, for a week.
    assert set(later.accepted_onion_keys) == {keys.onion.public, later.onion.public}
    last = later.renewed(os.urandom, NOW + 37 * DAY)
    assert set(last.accepted_onion_keys) == {later.onion.public}


def test_keys_are_made_where_there_are_none(tmp_path: Path) -> None:
    now = time.time()
    made = RelayKeys.load(tmp_path, os.urandom, now)
    again = RelayKeys.load(tmp_path, os.urandom, now)
    assert again.rsa.public == made.rsa.public and again.tap.public == made.tap.public
    assert made.rsa.public != made.tap.public
    assert (again.identity, again.signing, again.onion.public) == (
        made.identity,
        made.signing,
        made.onion.public,
    )
    for path in (tmp_path / "keys").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_each_key_is_renewed_at_its_time_and_on_disk(tmp_path: Path) -> None:
    keys = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    keys = keys.renewed(os.urandom, NOW + 26 * DAY)  # whatever the signing key's age was
    later = keys.renewed(os.urandom, NOW + 29 * DAY)
    assert later.signing == keys.signing and later.onion != keys.onion and later.old_onion == keys.onion
    os.utime(tmp_path / "keys/secret_onion_key_ntor", (NOW + 29 * DAY, NOW + 29 * DAY))
    loaded = RelayKeys.load(tmp_path, os.urandom, NOW + 35 * DAY)
    assert loaded.accepted_onion_keys == later.accepted_onion_keys and loaded.signing == keys.signing
    last = RelayKeys.load(tmp_path, os.urandom, NOW + 37 * DAY)
    assert last.old_onion is None and not (tmp_path / "keys/secret_onion_key_ntor.old").exists()
    assert last.renewed(os.urandom, NOW + 50 * DAY) is last
    assert last.renewed(os.urandom, NOW + 52 * DAY).signing != last.signing


@pytest.mark.parametrize(
    ("name", "start"), [("ed25519_master_id_public_key", 32), ("secret_onion_key_ntor", 64)]
)
def test_a_public_key_of_another_secret_key_is_told(tmp_path: Path, name: str, start: int) -> None:
    path = write_keys(tmp_path) / "keys" / name
    path.write_bytes(path.read_bytes()[:start] + os.urandom(32))
    with pytest.raises(ConfigError, match="public key"):
        RelayKeys.load(tmp_path, os.urandom, NOW)


@pytest.mark.parametrize("foreign", ["ed25519_signing_cert", "ed25519_signing_secret_key"])
@pytest.mark.parametrize("missing", [False, True])
def test_a_signing_key_that_is_missing_or_another_relays_is_replaced(
    tmp_path: Path, foreign: str, missing: bool
) -> None:
    path = write_keys(tmp_path) / "keys" / foreign
    path.unlink()
    if not missing:
        path.write_bytes(key_files(1)[foreign])
    keys = RelayKeys.load(tmp_path, os.urandom, NOW)
    keys.signing_cert.verify(keys.identity.public, cert_type=CertType.IDENTITY_V_SIGNING, now=NOW)
    assert keys.signing_cert.certified_key == keys.signing.public
    assert RelayKeys.load(tmp_path, os.urandom, NOW).signing == keys.signing


def test_keys_that_can_not_be_read_are_told(tmp_path: Path) -> None:
    (write_keys(tmp_path) / "keys/secret_onion_key_ntor").unlink()
    (tmp_path / "keys/secret_onion_key_ntor").mkdir()
    with pytest.raises(ConfigError, match="can't use the keys"):
        RelayKeys.load(tmp_path, os.urandom, NOW)


@pytest.mark.parametrize("name", ["secret_id_key", "ed25519_master_id_secret_key", "secret_onion_key_ntor"])
def test_damaged_keys_are_not_replaced(tmp_path: Path, name: str) -> None:
    write_keys(tmp_path)
    (tmp_path / "keys" / name).write_bytes(b"damaged")
    with pytest.raises(ConfigError):
        RelayKeys.load(tmp_path, os.urandom, NOW)
    assert (tmp_path / "keys" / name).read_bytes() == b"damaged"


@pytest.mark.parametrize("name", ["ed25519_signing_secret_key", "ed25519_signing_cert"])
def test_a_damaged_signing_key_is_replaced(tmp_path: Path, name: str) -> None:
    keys = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    (tmp_path / "keys" / name).write_bytes(b"damaged")
    again = RelayKeys.load(tmp_path, os.urandom, NOW)
    assert again.identity == keys.identity and again.signing != keys.signing
    assert RelayKeys.load(tmp_path, os.urandom, NOW).signing == again.signing


def test_an_identity_that_is_missing_but_has_a_public_key_is_not_replaced(tmp_path: Path) -> None:
    write_keys(tmp_path)
    (tmp_path / "keys/ed25519_master_id_secret_key").unlink()
    with pytest.raises(ConfigError, match="missing"):
        RelayKeys.load(tmp_path, os.urandom, NOW)


def test_the_descriptor_is_one_that_an_authority_parses(tmp_path: Path) -> None:
    keys = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    config = RelayConfig.from_torrc(
        parse_network(TORRC), torrc_options("Nickname tester\nExitPolicy accept *:80,reject *:*"), tmp_path
    )
    descriptor, extra_info = build_documents(config, keys, 9001, ("2001:db8::7", 443), 5000, 60, NOW)
    parsed = parse_router_descriptor(descriptor)
    assert (parsed.nickname, parsed.orport, parsed.ed_id) == ("tester", 9001, keys.identity.public)
    assert parsed.protocols == PROTOCOLS and parsed.ipv6 == ("2001:db8::7", 443)
    assert parsed.exit_policy.allows("8.8.8.8", 80) and not parsed.exit_policy.allows("8.8.8.8", 81)
    assert not parsed.exit_policy.allows("10.0.0.1", 80)
    assert extra_info.startswith(b"extra-info tester ")


# ---- uploaded descriptors ----


def make_descriptor(revision: int, payload: bytes = b"x" * 100, key: Ed25519KeyPair | None = None) -> bytes:
    blinded = key or Ed25519KeyPair.generate(os.urandom)
    signing = Ed25519KeyPair.generate(os.urandom)
    cert = Ed25519Cert.create(CertType.HS_BLINDED_V_SIGNING, signing.public, blinded, NOW + 54 * 3600)
    return encode_outer(cert.encode(), signing, revision, payload)


def name_of(blinded_key: bytes) -> str:
    return base64.b64encode(blinded_key).decode().rstrip("=")


def test_a_descriptor_is_given_back_until_it_expires() -> None:
    store = DescriptorStore()
    document = make_descriptor(1)
    name = name_of(store.store(document, NOW))
    assert store.fetch(name, NOW) == document
    assert store.fetch(name, NOW + 181 * 60) is None
    assert store.fetch("not base64!", NOW) is None and store.fetch("AAAA", NOW) is None
    store.expire(NOW + 181 * 60)
    assert len(store) == 0 and store.size == 0


def test_only_a_later_revision_replaces_a_descriptor() -> None:
    store = DescriptorStore()
    key = Ed25519KeyPair.generate(os.urandom)
    store.store(make_descriptor(5, key=key), NOW)
    for revision in (5, 4):
        with pytest.raises(DirectoryError):
            store.store(make_descriptor(revision, key=key), NOW)
    newer = make_descriptor(6, key=key)
    assert store.fetch(name_of(store.store(newer, NOW)), NOW) == newer
    assert len(store) == 1


def test_a_descriptor_that_has_expired_counts_for_nothing() -> None:
    store = DescriptorStore()
    key = Ed25519KeyPair.generate(os.urandom)
    name = name_of(store.store(make_descriptor(5, key=key), NOW))
    expires = NOW + 180 * 60
    assert store.fetch(name, expires - 1) is not None and store.fetch(name, expires) is None
    with pytest.raises(DirectoryError):
        store.store(make_descriptor(1, key=key), expires - 1)
    store.expire(expires - 1)
    assert len(store) == 1
    restarted = make_descriptor(1, key=key)  # the service has lost its counter, but waited
    assert store.fetch(name_of(store.store(restarted, expires)), expires) == restarted
    assert (len(store), store.stored, store.fetched) == (1, 2, 2)


def test_what_has_expired_goes_before_what_nobody_fetched() -> None:
    store = DescriptorStore()
    old = name_of(store.store(make_descriptor(1), NOW))
    assert store.fetch(old, NOW)
    young = name_of(store.store(make_descriptor(1), NOW + 60))
    size = store.size // 2
    assert store.make_room(store.size, NOW + 60) == 0
    assert store.make_room(size, NOW + 180 * 60) == pytest.approx(size, abs=5)
    assert store.fetch(young, NOW + 180 * 60) and not store.fetch(old, NOW)


def test_descriptors_that_lie_are_refused() -> None:
    store = DescriptorStore()
    document = make_descriptor(1)
    other = make_descriptor(2)
    lies = [
        b"",
        b"hs-descriptor 3\n",
        os.urandom(1000),
        document[:-20],
        document.replace(b"revision-counter 1", b"revision-counter 9"),
        document.replace(b"descriptor-lifetime 180", b"descriptor-lifetime 999999"),
        document.split(b"revision-counter")[0] + b"revision-counter" + other.split(b"revision-counter")[1],
        make_descriptor(1, b"x" * 60_000),
    ]
    for lie in lies:
        with pytest.raises((DirectoryError, CryptoError)):
            store.store(lie, NOW)
    with pytest.raises(CryptoError):
        store.store(document, NOW + 60 * 3600)  # its certificate has expired
    assert len(store) == 0 and store.size == 0


def test_descriptors_take_bounded_memory() -> None:
    store = DescriptorStore(capacity=20_000)
    for number in range(60):
        store.store(make_descriptor(1, b"x" * 500), NOW + number)
        assert store.size <= 20_000
    assert 5 < len(store) < 30
    assert store.make_room(0, NOW) > 0 and store.size == 0


def test_a_flood_of_uploads_does_not_displace_what_is_fetched() -> None:
    store = DescriptorStore(capacity=20_000)
    key = Ed25519KeyPair.generate(os.urandom)
    store.store(make_descriptor(1, key=key), NOW)
    name = base64.b64encode(key.public).decode()
    assert store.fetch(name, NOW) is not None
    store.store(make_descriptor(2, key=key), NOW)  # what was fetched counts for the new revision, too
    for number in range(60):
        store.store(make_descriptor(1, b"x" * 500), NOW + 1 + number)
    assert store.fetch(name, NOW + 100) is not None


# ---- settings ----


def test_torrc_settings() -> None:
    text = """
        Nickname Kestrel
        Address 192.0.2.7
        ORPort 192.0.2.7:443 NoAdvertise
        ContactInfo somebody
        ExitPolicy accept *:443, reject *:*
        ExitRelay 1
        MyFamily $AAAA,$BBBB
        BandwidthRate 5 MBytes
        MaxMemInQueues 512 MB
    """
    config = RelayConfig.from_torrc(parse_network(TORRC), torrc_options(text), Path("data"))
    assert (config.nickname, config.address, config.bind, config.orport) == (
        "Kestrel",
        "192.0.2.7",
        "192.0.2.7",
        443,
    )
    assert config.family == ("$AAAA", "$BBBB")
    assert (config.bandwidth_rate, config.memory_limit) == (5 << 20, 512 << 20)
    assert config.exit_policy.allows("8.8.8.8", 443) and not config.exit_policy.allows("8.8.8.8", 80)
    assert not config.exit_policy.allows("127.0.0.1", 443)
    assert not config.exit_policy.allows("192.0.2.7", 443), "its own address is as private"


@pytest.mark.parametrize(
    ("text", "address6", "bind6", "orport6"),
    [
        ("ORPort 443", "", "::", 443),
        ("ORPort 443\nAddress 2001:db8::7", "2001:db8::7", "::", 443),
        ("ORPort 443\nORPort [2001:db8::7]:9001", "2001:db8::7", "2001:db8::7", 9001),
        ("ORPort 443\nORPort [::]:9001\nAddress [2001:db8::7]", "2001:db8::7", "::", 9001),
    ],
)
def test_ipv6_settings_of_torrc(text: str, address6: str, bind6: str, orport6: int) -> None:
    options = torrc_options(f"Address 192.0.2.7\n{text}\nExitRelay 1")
    config = RelayConfig.from_torrc(parse_network(TORRC), options, Path("data"))
    assert (config.address, config.bind, config.orport) == ("192.0.2.7", "0.0.0.0", 443)
    assert (config.address6, config.bind6, config.orport6) == (address6, bind6, orport6)
    assert not config.exit_policy.allows("2001:db8::7" if address6 else "192.0.2.7", 80)


@pytest.mark.parametrize(
    ("text", "rate", "burst"),
    [
        ("", 1 << 30, 1 << 30),
        ("BandwidthRate 5 MBytes", 5 << 20, 1 << 30),
        ("RelayBandwidthRate 200 KBytes", 200 << 10, 200 << 10),
        ("RelayBandwidthBurst 200 KBytes", 200 << 10, 200 << 10),
        ("RelayBandwidthRate 4 MB\nRelayBandwidthBurst 9 MB\nBandwidthBurst 8 MB", 4 << 20, 8 << 20),
        ("RelayBandwidthRate 16 MBits\nRelayBandwidthBurst 32 megabits", 2 << 20, 4 << 20),
        ("RelayBandwidthRate 1.5MB\nRelayBandwidthBurst 1 gbit", 3 << 19, 1 << 27),
        ("RelayBandwidthRate 100 kilobytes\nRelayBandwidthBurst 2 m", 100 << 10, 2 << 20),
        ("RelayBandwidthRate 204800\nRelayBandwidthBurst 204800 bytes", 200 << 10, 200 << 10),
    ],
)
def test_bandwidth_limits_of_torrc(text: str, rate: int, burst: int) -> None:
    config = RelayConfig.from_torrc(parse_network(TORRC), torrc_options(text), Path("data"))
    assert (config.bandwidth_rate, config.bandwidth_burst) == (rate, burst)


def test_a_relay_is_no_exit_unless_it_says_so() -> None:
    for text in ("", "ExitRelay 0\nExitPolicy accept *:*"):
        config = RelayConfig.from_torrc(parse_network(TORRC), torrc_options(text), Path("data"))
        assert not config.exit_policy.summary().allows_some
    config = RelayConfig.from_torrc(parse_network(TORRC), torrc_options("ExitRelay 1"), Path("data"))
    assert config.exit_policy.allows("8.8.8.8", 443) and not config.exit_policy.allows("8.8.8.8", 25)


@pytest.mark.parametrize(
    "text",
    [
        "Nickname not/good",
        "Address example.com",
        "ORPort http",
        "ORPort 70000",
        "ExitPolicy permit *:80",
        "ORPort [::]:9001",
        "ORPort [2001:db8::xyz]:9001",
        "BandwidthRate fast",
        "BandwidthRate 5 parsecs",
        "BandwidthRate -5 MBytes",
        "BandwidthRate 10² MBytes",
        "ORPort 900²",
        "RelayBandwidthRate 10 KBytes",
        "RelayBandwidthRate 2 MBytes\nRelayBandwidthBurst 1 MByte",
        "DirCache maybe",
    ],
)
def test_settings_that_make_no_sense_are_told(text: str) -> None:
    with pytest.raises(ConfigError):
        RelayConfig.from_torrc(parse_network(TORRC), torrc_options(text), Path("data"))


# ---- measurements, limits, look-ups ----


@pytest.mark.parametrize("best", [(5_000_000, 3_000_000), (3_000_000, 5_000_000)])
def test_observed_bandwidth_is_the_best_ten_seconds_of_the_lesser_direction(best: tuple[int, int]) -> None:
    meter = BandwidthMeter()
    assert meter.observed == LEAST_OBSERVED
    read = written = 0
    for second in range(30):
        meter.note(NOW + second, read, written)
        more_read, more_written = best if 10 <= second < 21 else (10, 10)
        read, written = read + more_read, written + more_written
    assert meter.observed == pytest.approx(3_000_000, rel=0.01)
    copy = BandwidthMeter()
    copy.restore(meter.state(), NOW + 60)
    assert copy.observed == meter.observed
    copy.restore(meter.state(), NOW + 6 * 86400)
    assert copy.observed == LEAST_OBSERVED
    for damaged in (None, 5, [1, 2], [["a", 2, 3]], {"x": 1}):
        copy.restore(damaged, NOW)


def test_observed_bandwidth_is_forgotten_after_five_days() -> None:
    meter = BandwidthMeter()
    total = 0
    for hour in range(6 * 24):
        for second in range(0, 120, 10):
            meter.note(NOW + 3600 * hour + second, total, total)
            total += 50_000_000 if hour == 0 else 2_000_000
        assert meter.observed == (5_000_000 if hour < 5 * 24 else 200_000)
    assert len(meter.state()) <= 5 * 24 + 1, "one for each hour"


def test_a_clock_that_is_set_back_does_not_stop_the_measuring() -> None:
    meter = BandwidthMeter()
    total = 0
    for start, rate in ((NOW + 1e9, 9_000_000), (NOW, 1_000_000), (NOW + 5, 2_000_000)):
        for second in range(12):
            meter.note(start + second, total, total)
            total += rate
        assert meter.observed == rate
    copy = BandwidthMeter()
    copy.restore(meter.state(), NOW + 60)
    assert copy.observed == 2_000_000


def test_a_token_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate=2, burst=5, now=0.0)
    assert [bucket.take(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.take(1.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(100.0) for _ in range(6)] == [True] * 5 + [False]


def with_streams(size: int) -> mock.Mock:
    """A circuit with ``size`` bytes in its streams."""
    return mock.Mock(spec=RelayCircuit, streams={1: mock.Mock()}, stream_bytes=size)


def waiting_circuit(cells: int, since: float) -> tuple[mock.Mock, mock.Mock]:
    """A link with ``cells`` cells queued at ``since`` for its one circuit, and that circuit."""
    queues = CellQueues()
    queues.put(7, bytes(514 * cells), cells, since)
    circuit = mock.Mock(spec=RelayCircuit, streams={})
    return mock.Mock(queues=queues, handler=lambda _: circuit, queued=queues.queued), circuit


def test_the_circuits_whose_cells_wait_longest_go_first_and_no_more_than_needed() -> None:
    pairs = [waiting_circuit(100, since) for since in (5.0, 3.0, 9.0, 4.0)]
    links, circuits = [link for link, _ in pairs], [circuit for _, circuit in pairs]
    store = DescriptorStore()
    assert memory.relieve(links, circuits, store, memory.queued_bytes(links), NOW) == 0, "not too much yet"
    assert memory.relieve(links, circuits, store, 100 * 514 * 3, NOW) == 2
    assert [circuit.close.called for circuit in circuits] == [False, True, False, True]
    circuits[1].close.assert_called_once_with(DestroyReason.RESOURCELIMIT, drop_queued=True)


def test_what_waits_in_streams_counts_beside_queued_cells() -> None:
    pairs = [waiting_circuit(100, since) for since in (5.0, 3.0, 9.0, 4.0)]
    links, circuits = [link for link, _ in pairs], [circuit for _, circuit in pairs]
    reader = with_streams(100_000)
    limit = memory.queued_bytes(links) + 90_000
    assert memory.relieve(links, [*circuits, reader], DescriptorStore(), limit, NOW) == 1
    assert [circuit.close.called for circuit in [*circuits, reader]] == [False, True, False, False, False]


def test_the_circuits_with_most_in_their_streams_go_until_half_of_the_limit_is_left() -> None:
    circuits = [with_streams(size) for size in (50_000, 200_000, 10_000, 100_000)]
    assert memory.relieve([], circuits, DescriptorStore(), 250_000, NOW) == 2
    assert [circuit.close.called for circuit in circuits] == [False, True, False, True]


def test_many_circuits_with_a_cell_each_cost_more_than_their_cells() -> None:
    pairs = [waiting_circuit(1, float(since)) for since in range(20)]
    links, circuits = [link for link, _ in pairs], [circuit for _, circuit in pairs]
    assert memory.queued_bytes(links) == 20 * (514 + memory.QUEUE_OVERHEAD)
    limit = memory.queued_bytes(links) - 1
    assert memory.relieve(links, circuits, DescriptorStore(), limit, NOW) == 3, "a tenth and a byte"


def test_cells_whose_circuit_is_gone_are_dropped() -> None:
    link, _ = waiting_circuit(100, 3.0)
    link.handler = lambda _: None
    assert memory.relieve([link], [], DescriptorStore(), 50_000, NOW) == 0
    assert link.queues.cells == 0


def test_uploaded_descriptors_go_before_circuits() -> None:
    store = DescriptorStore()
    for _ in range(20):
        store.store(make_descriptor(1, b"x" * 5000), NOW)
    link, circuit = waiting_circuit(50, 3.0)
    assert memory.relieve([link], [circuit], store, 100_000, NOW) == 0
    assert store.size <= 20_000 and not circuit.close.called


async def test_onionskins_take_turns_and_are_shed() -> None:
    queue = OnionskinQueue()
    queue.seconds_each = 0.125  # 14 may wait
    order: list[str] = []
    accepted = [queue.submit("flooder", lambda: order.append("flooder")) for _ in range(40)]
    assert accepted.count(True) == 14 and queue.shed == 26
    assert queue.submit("honest", lambda: order.append("honest"))
    assert queue.submit("gone", lambda: order.append("gone"))
    queue.forget("gone")
    await until(lambda: not queue.queued)
    assert order.index("honest") <= 1 and "gone" not in order
    assert queue.done == 15


async def test_links_share_the_time_that_handshakes_may_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = OnionskinQueue()
    queue.seconds_each = 0.125  # 14 may wait, 7 of each of two links
    for link, room in (("first", 14), ("second", 7), ("first", 0)):
        assert [queue.submit(link, lambda: None) for _ in range(20)].count(True) == room
    monkeypatch.setattr(onionskins, "MAX_QUEUED", queue.queued + 1)
    assert queue.submit("third", lambda: None) and not queue.submit("fourth", lambda: None)
    await until(lambda: queue.done == 22)


async def test_between_slices_of_handshakes_the_loop_does_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(onionskins, "perf_counter", lambda: clock[0])
    queue = OnionskinQueue()
    each = 0.6 * onionskins.SLICE
    order: list[str] = []

    def handshake() -> None:
        clock[0] += each
        order.append("handshake")

    def other() -> None:
        order.append("other")
        if queue.queued:
            asyncio.get_running_loop().call_soon(other)

    for _ in range(2):  # the second time after a rest
        order.clear()
        assert all(queue.submit("link", handshake) for _ in range(5))
        asyncio.get_running_loop().call_soon(other)
        await until(lambda: not queue.queued and order[-1] == "other")
        assert order == ["handshake", "handshake", "other"] * 2 + ["handshake", "other"]
    assert queue.seconds_each == pytest.approx(each - 0.9**6 * (each - onionskins.FIRST_GUESS))


async def test_a_handshake_that_fails_does_not_hold_up_the_others(caplog: pytest.LogCaptureFixture) -> None:
    queue = OnionskinQueue()
    done: list[int] = []
    queue.submit("first", lambda: done.append(1 // 0))
    queue.submit("second", lambda: done.append(2))
    await until(lambda: done)
    assert done == [2] and "bug" in caplog.text


async def test_look_ups_are_shared_and_cached() -> None:
    asked: list[str] = []

    def look_up(name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        asked.append(name)
        if name == "missing.test":
            raise OSError
        return [ipaddress.ip_address("192.0.2.1")]

    resolver = Resolver(look_up)
    answers = await asyncio.gather(*(resolver.resolve("Name.Test") for _ in range(5)))
    assert all(str(answer[0]) == "192.0.2.1" for answer in answers)
    await resolver.resolve("name.test.")
    assert asked == ["name.test"]
    assert str((await resolver.resolve("::1"))[0]) == "::1"
    for _ in range(2):
        with pytest.raises(StreamError):
            await resolver.resolve("missing.test")
    assert asked == ["name.test", "missing.test"]
    resolver.close()


async def test_a_dead_name_server_holds_a_few_threads_and_no_name_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolver_module, "THREADS", 2)
    given_up = threading.Event()

    def look_up(name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        if name.startswith("dead") and not given_up.wait(60):
            raise TimeoutError
        return [ipaddress.ip_address("192.0.2.1")]

    async def reason(name: str) -> int | None:
        with pytest.raises(StreamError) as refused:
            await resolver.resolve(name)
        return refused.value.reason

    resolver = Resolver(look_up)
    known = await resolver.resolve("known.test")
    with monkeypatch.context() as short:
        short.setattr(resolver_module, "THREAD_SECONDS", 0.01)
        short.setattr(resolver_module, "LOOKUP_SECONDS", 0.01)
        for number in range(2):
            assert await reason(f"dead{number}.test") == EndReason.RESOLVEFAILED
        assert await reason("new.test") == EndReason.RESOURCELIMIT
        assert await resolver.resolve("known.test") == known
    given_up.set()
    assert await resolver.resolve("new.test") == known  # it was not taken for a name without address
    resolver.close()
