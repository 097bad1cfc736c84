"""Descriptors (rend-spec-v3 2.4, 2.5): known answers made by C tor, round trips, refusals."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ConfigError, CryptoError, DirectoryError, ProtocolError
from pelure.tor.cell.linkspec import LinkSpecifier
from pelure.tor.crypto.address import decode_address
from pelure.tor.crypto.blinding import blind_keypair, blind_public, blinding_factor, subcredential
from pelure.tor.crypto.keys import Ed25519KeyPair, x25519_generate
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.onion.descriptor import (
    DescriptorKeys,
    MissingClientAuth,
    WrongClientAuth,
    build_descriptor,
    check_room,
    open_descriptor,
)
from pelure.tor.onion.first_layer import FirstLayer
from pelure.tor.onion.layer_crypto import FIRST_LAYER, LayerSecrets
from pelure.tor.onion.outer import OuterDescriptor
from pelure.tor.onion.pow import PowParams
from pelure.tor.onion.second_layer import FlowControl, IntroPoint, SecondLayer

VECTORS = Path(__file__).parents[3] / "vectors/onion"
DOCUMENT_1 = (VECTORS / "hsdesc1.txt").read_bytes()
DOCUMENT_2 = (VECTORS / "hsdesc2.txt").read_bytes()
BLINDED_1 = bytes.fromhex("43cc0d62fc6252f578705ca645a46109e265290343b1137e90189744b20b3f2d")
SUBCREDENTIAL_1 = bytes.fromhex("78210A0D2C72BB7A0CAF606BCD938B9A3696894FDDDBC3B87D424753A7E3DF37")
CLIENT_SECRET_2 = bytes.fromhex("90F2D60F917F2423F0989CE9979639435A5B01CF7AB3E0A1B900BEB892BAE443")
NOW_1 = 1674486000.0  # 2023-01-23 15:00
NOW_2 = 1675944000.0  # 2023-02-09 12:00
NOW = 1_800_000_000.0


def seeded(seed: int) -> random.Random:
    return random.Random(seed)


RNG = seeded(1).randbytes
IDENTITY = Ed25519KeyPair.generate(RNG)
FACTOR = blinding_factor(IDENTITY.public, 20000, 1440)
KEYS = DescriptorKeys(
    blind_keypair(IDENTITY, FACTOR),
    Ed25519KeyPair.generate(RNG),
    subcredential(IDENTITY.public, blind_public(IDENTITY.public, FACTOR)),
)


def intro_point(number: int = 1) -> IntroPoint:
    rng = seeded(number).randbytes
    specifiers = (
        LinkSpecifier.address("127.0.0.1", 5000 + number),
        LinkSpecifier.rsa(rng(20)),
        LinkSpecifier.ed25519(rng(32)),
    )
    auth_key = Ed25519KeyPair.generate(rng).public
    return IntroPoint(specifiers, x25519_generate(rng)[1], auth_key, x25519_generate(rng)[1])


CONTENT = SecondLayer(
    tuple(intro_point(number) for number in range(3)),
    flow_control=FlowControl("1-2", 31),
    pow_params=PowParams(b"s" * 32, 7, NOW + 3600),
)


def build(client_keys: tuple[bytes, ...] = (), content: SecondLayer = CONTENT) -> bytes:
    return build_descriptor(content, KEYS, 12345, client_keys, NOW, os.urandom)


def read(document: bytes, secrets: tuple[bytes, ...] = ()) -> SecondLayer:
    outer = OuterDescriptor.parse(document, NOW)
    return open_descriptor(outer, KEYS.blinded.public, KEYS.subcredential, secrets, NOW)


def test_c_tors_descriptor_without_client_authorization() -> None:
    outer = OuterDescriptor.parse(DOCUMENT_1, NOW_1)
    assert (outer.blinded_key, outer.revision_counter, outer.lifetime) == (BLINDED_1, 19655750, 180)
    content = open_descriptor(outer, BLINDED_1, SUBCREDENTIAL_1, [], NOW_1)
    assert len(content.intro_points) == 3
    for point in content.intro_points:
        point.verify(outer.signing_key)
    assert content.intro_points[0].onion_key.hex().upper() == (
        "553BF9F9E1979D6F5D5D7D20BB3FE7272E32E22B6E86E35C76A7CA8A377E402F"
    )
    assert not content.single_onion_service
    assert content.intro_points[0].relay().rsa_id


def test_c_tors_descriptor_with_client_authorization() -> None:
    identity = decode_address("paozpdhgz2okvc6kgbxvh2bnfsmt4xergrtcl4obkhopyvwxkpjzvoad.onion")
    blinded = blind_public(identity, blinding_factor(identity, 19397, 1440))
    subcred = subcredential(identity, blinded)
    outer = OuterDescriptor.parse(DOCUMENT_2, NOW_2)
    assert len(open_descriptor(outer, blinded, subcred, [CLIENT_SECRET_2], NOW_2).intro_points) == 3
    with pytest.raises(MissingClientAuth):
        open_descriptor(outer, blinded, subcred, [], NOW_2)
    with pytest.raises(WrongClientAuth):
        open_descriptor(outer, blinded, subcred, [b"\x01" * 32], NOW_2)


def test_a_built_descriptor_opens_for_everyone() -> None:
    document = build()
    assert read(document) == CONTENT
    assert document.startswith(b"hs-descriptor 3\ndescriptor-lifetime 180\ndescriptor-signing-key-cert\n")


def test_only_authorized_clients_can_open_a_restricted_descriptor() -> None:
    clients = [ClientAuthKey.generate(os.urandom) for _ in range(20)]
    document = build(tuple(client.public for client in clients[:19]))
    for client in clients[:19]:
        assert read(document, (client.secret,)) == CONTENT
    assert read(document, tuple(client.secret for client in reversed(clients))) == CONTENT
    with pytest.raises(WrongClientAuth):
        read(document, (clients[19].secret,))
    with pytest.raises(MissingClientAuth):
        read(document)


@pytest.mark.parametrize(("clients", "entries"), [(0, 16), (1, 16), (16, 16), (17, 32)])
def test_the_number_of_clients_is_hidden(clients: int, entries: int) -> None:
    document = build(tuple(ClientAuthKey.generate(os.urandom).public for _ in range(clients)))
    outer = OuterDescriptor.parse(document, NOW)
    secrets = LayerSecrets(KEYS.subcredential, outer.revision_counter)
    plaintext = secrets.decrypt(outer.superencrypted, KEYS.blinded.public, FIRST_LAYER)
    assert len(plaintext) % 10_000 == 0
    assert len(FirstLayer.parse(plaintext).auth.clients) == entries


def test_230_clients_fit_one_descriptor_but_not_any_number() -> None:
    public = ClientAuthKey.generate(os.urandom).public
    assert len(build((public,) * 230)) < 50_000
    with pytest.raises(ConfigError, match="400 authorized clients"):
        build((public,) * 400)


def test_room_is_checked_beforehand() -> None:
    check_room(230, 3, NOW, os.urandom)
    check_room(16, 20, NOW, os.urandom)
    with pytest.raises(ConfigError, match="400 authorized clients"):
        check_room(400, 3, NOW, os.urandom)


def test_a_descriptor_without_introduction_points_is_valid() -> None:
    content = replace(CONTENT, intro_points=(), single_onion_service=True, intro_auth_required=("ed25519",))
    assert read(build(content=content)) == content


def test_a_descriptor_of_another_service_is_refused() -> None:
    outer = OuterDescriptor.parse(build(), NOW)
    with pytest.raises(DirectoryError):
        open_descriptor(outer, b"x" * 32, KEYS.subcredential, [], NOW)
    with pytest.raises(CryptoError):
        open_descriptor(outer, KEYS.blinded.public, b"x" * 32, [], NOW)


def test_an_expired_certificate_is_refused() -> None:
    with pytest.raises(CryptoError):
        OuterDescriptor.parse(build(), NOW + 56 * 3600)


def test_an_oversized_descriptor_is_refused_before_parsing() -> None:
    with pytest.raises(DirectoryError):
        OuterDescriptor.parse(build(), NOW, limit=1000)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"hs-descriptor 3", b"hs-descriptor 2"),
        (b"descriptor-lifetime 180", b"descriptor-lifetime 721"),
        (b"revision-counter 12345", b"revision-counter 18446744073709551616"),
        (b"revision-counter 12345", b"revision-counter -1"),
        (b"revision-counter 12345\n", b""),
        (b"revision-counter 12345\n", b"revision-counter 12345\nrevision-counter 12345\n"),
        (b"signature ", b"signatur "),
        (b"revision-counter 12345", b"revision-counter 12346"),
    ],
)
def test_changed_outer_lines_are_refused(old: bytes, new: bytes) -> None:
    document = build()
    assert old in document
    with pytest.raises((DirectoryError, CryptoError)):
        OuterDescriptor.parse(document.replace(old, new, 1), NOW)


@settings(deadline=None, max_examples=100)
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_any_changed_byte_is_noticed(position: int, byte: int) -> None:
    document = bytearray(DOCUMENT)
    position %= len(document)
    if document[position] == byte:
        return
    document[position] = byte
    try:
        outer = OuterDescriptor.parse(bytes(document), NOW)
        changed = open_descriptor(outer, KEYS.blinded.public, KEYS.subcredential, (), NOW)
    except (DirectoryError, ProtocolError):
        return
    assert changed == CONTENT  # white space after the signature, for instance


DOCUMENT = build()


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parse in (
        lambda: OuterDescriptor.parse(b"hs-descriptor 3\n" + data, NOW),
        lambda: FirstLayer.parse(data),
        lambda: SecondLayer.parse(b"create2-formats 2\n" + data, b"k" * 32, NOW),
    ):
        try:
            parse()
        except (DirectoryError, ProtocolError):
            pass


def parse_second(*lines: str) -> SecondLayer:
    return SecondLayer.parse("".join(f"{line}\n" for line in lines).encode(), KEYS.signing.public, NOW)


def test_flow_control_and_proof_of_work_lines() -> None:
    seed = "Hdu3YbPWIVB6oR0Q5wX1yjDvtVsLOVvCBQGLuuTLXlA"
    content = parse_second(
        "create2-formats 2 9",
        "flow-control 1-2 31",
        f"pow-params v9 {seed}",
        f"pow-params v1 {seed} 7 2026-11-28T01:00:00",
        "something-new x",
    )
    assert content.create2_formats == (2, 9)
    assert content.flow_control == FlowControl("1-2", 31)
    assert content.flow_control.congestion_control
    assert isinstance(content.pow_params, PowParams)
    assert (content.pow_params.effort, content.pow_params.expires) == (7, 1795827600.0)
    assert not FlowControl("1", 31).congestion_control


@pytest.mark.parametrize(
    "lines",
    [
        ["create2-formats 1"],
        ["create2-formats"],
        ["flow-control 1-2 31"],
        ["create2-formats 2", "flow-control 1-x 31"],
        ["create2-formats 2", "flow-control 1-2 0"],
        ["create2-formats 2", "flow-control 1-2"],
        ["create2-formats 2", "pow-params v1 AAAA 1 2026-11-28T01:00:00"],
        ["create2-formats 2", *["introduction-point AA=="] * 21],
    ],
)
def test_malformed_second_layers_are_refused(lines: list[str]) -> None:
    with pytest.raises(DirectoryError):
        parse_second(*lines)


def test_an_unusable_introduction_point_is_left_out() -> None:
    good, other = intro_point(1), intro_point(2)
    signing, stranger = KEYS.signing, Ed25519KeyPair.generate(os.urandom)
    no_address = replace(other, link_specifiers=other.link_specifiers[1:])
    texts = [
        good.encode(signing, NOW + 1000),
        other.encode(stranger, NOW + 1000),
        other.encode(signing, NOW - 8000),
        no_address.encode(signing, NOW + 1000),
        "introduction-point !\n",
        other.encode(signing, NOW + 1000).replace("enc-key ntor", "enc-key other"),
        other.encode(signing, NOW + 1000),
    ]
    plaintext = ("create2-formats 2\n" + "".join(texts)).encode()
    assert SecondLayer.parse(plaintext, signing.public, NOW).intro_points == (good, other)


def test_an_introduction_points_keys_are_verified_when_it_is_used() -> None:
    plaintext = ("create2-formats 2\n" + intro_point().encode(KEYS.signing, NOW + 1000)).encode()
    [point] = SecondLayer.parse(plaintext, KEYS.signing.public, NOW).intro_points
    point.verify(KEYS.signing.public)
    auth, enc = point.certificates
    forged = replace(enc, signature=bytes([enc.signature[0] ^ 1]) + enc.signature[1:])
    with pytest.raises(CryptoError):
        replace(point, certificates=(auth, forged)).verify(KEYS.signing.public)


def test_secrets_stay_out_of_representations() -> None:
    assert KEYS.subcredential.hex() not in repr(KEYS)
    assert repr(KEYS.subcredential) not in repr(KEYS)
    assert repr(KEYS.subcredential) not in repr(LayerSecrets(KEYS.subcredential, 1))
