"""Noise XX and the secret stream (HYPER-FACTS section 5) against npm's bytes, and against bad ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import shake_256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import AccessDenied, CryptoError, ProtocolError
from pelure.hyper.wire.noise import KeyPair, NoiseXX, diffie_hellman
from pelure.hyper.wire.secretstream import MAX_MESSAGE, SecretStream

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "hyper" / "wire.json").read_text())
NOISE = VECTORS["noise"]
STREAM = VECTORS["secretStream"]
FAST = settings(deadline=None, max_examples=50)


def seeded(seed: str) -> Callable[[int], bytes]:
    """A deterministic source of randomness."""
    state = [0]

    def rng(size: int) -> bytes:
        state[0] += 1
        return shake_256(f"{seed}/{state[0]}".encode()).digest(size)

    return rng


def fixed(*values: str) -> Callable[[int], bytes]:
    left = [bytes.fromhex(value) for value in values]
    return lambda size: left.pop(0)


def key(role: str) -> KeyPair:
    return KeyPair.from_seed(bytes.fromhex(NOISE[f"{role}Seed"]))


def pair(**kwargs: object) -> tuple[SecretStream, SecretStream]:
    return (
        SecretStream(True, key("initiator"), seeded("a"), **kwargs),
        SecretStream(False, key("responder"), seeded("b")),
    )


def connect(one: SecretStream, other: SecretStream) -> None:
    for _ in range(3):
        other.receive(one.take_output())
        one.receive(other.take_output())


def test_noise_handshake_is_npm_s() -> None:
    one = NoiseXX(True, key("initiator"), fixed(NOISE["initiatorEphemeralSeed"]))
    other = NoiseXX(False, key("responder"), fixed(NOISE["responderEphemeralSeed"]))
    for step, (writer, reader) in enumerate([(one, other), (other, one), (one, other)]):
        assert writer.writes_next and not reader.writes_next
        message = writer.write()
        assert message.hex() == NOISE["messages"][step]
        reader.read(message)
    assert one.complete and other.complete
    assert one.hash == other.hash == bytes.fromhex(NOISE["hash"])
    assert (one.tx.hex(), one.rx.hex()) == (NOISE["initiatorTx"], NOISE["initiatorRx"])
    assert (other.rx, other.tx) == (one.tx, one.rx)
    assert one.remote_public.hex() == NOISE["responderPublic"]
    assert other.remote_public.hex() == NOISE["initiatorPublic"]


def test_an_initiator_reads_npm_s_stream() -> None:
    """Handshake messages, stream id, header and frames as npm's responder sent them."""
    stream = SecretStream(True, key("initiator"), fixed(NOISE["initiatorEphemeralSeed"], "11" * 24))
    frame = lambda payload: len(payload).to_bytes(3, "little") + payload  # noqa: E731
    assert stream.take_output() == frame(bytes.fromhex(NOISE["messages"][0]))
    stream.receive(frame(bytes.fromhex(NOISE["messages"][1])))
    sent = stream.take_output()
    assert sent == frame(bytes.fromhex(NOISE["messages"][2])) + frame(
        bytes.fromhex(STREAM["initiatorId"]) + b"\x11" * 24
    )
    assert stream.ready and not stream.opened
    stream.receive(frame(bytes.fromhex(STREAM["responderId"] + STREAM["header"])))
    assert stream.opened
    received = stream.receive(b"".join(frame(bytes.fromhex(sealed)) for sealed in STREAM["frames"]))
    assert received == [text.encode() for text in STREAM["plain"] if text]


def test_two_streams_understand_each_other() -> None:
    one, other = pair()
    connect(one, other)
    assert one.handshake_hash == other.handshake_hash != b""
    messages = [b"a", b"", b"b" * 70_000, b"c"]
    assert other.receive(one.seal([[message] for message in messages])) == [b"a", b"b" * 70_000, b"c"]
    assert one.receive(other.seal([[b"ba", b"ck"]])) == [b"back"]


@FAST
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=6), st.integers(1, 40))
def test_chunks_of_any_size(messages: list[bytes], step: int) -> None:
    one, other = pair()
    connect(one, other)
    data = one.seal([[message] for message in messages])
    got = [m for at in range(0, len(data), step) for m in other.receive(data[at : at + step])]
    assert got == messages


def test_rekeying_by_counter_goes_unnoticed() -> None:
    one, other = pair()
    connect(one, other)
    for _ in range(40):
        assert other.receive(one.seal([[b"x"]] * 1000)) == [b"x"] * 1000


def test_a_key_that_is_not_allowed_is_refused_before_the_own_one_is_told() -> None:
    asked: list[bytes] = []
    one, other = pair(allow=lambda public: bool(asked.append(public)))
    other.receive(one.take_output())
    with pytest.raises(AccessDenied):
        one.receive(other.take_output())
    assert asked == [key("responder").public]
    assert one.take_output() == b""


def test_a_responder_refuses_a_key_before_it_says_anything_more() -> None:
    one = SecretStream(True, key("initiator"), seeded("a"))
    other = SecretStream(False, key("responder"), seeded("b"), allow=lambda public: False)
    other.receive(one.take_output())
    one.receive(other.take_output())
    with pytest.raises(AccessDenied):
        other.receive(one.take_output())
    assert other.take_output() == b"" and not other.ready


@FAST
@given(st.binary(min_size=1, max_size=300))
def test_arbitrary_bytes_instead_of_a_handshake(data: bytes) -> None:
    for initiator in (True, False):
        stream = SecretStream(initiator, key("initiator"), seeded("a"))
        stream.take_output()
        try:
            stream.receive(data)
        except ProtocolError:
            pass
        assert not stream.ready


@FAST
@given(st.integers(0, 2), st.data())
def test_a_changed_handshake_message_is_refused(step: int, data: st.DataObject) -> None:
    one, other = pair()
    sides = [one, other]
    for number in range(3):
        writer, reader = sides[number % 2], sides[(number + 1) % 2]
        message = bytearray(writer.take_output())
        if number == step:
            at = data.draw(st.integers(3, 34))
            message[at] ^= data.draw(st.integers(1, 255))
            try:
                reader.receive(bytes(message))
                writer.receive(reader.take_output())  # a changed e shows at the next message
            except ProtocolError:
                return
            pytest.fail("the change went unnoticed")
        reader.receive(bytes(message))


def test_a_wrong_size_is_refused_before_its_bytes_come() -> None:
    stream = SecretStream(False, key("responder"), seeded("b"))
    with pytest.raises(ProtocolError):
        stream.receive(b"\xff\xff\xff")


def test_a_stream_id_of_the_own_role_is_refused() -> None:
    """Reflected to the initiator, its own first frame after the handshake is no valid header."""
    one, other = pair()
    other.receive(one.take_output())
    one.receive(other.take_output())
    reflected = one.take_output()[3 + 64 :]
    with pytest.raises(CryptoError):
        one.receive(reflected)


@pytest.mark.parametrize("at", [3, 10, -1])
def test_a_changed_frame_is_refused(at: int) -> None:
    one, other = pair()
    connect(one, other)
    data = bytearray(one.seal([[b"hello"]]))
    data[at] ^= 1
    with pytest.raises(CryptoError):
        other.receive(bytes(data))


def test_a_replayed_or_short_frame_is_refused() -> None:
    one, other = pair()
    connect(one, other)
    data = one.seal([[b"hello"]])
    assert other.receive(data) == [b"hello"]
    with pytest.raises(CryptoError):
        other.receive(data)
    with pytest.raises(ProtocolError, match="too short"):
        one.receive(b"\x10\x00\x00" + bytes(16))


def test_messages_longer_than_allowed_are_refused_before_their_bytes_come() -> None:
    one, other = pair(max_message=100)
    connect(one, other)
    assert one.receive(other.seal([[bytes(100)]])) == [bytes(100)]
    with pytest.raises(ProtocolError, match="too long"):
        one.receive(other.seal([[bytes(101)]])[:3])


def test_a_message_that_fits_no_frame_is_not_sealed() -> None:
    one, other = pair()
    connect(one, other)
    with pytest.raises(ValueError):
        one.seal([[bytes(MAX_MESSAGE + 1)]])
    assert other.receive(one.seal([[bytes(MAX_MESSAGE)]])) == [bytes(MAX_MESSAGE)]


def test_points_of_small_order_are_refused() -> None:
    identity = b"\x01" + bytes(31)
    for bad in (identity, bytes(32), b"\xff" * 32):
        with pytest.raises(CryptoError):
            diffie_hellman(key("initiator"), bad)


def test_no_secret_in_reprs() -> None:
    assert key("initiator").seed.hex()[:8] not in repr(key("initiator"))
    assert repr(key("initiator").seed) not in repr(key("initiator"))
