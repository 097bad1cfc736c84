"""Hypercore channel messages against npm's bytes (HYPER-FACTS section 7), and with arbitrary ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.hyper.encoding.compact import LONG, MAX_UINT, Reader
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.capability import capability, discovery_key
from pelure.hyper.wire.parts import (
    BlockRequest,
    DataBlock,
    DataHash,
    DataSeek,
    DataUpgrade,
    HashRequest,
    Node,
    SeekRequest,
    UpgradeRequest,
)

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "hyper" / "wire.json").read_text())
FAST = settings(deadline=None, max_examples=100)


def nodes(values: list[dict]) -> list[Node]:
    return [Node(value["index"], value["size"], bytes.fromhex(value["hash"])) for value in values]


def part(cls: type, value: dict | None) -> object:
    return None if value is None else cls(**value)


def from_npm(name: str, v: dict) -> m.Message:
    """The message that npm's object ``v`` stands for."""
    if name == "sync":
        flags = {
            "can_upgrade": v["canUpgrade"],
            "has_manifest": v["hasManifest"],
            "allow_push": v["allowPush"],
        }
        both = {"uploading": v["uploading"], "downloading": v["downloading"]}
        return m.Sync(v["fork"], v["length"], v["remoteLength"], **flags, **both)
    if name == "request":
        return m.Request(
            v["id"],
            v["fork"],
            part(BlockRequest, v["block"]),
            part(HashRequest, v["hash"]),
            part(SeekRequest, v["seek"]),
            part(UpgradeRequest, v["upgrade"]),
            v["manifest"],
            v["priority"],
        )
    if name == "data":
        block, hash, seek, upgrade = v["block"], v["hash"], v["seek"], v["upgrade"]
        return m.Data(
            v["request"],
            v["fork"],
            block and DataBlock(block["index"], bytes.fromhex(block["value"]), nodes(block["nodes"])),
            hash and DataHash(hash["index"], nodes(hash["nodes"])),
            seek and DataSeek(seek["bytes"], nodes(seek["nodes"])),
            upgrade
            and DataUpgrade(
                upgrade["start"],
                upgrade["length"],
                nodes(upgrade["nodes"]),
                nodes(upgrade["additionalNodes"]),
                upgrade["signature"] and bytes.fromhex(upgrade["signature"]),
            ),
        )
    if name == "bitfield":
        return m.Bitfield(v["start"], bytes.fromhex(v["bitfield"]))
    if name == "extension":
        return m.Extension(v["name"], bytes.fromhex(v["message"]))
    classes = {"cancel": m.Cancel, "noData": m.NoData, "want": m.Want, "unwant": m.Unwant, "range": m.Range}
    return classes[name](**v)


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["name"])
def test_message_is_npm_s(vector: dict) -> None:
    message = from_npm(vector["name"], vector["value"])
    assert message.encode().hex() == vector["encoded"]
    assert m.decode(message.TYPE, Reader(bytes.fromhex(vector["encoded"]))) == message


def test_data_with_a_manifest_keeps_its_bytes() -> None:
    data = m.Data(1, 0, manifest=b"manifest")
    assert m.Data.decode(Reader(data.encode())) == data


def test_handshake_is_npm_s() -> None:
    vector = VECTORS["handshake"]
    handshake = m.Handshake(bytes.fromhex(vector["capability"]))
    assert handshake.encode().hex() == vector["encoded"]
    assert m.Handshake.decode(Reader(handshake.encode())) == handshake


def test_capability_and_discovery_key_are_npm_s() -> None:
    vector = VECTORS["capability"]
    key, handshake_hash = bytes.fromhex(vector["key"]), bytes.fromhex(VECTORS["noise"]["hash"])
    assert discovery_key(key).hex() == vector["discoveryKey"]
    assert capability(key, handshake_hash, True).hex() == vector["initiator"]
    assert capability(key, handshake_hash, False).hex() == vector["responder"]


uints = st.integers(0, MAX_UINT)
node_lists = st.lists(st.builds(Node, uints, uints, st.binary(min_size=32, max_size=32)), max_size=3)
messages = st.one_of(
    st.builds(m.Sync, uints, uints, uints, *[st.booleans()] * 5),
    st.builds(
        m.Request,
        uints,
        uints,
        st.none() | st.builds(BlockRequest, uints, uints),
        st.none() | st.builds(HashRequest, uints, uints),
        st.none() | st.builds(SeekRequest, uints, uints),
        st.none() | st.builds(UpgradeRequest, uints, uints),
        st.booleans(),
        st.integers(0, 2),
    ),
    st.builds(
        m.Data,
        uints,
        uints,
        st.none() | st.builds(DataBlock, uints, st.binary(max_size=300), node_lists),
        st.none() | st.builds(DataHash, uints, node_lists),
        st.none() | st.builds(DataSeek, uints, node_lists),
        st.none()
        | st.builds(
            DataUpgrade,
            uints,
            uints,
            node_lists,
            node_lists,
            st.none() | st.binary(min_size=1, max_size=70),
        ),
        st.none() | st.binary(max_size=100),
    ),
    st.builds(m.Cancel, uints),
    st.builds(m.NoData, uints, st.integers(0, 2)),
    st.builds(m.Want, uints, uints, st.booleans()),
    st.builds(
        m.Bitfield, st.integers(0, 1000).map(lambda n: 32 * n), st.integers(0, 9).map(lambda n: bytes(4 * n))
    ),
    st.builds(m.Range, uints, uints, st.booleans()),
    st.builds(m.Extension, st.text(max_size=20), st.binary(max_size=50)),
)


@FAST
@given(messages)
def test_round_trip(message: m.Message) -> None:
    r = Reader(message.encode())
    assert m.decode(message.TYPE, r) == message
    assert r.remaining == 0


@FAST
@given(st.integers(0, 11), st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_raise_protocol_error(kind: int, data: bytes) -> None:
    try:
        m.decode(kind, Reader(data))
    except ProtocolError:
        pass


@FAST
@given(messages, st.data())
def test_a_cut_message_raises_protocol_error_or_is_shorter(message: m.Message, data: st.DataObject) -> None:
    encoded = message.encode()
    cut = encoded[: data.draw(st.integers(0, max(len(encoded) - 1, 0)))]
    try:
        m.decode(message.TYPE, Reader(cut))
    except ProtocolError:
        pass


@pytest.mark.parametrize("size", [0, 100, LONG - 1, LONG, 65536])
def test_a_long_block_is_not_copied_to_be_sent(size: int) -> None:
    value = bytes(size)
    data = m.Data(7, 0, block=DataBlock(9, value, [Node(20, 5, bytes(32))]))
    assert b"".join(data.pieces()) == data.encode()
    assert any(piece is value for piece in data.pieces()) == (size >= LONG)
