"""Relay cell encryption: C tor's known answers, and both ends against each other."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.tor.circuit.relaycrypto import BODY_LEN, HopKeys, OriginCrypto, RelayCrypto

VECTORS = Path(__file__).parents[3] / "vectors" / "tor1_relay_crypto.json"


def test_known_answers_of_c_tor() -> None:
    vectors = json.loads(VECTORS.read_text())
    origin = OriginCrypto()
    for material in vectors["hop_key_material"]:
        origin.add_hop(HopKeys.tor1(material.encode()))
    count = vectors["cells_to_third_hop"]
    payload = hashlib.shake_256(vectors["payload_shake256_seed"].encode()).digest(498 * count)
    bodies = np.zeros((count, BODY_LEN), np.uint8)
    bodies[:, :11] = np.frombuffer(bytes([2, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0xF2]), np.uint8)
    bodies[:, 11:] = np.frombuffer(payload, np.uint8).reshape(count, 498)
    origin.encrypt(2, bodies)
    for index, expected in vectors["encrypted"]:
        assert bodies[index].tobytes().hex() == expected


def test_the_run_length_does_not_matter() -> None:
    keys = [HopKeys.tor1(bytes([i]) * 72) for i in range(3)]
    together, apart = OriginCrypto(), OriginCrypto()
    for hop_keys in keys:
        together.add_hop(hop_keys)
        apart.add_hop(hop_keys)
    bodies = np.random.default_rng(1).integers(0, 256, (40, BODY_LEN), np.uint8)
    one_by_one = bodies.copy()
    tags = together.encrypt(2, bodies)
    assert tags == [apart.encrypt(2, one_by_one[i : i + 1])[0] for i in range(40)]
    assert (bodies == one_by_one).all()


def hops(count: int) -> tuple[OriginCrypto, list[RelayCrypto]]:
    """A circuit of ``count`` hops, the last one an onion service's."""
    origin, relays = OriginCrypto(), []
    for i in range(count):
        keys = HopKeys.service(bytes([i]) * 128) if i == count - 1 else HopKeys.tor1(bytes([i]) * 72)
        origin.add_hop(keys)
        relays.append(RelayCrypto(keys))
    return origin, relays


def cells_of(bodies: np.ndarray) -> np.ndarray:
    cells = np.zeros((len(bodies), 514), np.uint8)
    cells[:, 5:] = bodies
    return cells


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=12), st.randoms())
def test_forward_to_any_hop(messages: list[tuple[int, int]], rand: random.Random) -> None:
    origin, relays = hops(4)
    for hop, count in messages:
        plain = np.frombuffer(rand.randbytes(count * BODY_LEN), np.uint8).reshape(count, BODY_LEN).copy()
        bodies = plain.copy()
        tags = origin.encrypt(hop, bodies)
        cells = cells_of(bodies)
        for relay in relays[:hop]:
            assert relay.forward(cells) is None
        found = relays[hop].forward(cells)
        assert found is not None and found.tags == tags and list(found.rows) == list(range(count))
        assert (found.bodies[:, 9:] == plain[:, 9:]).all() and (found.bodies[:, 0] == plain[:, 0]).all()
        assert not found.bodies[:, 1:3].any()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=8), st.randoms())
def test_backward_from_mixed_hops_keeps_the_order(runs: list[list[int]], rand: random.Random) -> None:
    """The leaky pipe: a run may hold cells of several hops, in any order."""
    origin, relays = hops(4)
    for run in runs:
        arrived, sent = [], []
        for hop in run:
            body = np.frombuffer(rand.randbytes(BODY_LEN), np.uint8).reshape(1, BODY_LEN).copy()
            [tag] = relays[hop].originate(sealed := body.copy())
            cell = cells_of(sealed)
            for relay in reversed(relays[:hop]):
                relay.backward(cell)
            arrived.append(cell[:, 5:])
            sent.append((hop, body[0, 9:].tobytes(), tag))
        found = origin.decrypt(np.concatenate(arrived))
        got = [(f.hop, b[9:].tobytes(), t) for f in found for b, t in zip(f.bodies, f.tags, strict=True)]
        assert got == sent


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=12), st.randoms())
def test_lone_cells_and_runs_follow_one_another(
    messages: list[tuple[int, int, bool]], rand: random.Random
) -> None:
    """Two circuits of the same keys: one handles runs, the other some of its cells one by one."""
    (one, one_relays), (other, other_relays) = hops(4), hops(4)
    for hop, count, lone in messages:
        plain = np.frombuffer(rand.randbytes(count * BODY_LEN), np.uint8).reshape(count, BODY_LEN)
        out, back = plain.copy(), plain.copy()
        forth = one.encrypt(hop, out), one_relays[hop].originate(back)
        if not lone:
            out2, back2 = plain.copy(), plain.copy()
            assert (other.encrypt(hop, out2), other_relays[hop].originate(back2)) == forth
            assert (out2 == out).all() and (back2 == back).all()
        for row in range(count if lone else 0):
            body, answer = bytearray(plain[row]), bytearray(plain[row])
            assert other.encrypt_one(hop, body) == forth[0][row] and body == out[row].tobytes()
            assert other_relays[hop].originate_one(answer) == forth[1][row]
            assert answer == back[row].tobytes()
        arrives_alike(hop, out, one_relays, other_relays, lone=not lone)
        returns_alike(hop, back, (one, one_relays), (other, other_relays), lone=lone)


def arrives_alike(
    hop: int, bodies: np.ndarray, relays: list[RelayCrypto], others: list[RelayCrypto], *, lone: bool
) -> None:
    """``bodies`` go out to ``hop``, through ``others`` one by one if ``lone``."""
    cells, cells2 = cells_of(bodies), cells_of(bodies)
    for at in range(hop + 1):
        found = relays[at].forward(cells)
        tags = [None] * len(cells) if found is None else found.tags
        if lone:
            for row, tag in enumerate(tags):
                body = bytearray(cells2[row, 5:])
                assert others[at].forward_one(body) == tag
                cells2[row, 5:] = np.frombuffer(body, np.uint8)
        else:
            again = others[at].forward(cells2)
            assert ([None] * len(cells) if again is None else again.tags) == tags
        # What was recognized is passed on to nobody, so its digest field is not put back.
        assert (cells2[:, 14:] == cells[:, 14:]).all()


def returns_alike(
    hop: int,
    bodies: np.ndarray,
    one: tuple[OriginCrypto, list[RelayCrypto]],
    other: tuple[OriginCrypto, list[RelayCrypto]],
    *,
    lone: bool,
) -> None:
    """``bodies`` come back from ``hop``, through ``other`` one by one if ``lone``."""
    cells, cells2 = cells_of(bodies), cells_of(bodies)
    for at in reversed(range(hop)):
        one[1][at].backward(cells)
        if not lone:
            other[1][at].backward(cells2)
            continue
        for row in range(len(cells)):
            body = bytearray(cells2[row, 5:])
            other[1][at].backward_one(body)
            cells2[row, 5:] = np.frombuffer(body, np.uint8)
    assert (cells2 == cells).all()
    [found] = one[0].decrypt(np.ascontiguousarray(cells[:, 5:]))
    if not lone:
        [again] = other[0].decrypt(np.ascontiguousarray(cells2[:, 5:]))
        assert again.hop == found.hop == hop and again.tags == found.tags
        assert (again.bodies == found.bodies).all()
        return
    for row in range(len(cells)):
        body = bytearray(cells2[row, 5:])
        assert other[0].decrypt_one(body) == (hop, found.tags[row])
        assert body[9:] == found.bodies[row, 9:].tobytes()


def test_a_changed_or_false_lone_cell_does_not_disturb_the_digest() -> None:
    origin, relays = hops(2)
    own = bytearray(BODY_LEN)
    tag = origin.encrypt_one(0, own)
    assert relays[0].forward_one(own) == tag
    decoy = bytearray(BODY_LEN)  # has zeros as its recognized field, and a wrong digest
    origin._ciphers[0].apply(decoy)
    assert relays[0].forward_one(decoy) is None and decoy == bytes(BODY_LEN)
    more = bytearray(BODY_LEN)
    tag = origin.encrypt_one(0, more)
    assert relays[0].forward_one(more) == tag
    bad = bytearray(BODY_LEN)
    relays[0].originate_one(bad)
    bad[300] ^= 1
    with pytest.raises(ProtocolError):
        origin.decrypt_one(bad)


def test_a_relay_picks_its_own_cells_out_of_a_run() -> None:
    origin, relays = hops(3)
    rng = np.random.default_rng(2)
    order = [2, 0, 2, 2, 0, 2]
    parts = []
    for hop in order:
        body = rng.integers(0, 256, (1, BODY_LEN), np.uint8)
        origin.encrypt(hop, body)
        parts.append(body)
    cells = cells_of(np.concatenate(parts))
    found = relays[0].forward(cells)
    assert found is not None and list(found.rows) == [1, 4]
    onwards = np.ascontiguousarray(cells[[0, 2, 3, 5]])
    assert relays[1].forward(onwards) is None
    last = relays[2].forward(onwards)
    assert last is not None and list(last.rows) == [0, 1, 2, 3]


def test_a_false_candidate_does_not_disturb_the_digest() -> None:
    """A cell that passes through and looks recognized by chance is not counted in."""
    origin, relays = hops(2)
    own = np.zeros((1, BODY_LEN), np.uint8)
    origin.encrypt(0, own)
    decoy = np.zeros((1, BODY_LEN), np.uint8)  # has zeros as its recognized field, and a wrong digest
    origin._ciphers[0].apply(decoy.data)
    more = np.ones((1, BODY_LEN), np.uint8)
    origin.encrypt(0, more)
    found = relays[0].forward(cells_of(np.concatenate([own, decoy, more])))
    assert found is not None and list(found.rows) == [0, 2]


@pytest.mark.parametrize("flip", [0, 1, 7, 10, 300, 508])
def test_a_changed_cell_is_refused(flip: int) -> None:
    origin, relays = hops(3)
    bodies = np.zeros((5, BODY_LEN), np.uint8)
    relays[0].originate(bodies)
    bodies[2, flip] ^= 1
    with pytest.raises(ProtocolError):
        origin.decrypt(bodies)


def test_swapped_keys_are_the_other_end() -> None:
    keys = HopKeys.service(bytes(range(128)))
    one, other = OriginCrypto(), OriginCrypto()
    one.add_hop(keys)
    other.add_hop(keys.swapped())
    bodies = np.zeros((3, BODY_LEN), np.uint8)
    tags = one.encrypt(0, bodies)
    [found] = other.decrypt(bodies)
    assert found.tags == tags


def test_short_key_material_and_no_secrets_shown() -> None:
    with pytest.raises(ProtocolError):
        HopKeys.tor1(bytes(71))
    with pytest.raises(ProtocolError):
        HopKeys.service(bytes(127))
    assert "seed" not in repr(HopKeys.tor1(bytes(72)))
